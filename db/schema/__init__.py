"""The tables. A change here needs a new migration in db/migrations/versions; a test compares the two.

Moments for people are UTC; what leases and expiries compare is seconds since 1970 by the database's clock (db_time).
"""

from __future__ import annotations

from db.schema.access import login_codes, sessions, tokens
from db.schema.base import DRIVEN, ENDED, ROLES, UNITS, WANTED, metadata
from db.schema.jobs import attempts, blobs, devices, events, job_files, jobs, models, turns
from db.schema.measured import calibrations, health, questions, trials, workloads

__all__ = [
    "DRIVEN",
    "ENDED",
    "ROLES",
    "UNITS",
    "WANTED",
    "attempts",
    "blobs",
    "calibrations",
    "devices",
    "events",
    "health",
    "job_files",
    "jobs",
    "login_codes",
    "metadata",
    "models",
    "questions",
    "sessions",
    "tokens",
    "trials",
    "turns",
    "workloads",
]
