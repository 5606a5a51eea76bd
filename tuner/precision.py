"""Precisions that a CPU is tuned for, and which templates compute in them. Standard library only.

In "bf16" a job may store the weights of dense layers and convolutions as bfloat16 (kernels of precision "bf16", on any
CPU), and on CPUs with the instruction for it multiply bfloat16 by bfloat16 (kernels of precision "bf16-dot"). Sums stay
float32. In "int8", on CPUs with the instruction for it, convolutions multiply 8-bit integers, and sums are of 32 bits.
"""

from __future__ import annotations

from collections.abc import Collection

from tuner.errors import UserError

FP32, BF16, BF16_DOT, INT8 = "fp32", "bf16", "bf16-dot", "int8"
PRECISIONS = (FP32, BF16, INT8)
ACCURACY = {FP32: 1e-4, BF16: 2e-2, INT8: 5e-2}  # usual limit on max|y-ref| / max|ref| of a whole model
LOWERED = {name: f"{name}_{BF16}" for name in ("conv2d", "conv2d_pool", "dense")}  # template -> its twin in bf16
DOTTED = {  # template -> its twins in bf16-dot, of which mostly one serves
    "conv2d": ("conv2d_dot", "conv2d_grouped_dot"),
    "conv2d_prologue": ("conv2d_prologue_dot",),
}
_DOT_TEMPLATES = tuple(name for twins in DOTTED.values() for name in twins)
QUANTISED = {"conv2d": ("conv2d_int8",)}  # template -> its twins in int8
_INT8_TEMPLATES = tuple(name for twins in QUANTISED.values() for name in twins)
DOT_FEATURE = "avx512_bf16"  # of the CPUs that have the instruction
INT8_FEATURE = "avx512_vnni"  # the same for products of 8-bit integers
ROUNDING = (*LOWERED.values(), *_DOT_TEMPLATES, *_INT8_TEMPLATES)  # all templates that round
_OF_GPUS = ("fp16", "tf32")


def precision_of(template: str) -> str:
    """What a template, by name, computes in."""
    if template in _DOT_TEMPLATES:
        return BF16_DOT
    if template in _INT8_TEMPLATES:
        return INT8
    return BF16 if template in LOWERED.values() else FP32


def allowed_in(precision: str) -> tuple[str, ...]:
    """Precisions of the kernels that a job in ``precision`` may use."""
    return (FP32, BF16, BF16_DOT) if precision == BF16 else (FP32, precision)


def twins_of(template: str) -> tuple[str, ...]:
    """Templates that multiply numbers of fewer bits where this one multiplies float32."""
    return (*DOTTED.get(template, ()), *QUANTISED.get(template, ()))


def check_features(precision: str, features: Collection[str]) -> None:
    """Raise UserError (``bad-precision``) for one that a CPU with these features has no instruction for."""
    if precision == INT8 and INT8_FEATURE not in features:
        raise UserError(
            f"Precision {INT8!r} needs a CPU with {INT8_FEATURE} (AVX512-VNNI), which this one has not.",
            code="bad-precision", hint=f"{FP32} and {BF16} are computed on every CPU.",
        )  # fmt: skip


def check_precision(precision: str, *, simulated: bool = False) -> None:
    """Raise UserError (``bad-precision``) for one that CPUs, or simulated devices, do not compute in."""
    known = PRECISIONS[:1] if simulated else PRECISIONS
    if precision in known:
        return
    where = "on simulated devices" if simulated else "on CPUs"
    hint = f"Known {where}: {', '.join(known)}."
    if precision in _OF_GPUS:
        hint += " Others are for GPUs: see --build-only in docs/gpu.md."
    raise UserError(f"Precision {precision!r} is not supported {where}.", code="bad-precision", hint=hint)
