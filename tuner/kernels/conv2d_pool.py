"""Convolution and the pooling behind it in one kernel: the image between them never leaves a core's cache.

One task computes ``rows`` pooled rows of ``oc_t`` vectors of channels: first the activations these rows need, into a
buffer of the task's own, then the pooling. Where windows overlap, neighbouring tasks compute the shared rows twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import prod
from typing import Any

from tvm import te, tirx

from tuner.graph.ir import Graph, Layer
from tuner.kernels.base import Kernel, KernelTemplate, Knobs, Layouts, Space
from tuner.kernels.conv2d import Conv2d, ConvBuilder, register_tiles
from tuner.kernels.conv_shape import ConvShape
from tuner.kernels.epilogue import fusable_elementwise
from tuner.kernels.scheduling import parallelise
from tuner.kernels.views import Chan, chan
from tuner.kernels.windowed import Window
from tuner.plan.bf16 import weights_of
from tuner.precision import BF16
from tuner.types import Device

_POOLS = frozenset({"MaxPool", "AveragePool"})


class Conv2dPool(KernelTemplate):
    """A convolution, elementwise layers, a max or average pooling without padding, elementwise layers."""

    name = "conv2d_pool"
    version = 2
    heavy = frozenset({"Conv"}) | _POOLS

    def accepts(self, workload: Graph, layouts: Layouts, device: Device) -> bool:
        pool = next((x for x in workload.layers if x.op in _POOLS), None)
        if pool is None or len(workload.outputs) != 1 or len(workload.tensors[pool.inputs[0]].shape) != 4:
            return False
        if not Window.of(workload, pool).inside:
            return False
        front = _until(workload, pool)
        if front is None:
            return False
        image = dict(layouts) | {front.outputs[0]: layouts[workload.outputs[0]]}
        if not Conv2d().accepts(front, image, device):
            return False
        shape = workload.tensors[pool.outputs[0]].shape
        back = [x for x in workload.layers if x is not pool and x not in front.layers]
        tails = all(fusable_elementwise(workload, x) and workload.tensors[x.outputs[0]].shape == shape for x in back)
        return tails and not pool.attr("ceil_mode", 0) and len([o for o in pool.outputs if o]) == 1

    def space(self, workload: Graph, layouts: Layouts, device: Device) -> Space:
        conv, pool = _layers(workload)
        shape = replace(ConvShape.of(workload, conv), rows_kept=True)
        tiles, default, rule = register_tiles(shape, device)
        height = workload.tensors[pool.outputs[0]].shape[2]
        rows = sorted({r for r in (1, 2, 4, 7) if r <= height})
        knobs = {**tiles, "rows": rows, "order": [0, 1]}
        return Space(knobs, {**default, "rows": rows[min(1, len(rows) - 1)], "order": 0}, rule)

    def build(self, workload: Graph, layouts: Layouts, knobs: Knobs, cores: int, device: Device) -> Kernel:
        return _Builder(workload, layouts, knobs, device, self.precision).kernel(cores)


class Conv2dPoolBf16(Conv2dPool):
    """The same with weights stored as bfloat16, widened in registers."""

    name = "conv2d_pool_bf16"
    version = 1
    precision = BF16

    def accepts(self, workload: Graph, layouts: Layouts, device: Device) -> bool:
        return super().accepts(workload, layouts, device) and weights_of(workload, _layers(workload)[0]) is not None


def _layers(workload: Graph) -> tuple[Layer, Layer]:
    conv = next(x for x in workload.layers if x.op == "Conv")
    return conv, next(x for x in workload.layers if x.op in _POOLS)


def _until(workload: Graph, pool: Layer) -> Graph | None:
    """The part of the workload in front of the pooling, as a workload whose output the pooling reads."""
    name = pool.inputs[0]
    if name not in workload.producer:
        return None
    layers = tuple(x for x in workload.layers if workload.position[x.id] < workload.position[pool.id])
    made = {o for x in layers for o in x.outputs}
    read = {i for x in layers for i in x.inputs}
    return replace(
        workload,
        inputs=tuple(n for n in workload.inputs if n in read),
        outputs=(name,),
        layers=layers,
        tensors={n: t for n, t in workload.tensors.items() if n in made or (n in read and n in workload.inputs)},
    )


class _Builder(ConvBuilder):
    """The convolution's builder with "act" (activations of a task) and "pooled" between "acc" and "out"."""

    def geometry(self) -> ConvShape:
        return replace(ConvShape.of(self.workload, self.conv), rows_kept=True)

    def output(self, acc: te.Tensor) -> te.Tensor:
        self.anchor(acc)
        lanes = self.device.lanes
        _, pool = _layers(self.workload)
        window = Window.of(self.workload, pool)
        n, c, h, w = self.workload.tensors[pool.inputs[0]].shape
        chunks = -(-c // lanes)
        act = te.compute(
            (n, chunks, h, w, lanes),
            lambda i, co, y, x, ci: self.body.read(pool.inputs[0], (i, Chan(co, ci, lanes), y, x)),
            name="act",
        )
        kh, kw = te.reduce_axis((0, window.kernel[0]), "ph"), te.reduce_axis((0, window.kernel[1]), "pw")
        reducer = te.max if pool.op == "MaxPool" else te.sum
        (sy, sx), (dy, dx) = window.stride, window.dilation
        pooled = te.compute(
            (n, chunks, *window.out, lanes),
            lambda i, co, y, x, ci: reducer(act(i, co, y * sy + kh * dy, x * sx + kw * dx, ci), axis=[kh, kw]),
            name="pooled",
        )
        scale = 1.0 if pool.op == "MaxPool" else 1.0 / prod(window.kernel)

        def read(index: Sequence[Any]) -> Any:
            i, c, y, x = index
            channel = chan(c, lanes)
            value = pooled(i, channel.outer, y, x, channel.inner)
            return value if scale == 1.0 else value * tirx.const(scale, "float32")

        self.body.anchors[pool.outputs[0]] = read
        return te.compute(
            (n, chunks, *window.out, lanes),
            lambda i, co, y, x, ci: self.body.result((i, Chan(co, ci, lanes), y, x)),
            name="out",
        )

    def schedule(self, sch: Any, cores: int, padded: bool) -> None:
        k = self.knobs
        out, pooled, act, acc = (sch.get_sblock(b) for b in ("out", "pooled", "act", "acc"))
        sch.set_scope(acc, 0, "local")
        sch.set_scope(pooled, 0, "local")
        n, co, y, x, ci = sch.get_loops(out)
        y_o, y_i = sch.split(y, [None, k["rows"]])
        co_o, co_t = sch.split(co, [None, k["oc_t"]])
        outer = [n, co_o, y_o] if k["order"] == 0 else [n, y_o, co_o]
        sch.reorder(*outer, co_t, y_i, x, ci)
        task = parallelise(sch, sch.fuse(*outer), cores, self.device.cores)
        sch.compute_at(pooled, x, preserve_unit_loops=True)
        sch.compute_at(act, task, preserve_unit_loops=True)
        _, act_co, act_y, act_x, act_ci = sch.get_loops(act)[-5:]
        x_o, x_i = sch.split(act_x, [None, k["reg_n"]])
        sch.reorder(act_y, x_o, x_i, act_co, act_ci)
        sch.compute_at(acc, x_o, preserve_unit_loops=True)
        if padded:
            self.place_copy(sch, task, cores)
        for loop in (ci, act_ci):
            sch.vectorize(loop)
        sch.unroll(x_i)
        sch.unroll(act_co)
        *_, lane, ph, pw = sch.get_loops(pooled)
        sch.reorder(ph, pw, lane)
        sch.vectorize(lane)
        sch.unroll(pw)
        sch.unroll(ph)
        sch.vectorize(sch.get_loops(sch.decompose_reduction(pooled, ph))[-1])
        self.schedule_accumulation(sch, acc)
