"""Runs jobs: a dispatcher in the server, one driver process per running job, leases and fences in the database."""
