"""All kernel templates, in the order in which they are asked."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

from tuner.errors import UserError
from tuner.graph.ir import Graph
from tuner.kernels.base import KernelTemplate, Layouts
from tuner.kernels.conv2d import Conv2d, Conv2dBf16
from tuner.kernels.conv2d_dot import Conv2dDot
from tuner.kernels.conv2d_grouped_dot import Conv2dGroupedDot
from tuner.kernels.conv2d_int8 import Conv2dInt8
from tuner.kernels.conv2d_pool import Conv2dPool, Conv2dPoolBf16
from tuner.kernels.conv2d_prologue import Conv2dPrologue, Conv2dPrologueDot
from tuner.kernels.conv2d_rows import Conv2dRows
from tuner.kernels.conv2d_shuffle import Conv2dShuffle
from tuner.kernels.conv_chain import ConvChain
from tuner.kernels.dense import Dense, DenseBf16
from tuner.kernels.depth_to_space import DepthToSpace
from tuner.kernels.design import Design
from tuner.kernels.elementwise import Channels, Concat, Elementwise
from tuner.kernels.gather import Gather
from tuner.kernels.inverted_residual import InvertedResidual
from tuner.kernels.layer_norm import LayerNorm
from tuner.kernels.lrn import Lrn
from tuner.kernels.matmul import MatMul
from tuner.kernels.resize import Resize
from tuner.kernels.slice import Slice
from tuner.kernels.softmax import Softmax
from tuner.kernels.transpose import Transpose
from tuner.kernels.windowed import Depthwise, Pool
from tuner.kernels.winograd import Winograd
from tuner.plan.elementwise import ELEMENTWISE
from tuner.plan.layout import PLAIN
from tuner.plan.plan import IMPORTED
from tuner.precision import FP32, allowed_in
from tuner.types import Device

TEMPLATES: tuple[KernelTemplate, ...] = (
    Depthwise(), Conv2d(), Conv2dPool(), Dense(), MatMul(), Pool(), Elementwise(), Concat(), Channels(), Lrn(),
    Softmax(), LayerNorm(), Gather(), Transpose(), Slice(), DepthToSpace(), Resize(),
    Winograd(), Conv2dRows(),
    ConvChain(), InvertedResidual(), Conv2dPrologue(), Conv2dShuffle(),
    Conv2dBf16(), Conv2dPoolBf16(), DenseBf16(), Conv2dDot(), Conv2dPrologueDot(), Conv2dGroupedDot(),
    Conv2dInt8(),
)  # fmt: skip
FALLBACK = Design()  # not asked with the others: it may take what they serve better in other layouts
BY_NAME = {template.name: template for template in (*TEMPLATES, FALLBACK)}


def template(name: str) -> KernelTemplate:
    """The template of this name. Raises UserError listing the known ones."""
    if name not in BY_NAME:
        raise UserError(f"Unknown kernel template {name!r}.", code="unknown-template", hint=f"Known: {list(BY_NAME)}.")
    return BY_NAME[name]


def serving(
    workload: Graph, layouts: Layouts, device: Device, precision: str = FP32
) -> Iterator[KernelTemplate]:  # fmt: skip
    """The templates that accept this workload with these layouts, best first; those of float32 in any precision.

    A template is asked once about a workload with its layouts on a device.
    """
    answers = workload.notes.setdefault((serving, device, tuple(sorted(layouts.items()))), {})
    for maker in concerned(frozenset([x.op for x in workload.layers]), precision):
        if maker.name not in answers:
            answers[maker.name] = maker.accepts(workload, layouts, device)
        if answers[maker.name]:
            yield maker


def foreign(workload: Graph, device: Device) -> str:
    """Who makes the kernel of a layer that no template of ours serves in any layout: its tensors are plain then."""
    plain = dict.fromkeys((*workload.inputs, *workload.outputs), PLAIN)
    return FALLBACK.name if FALLBACK.accepts(workload, plain, device) else IMPORTED


@cache
def concerned(ops: frozenset[str], precision: str = FP32) -> tuple[KernelTemplate, ...]:
    """The templates that may accept a workload of these operators; the others need not be asked."""
    heavy, allowed = ops - ELEMENTWISE, allowed_in(precision)
    return tuple(t for t in TEMPLATES if t.precision in allowed and heavy <= t.heavy and bool(heavy) == bool(t.heavy))
