"""The instruction that adds four products of uint8 and int8 to each of 16 sums of 32 bits (AVX512-VNNI).

Nothing saturates: four products fit into 32 bits (unlike two of vpmaddubsw into 16). As with ``dot``, operands go
through as 32-bit integers into a function that LLVM reads from text and inlines.
"""

# mypy: disable-error-code="valid-type"
# TVM's script language names buffers where Python has types.

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING, Any

from tvm import te, tirx

from tuner.kernels import stepping
from tuner.kernels.dot import LANES, Instruction
from tuner.plan.int8 import quantised_layers
from tuner.plan.layout import Pack
from tuner.precision import INT8_FEATURE

if TYPE_CHECKING:
    from tuner.graph.ir import Graph, Layer
    from tuner.kernels.epilogue import Body
    from tuner.types import Device

EACH = 4  # products that the instruction adds to a sum
SOURCE = """
declare <16 x i32> @llvm.x86.avx512.vpdpbusd.512(<16 x i32>, <64 x i8>, <64 x i8>)
define <16 x i32> @fusetune_vpdpbusd(<16 x i32> %c, <16 x i32> %a, <16 x i32> %b) alwaysinline nounwind readnone {
  %x = bitcast <16 x i32> %a to <64 x i8>
  %y = bitcast <16 x i32> %b to <64 x i8>
  %r = call <16 x i32> @llvm.x86.avx512.vpdpbusd.512(<16 x i32> %c, <64 x i8> %x, <64 x i8> %y)
  ret <16 x i32> %r
}
"""


def serves(workload: Graph, conv: Layer, device: Device) -> bool:
    """Whether a device has the instruction, and a workload's convolution may be quantised for it."""
    able = INT8_FEATURE in device.features and device.lanes == LANES
    return able and any(conv is layer for layer in quantised_layers(workload))


def quad_weights(body: Body, name: str, shape: Sequence[int], pack: Pack) -> te.Tensor:
    """Weights that ``pack`` turns into ``shape`` [..., channel, lane], as int8 [..., channels / 4, lane, 4]."""
    *outer, channels, lanes = shape
    last = len(outer)
    steps = (
        ("int8",),
        *pack.steps,
        ("reshape", [*outer, channels // EACH, EACH, lanes]),
        ("transpose", [*range(last + 1), last + 2, last + 1]),
    )
    return body.constant(name, (*outer, channels // EACH, lanes, EACH), replace(pack, steps=steps), "int8")


def part(word: Any, which: Any) -> Any:
    """One of the four uint8 of a 32-bit number, the first in its lowest bits, as int32."""
    shifted = word >> (which.astype("uint32") * tirx.const(8, "uint32"))
    return (shifted & tirx.const(255, "uint32")).astype("int32")


@cache
def _registered(packed: bool) -> str:
    """Name of the intrinsic, which TVM knows from now on; ``packed``: four of ``a`` are one number of 32 bits."""
    from tvm.s_tir import TensorIntrin
    from tvm.script import tirx as T

    size, kind = (1, "uint32") if packed else (EACH, "uint8")

    def element(a: Any, k: Any) -> Any:
        return part(a[0], k) if packed else a[k].astype("int32")

    def quad(a: Any) -> Any:
        return a[0] if packed else a.vload([0], "uint8x4")

    @T.prim_func(s_tir=True)
    def meaning(
        a: T.Buffer((size,), kind, offset_factor=1),
        b: T.Buffer((16, 4), "int8", offset_factor=1),
        c: T.Buffer((16,), "int32", offset_factor=1, scope="local"),
    ) -> None:
        with T.sblock("root"):
            T.reads(c[0:16], a[0:size], b[0:16, 0:4])
            T.writes(c[0:16])
            for i in T.serial(0, 16):
                for k in T.serial(0, 4):
                    with T.sblock("update"):
                        vi, vk = T.axis.remap("SR", [i, k])
                        c[vi] = c[vi] + element(a, vk) * T.cast(b[vi, vk], "int32")

    @T.prim_func(s_tir=True)
    def instruction(
        a: T.Buffer((size,), kind, offset_factor=1),
        b: T.Buffer((16, 4), "int8", offset_factor=1),
        c: T.Buffer((16,), "int32", offset_factor=1, scope="local"),
    ) -> None:
        with T.sblock("root"):
            T.reads(c[0:16], a[0:size], b[0:16, 0:4])
            T.writes(c[0:16])
            c[T.ramp(T.int32(0), 1, 16)] = T.call_pure_extern(
                "int32x16",
                "fusetune_vpdpbusd",
                c.vload([0], dtype="int32x16"),
                T.broadcast(T.reinterpret(quad(a), dtype="int32"), 16),
                T.reinterpret(b.vload([0, 0], dtype="int8x64"), dtype="int32x16"),
            )

    name = "fusetune_dot_int8_packed" if packed else "fusetune_dot_int8"
    TensorIntrin.register(name, meaning, instruction, override=True)
    return name


QUADS = Instruction(SOURCE + stepping.SOURCE, _registered)  # kernels with it write images in steps, too
