"""An image's float32 numbers in whole steps of a grid (``tuner.plan.int8``), as an operator of TVM that makes uint8.

TVM does not vectorise rounding, and LLVM loses sight of 16 bytes that lie side by side. The operator stays whole until
loops are vectorised; then 16 numbers become a call of a function that LLVM reads from text and inlines.
"""

from __future__ import annotations

from typing import Any

from tvm import tirx

from tuner.kernels import operators

Expr = Any
LANES = 16
SOURCE = """
declare <16 x i32> @llvm.lrint.v16i32.v16f32(<16 x float>)
define <16 x i8> @fusetune_to_uint8(<16 x float> %x, <16 x float> %inverse, <16 x float> %first, <16 x float> %last)
    alwaysinline nounwind readnone {
  %steps = fmul <16 x float> %x, %inverse
  %above = fcmp ogt <16 x float> %steps, %first
  %most = select <16 x i1> %above, <16 x float> %steps, <16 x float> %first
  %below = fcmp olt <16 x float> %most, %last
  %inside = select <16 x i1> %below, <16 x float> %most, <16 x float> %last
  %whole = call <16 x i32> @llvm.lrint.v16i32.v16f32(<16 x float> %inside)
  %begin = fptosi <16 x float> %first to <16 x i32>
  %from = sub <16 x i32> %whole, %begin
  %r = trunc <16 x i32> %from to <16 x i8>
  ret <16 x i8> %r
}
"""


def to_uint8(x: Expr, inverse: Expr, first: Expr, last: Expr) -> Expr:
    """``clamp(rint(x * inverse), first, last) - first`` as uint8, ties to even; NaN becomes 0.

    ``first`` and ``last`` are whole numbers in float32, 255 apart. A kernel with it brings ``SOURCE``.
    """
    return operators.call("fusetune.to_uint8", "uint8", _lowered, x, inverse, first, last)


def _lowered(call: Any) -> Expr:
    x, inverse, first, last = call.args
    lanes = x.ty.dtype.lanes
    if lanes == LANES:
        return tirx.call_pure_extern(f"uint8x{LANES}", "fusetune_to_uint8", x, inverse, first, last)
    kind = "uint8" if lanes == 1 else f"uint8x{lanes}"
    inside = tirx.min(tirx.max(x * inverse, first), last)
    return (tirx.nearbyint(inside) - first).astype(kind)
