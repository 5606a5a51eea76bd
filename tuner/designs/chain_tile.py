"""What a point of a chain's design space comes to, without making its schedule: blocks, operations, bytes.

Operations and bytes are counted as tuner.gpu.counts counts those of a schedule: each thread's reads for each
multiply-add, from where they are read, and threads that have nothing to do as if they had.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil, prod
from typing import Any

import numpy as np

from tuner.designs.chain_schedule import INPUT, WEIGHTS
from tuner.designs.chain_stages import Stages


@dataclass(frozen=True)
class Tile:
    """One point. Bytes and operations are those of a block of threads."""

    rows: int  # of the result
    columns: int
    channels: int
    threads: int
    chunk: int  # channels of the images that lie in shared memory at a time
    blocks: int
    operations: float  # that count, halo included: a multiply-add is two
    executed: float  # with those of idle threads
    held: int  # B of shared memory
    drawn: float  # B of input and weights that it reads at least, from L2
    global_bytes: float  # B that its threads read and write in device memory, repeated ones included
    shared_bytes: float  # likewise, in shared memory
    local: int  # numbers that a thread adds up


def tile_of(stages: Stages, values: Mapping[str, Any]) -> Tile:
    """What these decisions come to."""
    *firsts, last = stages.convolutions
    rows, columns, channels = (prod(values[name]) for name in ("rows", "columns", "channels"))
    threads = prod(values[name][0] for name in ("rows", "columns", "channels"))
    mine = prod(values[name][1] for name in ("rows", "columns", "channels"))
    chunk = channels if last.depthwise else values["chunk"]
    steps = 1 if last.depthwise else ceil(stages.steps / chunk)
    blocks = last.batch * ceil(last.size[0] / rows) * ceil(last.size[1] / columns) * ceil(last.out_channels / channels)
    staged = stages.before is not None and bool(values["stage"] & INPUT)
    copied = bool(values["stage"] & WEIGHTS)
    taps = [prod(c.kernel) * c.in_channels for c in stages.convolutions]

    sums = float(threads * mine * taps[-1])  # multiply-adds, the last convolution's
    useful, executed = float(rows * columns * channels * taps[-1]), sums
    weights = channels * taps[-1] * _size(last.weight)
    held = weights // steps if copied else 0
    drawn = float(weights)
    in_global = 0.0 if copied else sums * _size(last.weight)
    in_shared = sums * (_size(last.weight) if copied else 0)
    local, extent = mine, last.extent(rows, columns)
    for number in reversed(range(len(firsts))):
        convolution, reader = stages.convolutions[number], stages.convolutions[number + 1]
        made, across = values[f"image{number}"]
        shares = ceil(chunk / made) * extent[0] * ceil(extent[1] / across)
        image = chunk * extent[0] * ceil(extent[1] / across) * across
        in_shared += sums * _size(reader.data) + steps * image * _size(reader.data)
        sums = float(steps * ceil(shares / threads) * threads * made * across * taps[number])
        useful += steps * image * taps[number]
        executed += sums
        weights = chunk * taps[number] * _size(convolution.weight)
        drawn += steps * weights
        held += image * _size(reader.data) + (weights if copied else 0)
        in_global += steps * weights if copied else sums * _size(convolution.weight)
        in_shared += sums * _size(convolution.weight) if copied else 0
        local, extent = local + made * across, convolution.extent(*extent)
    first = firsts[0]
    whole = prod(extent) * _size(first.data)  # B of one channel of the input's tile
    read = whole * (steps * chunk if first.depthwise else first.in_channels)
    drawn += read if first.depthwise or staged else steps * read
    if staged:
        held += whole * (chunk if first.depthwise else first.in_channels)
        in_global, in_shared = in_global + read, in_shared + read + sums * _size(first.data)
    else:
        in_global += sums * _size(first.data)
    return Tile(rows, columns, channels, threads, chunk, blocks, 2 * useful, 2 * executed, held, drawn, in_global,
                in_shared, local)  # fmt: skip


def _size(buffer: Any) -> int:
    return np.dtype(str(buffer.dtype)).itemsize
