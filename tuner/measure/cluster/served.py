"""Whole models and bundles for a GPU on this machine, for somebody else in the cluster (see ``conversation``)."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tuner.errors import CandidateError, DeviceError
from tuner.measure.cluster.arrays import arrays_from_bytes, arrays_to_bytes
from tuner.measure.cluster.files import Store, clear
from tuner.measure.cluster.messages import pack
from tuner.measure.contest import Contestant, TurnOptions, contest, run_once
from tuner.measure.profile import profile
from tuner.measure.roof import measure_roof
from tuner.types import Device


class Wholes:
    """Answers a host's messages about whole models. For one thread at a time."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._store = Store(folder / "files")
        self._kinds = {
            "contest": self._contest, "outputs": self._outputs, "profile": self._profile, "bundle": self._bundle,
            "timed": self._timed, "roof": self._roof,
        }  # fmt: skip

    def files(self, header: Mapping[str, Any], blob: bytes) -> bytes:
        if "missing" in header:
            return pack({"missing": self._store.missing(header["missing"])})
        self._store.put(header["put"], header["offset"], blob, header["last"])
        return pack({})

    def run(self, header: Mapping[str, Any], blob: bytes) -> bytes:
        with self._laid_out(header["contestants"]) as contestants:
            try:
                return self._kinds[header["what"]](contestants, header, blob)
            except (CandidateError, DeviceError) as error:
                return pack({"refused": [error.message, error.hint]})

    @contextmanager
    def _laid_out(self, described: Sequence[Mapping[str, Any]]) -> Iterator[list[Contestant]]:
        folder = self._folder / "models"
        clear(folder)
        try:
            found = []
            for number, each in enumerate(described):
                path = folder / str(number) / Path(each["path"]).name
                self._store.lay_out(each["files"], path.parent if each.get("within") else path)
                found.append(Contestant(each["name"], each["kind"], path, each["options"]))
            yield found
        finally:
            clear(folder)

    def _contest(self, contestants: list[Contestant], header: Mapping[str, Any], blob: bytes) -> bytes:
        (inputs,) = arrays_from_bytes(header["inputs"], blob)
        result = contest(
            contestants, inputs, threads=header["threads"], rounds=header["rounds"], seconds=header["seconds"],
            options=TurnOptions(**header["options"]), seed=header["seed"],
        )  # fmt: skip
        standings = [
            {
                "turns": [[t.round, t.samples, t.disturbed] for t in s.turns],
                "load_seconds": s.load_seconds, "peak_memory": s.peak_memory,
                "failure": s.failure and [s.failure.kind.value, s.failure.message, s.failure.stderr],
            }
            for s in result.standings
        ]  # fmt: skip
        return pack({"standings": standings, "threads": result.threads, "rounds": result.rounds})

    def _outputs(self, contestants: list[Contestant], header: Mapping[str, Any], blob: bytes) -> bytes:
        found = run_once(contestants[0], arrays_from_bytes(header["inputs"], blob), header["threads"])
        names, answer = arrays_to_bytes(found)
        return pack({"outputs": names}, answer)

    def _profile(self, contestants: list[Contestant], _: Mapping[str, Any], __: bytes) -> bytes:
        return pack({"kernels": profile(contestants[0].path)})

    def _bundle(self, contestants: list[Contestant], header: Mapping[str, Any], _: bytes) -> bytes:
        from tuner.gpu.bundle_run import Unusable, measure

        try:
            found = measure(contestants[0].path, until=time.monotonic() + header["seconds"], keys=header["keys"])
        except Unusable as error:
            raise CandidateError(str(error), code="contestant-failed") from error
        return pack({"results": found})

    def _timed(self, contestants: list[Contestant], _: Mapping[str, Any], __: bytes) -> bytes:
        from tuner.gpu.timing import time_artifact

        return pack({"timed": time_artifact(contestants[0].path)})

    def _roof(self, _: list[Contestant], header: Mapping[str, Any], __: bytes) -> bytes:
        return pack({"roof": asdict(measure_roof(Device.from_json(header["device"])))})
