"""The instruction that adds four products of uint8 and int8 to each of 16 sums of 32 bits (AVX512-VNNI).

Nothing saturates: four products fit into 32 bits (unlike two of vpmaddubsw into 16).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tuner.kernels import stepping
from tuner.kernels.dot import LANES, Instruction, inlined
from tuner.plan.int8 import quantised_layers
from tuner.precision import INT8_FEATURE

if TYPE_CHECKING:
    from tuner.graph.ir import Graph, Layer
    from tuner.types import Device

_NAME = "fusetune_dot_int8"
_SOURCE = inlined(_NAME, "llvm.x86.avx512.vpdpbusd.512", "<16 x i32>", "<64 x i8>")


def _widened(number: Any) -> Any:
    return number.astype("int32")


QUADS = Instruction(
    _NAME, _SOURCE + stepping.SOURCE,  # kernels with it write images in steps, too
    each=4, left="uint8", right="int8", sums="int32", widened=_widened, step="int8",
)  # fmt: skip


def serves(workload: Graph, conv: Layer, device: Device) -> bool:
    """Whether a device has the instruction, and a workload's convolution may be quantised for it."""
    able = INT8_FEATURE in device.features and device.lanes == LANES
    return able and any(conv is layer for layer in quantised_layers(workload))
