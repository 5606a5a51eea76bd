"""GPUs as devices: what is known of them by name, and what a driver says of the one that is here."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from tests.unit.gpu.gpu_tools import RTX3090, fake_smi
from tuner.errors import DeviceError, UserError
from tuner.gpu.detect import detect
from tuner.gpu.spec import GPUS, check_not_gpu, spec_of
from tuner.measure.device import devices
from tuner.measure.named import XEON_4214R, check_measurable
from tuner.types import Device


def test_an_rtx_3090_is_what_its_data_sheet_says() -> None:
    spec, device = GPUS["rtx3090"], devices("rtx3090")
    assert (spec.arch, spec.sms, spec.memory) == ("sm_86", 82, 24 << 30)
    assert spec.bandwidth == pytest.approx(936e9, rel=1e-3)
    assert spec.peak == pytest.approx(35.6e12, rel=1e-2)
    assert (device.kind, device.mcpu, device.cores, device.simulated) == ("cuda", "sm_86", 82, False)
    assert Device.from_json(device.to_json()) == device


@pytest.mark.parametrize(("name", "peak"), [("a100", 19.5e12), ("h100", 66.9e12), ("h200", 66.9e12)])
def test_peaks_are_those_of_the_data_sheets(name: str, peak: float) -> None:
    assert GPUS[name].peak == pytest.approx(peak, rel=1e-2)


def test_no_two_gpus_share_a_fingerprint() -> None:
    assert len({spec.device().fingerprint for spec in GPUS.values()}) == len(GPUS)


def test_the_target_names_the_architecture_and_the_limits_of_a_block() -> None:
    target = devices("h200").target()
    assert (target["kind"], target["arch"]) == ("cuda", "sm_90")
    assert (target["max_threads_per_block"], target["max_shared_memory_per_block"]) == (1024, 49152)


def test_the_gpu_here_is_described_by_its_driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(fake_smi(tmp_path, f"{RTX3090}\nNVIDIA H200, 9.0, 143771, 1980, 3201, 580.95.05")))
    gpu = detect(count_sms=lambda _: 80)
    assert (gpu.model, gpu.arch, gpu.sms, gpu.memory) == ("NVIDIA GeForce RTX 3090", "sm_86", 80, 24 << 30)
    assert (gpu.clock, gpu.memory_clock, gpu.driver) == (2.1e9, 9.751e9, "580.95.05")
    assert gpu.device().features == ("driver-580",)
    assert detect(1, count_sms=lambda _: None).sms == 132  # published
    assert spec_of(gpu.device()) == replace(GPUS["rtx3090"], sms=80)


def test_another_driver_branch_is_another_fingerprint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prints = set()
    for driver in ("580.95.05", "580.105.08", "590.44.01"):
        folder = fake_smi(tmp_path / driver, RTX3090.replace("580.95.05", driver))
        monkeypatch.setenv("PATH", str(folder))
        prints.add(detect(count_sms=lambda _: 82).device().fingerprint)
    assert len(prints) == 2


@pytest.mark.parametrize(
    ("says", "exit_code", "code", "names"),
    [
        (RTX3090.replace("580.95.05", "535.104.05"), 0, "old-driver", "535.104.05.*580 or newer"),
        ("NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.", 9, "no-gpu", "communicate"),
        ("No devices were found", 0, "no-gpu", "No devices"),
        ("", 0, "no-gpu", "names none"),
        ("Tesla K80, 3.7, 11441, 875, 2505, 580.1", 0, "unknown-gpu", "3.7.*Known are sm_80"),
        ("NVIDIA Future, 9.0, 11441, 875, 2505, 580.1", 0, "unknown-gpu", "how many SMs"),
    ],
)
def test_what_is_missing_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, says: str, exit_code: int, code: str, names: str
) -> None:
    monkeypatch.setenv("PATH", str(fake_smi(tmp_path, says, exit_code)))
    with pytest.raises(DeviceError) as raised:
        detect(count_sms=lambda _: None)
    assert raised.value.code == code
    assert re.search(names, str(raised.value))


def test_without_a_driver_the_error_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DeviceError, match=r"nvidia-smi.*not found") as raised:
        devices("gpu")
    assert raised.value.code == "no-gpu"


def test_a_gpu_number_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(fake_smi(tmp_path, RTX3090)))
    with pytest.raises(DeviceError, match="no GPU 1 here; the driver names 1"):
        detect(1)


def test_what_is_done_on_cpus_only_is_refused_for_gpus() -> None:
    check_not_gpu(XEON_4214R, "Planning")
    with pytest.raises(UserError, match="Planning is not done for GPUs"):
        check_not_gpu(devices("h100"), "Planning")
    with pytest.raises(UserError, match="RTX 3090") as raised:
        check_measurable(devices("rtx3090"), XEON_4214R)
    assert raised.value.code == "device-not-here"
