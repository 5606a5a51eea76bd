"""A cluster as a tuner sees it: who is there, and calls to members that come to answers. Knows no Ray: its child does.

When the child or Ray's head dies, calls under way come back as lost, and the child is started anew until it gets in.
"""

from __future__ import annotations

import itertools
import os
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tuner.environment import child_environment
from tuner.errors import DeviceError, InternalError
from tuner.measure.cluster.address import parse, settings
from tuner.measure.cluster.versions import versions
from tuner.measure.process import Child, Outcome, wait
from tuner.scratch import Scratch
from tuner.types import Device

_PERIOD = 0.05  # seconds between looks while the child works
_START_LIMIT = 180.0  # seconds for the child to get in: importing Ray takes long on a busy machine
_LIMIT = 30.0  # seconds beyond its wait for which the child may be silent, while Ray's head is away
_REST = 2.0  # seconds between two tries to get in
PATIENCE = 5.0  # seconds without a device after which it is said that one is waited for
_MEMORY = 4 << 30  # bytes the child may hold


class ClosedError(Exception):
    """close() was called while an exchange was in progress."""


@dataclass(frozen=True)
class Member:
    """A machine of the cluster."""

    name: str
    device: Device | None
    builders: int
    versions: Mapping[str, str]


@dataclass(frozen=True)
class Call:
    """Something asked of a member. ``blob`` is sent along; what comes with the answer goes to ``keep``."""

    member: str
    method: str  # "build", "measure", "files" or "whole"
    header: Mapping[str, Any]
    blob: Path | None = None
    keep: Path | None = None


@dataclass(frozen=True)
class Answer:
    """How a call ended: the answer's header, or why it was lost; ``link`` = by no fault of the member."""

    id: int
    header: Mapping[str, Any] | None
    lost: str = ""
    link: bool = False


class Cluster:
    """One tuner's connection. For one thread, but for ``close``."""

    def __init__(self, address: str, environment: Mapping[str, str] | None = None) -> None:
        """Raises UserError for an address that is none (``bad-address``) or is not safe (``cluster-not-safe``)."""
        where = parse(address)
        self.address = str(where)
        self._env = child_environment() | settings(where, os.environ if environment is None else environment)
        self._scratch = Scratch()
        self._ids = itertools.count()
        self._under_way: set[int] = set()
        self._sent: list[tuple[int, Call]] = []  # not yet handed to the child
        self._child: Child | None = None
        self._next_try = 0.0  # time.monotonic()
        self._lock = threading.Lock()  # guards _closed and _child's start
        self._closed = False
        self.members: tuple[Member, ...] = ()
        self.trouble = ""  # why it is not connected, if it is not

    def call(self, call: Call) -> int:
        """Begin a call with the next exchange; gives its id."""
        id = next(self._ids)
        self._sent.append((id, call))
        return id

    def exchange(self, seconds: float) -> list[Answer]:
        """Send what was called, and wait for so many seconds or until something comes back.

        Raises ClosedError.
        """
        if not self._connected(seconds):
            return self._lose(self.trouble)
        assert self._child is not None
        calls = [
            {"id": id, "member": c.member, "method": c.method, "header": dict(c.header),
             "blob": c.blob and str(c.blob), "keep": c.keep and str(c.keep)}
            for id, c in self._sent
        ]  # fmt: skip
        self._under_way |= {id for id, _ in self._sent}
        self._sent = []
        self._child.send({"calls": calls, "wait": seconds}, seconds + _LIMIT)
        outcome = self._collect(None)
        if outcome is None or outcome.answer is None:
            self._leave(outcome)
            return self._lose(self.trouble)
        self.members = tuple(_member(name, said) for name, said in outcome.answer["members"].items())
        answers = [Answer(a["id"], a.get("header"), a.get("lost", "")) for a in outcome.answer["done"]]
        known = [a for a in answers if a.id in self._under_way]
        self._under_way -= {a.id for a in known}
        return known

    def forget(self) -> None:
        """Nobody waits for the calls under way any more: their answers are dropped."""
        self._under_way.clear()
        self._sent = []

    def devices(self, seconds: float = 20.0) -> tuple[Device, ...]:
        """The devices that can be measured on from here, each once; waits for the first one for so long.

        Raises DeviceError: ``cluster-unreachable``, or ``no-device`` when there is none.
        """
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.exchange(0.5)
            found = {m.device.fingerprint: m.device for m in self.comparable if m.device is not None}
            if found:
                return tuple(found.values())
        if self.trouble:
            raise DeviceError(f"The cluster at {self.address} cannot be joined: {self.trouble}",
                              code="cluster-unreachable")  # fmt: skip
        others = [m for m in self.members if m.device is not None]
        if others:
            theirs, ours = dict(others[0].versions), versions()
            text = f"The workers of the cluster at {self.address} have other versions: {theirs}; here: {ours}."
            raise DeviceError(text, code="no-device", hint="Install the same version of fusetune everywhere.")
        raise DeviceError(f"No worker of the cluster at {self.address} offers a device.", code="no-device",
                          hint="Start one: fusetune worker --cluster ADDRESS.")  # fmt: skip

    @property
    def comparable(self) -> tuple[Member, ...]:
        """Members whose results mean the same as ours."""
        ours = versions()
        return tuple(m for m in self.members if m.versions == ours)

    def having(self, device: Device) -> list[Member]:
        """Members that may measure for this device now: those that have its like."""
        return [m for m in self.comparable if m.device and m.device.fingerprint == device.fingerprint]

    def close(self) -> None:
        """Leave, within a second. Idempotent, from any thread."""
        with self._lock:
            self._closed = True
            child = self._child
        if child is not None:
            child.kill()
        self._scratch.remove()

    def dispose(self) -> None:
        """Give back what is left after ``close``; for the thread that exchanges."""
        if self._child is not None:
            self._child.dispose()
            self._child = None

    # the child ------------------------------------------------------------------------------------------------------

    def _connected(self, seconds: float) -> bool:
        """Whether the child is in; tries to get it there for so long."""
        end = time.monotonic() + seconds
        while True:
            if self._closed:
                raise ClosedError
            if self._child is None and time.monotonic() >= self._next_try:
                self._start()
            if self._child is not None and self._child.ready and not self._child.busy:
                return True
            if self._child is not None:
                outcome = self._collect(end)
                if outcome is not None and outcome.failure is None:
                    self.trouble = ""
                    return True
                if outcome is not None:
                    self._leave(outcome)
            if time.monotonic() >= end:
                return False
            time.sleep(_PERIOD)

    def _start(self) -> None:
        with self._lock:
            if self._closed:
                raise ClosedError
            stderr = self._scratch.path / f"link-{next(self._ids)}.err"
            config = {"address": self.address}
            self._child = Child("cluster", config, stderr, self._env, _START_LIMIT, _MEMORY)

    def _collect(self, end: float | None) -> Outcome | None:
        """What the child's request came to; None at ``end``, in time.monotonic()."""
        assert self._child is not None
        while (outcome := self._child.collect()) is None:
            if self._closed:
                raise ClosedError
            if end is not None and time.monotonic() >= end:
                return None
            wait([self._child], _PERIOD)
        if self._closed:
            raise ClosedError
        return outcome

    def _leave(self, outcome: Outcome | None) -> None:
        """Give the child up; another is started after a rest."""
        failure = outcome.failure if outcome is not None else None
        if failure is not None and "ModuleNotFoundError" in failure.message:
            raise InternalError(failure.message, code="no-ray", hint="Install it: pip install 'fusetune[cluster]'.")
        self.trouble = failure.message if failure is not None else "it does not answer"
        self.dispose()
        self.members = ()
        self._next_try = time.monotonic() + _REST

    def _lose(self, reason: str) -> list[Answer]:
        lost = [*sorted(self._under_way), *(id for id, _ in self._sent)] if self._child is None else []
        if self._child is None:
            self._under_way.clear()
            self._sent = []
        return [Answer(id, None, reason or "the cluster went away", link=True) for id in lost]


def _member(name: str, said: Mapping[str, Any]) -> Member:
    device = said["device"]
    return Member(name, Device.from_json(device) if device else None, said["builders"], said["versions"])
