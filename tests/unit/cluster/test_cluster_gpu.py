"""GPUs of a cluster: what a worker offers, and bundles that go to it and come back as results. Nothing here has one."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from one_host import OneHost

from service.commands import worker as command
from service.commands.worker import describe, offered
from tests.unit.gpu.gpu_tools import RTX3090, fake_smi
from tuner.errors import DeviceError
from tuner.measure.cluster import gpu
from tuner.measure.cluster.conversation import LOSSES, Conversation
from tuner.measure.cluster.gpu import ClusterGpu
from tuner.measure.cluster.host import Host
from tuner.measure.cluster.joining import Offer
from tuner.measure.device import detect_cpu, devices

sys.path.append(str(Path(__file__).parents[1] / "gpu"))
from test_gpu_bundle_run import bundle

DEVICE = devices("rtx3090")
HANGING = "import time; time.sleep(60)"


@pytest.fixture
def smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """nvidia-smi knows an RTX 3090."""
    folder = fake_smi(tmp_path / "smi", RTX3090)
    monkeypatch.setenv("PATH", str(folder))
    return folder


def test_a_worker_offers_all_that_its_machine_has(smi: Path) -> None:
    assert [d.name for d in offered("auto")] == ["cpu", "gpu"]
    assert [d.name for d in offered("auto", "box")] == ["box", "box-gpu"]
    assert [d.kind for d in offered("cpu")] == ["cpu"]
    (only,) = offered("gpu", "box")
    assert (only.name, only.kind, only.cores, only.features) == ("box", "cuda", 82, ("driver-580",))
    assert only.memory == 24 << 30
    assert "box = NVIDIA GeForce RTX 3090, 82 SMs" in describe(only, 0)
    assert offered("none") == []


@pytest.mark.parametrize(("device", "expected"), [("auto", [("cpu", 3, 3), ("gpu", 0, 3)]), ("gpu", [("gpu", 8, 8)])])
def test_each_device_is_a_member_and_cores_are_those_that_the_cpu_measures_on(
    smi: Path, monkeypatch: pytest.MonkeyPatch, device: str, expected: list[tuple[str, int, int]]
) -> None:
    """Not the operating system's processors, of which a core may have two."""
    found = replace(detect_cpu(), cores=3)
    monkeypatch.setattr("tuner.measure.device.detect_cpu", lambda: found)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    offers: list[Offer] = []

    class Once:
        def __init__(self, offer: Offer, **_: object) -> None:
            offers.append(offer)

        def run(self) -> None:
            return

        stop = run

    monkeypatch.setattr("tuner.measure.cluster.joining.Joining", Once)
    monkeypatch.setattr("signal.signal", lambda *_: None)
    monkeypatch.setattr(command, "check_extra", lambda: None)
    args = argparse.Namespace(cluster="127.0.0.1:1", device=device, name=None, builders=None)
    assert command.worker(args) == 0
    assert [(o.device and o.device.name, o.builders, o.cores) for o in offers] == expected


def test_a_gpu_that_is_not_usable_is_missed_only_where_it_was_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert [d.name for d in offered("auto")] == ["cpu"] and not caplog.records
    with pytest.raises(DeviceError) as raised:
        offered("gpu")
    assert raised.value.code == "no-gpu"
    monkeypatch.setenv("PATH", str(fake_smi(tmp_path / "old", RTX3090.replace("580.95", "535.1"))))
    assert [d.name for d in offered("auto")] == ["cpu"] and "535.1" in caplog.text


@pytest.fixture
def host() -> Iterator[Host]:
    with closing(Host(DEVICE, 0, 2)) as made:
        yield made


def over(cluster: OneHost) -> ClusterGpu:
    return ClusterGpu(Conversation(cluster, DEVICE))  # type: ignore[arg-type]


def test_a_bundle_is_measured_piece_by_piece(host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "AT_ONCE", 2)
    cluster, said = OneHost(host), list[str]()
    keys = ["a", "crash", "b", "c", "d"]
    found = over(cluster).measure(bundle(tmp_path, keys), say=said.append)
    assert [r["key"] for r in found["results"]] == keys
    assert [r["failure"] and r["failure"]["kind"] for r in found["results"]] == [None, "crash", None, None, None]
    assert said == ["2 of 5", "4 of 5", "5 of 5"]
    assert found["arch"] == "sm_86" and found["device"] == {"model": "test"}
    assert sum("put" in header for header in cluster.asked) == 2  # each file travels once


def test_nothing_is_begun_when_the_time_is_up(host: Host, tmp_path: Path) -> None:
    found = over(OneHost(host)).measure(bundle(tmp_path, ["a", "b"]), until=time.monotonic() - 1)
    assert found["results"] == []
    assert over(OneHost(host)).measure(bundle(tmp_path, []))["results"] == []


def test_what_a_machine_takes_with_it_is_asked_for_again(host: Host, tmp_path: Path) -> None:
    folder = bundle(tmp_path, ["a"])
    assert [r["key"] for r in over(OneHost(host, LOSSES - 1)).measure(folder)["results"]] == ["a"]
    with pytest.raises(DeviceError, match="its node died") as raised:
        over(OneHost(host, LOSSES)).measure(folder)
    assert raised.value.code == "device-lost"


def test_why_a_machine_measures_nothing_comes_back(host: Host, tmp_path: Path) -> None:
    reason = 'print(\'{"unusable": "The CUDA runtime finds no GPU."}\')'
    with pytest.raises(DeviceError, match="finds no GPU") as raised:
        over(OneHost(host)).measure(bundle(tmp_path, ["a"], reason))
    assert raised.value.code == "not-measurable"
    with pytest.raises(DeviceError) as raised:
        over(OneHost(host)).time(tmp_path)  # which holds no artifact
    assert raised.value.code == "not-measurable"


def test_a_hanging_measurement_ends_with_who_asked_for_it(tmp_path: Path) -> None:
    folder = bundle(tmp_path, ["a"], f"from tuner.gpu.bundle_run import die_with_parent\ndie_with_parent(); {HANGING}")
    parent = os.fork()
    if parent == 0:
        try:
            from tuner.gpu.bundle_run import measure

            measure(folder)
        finally:
            os._exit(0)
    children = Path(f"/proc/{parent}/task/{parent}/children")
    end = time.monotonic() + 20
    while not (child := children.read_text().split()):
        assert time.monotonic() < end
        time.sleep(0.02)
    time.sleep(1.0)  # until it has said what it wants
    os.kill(parent, 9)
    os.waitpid(parent, 0)
    while Path(f"/proc/{child[0]}").exists() and "Z" not in Path(f"/proc/{child[0]}/stat").read_text().split(")")[1]:
        assert time.monotonic() < end, "it outlived its parent"
        time.sleep(0.05)
