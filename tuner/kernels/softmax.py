"""Softmax over one axis whose elements are contiguous (everything behind it has extent 1)."""

from __future__ import annotations

from math import prod
from typing import Any

from tvm import te, tirx

from tuner.graph.ir import Graph, Layer
from tuner.kernels import math as fast
from tuner.kernels.base import Kernel, KernelTemplate, Knobs, Layouts, Space
from tuner.kernels.epilogue import Body
from tuner.kernels.scheduling import module_of, parallelise, schedule_of
from tuner.plan.layout import PLAIN
from tuner.types import Device


class Softmax(KernelTemplate):
    """Rows of ``columns`` numbers: maximum, exponentials, sum and quotient, each ``lanes`` at a time."""

    name = "softmax"

    def accepts(self, workload: Graph, layouts: Layouts, device: Device) -> bool:
        if len(workload.layers) != 1 or workload.layers[0].op != "Softmax":
            return False
        layer = workload.layers[0]
        shape = workload.tensors[layer.inputs[0]].shape
        floats = all(t.dtype == "float32" for t in workload.tensors.values())
        plain = all(v == PLAIN for v in layouts.values())
        return floats and plain and _rows_columns(workload, layer, shape) is not None

    def space(self, workload: Graph, layouts: Layouts, device: Device) -> Space:
        return Space({"unroll": [1]}, {"unroll": 1})

    def build(self, workload: Graph, layouts: Layouts, knobs: Knobs, cores: int, device: Device) -> Kernel:
        layer = workload.layers[0]
        shape = workload.tensors[layer.inputs[0]].shape
        rows, columns = _rows_columns(workload, layer, shape) or (1, 1)
        body = Body(workload, layouts)
        data, lanes = body.input(layer.inputs[0]), device.lanes
        steps = -(-columns // lanes)
        low = tirx.const(-3.0e38, "float32")

        def element(row: Any, column: Any) -> Any:
            return data.at(_index(row * columns + column, shape))

        def guarded(row: Any, column: Any, value: Any, border: Any) -> Any:
            return value if columns % lanes == 0 else tirx.if_then_else(column < columns, value, border)

        k1, l1 = te.reduce_axis((0, steps), "k1"), te.reduce_axis((0, lanes), "l1")
        k2, l2 = te.reduce_axis((0, steps), "k2"), te.reduce_axis((0, lanes), "l2")
        high_lane = te.compute(
            (rows, lanes),
            lambda r, i: te.max(guarded(r, k1 * lanes + i, element(r, k1 * lanes + i), low), axis=k1),
            name="high_lane",
        )
        high = te.compute((rows,), lambda r: te.max(high_lane(r, l1), axis=l1), name="high")
        power = te.compute(
            (rows, steps, lanes),
            lambda r, k, i: guarded(
                r, k * lanes + i, fast.exp(_clamped(element, r, k * lanes + i, columns) - high(r)), fast.const(0)
            ),
            name="power",
        )
        sum_lane = te.compute((rows, lanes), lambda r, i: te.sum(power(r, k2, i), axis=k2), name="sum_lane")
        total = te.compute((rows,), lambda r: te.sum(sum_lane(r, l2), axis=l2), name="total")
        out = te.compute((rows, columns), lambda r, c: power(r, c // lanes, c % lanes) / total(r), name="out")
        tensors, args = body.finish(out)
        module = module_of(tensors)
        sch = schedule_of(module)
        row = sch.get_loops("out")[0]
        row = parallelise(sch, row, cores if rows > 1 else 1, device.cores)
        for name in ("total", "sum_lane", "power", "high", "high_lane"):
            sch.compute_at(name, row, preserve_unit_loops=True)
        for name in ("high_lane", "sum_lane"):
            *_, lane, k = sch.get_loops(name)
            sch.reorder(k, lane)
            sch.vectorize(lane)
            sch.vectorize(sch.get_loops(sch.decompose_reduction(name, k))[-1])
        if columns % lanes == 0:
            sch.vectorize(sch.get_loops("power")[-1])
        width = next((v for v in (lanes, lanes // 2, lanes // 4) if v and columns % v == 0), 1)
        if width > 1:
            sch.vectorize(sch.split(sch.get_loops("out")[-1], [None, width])[1])
        sch.transform_layout("out", ("write", 0), lambda r, c: _index(r * columns + c, shape))
        return Kernel(module, sch, args, body.packs)


def _rows_columns(workload: Graph, layer: Layer, shape: tuple[int, ...]) -> tuple[int, int] | None:
    """(independent rows, elements per row), or None when a row's elements are not contiguous."""
    if not shape:
        return None
    if workload.opset < 13:  # everything from the axis on is one row
        axis = layer.attr("axis", 1) % len(shape)
        return prod(shape[:axis]), prod(shape[axis:])
    axis = layer.attr("axis", -1) % len(shape)
    return (prod(shape[:axis]), shape[axis]) if prod(shape[axis + 1 :]) == 1 else None


def _clamped(element: Any, row: Any, column: Any, columns: int) -> Any:
    return element(row, te.min(column, columns - 1))


def _index(flat: Any, shape: tuple[int, ...]) -> tuple[Any, ...]:
    """Row-major position -> indices of ``shape``."""
    index = []
    for position, extent in enumerate(shape):
        inner = prod(shape[position + 1 :])
        index.append(tirx.const(0, "int32") if extent == 1 else (flat // inner) % extent if position else flat // inner)
    return tuple(index)
