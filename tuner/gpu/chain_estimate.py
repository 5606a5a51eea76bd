"""What a chain of convolutions in one kernel should save, before any of its schedules is made: the roofline.

The chain computes its halo again in each block of threads, and reads its weights and its input's tile there, from L2;
what lies between its convolutions never leaves the SM. Apart, each convolution is a launch that moves all it reads and
writes through device memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil

import numpy as np

from tuner.designs.chain import ChainSpace
from tuner.designs.chain_tile import Tile
from tuner.gpu.counts import Counts, counts_of
from tuner.gpu.estimate import L2_BYTES, LAUNCH, estimate
from tuner.gpu.lower import Task
from tuner.gpu.spec import GpuSpec

_LOOKED_AT = 512  # points of its space
_DRAWN = 2048  # of which the most promising become candidates


def gain(space: ChainSpace, chain: Task, parts: Sequence[Task], spec: GpuSpec) -> float:
    """Seconds that the best point looked at should save against its parts; minus infinity where none is allowed."""
    points = space.draw(_LOOKED_AT, np.random.default_rng(0))
    if not points:
        return -np.inf
    together = min(seconds(space.tile(point), chain.compulsory, spec) for point in points)
    return apart(parts, spec) - together


def promising(
    space: ChainSpace, count: int, random: np.random.Generator, spec: GpuSpec, compulsory: float
) -> list[dict[str, int]]:
    """``count`` points, or all there are: half of them the fastest of many by what their loops should show, half
    drawn evenly."""
    drawn = space.draw(_DRAWN, random)
    if len(drawn) <= count:
        return drawn
    evenly, rest = drawn[: count // 2], drawn[count // 2 :]
    rest.sort(key=lambda point: estimate(counts_at(space.tile(point)), spec, compulsory))
    return [*rest[: count - len(evenly)], *evenly]


def apart(parts: Sequence[Task], spec: GpuSpec) -> float:
    """Seconds of the parts, one after the other."""
    return sum(
        LAUNCH + max(counts_of(part.module["main"]).operations / spec.peak, part.compulsory / spec.bandwidth)
        for part in parts
    )


def seconds(tile: Tile, compulsory: float, spec: GpuSpec) -> float:
    """Seconds of a chain that is tiled so, by the roofline; ``compulsory``: bytes of its arguments."""
    busy = tile.blocks / (ceil(tile.blocks / spec.sms) * spec.sms)
    drawn = tile.blocks * tile.drawn / (spec.sms * L2_BYTES * spec.clock)
    return LAUNCH + max(tile.blocks * tile.operations / spec.peak / busy, drawn / busy, compulsory / spec.bandwidth)


def counts_at(tile: Tile) -> Counts:
    """About what the loops of the point's schedule show."""
    return Counts(
        launches=1, blocks=tile.blocks, threads=tile.threads, operations=tile.blocks * tile.executed,
        global_bytes=tile.blocks * tile.global_bytes, shared_bytes=tile.blocks * tile.shared_bytes, shared=tile.held,
        local=tile.local,
    )  # fmt: skip
