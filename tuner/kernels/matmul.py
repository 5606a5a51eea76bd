"""Products of two activations (attention): batches of [M, K] x [K, N], both computed at run time.

One task owns a slab of ``oc_t`` vectors of columns of one batch: it copies its slab of the right operand into a packed
buffer of its own, then walks the rows in register tiles of ``reg_m``. Ragged columns are zero in the copy.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

from tvm import te, tirx

from tuner.graph.ir import Graph, Layer
from tuner.kernels.base import Kernel, KernelTemplate, Knobs, Layouts, Space
from tuner.kernels.dense import flatten, unflatten
from tuner.kernels.epilogue import Body, anchored
from tuner.kernels.scheduling import module_of, parallelise, schedule_of
from tuner.plan.layout import PLAIN
from tuner.types import Device


class MatMul(KernelTemplate):
    name = "matmul"

    def accepts(self, workload: Graph, layouts: Layouts, device: Device) -> bool:
        layer = anchored(workload, frozenset({"MatMul"}), layouts)
        if layer is None or any(v != PLAIN for v in layouts.values()):
            return False
        if any(n not in workload.inputs for n in layer.inputs):
            return False
        left, right = (workload.tensors[n].shape for n in layer.inputs)
        return len(left) == len(right) >= 2 and left[:-2] == right[:-2]

    def space(self, workload: Graph, layouts: Layouts, device: Device) -> Space:
        _, m, _, n = _sizes(workload)
        oc_t = [t for t in (1, 2, 4) if t == 1 or device.lanes * t <= n + device.lanes - 1]
        reg_m = [r for r in range(1, min(m, 14) + 1) if m % r == 0 or (r >= 4 and m > 14)]
        best_t = oc_t[min(1, len(oc_t) - 1)]
        fits = [r for r in reg_m if best_t * r <= device.registers]
        exact = [r for r in fits if m % r == 0]
        default = {"oc_t": best_t, "reg_m": exact[-1] if exact[-1] >= 4 else fits[-1]}
        knobs = {"oc_t": oc_t, "reg_m": reg_m}
        return Space(knobs, default, lambda p: p["oc_t"] * p["reg_m"] <= device.registers)

    def build(self, workload: Graph, layouts: Layouts, knobs: Knobs, cores: int, device: Device) -> Kernel:
        layer = _anchor(workload)
        body = Body(workload, layouts)
        batch, m, k, n = _sizes(workload)
        ob, reg_m = device.lanes * knobs["oc_t"], knobs["reg_m"]
        chunks, rows = -(-n // ob), -(-m // reg_m) * reg_m
        result = workload.tensors[layer.outputs[0]].shape
        dims = result[:-2]

        def right(b: Any, o: Any, kk: Any, j: Any) -> Any:
            column = o * ob + j
            value = body.read(layer.inputs[1], (*unflatten(b, dims), kk, column))
            return value if n % ob == 0 else tirx.if_then_else(column < n, value, tirx.const(0, "float32"))

        packed = te.compute((batch, chunks, k, ob), right, name="packed")
        kk = te.reduce_axis((0, k), "k")

        def left(b: Any, row: Any) -> Any:
            row = row if rows == m else te.min(row, m - 1)
            return body.read(layer.inputs[0], (*unflatten(b, dims), row, kk))

        acc = te.compute(
            (batch, chunks, rows, ob), lambda b, o, i, j: te.sum(left(b, i) * packed(b, o, kk, j), axis=kk), name="acc"
        )

        def read(index: Sequence[Any]) -> Any:
            b, row, column = flatten(index[:-2], dims), index[-2], index[-1]
            return acc(b, column // ob, row, column % ob)

        body.anchors[layer.outputs[0]] = read
        name = workload.outputs[0]
        out = te.compute((batch, m, n), lambda b, i, j: body.read(name, (*unflatten(b, dims), i, j)), name="out")
        tensors, args = body.finish(out)
        module = module_of(tensors)
        sch = schedule_of(module)
        b, i, j = sch.get_loops("out")
        i_o, i_i = sch.split(i, [None, reg_m])
        j_o, j_i = sch.split(j, [None, ob])
        sch.reorder(b, j_o, i_o, i_i, j_i)
        task = parallelise(sch, sch.fuse(b, j_o), cores, device.cores)
        acc_block = sch.get_sblock("acc")
        sch.set_scope(acc_block, 0, "local")
        sch.compute_at(acc_block, i_o, preserve_unit_loops=True)
        sch.compute_at("packed", task, preserve_unit_loops=True)
        if n % ob == 0:
            sch.vectorize(sch.get_loops("packed")[-1])
            sch.vectorize(j_i)
            sch.unroll(i_i)
        row, lane, depth = sch.get_loops(acc_block)[-3:]
        sch.reorder(depth, row, lane)
        sch.unroll(row)
        sch.vectorize(lane)
        init = sch.decompose_reduction(acc_block, depth)
        sch.vectorize(sch.get_loops(init)[-1])
        sch.unroll(sch.get_loops(init)[-2])
        if len(result) != 3:
            sch.transform_layout("out", ("write", 0), lambda b, i, j: (*unflatten(b, dims), i, j))
        return Kernel(module, sch, args, body.packs)


def _anchor(workload: Graph) -> Layer:
    return next(x for x in workload.layers if x.op == "MatMul")


def _sizes(workload: Graph) -> tuple[int, int, int, int]:
    """(batches, rows, depth, columns)."""
    layer = _anchor(workload)
    *dims, m, k = workload.tensors[layer.inputs[0]].shape
    return prod(dims), m, k, workload.tensors[layer.inputs[1]].shape[-1]
