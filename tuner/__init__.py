"""The tuning engine: usable as a library, with no service and no network."""
