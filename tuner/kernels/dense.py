"""Fully connected layers: Gemm and MatMul with constant weights, packed in slabs of columns, with a fused epilogue.

One row (batch 1) is a matrix-vector product bound by memory: each core streams its own slabs of weights once. More rows
are tiled ``reg_m`` x ``oc_t`` vectors in registers, like a 1x1 convolution; ``order`` 0 keeps a slab of weights close
while the rows pass by, 1 keeps a tile of rows. Ragged rows and columns are covered by tiles that overlap.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

from tvm import te

from tuner.graph.ir import Graph, Layer
from tuner.kernels.base import Kernel, KernelTemplate, Knobs, Layouts, Space
from tuner.kernels.epilogue import Body, anchored
from tuner.kernels.rows import Row, unflatten
from tuner.kernels.scheduling import module_of, parallelise, schedule_of
from tuner.kernels.tiles import best_tile, fits, tile_knobs
from tuner.plan.bf16 import weights_of
from tuner.plan.layout import PLAIN, Pack
from tuner.precision import BF16
from tuner.types import Device


class Dense(KernelTemplate):
    name = "dense"
    version = 2
    heavy = frozenset({"Gemm", "MatMul"})

    def accepts(self, workload: Graph, layouts: Layouts, device: Device) -> bool:
        layer = anchored(workload, self.heavy)
        if layer is None or any(v != PLAIN for v in layouts.values()) or layer.inputs[0] not in workload.inputs:
            return False
        weights = workload.constants.get(layer.inputs[1])
        if weights is None or weights.value is not None or len(weights.shape) != 2 or layer.attr("transA", 0):
            return False
        return len(workload.tensors[layer.inputs[0]].shape) >= 2

    def space(self, workload: Graph, layouts: Layouts, device: Device) -> Space:
        m, n, k = _sizes(workload)
        vectors = Row.of(n, device.lanes).steps
        if m == 1:
            oc_t = [t for t in (1, 2, 3, 4, 6, 8) if t <= vectors]
            unroll = [u for u in (1, 2, 4, 8) if k % u == 0]
            best = max(t for t in oc_t if t <= 4 and (t == 1 or -(-vectors // t) >= 2 * device.cores))
            default = {"oc_t": best, "reg_m": 1, "order": 0, "unroll": unroll[-1]}
            return Space({"oc_t": oc_t, "reg_m": [1], "order": [0], "unroll": unroll}, default)
        tile = tile_knobs(m, vectors)
        outgrown = 4 * m * k > device.l2 >= 4 * n * k  # the rows leave a core's cache, the weights do not
        default = {**best_tile(tile, m, vectors, device), "order": int(outgrown), "unroll": 1}
        knobs = {**tile, "order": [0, 1], "unroll": [u for u in (1, 2, 4) if k % u == 0]}
        return Space(knobs, default, lambda p: fits(p, device))

    def build(self, workload: Graph, layouts: Layouts, knobs: Knobs, cores: int, device: Device) -> Kernel:
        layer = _anchor(workload)
        body = Body(workload, layouts)
        m, n, k = _sizes(workload)
        oc_t, reg_m = knobs["oc_t"], knobs["reg_m"]
        columns, rows = Row.of(n, device.lanes), Row(m, reg_m)
        width, chunks = columns.width, -(-columns.steps // oc_t)
        whole = columns.even and columns.steps % oc_t == 0
        transposed = layer.op == "Gemm" and bool(layer.attr("transB", 0))
        pack = _pack(columns, chunks, oc_t, k, transposed)
        weights = body.weights(layer.inputs[1], (chunks, k, oc_t, width), pack, self.precision)
        shape = workload.tensors[layer.inputs[0]].shape
        result = workload.tensors[layer.outputs[0]].shape
        kk = te.reduce_axis((0, k), "k")

        def column(o: Any, u: Any, j: Any) -> Any:
            step = o * oc_t + u
            return step * width + j if whole else columns.start(step) + j

        acc = te.compute(
            (chunks, rows.steps, reg_m, oc_t, width),
            lambda o, i, r, u, j: te.sum(
                body.read(layer.inputs[0], (*unflatten(rows.column(i, r), shape[:-1]), kk)) * weights(o, kk, u, j),
                axis=kk,
            ),
            name="acc",
        )

        def place(o: Any, i: Any, r: Any, u: Any, j: Any) -> tuple[Any, ...]:
            return (*unflatten(rows.column(i, r), result[:-1]), column(o, u, j))

        def value(o: Any, i: Any, r: Any, u: Any, j: Any) -> Any:
            body.anchors[layer.outputs[0]] = lambda index: _affine(layer, acc(o, i, r, u, j), body, index)
            return body.read(workload.outputs[0], place(o, i, r, u, j))

        out = te.compute(acc.shape, value, name="out")
        tensors, args = body.finish(out)
        module = module_of(tensors)
        sch = schedule_of(module)
        _schedule(sch, knobs, cores, device)
        sch.transform_layout("out", ("write", 0), place, assume_injective_transform=not (whole and rows.even))
        return Kernel(module, sch, args, body.packs)


class DenseBf16(Dense):
    """The same with weights stored as bfloat16: half the bytes to stream, widened in registers."""

    name = "dense_bf16"
    version = 1
    precision = BF16

    def accepts(self, workload: Graph, layouts: Layouts, device: Device) -> bool:
        return super().accepts(workload, layouts, device) and weights_of(workload, _anchor(workload)) is not None


def _affine(layer: Layer, product: Any, body: Body, index: Sequence[Any]) -> Any:
    """A Gemm's alpha, bias and beta applied to its product at ``index``."""
    alpha, beta = float(layer.attr("alpha", 1.0)), float(layer.attr("beta", 1.0))
    if layer.op == "Gemm" and alpha != 1.0:
        product = product * te.const(alpha, "float32")
    if len(layer.inputs) < 3 or not layer.inputs[2]:
        return product
    bias = body.read(layer.inputs[2], index)
    return product + (bias if beta == 1.0 else bias * te.const(beta, "float32"))


def _pack(columns: Row, chunks: int, oc_t: int, k: int, transposed: bool) -> Pack:
    """Weights [K, N] (or [N, K]) as [chunks, K, oc_t, width]; vectors that overlap hold the same columns twice."""
    axis = 0 if transposed else 1
    steps: list[tuple[Any, ...]] = []
    if columns.columns != chunks * oc_t * columns.width:
        last = columns.columns - columns.width
        starts = [min(step * columns.width, last) for step in range(chunks * oc_t)]
        steps.append(("take", axis, [start + lane for start in starts for lane in range(columns.width)]))
    if transposed:
        steps.append(("transpose", [1, 0]))
    return Pack((*steps, ("reshape", [k, chunks, oc_t, columns.width]), ("transpose", [1, 0, 2, 3])))


def _anchor(workload: Graph) -> Layer:
    return next(x for x in workload.layers if x.op in {"Gemm", "MatMul"})


def _sizes(workload: Graph) -> tuple[int, int, int]:
    """(rows, columns, depth) of the product."""
    layer = _anchor(workload)
    *rows, k = workload.tensors[layer.inputs[0]].shape
    return prod(rows), workload.tensors[layer.outputs[0]].shape[-1], k


def _schedule(sch: Any, knobs: Knobs, cores: int, device: Device) -> None:
    o, i, *_, vector, lane = sch.get_loops("out")
    sch.set_scope("acc", 0, "local")
    if knobs["order"]:
        sch.reorder(i, o)
    task = parallelise(sch, sch.fuse(*((i, o) if knobs["order"] else (o, i))), cores, device.cores)
    sch.compute_at("acc", task, preserve_unit_loops=True)
    sch.unroll(vector)
    sch.vectorize(lane)
    row, vector, lane, k = sch.get_loops("acc")[-4:]
    k_o, k_i = sch.split(k, [None, knobs["unroll"]])
    sch.reorder(k_o, k_i, row, vector, lane)
    sch.unroll(k_i)
    sch.unroll(row)
    sch.unroll(vector)
    sch.vectorize(lane)
    *_, row, vector, lane = sch.get_loops(sch.decompose_reduction("acc", k_o))
    sch.unroll(row)
    sch.unroll(vector)
    sch.vectorize(lane)
