"""Writes one kernel of an inverted residual block; see ``inverted_residual``.

Stages beyond those of ``conv_chain_build``: "hidden" (the depthwise convolution with its elementwise layers, all
channels of a band), "acc_c" (the 1x1 convolution that reads it) and "out".
"""

from __future__ import annotations

from math import ceil
from typing import Any

from tvm import te

from tuner.graph.ir import Graph
from tuner.kernels.base import Kernel, Knobs, Layouts
from tuner.kernels.conv_chain_build import ChainBuilder
from tuner.kernels.inverted_residual_shape import Trio, TrioShape
from tuner.kernels.scheduling import module_of, parallelise, schedule_of
from tuner.kernels.views import Chan
from tuner.types import Device


class InvertedResidualBuilder(ChainBuilder):
    def __init__(self, workload: Graph, layouts: Layouts, knobs: Knobs, device: Device, trio: Trio) -> None:
        super().__init__(workload, layouts, {"oc_b": 1, **knobs}, device, trio.pair)
        self.trio, self.trio_shape = trio, TrioShape.of(workload, trio)

    def kernel(self, cores: int) -> Kernel:
        first, second, third = (self.trio_shape.conv(side) for side in "abc")
        ahead, behind = self.shape.pixels(self.rows)
        image, padded = self._image()
        acc_a = self._accumulate(self.pair.first, first, "a", self._copied(ahead, "a"), image)
        between, bordered = self._between(self._activations(acc_a, ahead))
        acc_b = self._accumulate(self.pair.second, second, "b", self._copied(behind, "b"), between)
        hidden = self._hidden(acc_b, behind)

        def projected(n: Any, band: Any, c: Any, pixel: Any, _: Any) -> Any:
            return hidden(n, band, c.outer, pixel, c.inner)

        acc_c = self._accumulate(self.trio.third, third, "c", self._moved(behind, "c"), projected)
        tensors, args = self.body.finish(self._output(self.trio.third, third, "c", acc_c, behind))
        module = module_of(tensors)
        sch = schedule_of(module)
        self._schedule_trio(sch, cores, padded, bordered)
        return Kernel(module, sch, args, self.body.packs)

    def _hidden(self, acc: te.Tensor, pixels: int) -> te.Tensor:
        """The depthwise convolution's activations, one long row of a band's pixels."""
        s, pixel = self.shape.second, self._copied(pixels, "b")
        self._anchor(self.pair.second, "b", acc)

        def element(n: Any, band: Any, co: Any, column: Any, ci: Any) -> Any:
            self._band, self._column, p = band, column, pixel(column)
            place = (self._top(band) + p // s.ow, p % s.ow)
            return self.body.read(self.trio.hidden, (n, Chan(co, ci, self.lanes), *place))

        dims = (s.n, self.bands, ceil(s.oc / self.lanes), self._columns("b"), self.lanes)
        return te.compute(dims, element, name="hidden")

    def _schedule_trio(self, sch: Any, cores: int, padded: bool, bordered: bool) -> None:
        k = self.knobs
        out, acc_c, hidden, acc_b, act, acc_a = (
            sch.get_sblock(b) for b in ("out", "acc_c", "hidden", "acc_b", "act", "acc_a")
        )
        n, band, co, x, ci = sch.get_loops(out)
        co_o, co_t = sch.split(co, [None, k["oc_c"]])
        x_o, x_i = sch.split(x, [None, k["reg_c"]])
        inner = [co_o, x_o] if k["order"] == 0 else [x_o, co_o]
        sch.reorder(n, band, *inner, x_i, co_t, ci)
        task = parallelise(sch, sch.fuse(n, band), cores, self.device.cores)
        sch.compute_at(acc_c, inner[-1], preserve_unit_loops=True)
        sch.compute_at(hidden, task, preserve_unit_loops=True)
        home = self._schedule_hidden(sch, hidden, acc_b)
        self._place_activations(sch, home, bordered)
        self._schedule_activations(sch, act, acc_a, task, padded)
        sch.vectorize(ci)
        for loop in (x_i, co_t):
            sch.unroll(loop)
        self._schedule_sums(sch, {side: self.trio_shape.conv(side) for side in "abc"})
        self._shape_output(sch, self.trio_shape.third, "c")

    def _schedule_hidden(self, sch: Any, hidden: Any, acc: Any) -> Any:
        """A few vectors of channels after the other; returns the loop over these, in which the image ahead is made."""
        co, x, ci = sch.get_loops(hidden)[-3:]
        home, co_t = sch.split(co, [None, self.knobs["oc_a"]])
        x_o, x_i = sch.split(x, [None, self.knobs["reg_b"]])
        sch.reorder(home, co_t, x_o, x_i, ci)
        sch.compute_at(acc, x_o, preserve_unit_loops=True)
        sch.vectorize(ci)
        sch.unroll(x_i)
        return home
