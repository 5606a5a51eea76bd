"""Softmax over one axis whose elements are contiguous (everything behind it has extent 1)."""

from __future__ import annotations

from math import prod
from typing import Any

from tvm import te, tirx

from tuner.graph.ir import Graph, Layer
from tuner.kernels import math as fast
from tuner.kernels.base import Kernel, KernelTemplate, Knobs, Layouts, Space
from tuner.kernels.epilogue import Body
from tuner.kernels.rows import Row, lane_reduction, tree, unflatten
from tuner.kernels.scheduling import module_of, parallelise, schedule_of
from tuner.plan.layout import PLAIN
from tuner.types import Device


class Softmax(KernelTemplate):
    """Per row: maximum, exponentials, sum and quotient, each ``unroll`` vectors at a time."""

    name = "softmax"
    version = 2
    heavy = frozenset({"Softmax"})

    def accepts(self, workload: Graph, layouts: Layouts, device: Device) -> bool:
        if len(workload.layers) != 1 or workload.layers[0].op != "Softmax":
            return False
        layer = workload.layers[0]
        shape = workload.tensors[layer.inputs[0]].shape
        floats = all(t.dtype == "float32" for t in workload.tensors.values())
        plain = all(v == PLAIN for v in layouts.values())
        return floats and plain and _split(workload, layer, shape) is not None

    def space(self, workload: Graph, layouts: Layouts, device: Device) -> Space:
        layer = workload.layers[0]
        shape = workload.tensors[layer.inputs[0]].shape
        columns = prod(shape[_split(workload, layer, shape) or 0 :])
        vectors = [u for u in (1, 2, 4) if u == 1 or u * device.lanes <= columns]
        return Space({"unroll": vectors}, {"unroll": min(2, vectors[-1])})

    def build(self, workload: Graph, layouts: Layouts, knobs: Knobs, cores: int, device: Device) -> Kernel:
        layer = workload.layers[0]
        shape = workload.tensors[layer.inputs[0]].shape
        axis = _split(workload, layer, shape) or 0
        rows, line = prod(shape[:axis]), Row.of(prod(shape[axis:]), device.lanes * knobs["unroll"])
        steps, width = line.steps, line.width
        body = Body(workload, layouts)
        data = body.input(layer.inputs[0])

        def index(row: Any, step: Any, lane: Any) -> tuple[Any, ...]:
            return (*unflatten(row, shape[:axis]), *unflatten(line.column(step, lane), shape[axis:]))

        k1, k2 = te.reduce_axis((0, steps), "k1"), te.reduce_axis((0, steps), "k2")
        high_lane = te.compute((rows, width), lambda r, i: te.max(data.at(index(r, k1, i)), axis=k1), name="high_lane")
        high = te.compute((rows,), lambda r: tree(tirx.max, [high_lane(r, i) for i in range(width)]), name="high")
        power = te.compute(
            (rows, steps, width), lambda r, k, i: fast.exp_below_one(data.at(index(r, k, i)) - high(r)), name="power"
        )
        sum_lane = te.compute(
            (rows, width), lambda r, i: te.sum(line.once(k2, i, power(r, k2, i)), axis=k2), name="sum_lane"
        )
        share = te.compute(
            (rows,),
            lambda r: fast.const(1) / tree(lambda a, b: a + b, [sum_lane(r, i) for i in range(width)]),
            name="share",
        )
        out = te.compute((rows, steps, width), lambda r, k, i: power(r, k, i) * share(r), name="out")
        tensors, args = body.finish(out)
        module = module_of(tensors)
        sch = schedule_of(module)
        row = parallelise(sch, sch.get_loops("out")[0], cores if rows > 1 else 1, device.cores)
        for name in ("share", "sum_lane", "power", "high", "high_lane"):
            sch.compute_at(name, row, preserve_unit_loops=True)
        for name in ("high_lane", "sum_lane"):
            lane_reduction(sch, name)
        for name in ("power", "out"):
            sch.vectorize(sch.get_loops(name)[-1])
        sch.transform_layout("out", ("write", 0), index, assume_injective_transform=not line.even)
        return Kernel(module, sch, args, body.packs)


def _split(workload: Graph, layer: Layer, shape: tuple[int, ...]) -> int | None:
    """The axis at which rows begin; None when a row's elements are not contiguous, or there are none."""
    if not prod(shape) or not shape:
        return None
    if workload.opset < 13:  # everything from the axis on is one row
        return int(layer.attr("axis", 1)) % len(shape)
    axis = int(layer.attr("axis", -1)) % len(shape)
    return axis if prod(shape[axis + 1 :]) == 1 else None
