"""Devices by name: simulated ones, and CPUs that are described without being there."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from sim_blocks import MLU, spec_json

from tuner.errors import UserError
from tuner.measure.device import detect_cpu, device_names, devices
from tuner.measure.named import XEON_4214R, check_measurable, check_real


def test_simulated_devices_say_so() -> None:
    for name, cores in (("sim:mlu100", 32), ("sim:xeon-4214r", 12)):
        device = devices(name)
        assert (device.name, device.kind, device.simulated, device.cores) == (name, "sim", True, cores)
        assert "simulated" in device.model
        assert name in device_names()


def test_a_simulated_devices_fingerprint_depends_on_every_value(tmp_path: Path) -> None:
    prints = {devices("sim:mlu100").fingerprint}
    data = spec_json()
    for field in [k for k in data if k not in ("version", "name", "title", "sync_growth")]:
        changed = json.loads(json.dumps(data))
        changed[field]["value"] = 1 if data[field]["value"] == 0 else data[field]["value"] / 2
        path = tmp_path / f"{field}.json"
        path.write_text(json.dumps(changed))
        device = devices(f"sim:{path}")
        assert device.name == f"sim:{path}"
        prints.add(device.fingerprint)
    assert len(prints) == 1 + len(data) - 4


def test_the_same_spec_is_the_same_device_wherever_it_lies(tmp_path: Path) -> None:
    (tmp_path / "copy.json").write_text(json.dumps(spec_json()))
    assert devices(f"sim:{tmp_path}/copy.json").fingerprint == devices("sim:mlu100").fingerprint


def test_a_xeon_4214r_is_a_cpu_known_by_name() -> None:
    device = devices("xeon-4214r")
    assert (device.kind, device.mcpu, device.cores, device.lanes, device.registers) == (
        "cpu",
        "cascadelake",
        12,
        16,
        32,
    )
    assert not device.simulated and "avx512f" in device.features
    assert device.fingerprint != devices("sim:xeon-4214r").fingerprint


def test_measuring_on_a_named_cpu_needs_that_cpu() -> None:
    here = detect_cpu()
    check_measurable(here, here)
    check_measurable(MLU.device(), here)
    check_measurable(XEON_4214R, replace(XEON_4214R, name="cpu", memory=64 << 30))
    with pytest.raises(UserError, match="Silver 4214R") as raised:
        check_measurable(XEON_4214R, replace(here, mcpu="other"))
    assert raised.value.code == "device-not-here"


def test_nothing_is_built_for_a_simulated_device() -> None:
    check_real(XEON_4214R)
    with pytest.raises(UserError, match="simulated") as raised:
        check_real(MLU.device())
    assert raised.value.code == "simulated-device"


def test_unknown_names_list_the_known_ones() -> None:
    with pytest.raises(UserError, match=r"cpu, xeon-4214r, rtx3090, .*, sim:mlu100"):
        devices("tpu")
