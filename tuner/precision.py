"""Precisions that a CPU is tuned for, and which templates store their weights in them. Standard library only.

In "bf16" a job may store the weights of dense layers and convolutions as bfloat16. Products and sums stay float32.
"""

from __future__ import annotations

from tuner.errors import UserError

FP32, BF16 = "fp32", "bf16"
PRECISIONS = (FP32, BF16)
ACCURACY = {FP32: 1e-4, BF16: 2e-2}  # usual limit on max|y-ref| / max|ref| of a whole model
LOWERED = {name: f"{name}_{BF16}" for name in ("conv2d", "conv2d_pool", "dense")}  # template -> its twin in bf16
_OF_GPUS = ("fp16", "tf32")


def precision_of(template: str) -> str:
    """What a template, by name, stores its weights in."""
    return BF16 if template in LOWERED.values() else FP32


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
