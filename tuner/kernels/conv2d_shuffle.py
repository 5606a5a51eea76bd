"""1x1 convolution behind a channel shuffle, which costs nothing: channels are read where they lie.

A direct convolution multiplies a vector of weights by one number of the image at a time, so that the order in which it
goes through the image's channels only decides where each number is loaded from.
"""

from __future__ import annotations

from tuner.graph.ir import Graph, Layer
from tuner.kernels.base import Kernel, Knobs, Layouts, Space
from tuner.kernels.conv2d import Conv2d, ConvBuilder
from tuner.kernels.conv_chain_shape import part_of
from tuner.kernels.conv_shape import ConvShape
from tuner.kernels.shuffle import Shuffle, ShuffledView, leading_shuffle
from tuner.plan.layout import PLAIN, block_of
from tuner.types import Device


class Conv2dShuffle(Conv2d):
    """A shuffle, a 1x1 convolution in any number of groups, elementwise layers."""

    name = "conv2d_shuffle"
    version = 1
    heavy = frozenset({"Conv", "Reshape", "Transpose"})

    def accepts(self, workload: Graph, layouts: Layouts, device: Device) -> bool:
        found = _parts(workload)
        if found is None:
            return False
        shuffle, conv, back = found
        return (
            block_of(layouts[shuffle.read]) == device.lanes
            and super().accepts(back, {**layouts, shuffle.made: PLAIN}, device)
            and ConvShape.of(workload, conv).in_place
        )

    def space(self, workload: Graph, layouts: Layouts, device: Device) -> Space:
        found = _parts(workload)
        assert found is not None  # accepted
        shuffle, _, back = found
        return super().space(back, {**layouts, shuffle.made: PLAIN}, device)

    def build(self, workload: Graph, layouts: Layouts, knobs: Knobs, cores: int, device: Device) -> Kernel:
        return _Builder(workload, layouts, knobs, device, self.precision).kernel(cores)


def _parts(workload: Graph) -> tuple[Shuffle, Layer, Graph] | None:
    """The shuffle that a workload begins with, the convolution that alone reads it, and the workload from there on."""
    shuffle = leading_shuffle(workload)
    conv = next((x for x in workload.layers if x.op == "Conv"), None)
    if shuffle is None or conv is None or len(workload.outputs) != 1:
        return None
    behind = workload.layers[len(shuffle.layers) :]
    inside = {name for layer in shuffle.layers for name in layer.outputs}
    if [n for x in behind for n in x.inputs if n in inside] != [shuffle.made] or conv.inputs[0] != shuffle.made:
        return None
    return shuffle, conv, part_of(workload, behind, workload.outputs[0])


class _Builder(ConvBuilder):
    def source(self) -> ShuffledView:
        shuffle = leading_shuffle(self.workload)
        assert shuffle is not None  # accepted
        return ShuffledView(self.body.input(shuffle.read), shuffle)
