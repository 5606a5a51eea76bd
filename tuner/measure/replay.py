"""Replay: a runner that answers from a recording of one question's whole knob space, measured once on a real machine.

A recording is a gzipped JSON file: device, toolchain, protocol, the question (workload, layouts, template, cores) and,
for each point of the space, its knobs with samples in seconds or the kind of its failure. Searches can thus be compared
exactly and quickly: the best of the space is known, and every search sees the same answers.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import median
from typing import Any

from tuner.errors import UserError
from tuner.graph.ir import Graph
from tuner.kernels.base import Space
from tuner.measure.answering import AnsweringRunner
from tuner.types import Candidate, Device, Failure, FailureKind, Purpose, Trial

VERSION = 1  # of the file format
_QUESTION = (
    "workload", "workload_hash", "layouts", "template", "template_version", "cores", "precision", "residency",
)  # fmt: skip


@dataclass(frozen=True)
class Point:
    """One point of a recorded space: samples (seconds per call) or a failure, never both."""

    knobs: Mapping[str, int]
    samples: tuple[float, ...] = ()
    failure: Failure | None = None

    @property
    def seconds(self) -> float | None:
        """Median seconds per call; None if it failed."""
        return median(self.samples) if self.samples else None


@dataclass(frozen=True)
class Recording:
    """An exhaustively measured knob space of one question."""

    name: str
    note: str  # circumstances, in words
    device: Device
    toolchain: str
    protocol: str
    candidate: Candidate  # the question; its knobs are the template's default
    values: Mapping[str, tuple[int, ...]]  # knob -> allowed values
    points: tuple[Point, ...]

    @cached_property
    def workload(self) -> Graph:
        return Graph.from_json(self.candidate.workload)

    @cached_property
    def by_knobs(self) -> Mapping[tuple[int, ...], Point]:
        """Points by their knobs' values, in the order of ``values``."""
        return {self._key(p.knobs): p for p in self.points}

    @cached_property
    def space(self) -> Space:
        """The space as the template gave it: what was recorded is what its rule allows."""
        return Space(self.values, self.candidate.knobs, lambda k: self._key(k) in self.by_knobs)

    @cached_property
    def best(self) -> float:
        """Median seconds of the fastest point."""
        return min(p.seconds for p in self.points if p.seconds is not None)

    def _key(self, knobs: Mapping[str, int]) -> tuple[int, ...]:
        return tuple(knobs[name] for name in self.values)

    def find(self, knobs: Mapping[str, int]) -> Point | None:
        """The point with these knobs, if it was recorded."""
        return self.by_knobs.get(self._key(knobs)) if knobs.keys() == self.values.keys() else None

    def save(self, path: Path) -> None:
        question = self.candidate.to_json()
        data = {
            "version": VERSION,
            "name": self.name,
            "note": self.note,
            "device": self.device.to_json(),
            "toolchain": self.toolchain,
            "protocol": self.protocol,
            **{key: question[key] for key in _QUESTION},
            "default": dict(self.candidate.knobs),
            "knobs": {name: list(values) for name, values in self.values.items()},
            "points": [_point_to_json(self._key(p.knobs), p) for p in self.points],
        }
        text = json.dumps(data, separators=(",", ":"), default=list)
        path.write_bytes(gzip.compress(text.encode(), 9, mtime=0))  # no time stamp: equal recordings, equal bytes

    @staticmethod
    def load(path: Path) -> Recording:
        """Read a recording. Raises UserError(code="bad-recording") for a file that is none."""
        try:
            data = json.loads(gzip.decompress(path.read_bytes()))
            if data["version"] != VERSION:
                raise ValueError(f"format {data['version']!r}, and this version reads {VERSION}")
            return _from_json(data)
        except (OSError, EOFError, zlib.error, ValueError, KeyError, TypeError) as error:
            text = f"'{path}' is no recording: {type(error).__name__}: {error}."
            raise UserError(text, code="bad-recording") from error


def _point_to_json(key: tuple[int, ...], point: Point) -> list[Any]:
    """[values, samples] or [values, failure kind, message]; samples to five digits."""
    if point.failure is not None:
        return [key, point.failure.kind.value, point.failure.message]
    return [key, [float(f"{s:.5g}") for s in point.samples]]


def _from_json(data: Mapping[str, Any]) -> Recording:
    names = list(data["knobs"])

    def point(row: list[Any]) -> Point:
        knobs = dict(zip(names, row[0], strict=True))
        if isinstance(row[1], str):
            return Point(knobs, failure=Failure(FailureKind(row[1]), row[2]))
        return Point(knobs, samples=tuple(row[1]))

    return Recording(
        name=data["name"],
        note=data["note"],
        device=Device.from_json(data["device"]),
        toolchain=data["toolchain"],
        protocol=data["protocol"],
        candidate=Candidate(**{key: data[key] for key in _QUESTION}, knobs=data["default"]),
        values={name: tuple(values) for name, values in data["knobs"].items()},
        points=tuple(map(point, data["points"])),
    )


class ReplayRunner(AnsweringRunner):
    """Answers from recordings of one device, at once and always the same. See Runner for the contract.

    What was not recorded is a failed trial.
    """

    def __init__(self, recordings: Iterable[Recording]) -> None:
        super().__init__()
        given = list(recordings)
        self._recordings = {r.candidate.record_key: r for r in given}
        self._devices = tuple({r.device.fingerprint: r.device for r in given}.values())
        if len(self._devices) != 1:
            text = f"Recordings of one device are needed, and these come from {len(self._devices)}."
            raise UserError(text, code="bad-recording")

    def devices(self) -> tuple[Device, ...]:
        return self._devices

    def _answer(self, candidate: Candidate, purpose: Purpose) -> Trial:
        recording = self._recordings.get(candidate.record_key)
        if recording is None:
            known = ", ".join(r.name for r in self._recordings.values())
            message = f"Nothing is recorded of this {candidate.template} question; recorded are: {known}."
            return Trial(candidate, purpose, failure=Failure(FailureKind.ERROR, message))
        point = recording.find(candidate.knobs)
        if point is None:
            message = f"The recording {recording.name} has no point {dict(candidate.knobs)}."
            return Trial(candidate, purpose, failure=Failure(FailureKind.ERROR, message))
        return Trial(candidate, purpose, samples=point.samples, failure=point.failure)
