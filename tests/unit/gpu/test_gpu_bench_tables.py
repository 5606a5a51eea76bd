"""The section of RESULTS.md: rows that were measured, and those that were not."""

from __future__ import annotations

from typing import Any

from bench.gpu.contest import CONTENDERS
from bench.gpu.kit import Setting
from bench.gpu.tables import milliseconds, ratio, section

SETTINGS = [Setting("resnet50", 1, "fp16"), Setting("resnet50", 8, "fp16")]


def row(**times: float) -> dict[str, Any]:
    entries = [
        {"name": name, "median_ms": times.get(name.replace("-", "_")), "error": 1e-3 if name == "tuned" else None,
         "failure": None if name.replace("-", "_") in times else f"{name} is not installed here"}
        for name in CONTENDERS
    ]  # fmt: skip
    gpu = {"model": "NVIDIA H100 80GB HBM3", "sms": 132, "driver": "580.1"}
    return {"model": "resnet50", "batch": 1, "precision": "fp16", "date": "2026-11-22", "gpu": gpu,
            "contenders": entries}  # fmt: skip


def test_nothing_measured_is_said() -> None:
    text = section(SETTINGS, [])
    assert "Nothing has been measured yet" in text
    assert text.count("resnet50 (not measured)") == 2


def test_rows_name_their_gpu_and_what_is_missing_says_why() -> None:
    measured = row(tuned=1.0, sequential=1.5, tvm=6.0, torch_compile=1.2)
    text = section(SETTINGS, [measured])
    line = next(line for line in text.splitlines() if line.startswith("| resnet50 | 1 "))
    assert "NVIDIA H100" in line and "| 6.00 | 1.20 | 1.50 | 1e-03 |" in line
    assert "resnet50 (not measured) | 8 " in text
    assert "tensorrt: tensorrt is not installed here" in text
    assert "batch 1, fp16: 1.50 over sequential (1 models), 6.00 over tvm" in text


def test_without_our_time_there_is_no_ratio() -> None:
    measured = row(tvm=6.0)
    assert milliseconds(measured, "tuned") is None and ratio(measured, "tvm") is None
