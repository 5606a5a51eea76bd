"""Rounding float32 to bfloat16 as an operator of TVM, so that a vector of 16 takes one instruction where there is one.

TVM turns a bfloat16 into bits before it calls LLVM, and LLVM does not know the dozen integer operations again. The
operator stays whole until loops are vectorised. Then it becomes a call of a function that LLVM reads from text and
inlines, if the kernel is compiled within the context of a target with AVX512-BF16; else those integer operations.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import tvm
from tvm import tirx
from tvm.ir import Call, Op
from tvm.s_tir import Schedule

from tuner.kernels import operators
from tuner.plan.bf16 import stored

Expr = Any
LANES = 16
FEATURE = "avx512bf16"  # LLVM's name
SOURCE = """
define <16 x i16> @fusetune_to_bf16(<16 x float> %x) alwaysinline nounwind readnone {
  %y = fptrunc <16 x float> %x to <16 x bfloat>
  %r = bitcast <16 x bfloat> %y to <16 x i16>
  ret <16 x i16> %r
}
"""


def to_bf16(x: Expr) -> Expr:
    """The 16 bits of the nearest bfloat16, ties to even. Infinities stay, and so do NaNs as processors make them.

    A kernel with it needs ``provide``. The instruction takes numbers below 1.2e-38 for zero. What is only selected from
    numbers that were stored so is passed on as it is.
    """
    bits = _held(x)
    if bits is not None:
        return bits
    return operators.call("fusetune.to_bf16", "uint16", _lowered, x)


def _held(x: Expr) -> Expr | None:
    """The bits of a bfloat16 that was widened, of a number, or of what is selected from such; None for others."""
    if isinstance(x, tirx.FloatImm):
        return tirx.const(int(stored(np.array(x.value, np.float32))), "uint16")
    if isinstance(x, tirx.Select):
        left, right = _held(x.true_value), _held(x.false_value)
        return None if left is None or right is None else tirx.Select(x.condition, left, right)
    if not isinstance(x, Call) or not isinstance(x.op, Op):
        return None
    if x.op.name == "prim.if_then_else":
        condition, first, second = x.args
        left, right = _held(first), _held(second)
        return None if left is None or right is None else tirx.if_then_else(condition, left, right)
    widening = x.op.name == "tirx.reinterpret" and isinstance(x.args[0], tirx.LShift)
    source = x.args[0].a if widening else None
    return source.value if isinstance(source, tirx.Cast) and str(source.value.ty) == "uint16" else None


def provide(module: tvm.IRModule, block: str) -> tvm.IRModule:
    """The module of a kernel, with the function's text tied to one of its blocks."""
    schedule = Schedule(module)
    schedule.annotate(schedule.get_sblock(block), "pragma_import_llvm", SOURCE)
    return schedule.mod


def _lowered(call: Any) -> Expr:
    (x,) = call.args
    lanes = x.ty.dtype.lanes
    target = tvm.target.Target.current(allow_none=True)
    if lanes == LANES and target is not None and tvm.target.codegen.target_has_features(FEATURE, target):
        return tirx.call_pure_extern(f"uint16x{LANES}", "fusetune_to_bf16", x)

    def number(value: int) -> Expr:
        one = tirx.const(value, "uint32")
        return one if lanes == 1 else tirx.Broadcast(one, lanes)

    kind = "" if lanes == 1 else f"x{lanes}"
    bits = tirx.reinterpret(f"uint32{kind}", x)
    odd = (bits >> number(16)) & number(1)
    return ((bits + odd + number(0x7FFF)) >> number(16)).astype(f"uint16{kind}")
