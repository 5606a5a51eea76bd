"""What numbers a GPU computes with. Knows no TVM."""

from __future__ import annotations

from tuner.errors import UserError
from tuner.gpu.spec import GpuSpec

FP32, FP16, TF32 = "fp32", "fp16", "tf32"
PRECISIONS = (FP32, TF32, FP16)
LIMITS = {FP32: 1e-4, TF32: 5e-3, FP16: 2e-2}  # on max|y-ref| / max|ref| of a whole model, against float32
_RULES = {FP16: "cuda-tensorcore", TF32: "cuda-tf32"}  # as tuner.designs.context calls them


def check_precision(precision: str, spec: GpuSpec) -> None:
    """Raise UserError (``bad-precision``) for one in which nothing can be built for this GPU."""
    known = f"Known on {spec.name}: {', '.join(PRECISIONS)}."
    if precision not in PRECISIONS:
        raise UserError(f"Precision {precision!r} is not supported.", code="bad-precision", hint=known)
    if precision != FP32 and not tensor_peak(precision, spec):
        raise UserError(f"{precision} is not possible: {spec.model} has no tensor cores for it.", code="bad-precision",
                        hint=f"Known on {spec.name}: {FP32}.")  # fmt: skip


def tensor_peak(precision: str, spec: GpuSpec) -> float:
    """FLOP/s of the tensor cores that kernels in this precision may use; 0.0 where there are none."""
    return spec.tensor_tf32 if precision == TF32 else spec.tensor_fp16


def rules_of(precision: str) -> str:
    """MetaSchedule's rules for it: tensor cores where they take it, beside the others."""
    return _RULES.get(precision, "cuda")
