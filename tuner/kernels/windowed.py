"""Windows that slide over each channel on its own: depthwise convolution, max and average pooling, global pooling.

All three share one shape of code: one task computes ``rows`` output rows of one vector of channels from a padded copy
of the input rows it needs; ``reg_n`` output pixels live in registers while the window is walked.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

from tvm import te, tirx

from tuner.graph.ir import Graph, Layer
from tuner.kernels.base import Kernel, KernelTemplate, Knobs, Layouts, Space
from tuner.kernels.conv_shape import window_pads
from tuner.kernels.epilogue import Body, anchored
from tuner.kernels.scheduling import divisors, module_of, parallelise, schedule_of
from tuner.kernels.views import Chan, chan
from tuner.plan.layout import PLAIN, Pack, block_of
from tuner.types import Device

LOWEST = -3.0e38  # below every activation; finite, so that padded lanes stay finite


@dataclass(frozen=True)
class Window:
    """Geometry of a sliding window; pads are (top, left, bottom, right)."""

    size: tuple[int, int]
    kernel: tuple[int, int]
    stride: tuple[int, int]
    dilation: tuple[int, int]
    pads: tuple[int, int, int, int]
    out: tuple[int, int]

    @staticmethod
    def of(workload: Graph, layer: Layer) -> Window:
        size = _pair(workload.tensors[layer.inputs[0]].shape[2:])
        out = _pair(workload.tensors[layer.outputs[0]].shape[2:])
        if layer.op in {"GlobalAveragePool", "GlobalMaxPool", "ReduceMean"}:
            return Window(size, size, (1, 1), (1, 1), (0, 0, 0, 0), (1, 1))
        if layer.op == "Conv":
            kernel = _pair(workload.type_of(layer.inputs[1]).shape[2:])
        else:
            kernel = _pair(layer.attr("kernel_shape"))
        stride, dilation = _pair(layer.attr("strides", (1, 1))), _pair(layer.attr("dilations", (1, 1)))
        return Window(size, kernel, stride, dilation, window_pads(layer, size, kernel, stride, dilation, out), out)

    @property
    def reach(self) -> tuple[int, int]:
        """Rows and columns of (padded) input that the whole output reads."""
        sides = zip(self.out, self.stride, self.kernel, self.dilation, strict=True)
        return _pair([(o - 1) * s + (k - 1) * d + 1 for o, s, k, d in sides])

    @property
    def inside(self) -> bool:
        """Whether every window lies within the input, so that nothing is padded."""
        return not any(self.pads[:2]) and self.reach[0] <= self.size[0] and self.reach[1] <= self.size[1]


def _pair(values: Sequence[int]) -> tuple[int, int]:
    first, second = values
    return first, second


class _Windowed(KernelTemplate):
    """What the three have in common; subclasses say what a window does."""

    def accepts(self, workload: Graph, layouts: Layouts, device: Device) -> bool:
        layer = anchored(workload, self.heavy)
        if layer is None or len(workload.tensors[layer.inputs[0]].shape) != 4 or layer.inputs[0] not in workload.inputs:
            return False
        out = workload.tensors[workload.outputs[0]].shape
        layout = layouts[workload.outputs[0]]
        if layout == PLAIN and (out[2:] != (1, 1) or out[1] % device.lanes):
            return False
        return block_of(layout) in {0, device.lanes} and self.fits(workload, layer)

    @abstractmethod
    def fits(self, workload: Graph, layer: Layer) -> bool:
        """Whether this kind of window is served."""

    @abstractmethod
    def reduce(self, body: Body, layer: Layer, lanes: int, window: Window) -> tuple[Any, float, Callable[..., Any]]:
        """(reducer, border value, function (element, channel, kh, kw) -> what is reduced)."""

    def finish(self, body: Body, layer: Layer, window: Window, value: Any, index: Sequence[Any]) -> Any:
        """The layer's result from the reduced value."""
        return value

    def space(self, workload: Graph, layouts: Layouts, device: Device) -> Space:
        window = Window.of(workload, _anchor(workload, self.heavy))
        height, width = window.out
        reg_n = [n for n in range(1, min(width, 14) + 1) if width % n == 0 or (n >= 4 and -width % n <= 1)]
        rows = sorted(set(divisors(height, 8)) | {height})
        if prod(window.out) == 1:
            return Space({"reg_n": [1], "rows": [1]}, {"reg_n": 1, "rows": 1})
        chunks = prod(workload.tensors[workload.outputs[0]].shape[:2]) // device.lanes
        row = max((r for r in rows if max(chunks, 1) * height // r >= 2 * device.cores), default=1)
        return Space({"reg_n": reg_n, "rows": rows}, {"reg_n": max(n for n in reg_n if n <= 8), "rows": row})

    def build(self, workload: Graph, layouts: Layouts, knobs: Knobs, cores: int, device: Device) -> Kernel:
        layer = _anchor(workload, self.heavy)
        window = Window.of(workload, layer)
        body = Body(workload, layouts)
        lanes, data = device.lanes, body.input(layer.inputs[0])
        reducer, border, term = self.reduce(body, layer, lanes, window)
        cols = -(-window.out[1] // knobs["reg_n"]) * knobs["reg_n"]
        source, padded = _padded(window, data, cols, lanes, border)
        kh, kw = te.reduce_axis((0, window.kernel[0]), "kh"), te.reduce_axis((0, window.kernel[1]), "kw")
        n, c, h, w = workload.tensors[layer.outputs[0]].shape
        chunks = -(-c // lanes)

        def reduced(i: Any, co: Any, y: Any, x: Any, ci: Any) -> Any:
            row = y * window.stride[0] + kh * window.dilation[0]
            col = x * window.stride[1] + kw * window.dilation[1]
            return reducer(term(source(i, Chan(co, ci, lanes), row, col), co, ci, kh, kw), axis=[kh, kw])

        acc = te.compute((n, chunks, h, cols, lanes), reduced, name="acc")

        def result(index: Sequence[Any]) -> Any:
            i, c, y, x = index
            channel = chan(c, lanes)
            return self.finish(body, layer, window, acc(i, channel.outer, y, x, channel.inner), index)

        body.anchors[layer.outputs[0]] = result
        name = workload.outputs[0]
        out = te.compute(
            (n, chunks, h, w, lanes),
            lambda i, co, y, x, ci: body.result((i, Chan(co, ci, lanes), y, x)),
            name="out",
        )
        tensors, args = body.finish(out)
        module = module_of(tensors)
        sch = schedule_of(module)
        _schedule(sch, knobs, cores, device, window, padded)
        if layouts[name] == PLAIN:
            sch.transform_layout("out", ("write", 0), lambda i, co, y, x, ci: (i, co * lanes + ci, y, x))
        return Kernel(module, sch, args, body.packs)


def _anchor(workload: Graph, ops: frozenset[str]) -> Layer:
    return next(x for x in workload.layers if x.op in ops)


def _padded(window: Window, data: Any, cols: int, lanes: int, border: float) -> tuple[Any, bool]:
    """(function (n, channel, y, x) -> element in padded coordinates, whether a padded copy is made)."""
    width = (cols - 1) * window.stride[1] + (window.kernel[1] - 1) * window.dilation[1] + 1
    if window.inside and width <= window.size[1]:
        return (lambda n, c, y, x: data.at((n, c, y, x))), False
    top, left = window.pads[:2]
    h, w = window.size
    n, c = data.shape[:2]

    def pixel(i: Any, co: Any, y: Any, x: Any, ci: Any) -> Any:
        inside = tirx.all(y >= top, y < h + top, x >= left, x < w + left)
        value = data.at((i, Chan(co, ci, lanes), y - top, x - left))
        return tirx.if_then_else(inside, value, tirx.const(border, "float32"))

    pad = te.compute((n, -(-c // lanes), window.reach[0], width, lanes), pixel, name="pad")
    return (lambda i, c, y, x: pad(i, c.outer, y, x, c.inner)), True


def _schedule(sch: Any, knobs: Knobs, cores: int, device: Device, window: Window, padded: bool) -> None:
    out, acc = sch.get_sblock("out"), sch.get_sblock("acc")
    sch.set_scope(acc, 0, "local")
    n, co, y, x, ci = sch.get_loops(out)
    y_o, y_i = sch.split(y, [None, knobs["rows"]])
    x_o, x_i = sch.split(x, [None, knobs["reg_n"]])
    task = parallelise(sch, sch.fuse(n, co, y_o), cores, device.cores)
    sch.compute_at(acc, x_o, preserve_unit_loops=True)
    if padded:
        sch.compute_at(sch.get_sblock("pad"), task)
        sch.vectorize(sch.get_loops(sch.get_sblock("pad"))[-1])
    sch.vectorize(ci)
    sch.unroll(x_i)
    *_, col, lane, kh, kw = sch.get_loops(acc)
    sch.reorder(kh, kw, col, lane)
    sch.unroll(col)
    sch.vectorize(lane)
    if prod(window.kernel) <= 25:
        sch.unroll(kh)
        sch.unroll(kw)
    init = sch.decompose_reduction(acc, kh)
    sch.vectorize(sch.get_loops(init)[-1])
    sch.unroll(sch.get_loops(init)[-2])
    del y_i


class Depthwise(_Windowed):
    """Depthwise convolution (groups == channels in == channels out)."""

    name = "depthwise"
    heavy = frozenset({"Conv"})

    def fits(self, workload: Graph, layer: Layer) -> bool:
        weights = layer.inputs[1]
        if not workload.is_constant(weights) or workload.constants[weights].value is not None:
            return False
        channels = workload.tensors[layer.inputs[0]].shape[1]
        return layer.attr("group", 1) == channels == workload.constants[weights].shape[0]

    def reduce(self, body: Body, layer: Layer, lanes: int, window: Window) -> tuple[Any, float, Callable[..., Any]]:
        c, _, kh, kw = body.workload.constants[layer.inputs[1]].shape
        chunks = -(-c // lanes)
        pack = Pack(
            (
                ("pad", [[0, chunks * lanes - c], [0, 0], [0, 0], [0, 0]]),
                ("reshape", [chunks, lanes, kh, kw]),
                ("transpose", [0, 2, 3, 1]),
            )
        )
        weights = body.constant(layer.inputs[1], (chunks, kh, kw, lanes), pack)
        return te.sum, 0.0, lambda value, co, ci, y, x: value * weights(co, y, x, ci)

    def finish(self, body: Body, layer: Layer, window: Window, value: Any, index: Sequence[Any]) -> Any:
        if len(layer.inputs) > 2 and layer.inputs[2]:
            return value + body.read(layer.inputs[2], (index[1],))
        return value


class Pool(_Windowed):
    """Max, average and global pooling (and the mean over height and width)."""

    name = "pool"
    heavy = frozenset({"MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool", "ReduceMean"})

    def fits(self, workload: Graph, layer: Layer) -> bool:
        if layer.op == "ReduceMean":
            axes = layer.attr("axes")
            if axes is None and len(layer.inputs) > 1:
                axes = workload.constants[layer.inputs[1]].value
            return axes is not None and {a % 4 for a in axes} == {2, 3} and layer.attr("keepdims", 1) == 1
        return not layer.attr("storage_order", 0)

    def reduce(self, body: Body, layer: Layer, lanes: int, window: Window) -> tuple[Any, float, Callable[..., Any]]:
        if layer.op in {"MaxPool", "GlobalMaxPool"}:
            return te.max, LOWEST, lambda value, *_: value
        return te.sum, 0.0, lambda value, *_: value

    def finish(self, body: Body, layer: Layer, window: Window, value: Any, index: Sequence[Any]) -> Any:
        if layer.op in {"MaxPool", "GlobalMaxPool"}:
            return value
        return value * _inverse_count(layer, window, index)


def _inverse_count(layer: Layer, window: Window, index: Sequence[Any]) -> Any:
    """1 / how many elements an average counts at this output pixel."""
    top, left, bottom, right = window.pads
    include = layer.attr("count_include_pad", 0)
    extents = []
    for axis, (low, high) in enumerate(((top, bottom), (left, right))):
        size, kernel = window.size[axis], window.kernel[axis]
        limit = (-low, size + high) if include else (0, size)
        spans = [
            sum(limit[0] <= o * window.stride[axis] - low + k * window.dilation[axis] < limit[1] for k in range(kernel))
            for o in range(window.out[axis])
        ]
        extents.append(_by_position(spans, index[2 + axis]))
    count = extents[0] * extents[1]
    return tirx.const(1.0, "float32") / count if not isinstance(count, int) else tirx.const(1.0 / count, "float32")


def _by_position(spans: list[int], position: Any) -> Any:
    """The span at ``position``: a number where all are equal, else a chain of selects over the few that differ."""
    common = max(set(spans), key=spans.count)
    value: Any = common
    for i, span in enumerate(spans):
        if span != common:
            base = tirx.const(float(value), "float32") if isinstance(value, int) else value
            value = tirx.Select(position == i, tirx.const(float(span), "float32"), base)
    return value
