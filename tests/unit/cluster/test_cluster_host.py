"""What a host hands its measuring process from one candidate to the next; the process is played by the test."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import pytest

from tuner.measure.cluster.host import Host
from tuner.measure.cluster.messages import pack, unpack
from tuner.measure.named import XEON_4214R as DEVICE
from tuner.measure.options import MeasureOptions
from tuner.measure.process import Outcome
from tuner.types import Device, Failure, FailureKind


class Played:
    """The measuring process: answers as told, and remembers what it was asked."""

    def __init__(self) -> None:
        self.floors: list[float | None] = []
        self.fresh: list[bool] = []
        self.says: Mapping[str, Any] | Failure = {"floor": None}

    def ask(
        self, device: Device, options: MeasureOptions, request: Mapping[str, Any], limit: float, fresh: bool = False
    ) -> Outcome:
        self.floors.append(request["floor"])
        self.fresh.append(fresh)
        if isinstance(self.says, Failure):
            return Outcome(None, self.says, 0.1, died=True)
        return Outcome(self.says, None, 0.1)


class Referee:
    """References are always there."""

    def ask(self, *_: object) -> Outcome:
        return Outcome({}, None, 0.1)


@pytest.fixture
def host() -> Iterator[Host]:
    made = Host(DEVICE, builders=1, cores=2)
    made._measurer, made._referee = Played(), Referee()  # type: ignore[assignment]
    yield made
    made.close()


def measure(host: Host, run: str = "one", final: bool = False) -> dict[str, Any]:
    header = {
        "device": DEVICE.to_json(), "options": MeasureOptions().to_json(), "binary": {}, "workload": {},
        "workload_hash": "w" * 64, "precision": "fp32", "narrow": [], "residency": "cold", "cores": 1, "final": final,
        "run": run, "best_seconds": None,
    }  # fmt: skip
    answer, _ = unpack(host.measure(pack(header, b"library")))
    return answer


def played(host: Host) -> Played:
    found: Any = host._measurer
    assert isinstance(found, Played)
    return found


def test_the_fastest_burst_is_handed_from_process_to_process(host: Host) -> None:
    process = played(host)
    for said in (
        {"floor": 2e-5},
        Failure(FailureKind.CRASH, "it died"),  # its successor has seen no burst yet
        {"wrong": "by far", "error": 1.0},  # timed nothing, so it says nothing of bursts
        {"floor": None},  # nobody built the burst
        {"floor": 1e-5},
        {"floor": 1e-5},
    ):
        process.says = said
        measure(host)
    assert process.floors == [None, 2e-5, 2e-5, 2e-5, 2e-5, 1e-5]


def test_finalists_of_one_run_share_a_process_begun_for_them(host: Host) -> None:
    for run, final in [("a", False), ("b", True), ("b", True), ("c", True), ("b", True), ("d", False), ("b", True)]:
        measure(host, run, final)
    assert played(host).fresh == [False, True, False, True, True, False, False]


def test_another_device_is_refused(host: Host) -> None:
    header = {"device": replace(DEVICE, cores=3).to_json(), "options": MeasureOptions().to_json()}
    assert "does not have the device" in unpack(host.measure(pack(header, b"")))[0]["broken"]
    assert played(host).floors == []
