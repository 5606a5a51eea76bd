"""Precisions as jobs may name them, the limit that goes with each, and what is said of a job in bf16."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from service.api.schemas.jobs import JobIn
from service.exports.facts import trust
from service.rules import checked
from service.web.repeat import _body
from tuner.errors import UserError
from tuner.gpu.precision import check_precision as check_on_gpu
from tuner.gpu.spec import spec_of
from tuner.types import Device, JobSpec

REPORT = Path(__file__).parents[2] / "data" / "squeezenet_report.json"
ROUNDING = {"allowed": 0.015, "error_of_all": 0.03, "error": 0.01, "effects": {"a": 0.028}, "kept_fp32": ["a", "b"]}


def test_cpus_know_three_precisions_and_simulated_devices_one() -> None:
    for known in ("bf16", "int8"):
        assert checked(JobSpec("ab", precision=known)).precision == known
    for device, precision in (
        ("cpu", "fp16"), ("cpu", "tf32"), ("cpu", "int2"), ("sim:mlu100", "bf16"), ("sim:mlu100", "int8"),
    ):  # fmt: skip
        with pytest.raises(UserError) as refused:
            checked(JobSpec("ab", device=device, precision=precision))
        assert refused.value.code == "bad-precision" and "fp32" in str(refused.value.hint)
        assert ("build-only" in str(refused.value.hint)) == (precision in {"fp16", "tf32"})


def test_int8_needs_a_cpu_with_the_instruction() -> None:
    for features, able in (((), False), (("avx512_vnni",), True)):
        device = Device("cpu", "cpu", "m", "m", features, 4, 16, 32, 1 << 15, 1 << 20, 1 << 23, 1 << 33)
        for precision in ("fp32", "bf16"):
            assert checked(JobSpec("ab", precision=precision), device).precision == precision
        if able:
            assert checked(JobSpec("ab", precision="int8"), device).accuracy == 5e-2
            continue
        with pytest.raises(UserError, match="avx512_vnni") as refused:
            checked(JobSpec("ab", precision="int8"), device)
        assert refused.value.code == "bad-precision" and "bf16" in str(refused.value.hint)


def test_gpus_refuse_int8() -> None:
    device = Device("gpu", "cuda", "m", "sm_90", (), 132, 32, 255, 1 << 15, 1 << 25, 1 << 25, 1 << 36)
    with pytest.raises(UserError) as refused:
        check_on_gpu("int8", spec_of(device))
    assert refused.value.code == "bad-precision"


def test_each_precision_has_its_usual_limit() -> None:
    assert JobSpec("ab").accuracy == JobSpec("ab", precision="fp16").accuracy == 1e-4
    lowered = JobSpec("ab", precision="bf16")
    assert lowered.accuracy == 2e-2 and JobSpec.from_json(lowered.to_json()) == lowered
    assert JobSpec("ab", precision="bf16", accuracy=1e-3).accuracy == 1e-3
    given = {"model": "ab" * 32, "precision": "bf16"}
    assert JobIn(**given).spec().accuracy == 2e-2
    assert JobIn(**given, accuracy=0.5).spec().accuracy == 0.5


def test_a_job_is_repeated_with_what_is_not_as_usual() -> None:
    assert "accuracy" not in _body(JobSpec("ab")) and "precision" not in _body(JobSpec("ab"))
    assert _body(JobSpec("ab", precision="bf16"))["precision"] == "bf16"
    assert "accuracy" not in _body(JobSpec("ab", precision="bf16"))
    assert _body(JobSpec("ab", accuracy=1e-3))["accuracy"] == 1e-3


def test_a_report_says_what_bf16_costs() -> None:
    report: dict[str, Any] = json.loads(REPORT.read_text())
    assert not {"In bf16", "Top-1 class"} & {what for what, *_ in trust(report)}
    report |= {"rounding": ROUNDING, "precision": "bf16"}
    report["verification"] |= {"top1": {"agree": 2, "of": 3}}
    report["blocks"] = [b | {"precision": "fp32"} for b in report["blocks"]]
    report["blocks"][0]["precision"] = "bf16"
    facts = {what: (value, note) for what, value, note in trust(report)}
    assert facts["Top-1 class"][0] == "the same in 2 of 3"
    value, note = facts["In bf16"]
    assert value.startswith("1 of ") and value.endswith("blocks") and "2 layers keep float32" in note
    report["rounding"] = ROUNDING | {"images": 9, "stored_bf16": 7}
    assert {what: value for what, value, _ in trust(report)}["In bf16"] == f"{value}, 7 of 9 images"
