"""Instructions that add products of a few numbers side by side to each of 16 sums, as tensor intrinsics.

Operands go through as 32-bit integers into a function that LLVM reads from text and inlines: TVM turns every bfloat16
of a function into bits before it calls LLVM, so that LLVM's own intrinsics cannot all be named there.
"""

# mypy: disable-error-code="valid-type"
# TVM's script language names buffers where Python has types.

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, Any

from tvm import te, tirx

from tuner.plan.layout import Pack

if TYPE_CHECKING:
    from tuner.kernels.base import Knobs
    from tuner.kernels.conv_shape import ConvShape
    from tuner.kernels.epilogue import Body

LANES = 16  # sums
WORD = "uint32"


@dataclass(frozen=True)
class Instruction:
    """``sums[i] += widened(left[k]) * widened(right[i, k])`` for all k < each: left[each], right[16, each], sums[16].

    ``each`` numbers of an operand fill 32 bits.
    """

    name: str  # of a function (sums, left, right) -> sums, all of 16 numbers of 32 bits
    source: str  # its text for LLVM, and whatever else kernels with the instruction call
    each: int
    left: str  # types
    right: str
    sums: str
    widened: Callable[[Any], Any]  # a number of either operand -> as what it is multiplied
    step: str  # the one of a Pack that makes ``right`` of float32 weights

    def part(self, word: Any, which: Any) -> Any:
        """One of the numbers of ``left`` that were packed into 32 bits, the first in the lowest, widened."""
        shifted = word >> (which.astype(WORD) * tirx.const(32 // self.each, WORD))
        return self.widened(shifted.astype(self.left))

    def packed(self, numbers: Sequence[Any]) -> Any:
        """So many numbers of ``left`` in 32 bits, the first in the lowest."""
        together = numbers[0].astype(WORD)
        for k, number in enumerate(numbers[1:], 1):
            together = together | (number.astype(WORD) << tirx.const(32 // self.each * k, WORD))
        return together

    def weights(self, body: Body, name: str, shape: Sequence[int], pack: Pack) -> te.Tensor:
        """Weights that ``pack`` turns into ``shape`` [..., channel, lane], as ``right``: [..., group, lane, each]."""
        *outer, channels, lanes = shape
        groups, last = channels // self.each, len(outer)
        steps = (
            (self.step,),
            *pack.steps,
            ("reshape", [*outer, groups, self.each, lanes]),
            ("transpose", [*range(last + 1), last + 2, last + 1]),
        )
        return body.constant(name, (*outer, groups, lanes, self.each), replace(pack, steps=steps), self.right)


def inlined(name: str, intrinsic: str, sums: str, operands: str) -> str:
    """The text of a function that is one of LLVM's intrinsics, (sums, left, right) -> sums, these of LLVM's types."""
    return f"""
declare {sums} @{intrinsic}({sums}, {operands}, {operands})
define {sums} @{name}({sums} %c, <16 x i32> %a, <16 x i32> %b) alwaysinline nounwind readnone {{
  %x = bitcast <16 x i32> %a to {operands}
  %y = bitcast <16 x i32> %b to {operands}
  %r = call {sums} @{intrinsic}({sums} %c, {operands} %x, {operands} %y)
  ret {sums} %r
}}
"""


def even(shape: ConvShape, knobs: Knobs) -> bool:
    """Whether all tasks of a convolution have as many register tiles: TVM places no instruction under a condition."""
    return -(-shape.oh * shape.ow // knobs["reg_n"]) % knobs["rows"] == 0


def accumulate(
    sch: Any, acc: Any, instruction: Instruction, reductions: Sequence[Any], col: Any, lane: Any, each: Any, *,
    unrolled: Any = None, packed: bool = False,
) -> None:  # fmt: skip
    """Sums of a register tile, columns x vectors, in scope "local", by an ``instruction``.

    Args:
        reductions: loops over what is summed, outermost first.
        each: the innermost one, over numbers side by side.
        unrolled: one of the reductions, which is to be no loop.
        packed: whether the left operand is numbers of 32 bits, taken apart by ``Instruction.part``.
    """
    vector, lane = sch.split(lane, [None, LANES])
    sch.reorder(*reductions, col, vector, lane, each)
    sch.unroll(col)
    sch.unroll(vector)
    if unrolled is not None:
        sch.unroll(unrolled)
    init = sch.decompose_reduction(acc, reductions[0])
    *_, init_col, init_vector, init_lane = sch.get_loops(init)
    for loop in (init_col, init_vector):
        sch.unroll(loop)
    sch.vectorize(init_lane)
    sch.tensorize(sch.get_loops("acc_update")[-2], _registered(instruction, packed))
    sch.annotate(sch.get_loops("out")[0], "pragma_import_llvm", instruction.source)


@cache
def _registered(instruction: Instruction, packed: bool) -> str:
    """Name of the tensor intrinsic, which TVM knows from now on."""
    from tvm.s_tir import TensorIntrin
    from tvm.script import tirx as T

    each, right, sums = instruction.each, instruction.right, instruction.sums
    size, left = (1, WORD) if packed else (each, instruction.left)
    vector, function = f"{sums}x{LANES}", instruction.name

    def element(a: Any, k: Any) -> Any:
        return instruction.part(a[0], k) if packed else instruction.widened(a[k])

    def word(a: Any) -> Any:
        return a[0] if packed else a.vload([0], f"{left}x{each}")

    def words(b: Any) -> Any:
        return b.vload([0, 0], dtype=f"{right}x{LANES * each}")

    @T.prim_func(s_tir=True)
    def meaning(
        a: T.Buffer((size,), left, offset_factor=1),
        b: T.Buffer((LANES, each), right, offset_factor=1),
        c: T.Buffer((LANES,), sums, offset_factor=1, scope="local"),
    ) -> None:
        with T.sblock("root"):
            T.reads(c[0:LANES], a[0:size], b[0:LANES, 0:each])
            T.writes(c[0:LANES])
            for i in T.serial(0, LANES):
                for k in T.serial(0, each):
                    with T.sblock("update"):
                        vi, vk = T.axis.remap("SR", [i, k])
                        c[vi] = c[vi] + element(a, vk) * instruction.widened(b[vi, vk])

    @T.prim_func(s_tir=True)
    def call(
        a: T.Buffer((size,), left, offset_factor=1),
        b: T.Buffer((LANES, each), right, offset_factor=1),
        c: T.Buffer((LANES,), sums, offset_factor=1, scope="local"),
    ) -> None:
        with T.sblock("root"):
            T.reads(c[0:LANES], a[0:size], b[0:LANES, 0:each])
            T.writes(c[0:LANES])
            c[T.ramp(T.int32(0), 1, LANES)] = T.call_pure_extern(
                vector,
                function,
                c.vload([0], dtype=vector),
                T.broadcast(T.reinterpret(word(a), dtype="int32"), LANES),
                T.reinterpret(words(b), dtype=f"int32x{LANES}"),
            )

    name = f"{function}_packed" if packed else function
    TensorIntrin.register(name, meaning, call, override=True)
    return name
