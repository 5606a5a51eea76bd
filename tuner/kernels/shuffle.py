"""Channel shuffles: Reshape to groups, Transpose, Reshape back; and images read through one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tuner.graph.ir import Graph, Layer
from tuner.kernels.views import Chan, View, flat
from tuner.plan.layout import PLAIN
from tuner.plan.shuffle import SHUFFLE, is_shuffle


@dataclass(frozen=True)
class Shuffle:
    """The image ``made`` is ``read`` with its channels, ``groups`` times ``each``, dealt out in turn."""

    layers: tuple[Layer, ...]
    read: str
    made: str
    groups: int
    each: int

    def source(self, channel: Any) -> Any:
        """The channel of ``read`` that a channel of ``made`` is."""
        return channel % self.groups * self.each + channel // self.groups


def leading_shuffle(workload: Graph) -> Shuffle | None:
    """The shuffle that a workload's first three layers are; None where they are none."""
    layers = workload.layers[:3]
    if tuple([x.op for x in layers]) != SHUFFLE:
        return None
    first, middle, last = layers
    source, made = workload.tensors[first.inputs[0]].shape, workload.tensors[last.outputs[0]].shape
    split = workload.tensors[first.outputs[0]].shape
    chained = middle.inputs[0] == first.outputs[0] and last.inputs[0] == middle.outputs[0]
    if (
        not chained
        or first.inputs[0] not in workload.inputs
        or not is_shuffle(source, split, middle.attr("perm"), made)
    ):
        return None
    return Shuffle(layers, first.inputs[0], last.outputs[0], split[1], split[2])


@dataclass(frozen=True)
class ShuffledView:
    """A View through a shuffle: the channels are read one by one, wherever they lie."""

    view: View
    shuffle: Shuffle
    layout: str = PLAIN  # as far as a reader can tell

    def at(self, index: Sequence[Any | Chan]) -> Any:
        """Element at logical indices of the shuffled image."""
        n, c, y, x = index
        return self.view.at((n, self.shuffle.source(flat(c)), y, x))
