"""Exact geometry of a block whose output is split into bands of rows, one band a core or a tile. Numpy only.

Rows lie along axis 2 of tensors with four or more dimensions, axis 1 of those with three and axis 0 of those with two.
A band needs, of every layer before it, the rows that its windows reach (the halo): neighbouring bands compute those
twice. Layers whose every output needs all of an input (Gemm's features, GlobalAveragePool, Reshape, ...) have whole
extents in every band. A band of a layer is contiguous: rows between needed ones are computed too. Images of a batch
are split alike: a band holds the same rows of each.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from tuner.graph.ir import Graph, Layer
from tuner.plan.alone import Signature, alone, signature
from tuner.plan.elementwise import ELEMENTWISE

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
_Needs = NDArray[np.int32]  # [2, bands]: first row, and minus the row after the last

_WINDOWS = frozenset({"Conv", "MaxPool", "AveragePool", "LpPool"})
_ROWWISE = ELEMENTWISE | {"LRN", "Cast", "Pow", "Not", "Where", "Equal"}
_ALONG_AXIS = frozenset({"Concat", "Softmax", "LogSoftmax", "Split", "LayerNormalization"})  # rowwise on other axes


@dataclass(frozen=True)
class Bands:
    """Rows of a block under K splits. L layers in the workload's order, I inputs in the workload's order."""

    bands: Ints  # [K] bands that have rows: no more than the output's rows
    ratio: Floats  # [L, K] rows computed by all bands together / rows of the layer, >= 1
    tallest: Ints  # [L, K] rows of the tallest band
    busiest: Ints  # [L, K] rows computed by the group of bands that computes most; = tallest without groups
    passes: Ints  # [K] bands of the group that has most of them; 1 without groups
    read: Floats  # [I, K] rows read by all bands together / rows of the input; below 1 where not all are needed
    read_tallest: Ints  # [I, K] rows read by the band that reads most
    read_busiest: Ints  # [I, K] rows read by the group of bands that reads most


def band_rows(workload: Graph, bands: int | Sequence[int]) -> Bands:
    """Rows of every layer when the output is cut into so many equal bands; one column for each number of bands."""
    return Halo(workload).split(np.atleast_1d(np.asarray(bands)))


@dataclass(frozen=True)
class _Edge:
    """What a layer needs of one input: rows [scale * a + first, scale * (b - 1) + last + 1) for its own rows [a, b)."""

    position: int  # of the input among the layer's
    rows: int  # of the input
    whole: bool
    scale: int = 1
    offset: _Needs | None = None  # [2, 1] = -pad, and scale + pad - reach of the window; None for rows one to one


class _Cut:
    """How K splits cut an output of ``rows`` rows: all bands of all splits one after the other, and their groups."""

    def __init__(self, groups: Ints, tiles: Ints, rows: int) -> None:
        self.counts = np.minimum(groups * tiles, rows)
        teams = np.minimum(groups, self.counts)
        self.passes = -(-self.counts // teams)
        self._starts = np.cumsum(self.counts) - self.counts
        index = np.repeat(np.arange(len(groups)), self.counts)
        self._number, self._count = np.arange(len(index)) - self._starts[index], self.counts[index]
        # Group g of G holds bands [ceil(g n / G), ceil((g + 1) n / G)) of n; their numbers differ by one at most.
        self._team_starts = np.cumsum(teams) - teams
        index = np.repeat(np.arange(len(groups)), teams)
        number = np.arange(len(index)) - self._team_starts[index]
        self._first_bands = self._starts[index] - (-number * self.counts[index] // teams[index])
        self._grouped = bool((self.passes > 1).any())
        self._ends: dict[int, _Needs] = {}

    def ends(self, rows: int) -> _Needs:
        """First and (negative) last rows of every band of an output of ``rows`` rows."""
        if rows not in self._ends:
            ends = np.stack([self._number * rows // self._count, -((self._number + 1) * rows // self._count)])
            self._ends[rows] = ends.astype(np.int32)
        return self._ends[rows]

    def reduce(self, need: _Needs) -> tuple[Ints, Ints, Ints]:
        """Rows of all bands together, of the tallest band, and of the busiest group; each [K]."""
        height = -need.sum(axis=0)
        total, tallest = np.add.reduceat(height, self._starts), np.maximum.reduceat(height, self._starts)
        if not self._grouped:
            return total, tallest, tallest
        return total, tallest, np.maximum.reduceat(np.add.reduceat(height, self._first_bands), self._team_starts)


@lru_cache(maxsize=256)
def _cut(groups: tuple[int, ...], tiles: tuple[int, ...], rows: int) -> _Cut:
    return _Cut(np.array(groups), np.array(tiles), rows)


class Halo:
    """The geometry of one workload, read once and then asked for any number of splits."""

    def __init__(self, workload: Graph) -> None:
        self.workload = workload
        self.rows: Ints = np.array([_rows(workload, x.outputs[0]) for x in workload.layers])
        self.input_rows: Ints = np.array([_rows(workload, name) for name in workload.inputs], dtype=np.int64)
        self.output_rows = min(_rows(workload, name) for name in workload.outputs)
        self.signatures = [signature(workload, layer) for layer in workload.layers]
        self._edges = [
            [(layer.inputs[edge.position], edge) for edge in _edges(signed)]
            for layer, signed in zip(workload.layers, self.signatures, strict=True)
        ]

    def split(self, groups: Ints, tiles: Ints | None = None) -> Bands:
        """Cut the output into ``groups[k] * tiles[k]`` equal bands (as far as it has rows), ``tiles[k]`` to a group.

        A group is what one core does, band after band; without ``tiles`` every band is a group.
        """
        tiles = np.ones_like(groups) if tiles is None else tiles
        cut = _cut(tuple(groups.tolist()), tuple(tiles.tolist()), self.output_rows)
        seeds = {name: cut.ends(_rows(self.workload, name)) for name in self.workload.outputs}
        needs = self._walk(seeds, clipped=True)
        known: dict[int, tuple[Ints, Ints, Ints]] = {}  # elementwise layers share their reader's array

        def summed(need: _Needs) -> tuple[Ints, Ints, Ints]:
            if id(need) not in known:
                known[id(need)] = cut.reduce(need)
            return known[id(need)]

        layers = [summed(needs[x.outputs[0]]) for x in self.workload.layers]
        reads = [summed(needs[name]) for name in self.workload.inputs]
        total, tallest, busiest = _columns(layers, len(groups))
        read, read_tallest, read_busiest = _columns(reads, len(groups))
        return Bands(
            bands=cut.counts, ratio=np.maximum(total / self.rows[:, None], 1.0), tallest=tallest, busiest=busiest,
            passes=cut.passes, read=read / self.input_rows[:, None], read_tallest=read_tallest,
            read_busiest=read_busiest,
        )  # fmt: skip

    def inner(self, heights: Ints) -> tuple[Ints, Ints]:
        """Rows of layers [L, K] and of inputs [I, K] for a band of ``heights[k]`` output rows far from all borders.

        No band of that height needs more. Heights are at most the output's rows.
        """
        low = np.zeros((2, len(heights)), np.int32)
        low[1] = -heights
        needs = self._walk(dict.fromkeys(self.workload.outputs, low), clipped=False)
        names = (*(x.outputs[0] for x in self.workload.layers), *self.workload.inputs)
        found = -np.array([needs[name] for name in names]).sum(axis=1)
        layers, inputs = found[: len(self.rows)], found[len(self.rows) :]
        return np.minimum(layers, self.rows[:, None]), np.minimum(inputs, self.input_rows[:, None])

    def _walk(self, seeds: dict[str, _Needs], clipped: bool) -> dict[str, _Needs]:
        """Tensor -> rows needed of it, from the outputs back to the inputs."""
        needs = dict(seeds)
        width = next(iter(seeds.values())).shape[1]
        for layer, edges in zip(reversed(self.workload.layers), reversed(self._edges), strict=True):
            own = [needs[name] for name in layer.outputs if name in needs]
            if not own:  # a dead layer: nobody needs any of it, and it computes one row
                own = [np.array([[0], [-1]], np.int32).repeat(width, axis=1)]
            need = own[0]
            for other in own[1:]:
                need = need if other is need else np.minimum(need, other)
            for name in layer.outputs:
                needs[name] = need
            for source, edge in edges:
                reached = _reached(need, edge, clipped)
                before = needs.get(source)
                needs[source] = reached if before is None or before is reached else np.minimum(before, reached)
        return needs


def _reached(need: _Needs, edge: _Edge, clipped: bool) -> _Needs:
    if edge.whole:
        return np.array([[0], [-edge.rows]], np.int32).repeat(need.shape[1], axis=1)
    if edge.offset is None:
        return need
    reached = (need if edge.scale == 1 else need * np.int32(edge.scale)) + edge.offset
    if clipped:  # at least one row, even where a band's windows see nothing but padding
        last = edge.rows
        np.minimum(reached, np.array([[last - 1], [-1]], np.int32), out=reached)
        np.maximum(reached, np.array([[0], [-last]], np.int32), out=reached)
    return reached


@lru_cache(maxsize=4096)
def _edges(signed: Signature) -> tuple[_Edge, ...]:
    """Edges to the inputs that are tensors."""
    graph = alone(signed)
    (layer,) = graph.layers
    out = graph.tensors[layer.outputs[0]].shape
    found = []
    for position, name in enumerate(layer.inputs):
        if name not in graph.tensors:
            continue
        shape, rows = graph.tensors[name].shape, _rows(graph, name)
        if layer.op in _WINDOWS and not layer.domain and position == 0 and len(shape) >= 4:
            found.append(_window(graph, layer, position, rows))
        else:
            found.append(_Edge(position, rows, whole=not _one_to_one(graph, layer, position, shape, out)))
    return tuple(found)


def _window(graph: Graph, layer: Layer, position: int, rows: int) -> _Edge:
    kernel = layer.attr("kernel_shape") or graph.type_of(layer.inputs[1]).shape[2:]
    stride = (layer.attr("strides") or (1,))[0]
    reach = (layer.attr("dilations") or (1,))[0] * (kernel[0] - 1) + 1
    pads = layer.attr("pads")
    pad = pads[0] if pads else 0
    mode = layer.attr("auto_pad", "NOTSET")
    if mode in ("SAME_UPPER", "SAME_LOWER"):
        missing = max(0, (_rows(graph, layer.outputs[0]) - 1) * stride + reach - rows)
        pad = missing // 2 if mode == "SAME_UPPER" else -(-missing // 2)
    elif mode == "VALID":
        pad = 0
    if (stride, reach, pad) == (1, 1, 0):
        return _Edge(position, rows, whole=False)
    return _Edge(position, rows, False, stride, np.array([[-pad], [stride + pad - reach]], np.int32))


def _one_to_one(graph: Graph, layer: Layer, position: int, shape: tuple[int, ...], out: tuple[int, ...]) -> bool:
    """Whether row k of the layer needs row k of this input and no other."""
    axis, own = row_axis(out), row_axis(shape)
    if layer.domain or axis is None or own is None:
        return False
    if layer.op == "Gemm":
        return position == 0 and not layer.attr("transA", 0)
    if layer.op == "MatMul":
        return position == 0 and len(shape) == len(out) and own == len(shape) - 2
    if layer.op in _ALONG_AXIS:
        first = layer.attr("axis", _default_axis(layer.op, graph.opset)) % len(shape)
        if layer.op in ("Softmax", "LogSoftmax") and graph.opset < 13 and first < axis:
            return False  # before opset 13 it runs over all axes from ``first`` on
        rowwise = first > axis if layer.op == "LayerNormalization" else first != axis
        return rowwise and len(shape) == len(out) and shape[axis] == out[axis]
    if layer.op == "Slice":  # with steps, which may be negative, it has five inputs
        return len(shape) == len(out) and shape[axis] == out[axis] and len(layer.inputs) < 5
    if layer.op in _ROWWISE:  # numpy's broadcasting aligns axes at the end
        return axis - len(out) == own - len(shape) and shape[own] == out[axis]
    return False


def _default_axis(op: str, opset: int) -> int:
    return {"Split": 0, "LayerNormalization": -1, "Concat": 1}.get(op, -1 if opset >= 13 else 1)


def row_axis(shape: tuple[int, ...]) -> int | None:
    """The axis along which rows are counted; None for tensors with fewer than two dimensions."""
    return min(len(shape) - 2, 2) if len(shape) > 1 else None


def _rows(graph: Graph, name: str) -> int:
    shape = graph.type_of(name).shape
    axis = row_axis(shape)
    return 1 if axis is None else max(1, shape[axis])


def _columns(found: Sequence[tuple[Ints, Ints, Ints]], width: int) -> tuple[Ints, Ints, Ints]:
    stacked = np.array(found, dtype=np.int64).reshape(-1, 3, width)
    return stacked[:, 0], stacked[:, 1], stacked[:, 2]
