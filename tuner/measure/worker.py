"""A child that is started when it is needed, and again after each death."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Mapping
from typing import Any

from tuner.errors import InternalError
from tuner.measure.process import Child, Outcome

_FULL = os.strerror(errno.ENOSPC)  # as linkers say it, too
_STARTS = 3  # failures in a row after which the environment counts as broken


class Worker:
    """One place for a child of a role. Its owner alone calls it, from one thread."""

    def __init__(self, role: str, start: Callable[[str], Child]) -> None:
        self._role = role
        self._start = start
        self._failures = 0
        self.child: Child | None = None

    @property
    def busy(self) -> bool:
        """Whether it is at work: starting, or serving a request."""
        return self.child is not None and self.child.busy

    @property
    def idle(self) -> bool:
        """Whether it can be sent a request."""
        return self.child is not None and not self.child.busy

    def ensure(self) -> None:
        """Start a child if there is none; it is busy until it has imported what it needs."""
        if self.child is None:
            self.child = self._start(self._role)

    def send(self, request: Mapping[str, Any], limit: float) -> None:
        """Give the idle child something to do within ``limit`` seconds."""
        if self.child is None:
            raise InternalError(f"The {self._role} child was not started.")
        self.child.send(request, limit)

    def poll(self) -> Outcome | None:
        """The outcome of the request in progress, if there is one by now. Never blocks.

        Raises:
            InternalError: the child cannot be started (``measuring-broken``); there is no room on its disk
                (``disk-full``).
        """
        if self.child is None or not self.child.busy:
            return None
        started = self.child.ready
        outcome = self.child.collect()
        if outcome is None:
            return None
        if outcome.died:
            self.drop()
        if outcome.failure is not None and _FULL in outcome.failure.message + outcome.failure.stderr:
            self.drop()
            text = f"The disk is full: the {self._role} child had no room for its files."
            raise InternalError(text, code="disk-full")  # no fault of the candidate's
        if started:
            self._failures = 0
            return outcome
        if outcome.failure is not None:
            self._failures += 1
            if not outcome.died or self._failures >= _STARTS:
                self.drop()
                raise InternalError(
                    f"The {self._role} child cannot start: {outcome.failure.message}",
                    code="measuring-broken",
                    hint=outcome.failure.stderr[-2000:],
                )
        return None

    def drop(self) -> None:
        """End the child and forget it."""
        if self.child is not None:
            self.child.dispose()
            self.child = None
