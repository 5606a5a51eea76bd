"""Precisions of GPUs: which GPU computes in which, and what its tensor cores are taken to reach."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tuner.errors import UserError
from tuner.gpu.precision import FP16, FP32, LIMITS, PRECISIONS, TF32, check_precision, rules_of, tensor_peak
from tuner.gpu.spec import GPUS


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", GPUS)
def test_known_gpus_compute_in_all(name: str, precision: str) -> None:
    check_precision(precision, GPUS[name])
    assert 0 < LIMITS[precision] < 1


@pytest.mark.parametrize(("precision", "lacks"), [(TF32, "tensor_tf32"), (FP16, "tensor_fp16")])
def test_without_tensor_cores_for_it_a_precision_is_refused(precision: str, lacks: str) -> None:
    spec = replace(GPUS["rtx3090"], **{lacks: 0.0})
    with pytest.raises(UserError, match=f"{precision} is not possible: NVIDIA GeForce RTX 3090") as raised:
        check_precision(precision, spec)
    assert raised.value.code == "bad-precision"
    check_precision(FP32, spec)


def test_each_precision_has_its_rules_and_its_peak() -> None:
    assert [rules_of(p) for p in (FP32, FP16, TF32)] == ["cuda", "cuda-tensorcore", "cuda-tf32"]
    spec = GPUS["rtx3090"]
    assert tensor_peak(TF32, spec) == spec.tensor_tf32 == tensor_peak(FP16, spec) / 2
