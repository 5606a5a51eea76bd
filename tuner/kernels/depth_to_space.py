"""Channels dealt out to pixels, what is cut off of them, and the elementwise layers behind: one pass over memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tvm import tirx

from tuner.graph.ir import Graph
from tuner.kernels.base import Kernel, KernelTemplate, Knobs, Layouts, Space
from tuner.kernels.elementwise import one_pass
from tuner.kernels.epilogue import Body, fusable_elementwise
from tuner.kernels.views import Chan, flat
from tuner.plan.layout import block_of
from tuner.plan.slices import SLICE, cuts_of
from tuner.types import Device

DEPTH_TO_SPACE = "DepthToSpace"


class DepthToSpace(KernelTemplate):
    """DepthToSpace in either mode, perhaps a Slice of it, elementwise layers; blocked layouts on either side, or none.

    Where channels fill blocks that begin with a phase, whole blocks are moved.
    """

    name = "depth_to_space"
    version = 1
    heavy = frozenset({DEPTH_TO_SPACE, SLICE})

    def accepts(self, workload: Graph, layouts: Layouts, device: Device) -> bool:
        return _dealt(workload) is not None

    def space(self, workload: Graph, layouts: Layouts, device: Device) -> Space:
        return Space({"unroll": [1, 4]}, {"unroll": 1})

    def build(self, workload: Graph, layouts: Layouts, knobs: Knobs, cores: int, device: Device) -> Kernel:
        dealt = _dealt(workload)
        if dealt is None:
            raise ValueError("build() of a workload that accepts() refuses")
        body = Body(workload, layouts)
        size, channels = dealt.size, dealt.channels
        whole = block_of(layouts[dealt.source])

        def read(index: Sequence[Any]) -> Any:
            n, c, *place = index
            y, x = (here + start for here, start in zip(place, dealt.starts, strict=True))
            phase = y % size * size + x % size
            if isinstance(c, Chan) and dealt.deep and c.block == whole and channels % whole == 0:
                moved: Any = Chan(phase * (channels // whole) + c.outer, c.inner, whole)
            else:  # a block's padding reads some channel, rather than what lies behind the tensor
                c = tirx.min(flat(c), channels - 1) if isinstance(c, Chan) else c
                moved = phase * channels + c if dealt.deep else c * size**2 + phase
            return body.read(dealt.source, (n, moved, y // size, x // size))

        body.anchors[dealt.made] = read
        return one_pass(body, knobs, cores, device)


@dataclass(frozen=True)
class _Dealt:
    """``made`` is ``source`` dealt out to squares of ``size`` pixels, from the row and column ``starts`` on."""

    source: str
    made: str
    size: int
    channels: int
    deep: bool  # each phase has its channels side by side; else each channel its phases
    starts: tuple[int, int]


def _dealt(workload: Graph) -> _Dealt | None:
    """What a workload begins with; None if it is of another form."""
    first, *rest = workload.layers
    if first.op != DEPTH_TO_SPACE or first.domain or first.inputs[0] not in workload.inputs:
        return None
    if len(workload.outputs) != 1 or any(t.dtype != "float32" for t in workload.tensors.values()):
        return None
    made, starts = first.outputs[0], [0, 0]
    if rest and rest[0].op == SLICE:
        cut, *rest = rest
        cuts = cuts_of(workload, cut)
        if cuts is None or cut.inputs[0] != made or any(c.axis < 2 or c.step > 1 for c in cuts):
            return None
        for c in cuts:
            starts[c.axis - 2] = c.start
    inside = made
    made = workload.layers[len(workload.layers) - len(rest) - 1].outputs[0]
    if made != inside and any(inside in x.inputs for x in rest):
        return None
    shape = workload.tensors[made].shape
    if not all(fusable_elementwise(workload, x) and workload.tensors[x.outputs[0]].shape == shape for x in rest):
        return None
    deep = first.attr("mode", "DCR") == "DCR"
    return _Dealt(first.inputs[0], made, int(first.attr("blocksize")), shape[1], deep, (starts[0], starts[1]))
