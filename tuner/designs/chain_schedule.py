"""The schedule of a chain of convolutions: decisions in, tvm.s_tir.Schedule out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

import tvm
from tvm.s_tir import Schedule

from tuner.designs.chain_stages import Stages
from tuner.designs.convolution import Convolution
from tuner.designs.hoisting import Guard, finished

WEIGHTS, INPUT = 1, 2  # what "stage" copies to shared memory, as bits
UNROLLED = (1, 2, 4, 8)  # channels that a sum's innermost loop adds, unrolled


def scheduled(module: Any, stages: Stages, values: Mapping[str, Any]) -> Any:
    """The tvm.s_tir.Schedule that these decisions make. Raises ScheduleError where TVM does not follow."""
    return _Scheduling(module, stages, values).run()


class _Scheduling:
    def __init__(self, module: Any, stages: Stages, values: Mapping[str, Any]) -> None:
        self._s, self._stages, self._values = Schedule(module, debug_mask="none"), stages, values
        self._last_axis = stages.convolutions[0].axis == 3  # channels stand last
        self._threads = prod(values[name][0] for name in ("rows", "columns", "channels"))
        self._firsts: list[Any] = []  # the outermost loop of each sum within an image
        self._shares: list[tuple[Any, Any, int]] = []  # of an image's threads: loops, and how much there is to do

    def run(self) -> Any:
        s, stages, values = self._s, self._stages, self._values
        for name in stages.inlined:
            s.compute_inline(s.get_sblock(name))
        staged = stages.before is not None and bool(values["stage"] & INPUT)
        if stages.before is not None and not staged:
            s.compute_inline(s.get_sblock(stages.before))
        sums = [s.get_sblock(name) for name in stages.sums]
        weights: list[Any] = [None] * len(sums)
        if values["stage"] & WEIGHTS:
            weights = [
                s.cache_read(block, _reads(s.get(block), c.weight), "shared")
                for block, c in zip(sums, stages.convolutions, strict=True)
            ]
        thread = self._result(sums[-1])
        outer, inside = self._reduced(sums[-1], thread)
        images = [s.get_sblock(name) for name in stages.images]
        for number in reversed(range(len(images))):
            s.set_scope(images[number], 0, "shared")
            s.compute_at(images[number], outer, preserve_unit_loops=True)
            s.set_scope(sums[number], 0, "local")
            s.compute_at(sums[number], outer, preserve_unit_loops=True)
        if staged:
            before = s.get_sblock(stages.before)
            s.set_scope(before, 0, "shared")
            s.compute_at(before, outer if stages.convolutions[0].depthwise else thread, preserve_unit_loops=True)
            self._shared_out(before, self._inner(before, len(stages.convolutions[0].data.shape)))
        for copy in weights:
            if copy is not None:
                s.compute_at(copy, outer, preserve_unit_loops=True)
                self._shared_out(copy, self._inner(copy, 4))
        for number, image in enumerate(images):
            self._image(image, sums[number], stages.convolutions[number], values[f"image{number}"])
        for loop in inside:
            s.unroll(loop)
        zeroed = [s.get(loop) for loop in (outer, *self._firsts)]
        guards = [Guard(s.get(turn), s.get(mine), total) for turn, mine, total in self._shares]
        function = finished(s.mod["main"], zeroed, guards)
        return Schedule(tvm.IRModule({"main": function}), debug_mask="none")

    def _result(self, block: Any) -> Any:
        """Tile what the last convolution makes; the loop of its threads."""
        s, values, last = self._s, self._values, self._stages.convolutions[-1]
        s.set_scope(block, 0, "local") if self._stages.out else None
        out = s.get_sblock(self._stages.out) if self._stages.out else s.cache_write(block, 0, "local")
        loops = s.get_loops(out)
        batch, (channel, row, column) = loops[0], self._by_role(loops)
        parts = {}
        for name, loop in (("channels", channel), ("rows", row), ("columns", column)):
            parts[name] = s.split(loop, [None, *values[name]])
        order = ("rows", "columns", "channels") if last.axis == 3 else ("channels", "rows", "columns")
        grid = [batch, parts["rows"][0], parts["columns"][0], parts["channels"][0]]
        threads = [parts[name][1] for name in order]
        mine = [parts[name][2] for name in order]
        s.reorder(*grid, *threads, *mine)
        s.bind(s.fuse(*grid), "blockIdx.x")
        thread = s.fuse(*threads)
        s.bind(thread, "threadIdx.x")
        for loop in mine:
            s.unroll(loop)
        return thread

    def _reduced(self, block: Any, thread: Any) -> tuple[Any, list[Any]]:
        """Put the last sum under the threads; the loop over chunks, and those to unroll within."""
        s, convolution = self._s, self._stages.convolutions[-1]
        s.compute_at(block, thread, preserve_unit_loops=True)
        loops = self._inner(block, len(convolution.order))
        *mine, inner, down, across = (loops[k] for k in convolution.order)
        outer, inner = s.split(inner, [None, 1 if convolution.depthwise else self._values["chunk"]])
        return outer, self._ordered(convolution, [outer], inner, down, across, mine)

    def _ordered(
        self, convolution: Convolution, outer: Sequence[Any], inner: Any, down: Any, across: Any, mine: Sequence[Any]
    ) -> list[Any]:
        """Sums outside, what a thread makes inside; the loops to unroll."""
        s, unroll = self._s, self._values["unroll"]
        extent = int(s.get(inner).extent)
        part = max(u for u in UNROLLED if u <= unroll and extent % u == 0)
        inner, unrolled = s.split(inner, [None, part])
        s.reorder(*outer, inner, down, across, unrolled, *mine)
        return [*([down, across] if prod(convolution.kernel) <= 25 else []), unrolled, *mine]

    def _image(self, image: Any, total: Any, convolution: Convolution, makes: tuple[int, int]) -> None:
        """Share an image's pixels and channels out among the threads, its sum beside it."""
        s = self._s
        loops = self._inner(image, 4)
        batch, (channel, row, column) = loops[0], self._by_role(loops)
        channels, columns = s.split(channel, [None, makes[0]]), s.split(column, [None, makes[1]])
        outside = [row, columns[0], channels[0]] if self._last_axis else [channels[0], row, columns[0]]
        mine = [columns[1], channels[1]] if self._last_axis else [channels[1], columns[1]]
        s.reorder(batch, *outside, *mine)
        whole = s.fuse(batch, *outside)
        amount = int(s.get(whole).extent)
        turn, thread = s.split(whole, [None, self._threads])
        s.bind(thread, "threadIdx.x")
        self._shares.append((turn, thread, amount))
        s.compute_at(total, thread, preserve_unit_loops=True)
        loops = self._inner(total, len(convolution.order))
        *made, inner, down, across = (loops[k] for k in convolution.order)
        unrolled = self._ordered(convolution, [], inner, down, across, made)
        for loop in [*mine, *unrolled]:
            s.unroll(loop)
        self._firsts.append(s.get_loops(total)[-len(made) - 4])

    def _shared_out(self, block: Any, loops: Sequence[Any]) -> None:
        _, thread = self._s.split(self._s.fuse(*loops), [None, self._threads])
        self._s.bind(thread, "threadIdx.x")

    def _inner(self, block: Any, count: int) -> list[Any]:
        return list(self._s.get_loops(block)[-count:])

    def _by_role(self, loops: Sequence[Any]) -> tuple[Any, Any, Any]:
        """Channel, row and column of an image's four loops."""
        return (loops[3], loops[1], loops[2]) if self._last_axis else (loops[1], loops[2], loops[3])


def _reads(block: Any, buffer: Any) -> int:
    return next(k for k, region in enumerate(block.reads) if region.source.same_as(buffer))
