"""What all tables share: how constraints are named, and the words that columns may hold."""

from __future__ import annotations

from collections.abc import Iterable

from sqlalchemy import MetaData

from tuner.types import JobState

# Named constraints, so that later migrations can drop them on both databases.
metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)

ENDED = (JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED)
DRIVEN = (JobState.RUNNING, JobState.CANCELLING)  # a process works on the job
UNITS = ("trials", "seconds", "share")  # of a job's progress
WANTED = ("cancel", "pause")  # what a client may ask of a driver
ROLES = ("full", "read")  # what a token may do


def one_of(column: str, values: Iterable[str]) -> str:
    """A condition: the column has one of these values."""
    return f"{column} IN ({', '.join(repr(str(value)) for value in values)})"
