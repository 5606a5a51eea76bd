"""Which jobs a list shows: the filters of its address, read, checked and written back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from tuner.errors import UserError
from tuner.types import JobState

PERIODS = {"1h": timedelta(hours=1), "24h": timedelta(days=1), "7d": timedelta(days=7), "30d": timedelta(days=30)}
PERIOD_NAMES = (("1h", "In the last hour"), ("24h", "In 24 hours"), ("7d", "In 7 days"), ("30d", "In 30 days"))
ORDERS = (("-created_at", "Newest first"), ("created_at", "Oldest first"), ("-priority", "Most urgent first"))

# What the switch above the list offers: a name, and the states behind it.
CHOICES: tuple[tuple[str, tuple[JobState, ...]], ...] = (
    ("All", ()),
    ("Running", (JobState.RUNNING, JobState.CANCELLING)),
    ("Queued", (JobState.QUEUED,)),
    ("Paused", (JobState.PAUSED,)),
    ("Succeeded", (JobState.SUCCEEDED,)),
    ("Failed", (JobState.FAILED,)),
    ("Cancelled", (JobState.CANCELLED,)),
)
_LONGEST = 200  # characters of a filter


@dataclass(frozen=True)
class JobFilters:
    """The filters; empty ones let everything through."""

    states: tuple[JobState, ...] = ()
    device: str = ""  # name or fingerprint
    model: str = ""  # name, or the beginning of its SHA-256
    since: str = ""  # a key of PERIODS
    order: str = ORDERS[0][0]

    @staticmethod
    def read(states: Sequence[str], device: str, model: str, since: str, order: str) -> JobFilters:
        """The filters that an address names. Raises UserError (``invalid-request``) for values that cannot be."""
        found = []
        for state in states:
            if state not in JobState.__members__:
                raise _unknown("state", state, JobState.__members__)
            found.append(JobState(state))
        if since and since not in PERIODS:
            raise _unknown("since", since, PERIODS)
        if order and order not in dict(ORDERS):
            raise _unknown("order", order, dict(ORDERS))
        return JobFilters(
            tuple(dict.fromkeys(found)), device.strip()[:_LONGEST], model.strip()[:_LONGEST], since,
            order or ORDERS[0][0],
        )  # fmt: skip

    @property
    def active(self) -> bool:
        """Whether they keep any job away."""
        return bool(self.states or self.device or self.model or self.since)

    @property
    def plain(self) -> bool:
        """Whether only the state is asked for."""
        return not (self.device or self.model or self.since)

    def query(self) -> dict[str, Any]:
        """As parameters of an address; ``JobFilters.read`` makes the same of them."""
        return {
            "state": [state.value for state in self.states],
            "device": self.device,
            "model": self.model,
            "since": self.since,
            "order": self.order if self.order != ORDERS[0][0] else "",
        }

    def arguments(self) -> dict[str, Any]:
        """As arguments of ``service.jobs.Jobs.list``."""
        return {
            "state": self.states or None,
            "device": self.device or None,
            "model": self.model or None,
            "created_after": datetime.now(UTC) - PERIODS[self.since] if self.since else None,
            "order": self.order,
        }

    def choices(self, counts: Mapping[JobState, int]) -> list[Choice]:
        """The switch by state; ``counts`` are of all jobs, so they are left out while another filter holds."""
        total = sum(counts.values())
        return [
            Choice(
                label,
                replace(self, states=states).query(),
                (sum(counts.get(state, 0) for state in states) if states else total) if self.plain else None,
                set(states) == set(self.states),
            )
            for label, states in CHOICES
        ]


@dataclass(frozen=True)
class Choice:
    """One position of the switch."""

    label: str
    query: dict[str, Any]
    count: int | None
    chosen: bool


def summary(counts: Mapping[JobState, int]) -> str:
    """How many jobs there are, those that matter now first: 1 running, 2 waiting; 14 in all."""
    total = sum(counts.values())
    if not total:
        return ""
    running = counts.get(JobState.RUNNING, 0) + counts.get(JobState.CANCELLING, 0)
    waiting = counts.get(JobState.QUEUED, 0)
    now = [f"{running:,} running"] if running else []
    now += [f"{waiting:,} waiting"] if waiting else []
    return f"{', '.join(now) or 'None running'}; {total:,} in all"


def _unknown(name: str, value: str, known: Mapping[str, object]) -> UserError:
    return UserError(
        f"'{value[:40]}' is not a value of the filter '{name}'.", code="invalid-request",
        hint=f"Known: {', '.join(known)}.",
    )  # fmt: skip
