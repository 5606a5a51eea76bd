"""Chains of elementwise layers, concatenation and channel shuffles as one pass over memory; also layout changes.

A layout change is the workload "Identity" with different layouts on its two sides.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

from tvm import te, tirx

from tuner.graph.ir import Graph, Layer
from tuner.kernels.base import Kernel, KernelTemplate, Knobs, Layouts, Space
from tuner.kernels.epilogue import Body, anchored, fusable_elementwise
from tuner.kernels.scheduling import module_of, parallelise, schedule_of
from tuner.kernels.shuffle import leading_shuffle
from tuner.kernels.views import Chan, flat, output_index
from tuner.plan.layout import block_of, physical_shape
from tuner.types import Device


class Elementwise(KernelTemplate):
    """Any chain or DAG of elementwise layers with one float32 result."""

    name = "elementwise"
    version = 2

    def accepts(self, workload: Graph, layouts: Layouts, device: Device) -> bool:
        if len(workload.outputs) != 1 or any(t.dtype != "float32" for t in workload.tensors.values()):
            return False
        return _layouts_fit(workload, layouts) and all(fusable_elementwise(workload, x) for x in workload.layers)

    def space(self, workload: Graph, layouts: Layouts, device: Device) -> Space:
        return Space({"unroll": [1, 4]}, {"unroll": 1})

    def build(self, workload: Graph, layouts: Layouts, knobs: Knobs, cores: int, device: Device) -> Kernel:
        body = Body(workload, layouts)
        return one_pass(body, knobs, cores, device)


class Concat(KernelTemplate):
    """Concatenation with the elementwise layers behind it; in blocked layouts all parts but the last fill blocks.

    Among plain parts there may be weights (the class token of a vision transformer), and images among images.
    """

    name = "concat"
    version = 2
    heavy = frozenset({"Concat"})

    def accepts(self, workload: Graph, layouts: Layouts, device: Device) -> bool:
        layer = anchored(workload, self.heavy)
        if layer is None or not _layouts_fit(workload, layouts):
            return False
        block = block_of(layouts[workload.outputs[0]])
        axis = layer.attr("axis") % len(workload.tensors[layer.outputs[0]].shape)
        if not _from_inputs(workload, layer):
            given = all(n in workload.inputs or _is_weights(workload, n) for n in layer.inputs)
            return given and (axis != 1 or not (block or any(block_of(layouts[n]) for n in workload.inputs)))
        parts = [workload.tensors[n].shape for n in layer.inputs]
        if block and axis == 1:
            return all(p[1] % block == 0 for p in parts[:-1]) and all(
                block_of(layouts[n]) == block for n in layer.inputs
            )
        return not any(block_of(layouts[n]) for n in layer.inputs) or axis != 1

    def space(self, workload: Graph, layouts: Layouts, device: Device) -> Space:
        return Space({"unroll": [1, 4]}, {"unroll": 1})

    def build(self, workload: Graph, layouts: Layouts, knobs: Knobs, cores: int, device: Device) -> Kernel:
        body = Body(workload, layouts)
        layer = next(x for x in workload.layers if x.op == "Concat")
        axis = layer.attr("axis") % len(workload.tensors[layer.outputs[0]].shape)

        def read(index: Sequence[Any]) -> Any:
            position = index[axis]
            block = position.block if isinstance(position, Chan) else 1
            here = position.outer if isinstance(position, Chan) else position
            value, end = None, workload.tensors[layer.outputs[0]].shape[axis]
            for name in reversed(layer.inputs):
                start = end - workload.type_of(name).shape[axis]
                local: Any = here - start // block
                if isinstance(position, Chan):
                    local = Chan(local, position.inner, block)
                part = body.read(name, (*index[:axis], local, *index[axis + 1 :]))
                value = part if value is None else tirx.if_then_else(here < end // block, part, value)
                end = start
            return value

        body.anchors[layer.outputs[0]] = read
        return one_pass(body, knobs, cores, device)


class Channels(KernelTemplate):
    """Each output channel copies a fixed channel of some input: shuffles, and concatenations that straddle blocks.

    The channel loops are unrolled, so that every source is a constant when the code is made.
    """

    name = "channels"
    version = 2
    heavy = frozenset({"Concat", "Reshape", "Transpose"})
    LIMIT = 2048  # channels; beyond, the straight-line code outgrows the instruction cache

    def accepts(self, workload: Graph, layouts: Layouts, device: Device) -> bool:
        layers = _rearranging(workload)
        if not layers or block_of(layouts[workload.outputs[0]]) != device.lanes or not _layouts_fit(workload, layouts):
            return False
        moved = layers[-1].outputs[0]
        shape = workload.tensors[moved].shape
        rest = workload.layers[len(layers) :]
        fine = all(fusable_elementwise(workload, x) and workload.tensors[x.outputs[0]].shape == shape for x in rest)
        floats = all(t.dtype == "float32" for t in workload.tensors.values())
        return fine and floats and len(workload.outputs) == 1 and shape[1] <= self.LIMIT

    def space(self, workload: Graph, layouts: Layouts, device: Device) -> Space:
        return Space({"unroll": [1]}, {"unroll": 1})

    def build(self, workload: Graph, layouts: Layouts, knobs: Knobs, cores: int, device: Device) -> Kernel:
        body = Body(workload, layouts)
        layers = _rearranging(workload)
        moved, source = layers[-1].outputs[0], _channel_source(workload, layers)
        channels = workload.tensors[moved].shape[1]

        def read(index: Sequence[Any]) -> Any:
            n, c, y, x = index
            return source(body, n, tirx.min(flat(c), channels - 1), y, x)

        body.anchors[moved] = read
        name, lanes = workload.outputs[0], device.lanes
        n, c, h, w = workload.tensors[name].shape
        out = te.compute(
            (n, -(-c // lanes), h, w, lanes),
            lambda i, co, y, x, ci: body.result((i, Chan(co, ci, lanes), y, x)),
            name="out",
        )
        tensors, args = body.finish(out)
        module = module_of(tensors)
        sch = schedule_of(module)
        i, co, y, x, ci = sch.get_loops(sch.get_sblock("out"))
        sch.reorder(i, y, x, co, ci)
        parallelise(sch, sch.fuse(i, y), cores, device.cores)
        sch.unroll(co)
        sch.unroll(ci)
        return Kernel(module, sch, args, body.packs)


def _rearranging(workload: Graph) -> tuple[Layer, ...]:
    """The first layers of the workload if they move whole channels about: a shuffle's three, or one Concat."""
    layers, shuffle = workload.layers, leading_shuffle(workload)
    if shuffle is not None:
        return shuffle.layers
    if layers and layers[0].op == "Concat" and _from_inputs(workload, layers[0]):
        rank4 = len(workload.tensors[layers[0].outputs[0]].shape) == 4
        return layers[:1] if rank4 and layers[0].attr("axis") % 4 == 1 else ()
    return ()


def _channel_source(workload: Graph, layers: tuple[Layer, ...]) -> Any:
    """Function (body, n, channel, y, x) -> the input element that an output channel copies."""
    shuffle = leading_shuffle(workload)
    if shuffle is not None:
        return lambda body, n, c, y, x: body.read(shuffle.read, (n, shuffle.source(c), y, x))

    def concat(body: Body, n: Any, c: Any, y: Any, x: Any) -> Any:
        value, end = None, workload.tensors[layers[0].outputs[0]].shape[1]
        for name in reversed(layers[0].inputs):
            start = end - workload.tensors[name].shape[1]
            part = body.read(name, (n, c - start, y, x))
            value = part if value is None else tirx.if_then_else(c < end, part, value)
            end = start
        return value

    return concat


def _from_inputs(workload: Graph, layer: Layer) -> bool:
    return all(n in workload.inputs for n in layer.inputs)


def _is_weights(workload: Graph, name: str) -> bool:
    constant = workload.constants.get(name)
    return constant is not None and constant.dtype == "float32" and constant.value is None


def _layouts_fit(workload: Graph, layouts: Layouts) -> bool:
    """Blocked layouts stand on rank-4 tensors only."""
    names = (*workload.inputs, *workload.outputs)
    return all(len(workload.tensors[n].shape) == 4 for n in names if block_of(layouts.get(n, "plain")))


def one_pass(body: Body, knobs: Knobs, cores: int, device: Device) -> Kernel:
    """The kernel that writes the workload's output in one pass."""
    name = body.workload.outputs[0]
    shape, layout = body.workload.tensors[name].shape, body.layouts[name]
    logical = output_index(shape, layout)
    dims = physical_shape(shape, layout) or (1,)
    out = te.compute(dims if shape else (), lambda *p: body.result(logical(*p) if shape else ()), name="out")
    tensors, args = body.finish(out)
    module = module_of(tensors)
    sch = schedule_of(module)
    _schedule(sch, body, dims, knobs["unroll"], cores, device)
    return Kernel(module, sch, args, body.packs)


def _schedule(sch: Any, body: Body, dims: tuple[int, ...], unroll: int, cores: int, device: Device) -> None:
    loops = sch.get_loops(sch.get_sblock("out"))
    if not loops:
        return
    lanes = device.lanes
    if dims[-1] % lanes and _uniform(body) and prod(dims) >= lanes:
        loops, dims = [sch.fuse(*loops)], (prod(dims),)
    width = next((v for v in (lanes, lanes // 2, lanes // 4) if v and dims[-1] % v == 0), 1)
    *outer, inner = loops
    if width > 1:
        inner, vector = sch.split(inner, [None, width])
        sch.vectorize(vector)
    steps = dims[-1] // width
    if unroll > 1 and steps % unroll == 0:
        inner, few = sch.split(inner, [None, unroll])
        sch.unroll(few)
    parallelise(sch, sch.fuse(*outer, inner), cores, device.cores)


def _uniform(body: Body) -> bool:
    """Whether every operand has the output's shape and layout, so that all dimensions are one long one."""
    w = body.workload
    out = w.outputs[0]
    shape, layout = w.tensors[out].shape, body.layouts[out]
    if any(x.op == "Concat" for x in w.layers):
        return False
    return all(w.tensors[n].shape == shape and body.layouts.get(n) == layout for n in w.inputs) and all(
        c.elements == 1 for c in w.constants.values()
    )
