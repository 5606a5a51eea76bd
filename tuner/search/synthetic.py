"""Turns the cost model's synthetic block designs into workloads."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil

from cost_model.synthetic import BlockDesign
from tuner.graph.ir import AttrValue, Constant, Graph, Layer, Tensor, freeze_attrs
from tuner.plan.workload import workload_of


def synthetic_workload(design: BlockDesign) -> Graph:
    """The whole design as one canonical workload."""
    graph = synthetic_graph(design)
    return workload_of(graph, [x.id for x in graph.layers]).workload


def synthetic_graph(design: BlockDesign) -> Graph:
    """A Graph that is one block: as many inputs as the design needs, one output."""
    build = _Builder(design.channels, design.size)
    return {
        "conv": _chain, "chain": _chain, "residual": _residual, "branches": _branches, "pooled": _pooled,
        "depthwise": _depthwise, "dense": _dense, "pool": _pool, "elementwise": _elementwise,
    }[design.kind](build, design)  # fmt: skip


def _chain(b: _Builder, d: BlockDesign) -> Graph:
    return b.graph(_convolutions(b, d, "x"))


def _convolutions(b: _Builder, d: BlockDesign, source: str) -> str:
    for k in range(d.depth):
        source = b.relu(b.conv(source, d.width, d.kernel, d.stride if k == 0 else 1))
    return source


def _residual(b: _Builder, d: BlockDesign) -> Graph:
    source = "x"
    for k in range(d.depth):
        source = b.conv(source, d.width, d.kernel)
        if k < d.depth - 1:
            source = b.relu(source)
    return b.graph(b.relu(b.layer("Add", [source, "x"], b.shapes["x"])))


def _branches(b: _Builder, d: BlockDesign) -> Graph:
    squeezed = b.relu(b.conv("x", d.width, 1))
    parts = [b.relu(b.conv(squeezed, d.width, kernel)) for kernel in (1, 3)]
    n, c, h, w = b.shapes[parts[0]]
    return b.graph(b.layer("Concat", parts, (n, 2 * c, h, w), axis=1))


def _pooled(b: _Builder, d: BlockDesign) -> Graph:
    return b.graph(b.pool(_convolutions(b, d, "x"), 3, 2))


def _depthwise(b: _Builder, d: BlockDesign) -> Graph:
    if d.depth == 1:
        return b.graph(b.relu(b.conv("x", d.channels, 3, d.stride, groups=d.channels)))
    wide = b.relu(b.conv("x", d.width, 1))
    return b.graph(b.relu(b.conv(b.relu(b.conv(wide, d.width, 3, d.stride, groups=d.width)), d.channels, 1)))


def _dense(b: _Builder, d: BlockDesign) -> Graph:
    b.shapes["x"] = (1, d.channels)
    source = "x"
    for _ in range(d.depth):
        features = b.shapes[source][1]
        weights, bias = b.constant((d.width, features)), b.constant((d.width,))
        source = b.relu(b.layer("Gemm", [source, weights, bias], (1, d.width), transB=1))
    return b.graph(source)


def _pool(b: _Builder, d: BlockDesign) -> Graph:
    if d.kernel >= d.size:
        return b.graph(b.layer("GlobalAveragePool", ["x"], (1, d.channels, 1, 1)))
    return b.graph(b.pool("x", d.kernel, d.stride))


def _elementwise(b: _Builder, d: BlockDesign) -> Graph:
    if d.depth == 1:
        return b.graph(b.relu("x"))
    b.shapes["y"] = b.shapes["x"]
    return b.graph(b.relu(b.layer("Add", ["x", "y"], b.shapes["x"])), inputs=("x", "y"))


class _Builder:
    """Adds layers one by one; tensors are called after their number."""

    def __init__(self, channels: int, size: int) -> None:
        self.shapes: dict[str, tuple[int, ...]] = {"x": (1, channels, size, size)}
        self._constants: dict[str, Constant] = {}
        self._layers: list[Layer] = []

    def layer(self, op: str, inputs: Sequence[str], shape: tuple[int, ...], **attrs: AttrValue) -> str:
        out = f"t{len(self._layers)}"
        self._layers.append(Layer(out, op, tuple(inputs), (out,), freeze_attrs(attrs)))
        self.shapes[out] = shape
        return out

    def constant(self, shape: tuple[int, ...]) -> str:
        name = f"w{len(self._constants)}"
        self._constants[name] = Constant(name, shape)
        return name

    def relu(self, source: str) -> str:
        return self.layer("Relu", [source], self.shapes[source])

    def conv(self, source: str, width: int, kernel: int, stride: int = 1, groups: int = 1) -> str:
        """A convolution with bias whose output is the input's size over the stride, rounded up."""
        _, channels, height, _ = self.shapes[source]
        weights, bias = self.constant((width, channels // groups, kernel, kernel)), self.constant((width,))
        size, pads = _window(height, kernel, stride)
        return self.layer(
            "Conv", [source, weights, bias], (1, width, size, size), kernel_shape=(kernel, kernel),
            strides=(stride, stride), pads=pads, group=groups, dilations=(1, 1),
        )  # fmt: skip

    def pool(self, source: str, kernel: int, stride: int) -> str:
        _, channels, height, _ = self.shapes[source]
        size, pads = _window(height, kernel, stride)
        return self.layer("MaxPool", [source], (1, channels, size, size), kernel_shape=(kernel, kernel),
                          strides=(stride, stride), pads=pads)  # fmt: skip

    def graph(self, output: str, inputs: tuple[str, ...] = ("x",)) -> Graph:
        tensors = {name: Tensor(name, shape) for name, shape in self.shapes.items()}
        return Graph(inputs, (output,), tuple(self._layers), tensors, self._constants)


def _window(size: int, kernel: int, stride: int) -> tuple[int, tuple[int, int, int, int]]:
    """(output size, pads) of a window over ``size`` pixels such that the output has ceil(size / stride)."""
    out = ceil(size / stride)
    needed = max(0, (out - 1) * stride + kernel - size)
    before = needed // 2
    return out, (before, before, needed - before, needed - before)
