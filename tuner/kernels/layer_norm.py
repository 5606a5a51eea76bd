"""Layer normalisation over the last axes, with a fused epilogue: y = (x - mean) / sqrt(variance + epsilon) * s + t.

The variance is the mean of squared distances from the mean, in a second pass over the row, which is in the nearest
cache by then: the difference of two large sums would cancel.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

from tvm import te, tirx

from tuner.graph.ir import Graph, Layer
from tuner.kernels import math as fast
from tuner.kernels.base import Kernel, KernelTemplate, Knobs, Layouts, Space
from tuner.kernels.epilogue import Body, anchored
from tuner.kernels.rows import Row, lane_reduction, tree, unflatten
from tuner.kernels.scheduling import module_of, parallelise, schedule_of
from tuner.plan.layout import PLAIN
from tuner.types import Device


class LayerNorm(KernelTemplate):
    name = "layer_norm"
    heavy = frozenset({"LayerNormalization"})

    def accepts(self, workload: Graph, layouts: Layouts, device: Device) -> bool:
        layer = anchored(workload, self.heavy)
        if layer is None or any(v != PLAIN for v in layouts.values()) or layer.inputs[0] not in workload.inputs:
            return False
        shape = workload.tensors[layer.inputs[0]].shape
        parameters = [workload.constants.get(n) for n in layer.inputs[1:] if n]
        known = all(p is not None and p.dtype == "float32" for p in parameters)
        single = layer.attr("stash_type", 1) == 1
        return bool(parameters) and known and single and prod(shape) > 0

    def space(self, workload: Graph, layouts: Layouts, device: Device) -> Space:
        return Space({"unroll": [1]}, {"unroll": 1})

    def build(self, workload: Graph, layouts: Layouts, knobs: Knobs, cores: int, device: Device) -> Kernel:
        layer = next(x for x in workload.layers if x.op == "LayerNormalization")
        shape = workload.tensors[layer.inputs[0]].shape
        axis = _axis(layer, len(shape))
        rows, line = prod(shape[:axis]), Row.of(prod(shape[axis:]), device.lanes)
        steps, width = line.steps, line.width
        body = Body(workload, layouts)
        data = body.input(layer.inputs[0])

        def index(row: Any, step: Any, lane: Any) -> tuple[Any, ...]:
            return (*unflatten(row, shape[:axis]), *unflatten(line.column(step, lane), shape[axis:]))

        def total(lanes: Any, row: Any) -> Any:
            return tree(lambda a, b: a + b, [lanes(row, i) for i in range(width)])

        def distance(row: Any, step: Any, lane: Any) -> Any:
            return data.at(index(row, step, lane)) - mean(row)

        k1, k2 = te.reduce_axis((0, steps), "k1"), te.reduce_axis((0, steps), "k2")
        part = fast.const(1 / line.columns)
        sum_lane = te.compute(
            (rows, width), lambda r, i: te.sum(line.once(k1, i, data.at(index(r, k1, i))), axis=k1), name="sum_lane"
        )
        mean = te.compute((rows,), lambda r: total(sum_lane, r) * part, name="mean")
        square_lane = te.compute(
            (rows, width),
            lambda r, i: te.sum(line.once(k2, i, distance(r, k2, i) * distance(r, k2, i)), axis=k2),
            name="square_lane",
        )
        epsilon = fast.const(layer.attr("epsilon", 1e-5))
        scale = te.compute(
            (rows,), lambda r: fast.const(1) / tirx.sqrt(total(square_lane, r) * part + epsilon), name="scale"
        )
        name = workload.outputs[0]

        def result(row: Any, step: Any, lane: Any) -> Any:
            place = index(row, step, lane)

            def normalised(_: Sequence[Any]) -> Any:
                value = distance(row, step, lane) * scale(row) * body.read(layer.inputs[1], place)
                shift = [n for n in layer.inputs[2:] if n]
                return value + body.read(shift[0], place) if shift else value

            body.anchors[layer.outputs[0]] = normalised
            return body.read(name, place)

        out = te.compute((rows, steps, width), result, name="out")
        tensors, args = body.finish(out)
        module = module_of(tensors)
        sch = schedule_of(module)
        row = parallelise(sch, sch.get_loops("out")[0], cores if rows > 1 else 1, device.cores)
        for stage in ("scale", "square_lane", "mean", "sum_lane"):
            sch.compute_at(stage, row, preserve_unit_loops=True)
        for stage in ("sum_lane", "square_lane"):
            lane_reduction(sch, stage)
        sch.vectorize(sch.get_loops("out")[-1])
        sch.transform_layout("out", ("write", 0), index, assume_injective_transform=not line.even)
        return Kernel(module, sch, args, body.packs)


def _axis(layer: Layer, rank: int) -> int:
    """The first axis that is normalised over."""
    return int(layer.attr("axis", -1)) % rank
