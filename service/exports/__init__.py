"""What leaves the service as a file: tuning logs in four formats, the report as a page, drawings."""
