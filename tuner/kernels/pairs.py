"""The instruction that adds two products of bfloat16 to each of 16 sums of float32 (AVX512-BF16)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tuner.kernels import math as fast
from tuner.kernels.dot import LANES, Instruction, inlined
from tuner.plan.bf16 import OPSET, weights_of
from tuner.precision import DOT_FEATURE

if TYPE_CHECKING:
    from tuner.graph.ir import Graph, Layer
    from tuner.types import Device

_NAME = "fusetune_dot_bf16"
_SOURCE = inlined(_NAME, "llvm.x86.avx512bf16.dpbf16ps.512", "<16 x float>", "<32 x bfloat>")
PAIRS = Instruction(
    _NAME, _SOURCE, each=2, left="uint16", right="uint16", sums="float32", widened=fast.from_bf16,
    step="bf16",
)  # fmt: skip


def serves(workload: Graph, conv: Layer, device: Device) -> bool:
    """Whether a device has the instruction, and the weights of a workload's convolution may be rounded for it."""
    able = DOT_FEATURE in device.features and device.lanes == LANES and workload.opset >= OPSET
    return able and weights_of(workload, conv) is not None
