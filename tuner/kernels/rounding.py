"""Rounding float32 to bfloat16 as an operator of TVM, so that a vector of 16 takes one instruction where there is one.

TVM turns a bfloat16 into bits before it calls LLVM, and LLVM does not know the dozen integer operations again. The
operator stays whole until loops are vectorised. Then it becomes a call of a function that LLVM reads from text and
inlines, if the kernel is compiled within the context of a target with AVX512-BF16; else those integer operations.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import tvm
from tvm import tirx
from tvm.ir import register_op_attr
from tvm.s_tir import Schedule

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
_NAME = "fusetune.to_bf16"
_PURE = 1  # of TVM's kinds of effects


def to_bf16(x: Expr) -> Expr:
    """The 16 bits of the nearest bfloat16, ties to even. Infinities stay, and so do NaNs as processors make them.

    A kernel with it needs ``provide``. The instruction takes numbers below 1.2e-38 for zero.
    """
    _register()
    return tirx.call_intrin("uint16", _NAME, x)


def provide(module: tvm.IRModule, block: str) -> tvm.IRModule:
    """The module of a kernel, with the function's text tied to one of its blocks."""
    schedule = Schedule(module)
    schedule.annotate(schedule.get_sblock(block), "pragma_import_llvm", SOURCE)
    return schedule.mod


@cache
def _register() -> None:
    register_op_attr(_NAME, "TVectorizable", True)
    register_op_attr(_NAME, "TCallEffectKind", _PURE)
    register_op_attr(_NAME, "llvm.FLowerIntrinsic", _lowered)


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
