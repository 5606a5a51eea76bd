"""What numbers a GPU computes with. Knows no TVM."""

from __future__ import annotations

from tuner.errors import UserError
from tuner.gpu.spec import GpuSpec

FP32, FP16, TF32 = "fp32", "fp16", "tf32"
PRECISIONS = (FP32, FP16)
LIMITS = {FP32: 1e-4, FP16: 2e-2}  # on max|y-ref| / max|ref| of a whole model, against float32
_TENSOR_CORES = "cuda-tensorcore"  # as tuner.designs.context calls the rules


def check_precision(precision: str, spec: GpuSpec) -> None:
    """Raise UserError (``bad-precision``) for one in which nothing can be built for this GPU."""
    known = f"Known on {spec.name}: {', '.join(PRECISIONS)}."
    if precision == TF32:
        raise UserError(
            "tf32 is not possible: no tensor-core template takes it, TVM's intrinsics for NVIDIA GPUs multiply float16 "
            "and narrower types.", code="bad-precision", hint=known,
        )  # fmt: skip
    if precision not in PRECISIONS:
        raise UserError(f"Precision {precision!r} is not supported.", code="bad-precision", hint=known)
    if precision == FP16 and not spec.tensor_fp16:
        raise UserError(f"fp16 is not possible: {spec.model} has no tensor cores for it.", code="bad-precision",
                        hint=known)  # fmt: skip


def rules_of(precision: str) -> str:
    """MetaSchedule's rules for it: tensor cores where they take it, beside the others."""
    return _TENSOR_CORES if precision == FP16 else "cuda"
