"""``fusetune calibrate --device gpu`` over the stand-in, on which launches do nothing: the path, not the figures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from db.store import Store
from service.cli import FAILURE, USER_ERROR, main
from service.commands.gpu_roof import at_first, known
from tests.integration.gpu.conftest import Round, unchecked
from tests.integration.gpu.gpu_models import job
from tuner.errors import InternalError
from tuner.gpu import roof
from tuner.gpu.build_only import BuildOnly
from tuner.gpu.bundle_run import Unusable, measure
from tuner.gpu.cuda import cuda_of, target_of
from tuner.gpu.nvcc import compile_cubin, find_nvcc
from tuner.gpu.roof import GpuRoof, published
from tuner.gpu.roof_kernels import kernels
from tuner.gpu.spec import GPUS
from tuner.measure.device import devices
from tuner.types import Budget

SPEC = GPUS["rtx3090"]


def on_stand_in(bundle: Path, **options: Any) -> dict[str, Any]:
    return measure(unchecked(bundle, 9), **options)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """A copy that takes no seconds to draw, and no references."""
    monkeypatch.setattr("tuner.gpu.roof_kernels.COPIED", 1 << 20)
    monkeypatch.setattr("tuner.gpu.roof_kernels.CACHES", 0)
    monkeypatch.setattr(roof.measure_gpu_roof, "__defaults__", (on_stand_in,))


def test_kernels_say_what_they_do_and_compile() -> None:
    found = {kernel.name: kernel for kernel in kernels(SPEC)}
    assert set(found) == {"fp32", "fp16", "tf32", "bandwidth"}
    for name, rate in (("fp32", SPEC.peak), ("fp16", SPEC.tensor_fp16), ("tf32", SPEC.tensor_tf32)):
        assert found[name].work / rate == pytest.approx(2e-3, rel=1e-2)
    copy = found["bandwidth"]
    assert copy.work == 8 * copy.size and 4 * copy.size >= 4 * SPEC.l2
    x = np.array([1.5, -2.0], np.float32)
    assert found["fp32"].expected(x).tolist() == [54.0, -72.0] and copy.expected(x).tolist() == x.tolist()
    wanted = {"fp32": "fma.rn.f32", "fp16": "m16n8k16.row.col.f32.f16.f16.f32",
              "tf32": "m16n8k8.row.col.f32.tf32.tf32.f32", "bandwidth": "float4"}  # fmt: skip
    target = target_of(devices("rtx3090"))
    for name, text in wanted.items():
        source = cuda_of(found[name].module, target)
        assert text in source
        try:
            cubin = compile_cubin(source, "sm_86", find_nvcc())
        except InternalError as error:
            assert error.code == "no-nvcc"
            continue
        assert cubin.code[:4] == b"\x7fELF" and cubin.spills == 0


def test_figures_are_measured_once_kept_and_shown(
    gpu: bool, compiler: None, small: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    if not gpu:
        return
    db = f"sqlite:///{tmp_path}/calibration.db"

    def said(*command: str) -> Any:
        assert main([*command, "--db", db, "--json"]) == 0
        return json.loads(capsys.readouterr().out)

    (before,) = (d for d in said("devices") if d["name"] == "gpu")
    assert before["gpu"]["driver"] == "580.95.05" and before["gpu"]["clock"] == 2.1e9
    assert before["gpu"]["figures"]["fp32"] == {"measured": None, "data_sheet": SPEC.peak}

    first = said("calibrate", "--device", "gpu")["figures"]
    assert all(first[name]["measured"] > 0 for name in ("fp32", "fp16", "tf32", "bandwidth"))
    assert first["bandwidth"]["data_sheet"] == SPEC.bandwidth

    monkeypatch.setattr(roof, "measure_gpu_roof", None)  # what is known is not measured again
    assert said("calibrate", "--device", "gpu")["figures"] == first
    (after,) = (d for d in said("devices") if d["name"] == "gpu")
    assert after["gpu"]["figures"] == first
    device = devices("gpu")
    with Store.open(db) as store:
        kept, found = store.devices.get(device.fingerprint), known(store, device)
        assert kept is not None and found is not None
        assert (kept.peak_flops, kept.bandwidth) == (found.fp32, found.bandwidth)
        assert known(store, devices("rtx3090")) is None  # of this fingerprint alone
    assert main(["devices", "--db", db]) == 0
    assert "data sheet" in capsys.readouterr().out


def test_a_gpu_on_which_kernels_do_nothing_is_not_taken_for_a_fast_one(
    gpu: bool, compiler: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if not gpu:
        return
    monkeypatch.setattr("tuner.gpu.roof_kernels.COPIED", 1 << 20)
    db = f"sqlite:///{tmp_path}/calibration.db"
    assert main(["calibrate", "--device", "gpu", "--db", db, "--json"]) == FAILURE
    error = json.loads(capsys.readouterr().out)["error"]
    assert error["code"] == "not-measurable" and "differs from the reference" in error["message"]
    with Store.open(db) as store:
        assert known(store, devices("gpu")) is None


def test_the_first_job_measures_the_roof_and_goes_on_without(
    gpu: bool, compiler: None, small: None, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    if not gpu:
        return
    device = devices("gpu")

    def lost(*_: Any, **__: Any) -> dict[str, Any]:
        raise Unusable("The CUDA runtime finds no GPU.")

    with Store.open(f"sqlite:///{tmp_path}/calibration.db") as store:
        assert at_first(store, device, Budget(trials=0), on_stand_in) is None and not caplog.records
        assert at_first(store, device, Budget(), lost) is None
        assert "finds no GPU" in caplog.text
        found = at_first(store, device, Budget(), on_stand_in)
        assert found is not None and found == at_first(store, device, Budget(), lost)  # now it is known
        assert found == known(store, device)


def test_what_is_measured_of_the_gpu_reaches_those_who_rank(
    compiler: None, first_round: Round, tmp_path: Path
) -> None:  # fmt: skip
    """A thousandth of the data sheet's rates: every kernel is expected to take longer."""
    sheet = published(SPEC)
    slow = GpuRoof(sheet.fp32 / 1000, sheet.bandwidth / 1000)
    build = BuildOnly(job(trials=0), first_round.model, devices("rtx3090"), tmp_path / "out", roof=slow)
    report = build.run()
    before = {block["function"]: block["predicted_ms"] for block in first_round.report["blocks"]}
    after = {block["function"]: block["predicted_ms"] for block in report["blocks"]}
    assert after.keys() == before.keys()
    assert all(after[name] > 1.5 * before[name] for name in after if "conv2d" in name)


def test_what_cannot_be_calibrated_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    for device, status, code in (("gpu", FAILURE, "no-gpu"), ("rtx3090", USER_ERROR, "not-this-machine")):
        assert main(["calibrate", "--device", device, "--json"]) == status
        assert json.loads(capsys.readouterr().out)["error"]["code"] == code
