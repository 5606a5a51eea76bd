"""What one machine of a cluster does for others: it builds kernels, and measures them on its device. Knows no Ray.

Messages in and out are bytes (see ``messages``). Candidates run in child processes of their own, as with the local
runner, so that no candidate takes the host down. Waiting for cores or for one's turn counts towards no limit.
"""

from __future__ import annotations

import itertools
import os
import queue
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tuner.errors import InternalError
from tuner.measure.children import REFERENCES, starter
from tuner.measure.cluster.gate import Gate
from tuner.measure.cluster.messages import pack, unpack
from tuner.measure.cluster.served import Wholes
from tuner.measure.cluster.versions import versions
from tuner.measure.options import MeasureOptions
from tuner.measure.process import Child, Outcome, wait
from tuner.measure.reference import reference_name
from tuner.measure.worker import Worker
from tuner.scratch import Scratch
from tuner.types import RETRYABLE, Device, Failure, digest

_PERIOD = 0.05  # seconds between looks at limits while nothing happens
FINAL_FACTOR = 3  # a finalist may run for so many times the limit


class _Place:
    """Room for one child of a role; it is started anew when it has to serve another device or other options."""

    def __init__(self, role: str, start: Callable[[str, Device, MeasureOptions], Child]) -> None:
        self._start_child = start
        self._settings: tuple[Device, MeasureOptions] | None = None
        self._worker = Worker(role, self._start)

    def _start(self, role: str) -> Child:
        assert self._settings is not None  # since ask
        return self._start_child(role, *self._settings)

    def ask(
        self, device: Device, options: MeasureOptions, request: Mapping[str, Any], limit: float, fresh: bool = False
    ) -> Outcome:
        """The outcome of one request; ``limit`` in seconds begins when the child is ready for it.

        Raises InternalError(code="measuring-broken") when the child cannot be started.
        """
        if fresh or self._settings != (device, options):
            self._worker.drop()
            self._settings = device, options
        self._worker.ensure()
        while not self._worker.idle:
            self._look()
            self._worker.ensure()
        self._worker.send(request, limit)
        while (outcome := self._look()) is None:
            pass
        return outcome

    def _look(self) -> Outcome | None:
        if self._worker.child is not None and self._worker.busy:
            wait([self._worker.child], _PERIOD)
        return self._worker.poll()

    def drop(self) -> None:
        self._worker.drop()


class Host:
    """Builds on up to ``builders`` cores and measures on ``device`` (None = it only builds). Thread-safe."""

    def __init__(self, device: Device | None, builders: int, cores: int) -> None:
        self._device = device
        self._builders = builders
        self._scratch = Scratch()
        self._numbers = itertools.count()
        self._lock = threading.Lock()  # guards _started and _closed
        self._started: list[Child] = []
        self._closed = False
        self._gate = Gate(cores)
        self._idle: queue.SimpleQueue[_Place] = queue.SimpleQueue()  # builders without work
        for _ in range(builders):
            self._idle.put(_Place("build", self._start))
        self._measurer = _Place("run", self._start)
        self._referee = _Place("reference", self._start)
        self._references: dict[str, Failure | None] = {}  # None = it is there; else why there is none
        self._wholes = Wholes(self._scratch.path / "wholes")
        self._turn = threading.Lock()  # one measurement at a time; guards what follows
        self._floor: float | None = None  # seconds of the fastest burst (see tuner.measure.contention)
        self._finals = ""  # the run of finalists that the measuring process was started for

    def describe(self) -> bytes:
        """Who this is: device, builders, and the versions that decide whether results are comparable."""
        device = None if self._device is None else self._device.to_json()
        return pack({"device": device, "builders": self._builders, "versions": versions(), "pid": os.getpid()})

    def build(self, message: bytes) -> bytes:
        """Build header["candidate"] for header["device"]; answers header["binary"] with the library, or a failure."""
        return self._answering(self._build, message)

    def measure(self, message: bytes) -> bytes:
        """Measure the library that comes with the message; answers what the measuring child said, or a failure."""
        return self._answering(self._measure, message)

    def files(self, message: bytes) -> bytes:
        """Take in files of whole models, or say which are not here yet."""
        return self._answering(self._wholes.files, message)

    def whole(self, message: bytes) -> bytes:
        """Time, run or profile whole models (see ``wholes``)."""
        return self._answering(self._whole, message)

    def close(self) -> None:
        """Kill what runs and give everything back. Idempotent, from any thread."""
        with self._lock:
            self._closed = True
        for child in self._started:
            child.kill()
        self._scratch.remove()

    def _answering(self, work: Callable[[dict[str, Any], bytes], bytes], message: bytes) -> bytes:
        try:
            return work(*unpack(message))
        except InternalError as error:  # this machine is not fit for it; that is no fault of the candidate
            return pack({"broken": str(error), "code": error.code})

    def _build(self, header: dict[str, Any], _: bytes) -> bytes:
        device, options = _settings(header)
        library = self._file("so")
        place = self._idle.get()
        try:
            with self._gate.building():
                request = {"candidate": header["candidate"], "library": str(library)}
                outcome = place.ask(device, options, request, options.build_limit)
            answer = _said(outcome)
            return pack(answer, library.read_bytes() if "answer" in answer else b"")
        finally:
            self._idle.put(place)
            _clear(library)

    def _measure(self, header: dict[str, Any], blob: bytes) -> bytes:
        device, options = _settings(header)
        if self._device is None or device.fingerprint != self._device.fingerprint:
            raise InternalError("This machine does not have the device that was asked for.")
        library = self._file("so")
        library.write_bytes(blob)
        try:
            with self._turn:
                name, missing = self._reference(header, device, options)
                if missing is not None:
                    return pack(_failed(missing, 0.0))
                request = {
                    "binary": header["binary"] | {"library": str(library)},
                    "reference": str(self._scratch.path / REFERENCES / name),
                    "residency": header["residency"], "final": header["final"], "best_seconds": header["best_seconds"],
                    "floor": self._floor,
                }  # fmt: skip
                limit = options.run_limit * (FINAL_FACTOR if header["final"] else 1)
                # Finalists get a process begun for their run, in which code and data fall on other addresses.
                fresh = header["final"] and header["run"] != self._finals
                with self._gate.measuring(header["cores"]):
                    outcome = self._measurer.ask(device, options, request, limit, fresh)
                if header["final"]:
                    self._finals = header["run"]
                self._floor = (outcome.answer or {}).get("floor") or self._floor
                return pack(_said(outcome))
        finally:
            _clear(library)

    def _whole(self, header: dict[str, Any], blob: bytes) -> bytes:
        if self._device is None:
            raise InternalError("This machine has no device.")
        cores = self._device.cores if self._device.kind == "cpu" else 1  # launching takes one
        with self._turn, self._gate.measuring(cores):
            return self._wholes.run(header, blob)

    def _reference(
        self, header: dict[str, Any], device: Device, options: MeasureOptions
    ) -> tuple[str, Failure | None]:  # fmt: skip
        """The name of the workload's reference, and why there is none; it is made if need be."""
        # What else decides it: jobs differ in seeds and the like, and share this host.
        options_name = digest(header["options"])[:8]
        name = reference_name(header["workload_hash"], header["precision"], header["narrow"], options_name)
        if name not in self._references:
            request = {
                "workload": header["workload"], "precision": header["precision"], "narrow": header["narrow"],
                "name": name, "keep": [name],
            }  # fmt: skip
            with self._gate.building():
                outcome = self._referee.ask(device, options, request, options.reference_limit)
            self._references[name] = outcome.failure
            for evicted in (outcome.answer or {}).get("evicted", ()):
                self._references.pop(evicted, None)
        found = self._references[name]
        if found is not None and found.kind in RETRYABLE:
            del self._references[name]  # the next candidate tries again
        return name, found

    def _file(self, ending: str) -> Path:
        return self._scratch.path / f"{next(self._numbers)}.{ending}"

    def _start(self, role: str, device: Device, options: MeasureOptions) -> Child:
        start = starter(role, device, options, self._scratch.path)
        with self._lock:
            if self._closed:
                raise InternalError("The host is closed.", code="host-closed")
            child = start(self._file("err"))
            self._started = [c for c in self._started if not c.ended] + [child]
            return child


def _settings(header: Mapping[str, Any]) -> tuple[Device, MeasureOptions]:
    return Device.from_json(header["device"]), MeasureOptions.from_json(header["options"])


def _said(outcome: Outcome) -> dict[str, Any]:
    if outcome.failure is not None:
        return _failed(outcome.failure, outcome.seconds)
    return {"answer": outcome.answer, "seconds": outcome.seconds}


def _failed(failure: Failure, seconds: float) -> dict[str, Any]:
    said = {"kind": failure.kind.value, "message": failure.message, "stderr": failure.stderr}
    return {"failure": said, "seconds": seconds}


def _clear(library: Path) -> None:
    """Delete the library, and what a builder that was killed may have left beside it."""
    for path in library.parent.glob(f"{library.stem}.*"):
        path.unlink(missing_ok=True)
