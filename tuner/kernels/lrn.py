"""Local response normalisation across channels (AlexNet, ZFNet, Inception v1): one pass per pixel.

y[c] = x[c] / (bias + alpha / size * sum of squares over a window of ``size`` channels round c) ** beta.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tvm import te, tirx

from tuner.graph.ir import Graph
from tuner.kernels import math as fast
from tuner.kernels.base import Kernel, KernelTemplate, Knobs, Layouts, Space
from tuner.kernels.epilogue import Body
from tuner.kernels.scheduling import module_of, parallelise, schedule_of
from tuner.kernels.views import Chan
from tuner.plan.layout import block_of
from tuner.types import Device


class Lrn(KernelTemplate):
    name = "lrn"
    heavy = frozenset({"LRN"})

    def accepts(self, workload: Graph, layouts: Layouts, device: Device) -> bool:
        if len(workload.layers) != 1 or workload.layers[0].op != "LRN":
            return False
        tensors = [workload.tensors[n] for n in (*workload.inputs, *workload.outputs)]
        blocked = all(block_of(layouts[t.name]) == device.lanes for t in tensors)
        return blocked and all(len(t.shape) == 4 and t.dtype == "float32" for t in tensors)

    def space(self, workload: Graph, layouts: Layouts, device: Device) -> Space:
        return Space({"unroll": [1]}, {"unroll": 1})

    def build(self, workload: Graph, layouts: Layouts, knobs: Knobs, cores: int, device: Device) -> Kernel:
        layer = workload.layers[0]
        body = Body(workload, layouts)
        data, lanes = body.input(layer.inputs[0]), device.lanes
        n, c, h, w = data.shape
        chunks, size = -(-c // lanes), layer.attr("size")
        before, after = (size - 1) // 2, size // 2
        padded = before + chunks * lanes + after

        def square(i: Any, y: Any, x: Any, k: Any) -> Any:
            value = data.at((i, k - before, y, x))
            inside = tirx.all(k >= before, k < before + c)
            return tirx.if_then_else(inside, value * value, fast.const(0))

        squares = te.compute((n, h, w, padded), square, name="squares")

        def normalised(index: Sequence[Any]) -> Any:
            i, c, y, x = index
            co, ci = c.outer, c.inner
            around: Any = squares(i, y, x, co * lanes + ci)
            for k in range(1, size):
                around = around + squares(i, y, x, co * lanes + ci + k)
            base = fast.const(layer.attr("bias", 1.0)) + fast.const(layer.attr("alpha", 1e-4) / size) * around
            return data.at((i, Chan(co, ci, lanes), y, x)) * _power(base, -layer.attr("beta", 0.75))

        body.anchors[layer.outputs[0]] = normalised
        out = te.compute(
            (n, chunks, h, w, lanes),
            lambda i, co, y, x, ci: body.result((i, Chan(co, ci, lanes), y, x)),
            name="out",
        )
        tensors, args = body.finish(out)
        module = module_of(tensors)
        sch = schedule_of(module)
        i, co, y, x, ci = sch.get_loops("out")
        sch.reorder(i, y, x, co, ci)
        row = parallelise(sch, sch.fuse(i, y), cores, device.cores)
        del row
        sch.compute_at("squares", x)
        sch.vectorize(ci)
        return Kernel(module, sch, args, body.packs)


def _power(base: Any, exponent: float) -> Any:
    """base ** exponent for positive base; quarter powers by square roots, the rest by exp(exponent * log(base))."""
    if exponent == -0.75:
        root = tirx.sqrt(base)
        return fast.const(1.0) / (root * tirx.sqrt(root))
    if exponent == -0.5:
        return fast.const(1.0) / tirx.sqrt(base)
    if exponent == -1.0:
        return fast.const(1.0) / base
    return fast.exp(fast.const(exponent) * fast.log(base))
