"""Products of two activations (attention): batches of [M, K] x [K, N], both computed at run time.

Transposes of an operand, and of the result, are no passes over memory of their own: the kernel reads, and writes, in
the order that they ask for. One task owns ``oc_t`` vectors of columns of one batch: it copies them into a packed buffer
of its own, then walks the rows in register tiles of ``reg_m``. Where there are too few tasks for the cores, all is
packed first, and a task is one tile. Ragged rows and columns are covered by tiles that overlap (``rows.Row``).
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

from tvm import te

from tuner.graph.ir import Graph, Layer
from tuner.kernels.base import Kernel, KernelTemplate, Knobs, Layouts, Space
from tuner.kernels.epilogue import Body, fusable_elementwise
from tuner.kernels.rows import Row, unflatten
from tuner.kernels.scheduling import module_of, parallelise, schedule_of
from tuner.kernels.tiles import best_tile, fits, tile_knobs
from tuner.kernels.transpose import look_through, permutation
from tuner.plan.layout import PLAIN
from tuner.types import Device


class MatMul(KernelTemplate):
    name = "matmul"
    version = 2
    heavy = frozenset({"MatMul", "Transpose"})

    def accepts(self, workload: Graph, layouts: Layouts, device: Device) -> bool:
        floats = all(t.dtype == "float32" and t.elements for t in workload.tensors.values())
        if not floats or len(workload.outputs) != 1 or any(v != PLAIN for v in layouts.values()):
            return False
        return _product(workload) is not None

    def space(self, workload: Graph, layouts: Layouts, device: Device) -> Space:
        _, m, _, n = _sizes(workload)
        vectors = Row.of(n, device.lanes).steps
        knobs = tile_knobs(m, vectors)
        return Space(knobs, best_tile(knobs, m, vectors, device), lambda p: fits(p, device))

    def build(self, workload: Graph, layouts: Layouts, knobs: Knobs, cores: int, device: Device) -> Kernel:
        product = _product(workload)
        if product is None:
            raise ValueError("build() of a workload that accepts() refuses")
        matmul, body = product.matmul, Body(workload, layouts)
        for layer in product.before:
            look_through(body, layer)
        batch, m, k, n = _sizes(workload)
        oc_t, reg_m = knobs["oc_t"], knobs["reg_m"]
        columns, rows = Row.of(n, device.lanes), Row(m, reg_m)
        width, chunks = columns.width, -(-columns.steps // oc_t)
        whole = columns.even and columns.steps % oc_t == 0
        dims = workload.tensors[matmul.outputs[0]].shape[:-2]
        kk = te.reduce_axis((0, k), "k")

        def column(o: Any, u: Any, j: Any) -> Any:
            step = o * oc_t + u
            return step * width + j if whole else columns.start(step) + j

        packed = te.compute(
            (batch, chunks, k, oc_t, width),
            lambda b, o, d, u, j: body.read(matmul.inputs[1], (*unflatten(b, dims), d, column(o, u, j))),
            name="packed",
        )
        acc = te.compute(
            (batch, chunks, rows.steps, reg_m, oc_t, width),
            lambda b, o, i, r, u, j: te.sum(
                body.read(matmul.inputs[0], (*unflatten(b, dims), rows.column(i, r), kk)) * packed(b, o, kk, u, j),
                axis=kk,
            ),
            name="acc",
        )
        tail = product.after.inputs[0] if product.after else workload.outputs[0]

        def result(b: Any, o: Any, i: Any, r: Any, u: Any, j: Any) -> Any:
            body.anchors[matmul.outputs[0]] = lambda _: acc(b, o, i, r, u, j)  # all that follows has its shape
            return body.read(tail, (*unflatten(b, dims), rows.column(i, r), column(o, u, j)))

        out = te.compute(acc.shape, result, name="out")
        order = permutation(workload, product.after) if product.after else range(len(dims) + 2)

        def place(b: Any, o: Any, i: Any, r: Any, u: Any, j: Any) -> tuple[Any, ...]:
            index = (*unflatten(b, dims), rows.column(i, r), column(o, u, j))
            return tuple(index[axis] for axis in order)

        tensors, args = body.finish(out)
        module = module_of(tensors)
        sch = schedule_of(module)
        _schedule(sch, batch * chunks, cores, device)
        sch.transform_layout("out", ("write", 0), place, assume_injective_transform=not (whole and rows.even))
        return Kernel(module, sch, args, body.packs)


def _schedule(sch: Any, slabs: int, cores: int, device: Device) -> None:
    b, o, i, _, u, j = sch.get_loops("out")
    sch.set_scope("acc", 0, "local")
    if slabs >= 2 * device.cores:
        slab = parallelise(sch, sch.fuse(b, o), cores, device.cores)
        sch.compute_at("acc", i, preserve_unit_loops=True)
        sch.compute_at("packed", slab, preserve_unit_loops=True)
    else:
        tile = parallelise(sch, sch.fuse(b, o, i), cores, device.cores)
        sch.compute_at("acc", tile, preserve_unit_loops=True)
        pack = sch.get_loops("packed")
        parallelise(sch, sch.fuse(*pack[:3]), cores, device.cores)
    sch.vectorize(sch.get_loops("packed")[-1])
    sch.vectorize(j)
    sch.unroll(u)
    row, vector, lane, depth = sch.get_loops("acc")[-4:]
    sch.reorder(depth, row, vector, lane)
    sch.unroll(row)
    sch.unroll(vector)
    sch.vectorize(lane)
    init = sch.decompose_reduction("acc", depth)
    *_, row, vector, lane = sch.get_loops(init)
    sch.unroll(row)
    sch.unroll(vector)
    sch.vectorize(lane)


@dataclass(frozen=True)
class _Product:
    """A workload taken apart: Transposes of operands, the product, elementwise layers, perhaps a last Transpose."""

    matmul: Layer
    before: tuple[Layer, ...]
    after: Layer | None


def _product(workload: Graph) -> _Product | None:
    """None for a workload that is not of that form, or whose rows would not be contiguous."""
    heavy = [x for x in workload.layers if x.op in {"MatMul", "Transpose"}]
    products = [x for x in heavy if x.op == "MatMul"]
    if len(products) != 1:
        return None
    matmul, out = products[0], workload.outputs[0]
    before = tuple(x for x in heavy if x.outputs[0] in matmul.inputs)
    late = [x for x in heavy if x is not matmul and x not in before]
    after = late[0] if late else None
    if len(late) > 1 or (after is not None and after.outputs[0] != out):
        return None
    sources = {n: n for n in matmul.inputs} | {x.outputs[0]: x.inputs[0] for x in before}
    if any(sources[n] not in workload.inputs for n in matmul.inputs) or len(set(matmul.inputs)) < len(before):
        return None
    if any(workload.consumers[x.outputs[0]] != (matmul,) for x in before):
        return None
    outer = [x for x in (*before, after) if x is not None and x.outputs[0] in (matmul.inputs[0], out)]
    if any(permutation(workload, x)[-1] != len(workload.tensors[out].shape) - 1 for x in outer):
        return None
    left, right = (workload.tensors[n].shape for n in matmul.inputs)
    shape = workload.tensors[matmul.outputs[0]].shape
    tail = [x for x in workload.layers if x not in heavy]
    fine = all(fusable_elementwise(workload, x) and workload.tensors[x.outputs[0]].shape == shape for x in tail)
    fits_ = len(left) == len(right) >= 2 and left[:-2] == right[:-2]
    return _Product(matmul, before, after) if fine and fits_ else None


def _sizes(workload: Graph) -> tuple[int, int, int, int]:
    """(batches, rows, depth, columns)."""
    layer = next(x for x in workload.layers if x.op == "MatMul")
    *dims, m, k = workload.tensors[layer.inputs[0]].shape
    return prod(dims), m, k, workload.tensors[layer.inputs[1]].shape[-1]
