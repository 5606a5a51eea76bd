"""Fully connected layers: Gemm and MatMul with constant weights, packed [N/ob, K, ob], with a fused epilogue.

One row (batch 1) is a matrix-vector product bound by memory: each core streams its own slab of weights once. More rows
are tiled ``reg_m`` x ``oc_t`` vectors in registers, like a 1x1 convolution.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

from tvm import te, tirx

from tuner.graph.ir import Graph, Layer
from tuner.kernels.base import Kernel, KernelTemplate, Knobs, Layouts, Space
from tuner.kernels.epilogue import Body, anchored
from tuner.kernels.scheduling import module_of, parallelise, schedule_of
from tuner.plan.layout import PLAIN, Pack
from tuner.types import Device


class Dense(KernelTemplate):
    name = "dense"

    def accepts(self, workload: Graph, layouts: Layouts, device: Device) -> bool:
        layer = anchored(workload, frozenset({"Gemm", "MatMul"}), layouts)
        if layer is None or any(v != PLAIN for v in layouts.values()) or layer.inputs[0] not in workload.inputs:
            return False
        weights = workload.constants.get(layer.inputs[1])
        if weights is None or weights.value is not None or len(weights.shape) != 2 or layer.attr("transA", 0):
            return False
        return len(workload.tensors[layer.inputs[0]].shape) >= 2

    def space(self, workload: Graph, layouts: Layouts, device: Device) -> Space:
        m, n, k = _sizes(workload)
        chunks = -(-n // device.lanes)
        oc_t = [t for t in (1, 2, 3, 4, 6, 8) if t <= chunks]
        if m == 1:
            unroll = [u for u in (1, 2, 4, 8) if k % u == 0]
            best = max(t for t in oc_t if t <= 4 and (t == 1 or -(-chunks // t) >= 2 * device.cores))
            default = {"oc_t": best, "reg_m": 1, "unroll": unroll[-1]}
            return Space({"oc_t": oc_t, "reg_m": [1], "unroll": unroll}, default)
        oc_t = [t for t in oc_t if t <= 4]
        reg_m = [r for r in range(1, min(m, 14) + 1) if m % r == 0 or (r >= 4 and m > 14)]
        best_t = 2 if 2 in oc_t else 1
        fits = [r for r in reg_m if best_t * r <= device.registers]
        exact = [r for r in fits if m % r == 0]
        default = {"oc_t": best_t, "reg_m": exact[-1] if exact[-1] >= 4 else fits[-1], "unroll": 1}
        knobs = {"oc_t": oc_t, "reg_m": reg_m, "unroll": [u for u in (1, 2, 4) if k % u == 0]}
        return Space(knobs, default, lambda p: p["oc_t"] * p["reg_m"] <= device.registers)

    def build(self, workload: Graph, layouts: Layouts, knobs: Knobs, cores: int, device: Device) -> Kernel:
        layer = _anchor(workload)
        body = Body(workload, layouts)
        m, n, k = _sizes(workload)
        ob, reg_m, unroll = device.lanes * knobs["oc_t"], knobs["reg_m"], knobs["unroll"]
        chunks, rows = -(-n // ob), -(-m // reg_m) * reg_m
        transposed = layer.op == "Gemm" and bool(layer.attr("transB", 0))
        steps: tuple[tuple[Any, ...], ...] = (("transpose", [1, 0]),) if transposed else ()
        pack = Pack(
            (
                *steps,
                ("pad", [[0, 0], [0, chunks * ob - n]]),
                ("reshape", [k, chunks, ob]),
                ("transpose", [1, 0, 2]),
            )
        )
        weights = body.constant(layer.inputs[1], (chunks, k, ob), pack)
        shape = workload.tensors[layer.inputs[0]].shape
        kk = te.reduce_axis((0, k), "k")

        def source(row: Any, column: Any) -> Any:
            return body.read(layer.inputs[0], (*unflatten(row, shape[:-1]), column))

        def clipped(row: Any) -> Any:
            return row if rows == m else te.min(row, m - 1)

        acc = te.compute(
            (rows, chunks, ob), lambda i, o, j: te.sum(source(clipped(i), kk) * weights(o, kk, j), axis=kk), name="acc"
        )
        result = workload.tensors[layer.outputs[0]].shape

        def read(index: Sequence[Any]) -> Any:
            row, column = flatten(index[:-1], result[:-1]), index[-1]
            value = acc(row, column // ob, column % ob)
            alpha, beta = float(layer.attr("alpha", 1.0)), float(layer.attr("beta", 1.0))
            if layer.op == "Gemm" and alpha != 1.0:
                value = value * te.const(alpha, "float32")
            if len(layer.inputs) > 2 and layer.inputs[2]:
                bias = body.read(layer.inputs[2], index)
                value = value + (bias if beta == 1.0 else bias * te.const(beta, "float32"))
            return value

        body.anchors[layer.outputs[0]] = read
        name = workload.outputs[0]
        out = te.compute((m, n), lambda i, j: body.read(name, (*unflatten(i, result[:-1]), j)), name="out")
        tensors, args = body.finish(out)
        module = module_of(tensors)
        sch = schedule_of(module)
        _schedule(sch, m, n, ob, reg_m, unroll, cores, device)
        if len(result) != 2:
            sch.transform_layout("out", ("write", 0), lambda i, j: (*unflatten(i, result[:-1]), j))
        return Kernel(module, sch, args, body.packs)


def _anchor(workload: Graph) -> Layer:
    return next(x for x in workload.layers if x.op in {"Gemm", "MatMul"})


def _sizes(workload: Graph) -> tuple[int, int, int]:
    """(rows, columns, depth) of the product."""
    layer = _anchor(workload)
    *rows, k = workload.tensors[layer.inputs[0]].shape
    return prod(rows), workload.tensors[layer.outputs[0]].shape[-1], k


def unflatten(row: Any, dims: Sequence[int]) -> tuple[Any, ...]:
    """Indices of ``dims`` from a row-major position."""
    index: list[Any] = []
    for position, extent in enumerate(dims):
        inner = prod(dims[position + 1 :])
        value = row // inner if inner > 1 else row
        index.append(tirx.const(0, "int32") if extent == 1 else value % extent if position else value)
    return tuple(index)


def flatten(index: Sequence[Any], dims: Sequence[int]) -> Any:
    """Row-major position of ``index`` in ``dims``."""
    row: Any = 0
    for position, i in enumerate(index):
        row = row * dims[position] + i
    return row


def _schedule(sch: Any, m: int, n: int, ob: int, reg_m: int, unroll: int, cores: int, device: Device) -> None:
    out, acc = sch.get_sblock("out"), sch.get_sblock("acc")
    sch.set_scope(acc, 0, "local")
    i, j = sch.get_loops(out)
    i_o, i_i = sch.split(i, [None, reg_m])
    j_o, j_i = sch.split(j, [None, ob])
    sch.reorder(j_o, i_o, i_i, j_i)
    task = sch.fuse(j_o, i_o)
    parallelise(sch, task, cores, device.cores)
    at = sch.get_loops(out)[-3]
    sch.compute_at(acc, at, preserve_unit_loops=True)
    if n % ob == 0:
        sch.vectorize(j_i)
        sch.unroll(i_i)
    row, _, lane, k = sch.get_loops(acc)[-4:]
    k_o, k_i = sch.split(k, [None, unroll])
    sch.reorder(k_o, k_i, row, lane)
    sch.unroll(k_i)
    sch.unroll(row)
    sch.vectorize(lane)
    init = sch.decompose_reduction(acc, k_o)
    sch.vectorize(sch.get_loops(init)[-1])
    sch.unroll(sch.get_loops(init)[-3])
