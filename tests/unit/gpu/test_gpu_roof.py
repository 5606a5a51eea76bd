"""A GPU's roof: rates from times, what replaces the data sheet's figures, what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from tuner.errors import DeviceError
from tuner.gpu.counts import Counts
from tuner.gpu.estimate import LAUNCH, estimate
from tuner.gpu.precision import TF32, tensor_peak
from tuner.gpu.roof import GpuRoof, figures, published
from tuner.gpu.spec import GPUS, spec_of

SPEC = GPUS["rtx3090"]
WORK = {"a": ("fp32", 6e10), "b": ("fp16", 1.2e11), "c": ("tf32", 7e10), "d": ("bandwidth", 1.6e8)}


def result(key: str, *samples: float) -> dict[str, Any]:
    return {"key": key, "samples": list(samples), "failure": None}


RESULTS = [result("a", 3e-3, 2e-3), result("b", 2e-3), result("c", 2e-3, 4e-3), result("d", 1e-4, 4e-4, 2e-4)]


def test_computing_is_as_fast_as_the_fastest_sample_and_memory_as_the_median() -> None:
    roof = figures(WORK, RESULTS)
    assert roof == GpuRoof(fp32=3e13, bandwidth=8e11, fp16=6e13, tf32=3.5e13)
    assert GpuRoof.from_json(roof.to_json()) == roof


def test_what_failed_or_is_missing_is_named() -> None:
    failed = {"key": "c", "samples": [], "failure": {"kind": "wrong", "message": "Its output differs."}}
    with pytest.raises(DeviceError, match=r"tf32 could not be measured: Its output differs") as raised:
        figures(WORK, [*RESULTS[:2], failed, RESULTS[3]])
    assert raised.value.code == "not-measurable"
    with pytest.raises(DeviceError, match="bandwidth was not measured"):
        figures(WORK, RESULTS[:3])


def test_measured_figures_stand_for_the_data_sheets() -> None:
    roof = figures(WORK, RESULTS)
    spec = roof.applied(SPEC)
    assert (spec.peak, spec.bandwidth, spec.tensor_fp16, spec.tensor_tf32) == (3e13, 8e11, 6e13, 3.5e13)
    assert tensor_peak(TF32, spec) == 3.5e13
    assert published(spec) != published(SPEC) and published(spec).fp32 == SPEC.peak
    assert (spec.sms, spec.clock, spec.arch) == (SPEC.sms, SPEC.clock, SPEC.arch)
    assert spec_of(spec.device()) == SPEC  # the device itself stays what it was, its fingerprint too


def test_the_estimate_uses_them() -> None:
    busy = Counts(launches=1, blocks=82 * 6, threads=256, operations=1e12)
    slower = GpuRoof(fp32=SPEC.peak / 2, bandwidth=SPEC.bandwidth / 4).applied(SPEC)
    assert estimate(busy, slower) - LAUNCH == pytest.approx(2 * (estimate(busy, SPEC) - LAUNCH))
    moving = Counts(launches=1, blocks=82 * 6, threads=256)
    assert estimate(moving, slower, 1e9) - LAUNCH == pytest.approx(4e9 / SPEC.bandwidth)
    assert slower.tensor_fp16 == SPEC.tensor_fp16  # was not measured
