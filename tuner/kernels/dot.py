"""The instruction that adds products of pairs of bfloat16 to 16 float32 sums (AVX512-BF16), as a tensor intrinsic.

TVM turns every bfloat16 of a function into bits before it calls LLVM, so that LLVM's own intrinsic cannot be named
there: operands go through as 32-bit integers, a pair each, into a function that LLVM reads from text and inlines.
"""

# mypy: disable-error-code="valid-type"
# TVM's script language names buffers where Python has types.

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, Any

from tvm import te, tirx

from tuner.kernels import math as fast
from tuner.plan.bf16 import OPSET, weights_of
from tuner.plan.layout import Pack
from tuner.precision import DOT_FEATURE

if TYPE_CHECKING:
    from tuner.graph.ir import Graph, Layer
    from tuner.kernels.base import Knobs
    from tuner.kernels.conv_shape import ConvShape
    from tuner.kernels.epilogue import Body
    from tuner.types import Device

LANES = 16
SOURCE = """
declare <16 x float> @llvm.x86.avx512bf16.dpbf16ps.512(<16 x float>, <32 x bfloat>, <32 x bfloat>)
define <16 x float> @fusetune_dpbf16ps(<16 x float> %c, <16 x i32> %a, <16 x i32> %b) alwaysinline nounwind readnone {
  %x = bitcast <16 x i32> %a to <32 x bfloat>
  %y = bitcast <16 x i32> %b to <32 x bfloat>
  %r = call <16 x float> @llvm.x86.avx512bf16.dpbf16ps.512(<16 x float> %c, <32 x bfloat> %x, <32 x bfloat> %y)
  ret <16 x float> %r
}
"""


def serves(workload: Graph, conv: Layer, device: Device) -> bool:
    """Whether a device has the instruction, and the weights of a workload's convolution may be rounded for it."""
    able = DOT_FEATURE in device.features and device.lanes == LANES and workload.opset >= OPSET
    return able and weights_of(workload, conv) is not None


def even(shape: ConvShape, knobs: Knobs) -> bool:
    """Whether all tasks of a convolution have as many register tiles: TVM places no instruction under a condition."""
    return -(-shape.oh * shape.ow // knobs["reg_n"]) % knobs["rows"] == 0


@dataclass(frozen=True)
class Instruction:
    """One that adds products of a few numbers side by side to each of 16 sums."""

    source: str  # text for LLVM
    registered: Callable[[bool], str]  # whether the first operand is packed into words -> name of the tensor intrinsic


def place(sch: Any, outermost: Any, lane: Any, instruction: Instruction, *, packed: bool = False) -> None:
    """Replace loops ``lane`` (16 sums) and the one inside it (numbers side by side) by an instruction.

    ``outermost``: a loop around all of it, to which the text for LLVM is tied.
    """
    sch.tensorize(lane, instruction.registered(packed))
    sch.annotate(outermost, "pragma_import_llvm", instruction.source)


def dot_pairs(sch: Any, outermost: Any, lane: Any, *, packed: bool = False) -> None:
    """``place`` the instruction for pairs of bfloat16.

    The loops' block adds widened(a[pair]) * widened(b[lane, pair]) to sums in scope "local"; where a's pairs are
    ``packed``, ``half(a[0], pair) * widened(b[lane, pair])``.
    """
    place(sch, outermost, lane, PAIRS, packed=packed)


def accumulate(
    sch: Any, acc: Any, reductions: Sequence[Any], col: Any, lane: Any, pair: Any, *, unrolled: Any = None,
    packed: bool = False, instruction: Instruction | None = None,
) -> None:  # fmt: skip
    """Sums of a register tile, columns x vectors, by an ``instruction``; if none is given, that for pairs of bfloat16.

    ``reductions``: loops over what is summed, outermost first; ``unrolled``: one of them that is to be no loop.
    """
    vector, lane = sch.split(lane, [None, LANES])
    sch.reorder(*reductions, col, vector, lane, pair)
    sch.unroll(col)
    sch.unroll(vector)
    if unrolled is not None:
        sch.unroll(unrolled)
    init = sch.decompose_reduction(acc, reductions[0])
    *_, init_col, init_vector, init_lane = sch.get_loops(init)
    for loop in (init_col, init_vector):
        sch.unroll(loop)
    sch.vectorize(init_lane)
    place(sch, sch.get_loops("out")[0], sch.get_loops("acc_update")[-2], instruction or PAIRS, packed=packed)


def pair_weights(body: Body, name: str, shape: Sequence[int], pack: Pack) -> te.Tensor:
    """Weights that ``pack`` turns into ``shape`` [..., channel, lane], rounded, as [..., pair of channels, lane, 2]."""
    *outer, channels, lanes = shape
    last = len(outer)
    steps = (
        ("reshape", [*outer, channels // 2, 2, lanes]),
        ("transpose", [*range(last + 1), last + 2, last + 1]),
        ("bf16",),
    )
    return body.constant(name, (*outer, channels // 2, lanes, 2), replace(pack, steps=(*pack.steps, *steps)), "uint16")


def half(pair: Any, which: Any) -> Any:
    """The float32 of one bfloat16 of a pair in 32 bits, the first in the lower ones."""
    bits = pair >> (which.astype("uint32") * tirx.const(16, "uint32"))
    return tirx.reinterpret("float32", bits << tirx.const(16, "uint32"))


@cache
def _registered(packed: bool) -> str:
    """Name of the intrinsic, which TVM knows from now on; ``packed``: a pair of ``a`` is one number of 32 bits."""
    from tvm.s_tir import TensorIntrin
    from tvm.script import tirx as T

    size, kind = (1, "uint32") if packed else (2, "uint16")

    def element(a: Any, k: Any) -> Any:
        return half(a[0], k) if packed else fast.from_bf16(a[k])

    def pair(a: Any) -> Any:
        return a[0] if packed else a.vload([0], "uint16x2")

    @T.prim_func(s_tir=True)
    def meaning(
        a: T.Buffer((size,), kind, offset_factor=1),
        b: T.Buffer((16, 2), "uint16", offset_factor=1),
        c: T.Buffer((16,), "float32", offset_factor=1, scope="local"),
    ) -> None:
        with T.sblock("root"):
            T.reads(c[0:16], a[0:size], b[0:16, 0:2])
            T.writes(c[0:16])
            for i in T.serial(0, 16):
                for k in T.serial(0, 2):
                    with T.sblock("update"):
                        vi, vk = T.axis.remap("SR", [i, k])
                        c[vi] = c[vi] + element(a, vk) * fast.from_bf16(b[vi, vk])

    @T.prim_func(s_tir=True)
    def instruction(
        a: T.Buffer((size,), kind, offset_factor=1),
        b: T.Buffer((16, 2), "uint16", offset_factor=1),
        c: T.Buffer((16,), "float32", offset_factor=1, scope="local"),
    ) -> None:
        with T.sblock("root"):
            T.reads(c[0:16], a[0:size], b[0:16, 0:2])
            T.writes(c[0:16])
            c[T.ramp(T.int32(0), 1, 16)] = T.call_pure_extern(
                "float32x16",
                "fusetune_dpbf16ps",
                c.vload([0], dtype="float32x16"),
                T.broadcast(T.reinterpret(pair(a), dtype="int32"), 16),
                T.reinterpret(b.vload([0, 0], dtype="uint16x32"), dtype="int32x16"),
            )

    name = "fusetune_dot_bf16_packed" if packed else "fusetune_dot_bf16"
    TensorIntrin.register(name, meaning, instruction, override=True)
    return name


PAIRS = Instruction(SOURCE, _registered)
