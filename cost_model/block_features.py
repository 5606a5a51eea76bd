"""From the arrays that describe a block's layers to one row of numbers per core count.

Everything is a plain amount (operations, bytes, rows, channels, counts), so that the roofline can compute with it; the
trees see logarithms. Two ways of dividing a block among cores are described beside each other: by rows of its output,
where each band recomputes what it overlaps with its neighbours (its halo), and by channels of its output, where layers
that every channel depends on are computed by each core.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, inf

import numpy as np

COLUMNS = (
    "cores",
    # what the block is: the same in all its rows
    "layers",  # number of layers
    "mac_layers",  # of those, with multiply-accumulates
    "windows",  # convolutions and pooling whose window is larger than one pixel: the fusion depth that costs a halo
    "ops",  # operations, nothing computed twice
    "mac_ops",  # of those, in layers of multiply-accumulates
    "rows",  # of the output
    "out_channels",  # of the output
    "wide_out",  # channels written by layers of multiply-accumulates, harmonic mean over operations
    "wide_in",  # channels summed over by them, harmonic mean over operations
    "least_channels",  # the fewest channels that such a layer writes
    "input_bytes",
    "output_bytes",
    "weight_bytes",
    "inner_bytes",  # of tensors that fusion keeps from memory
    "layout",  # share of the bytes read and written that lie blocked by channels
    "template",  # code of the kernel template
    "intensity",  # operations per byte from and to memory
    # how it is divided among the cores
    "bands",  # of rows: no more than there are rows
    "all_ops",  # operations of all bands together, halo included
    "core_ops",  # of the busiest core
    "core_mac_ops",
    "core_vector_ops",  # in layers without multiply-accumulates
    "core_depthwise_ops",  # in convolutions of one channel per group
    "core_ops_per_out",  # multiply-accumulate operations / channels written, summed over layers
    "core_ops_per_in",  # multiply-accumulate operations / channels summed over, summed over layers
    "core_ops_padded",  # what multiply-accumulates come to with channels rounded up to lanes, less core_mac_ops
    "core_layers_per_out",  # sum over layers of multiply-accumulates of 1 / channels written
    "even",  # operations / (cores x those of the busiest core): 1 = nothing is lost
    "by_channels",  # 1 = the busiest core's share is that of a division by channels
    "halo_ops",  # operations that one more band recomputes
    "read_bytes",  # of inputs, by all bands together
    "held_bytes",  # of inner tensors, one band of the busiest core
    "peak_bytes",  # of those, held at one time
    "halo_bytes",  # of inner tensors, that one more band recomputes
)
INDEX = {name: i for i, name in enumerate(COLUMNS)}
_BANDS = INDEX["bands"]
STATIC = slice(INDEX["layers"], _BANDS)  # columns that are equal in all rows of a block


@dataclass(frozen=True)
class LayerFacts:
    """One layer of a block."""

    ops: float  # operations
    mac: bool  # of multiply-accumulates
    depthwise: bool  # convolution of one channel per group
    window: bool  # reads more than one pixel per pixel
    summed: float  # channels summed over (per group)
    channels: float  # channels written
    bytes: float  # written

    def amounts(self, lanes: int) -> tuple[float, ...]:
        """What blocks add up over their layers; see _AMOUNTS. To be kept: it is the same wherever the layer occurs.

        Args:
            lanes: channels that the machine works on side by side.
        """
        out, summed = max(self.channels, 1.0), max(self.summed, 1.0)
        mac_ops = self.ops if self.mac else 0.0
        waste = ceil(out / lanes) * lanes / out * (1.0 if self.depthwise else ceil(summed / lanes) * lanes / summed) - 1
        return (
            self.ops, mac_ops, self.ops - mac_ops, self.ops if self.depthwise else 0.0, mac_ops / out, mac_ops / summed,
            mac_ops * waste, self.bytes, 1.0, float(self.mac), float(self.window), self.mac / out,
            self.channels if self.mac else inf,
        )  # fmt: skip


_AMOUNTS = ("ops", "mac_ops", "vector_ops", "depthwise_ops", "ops_per_out", "ops_per_in", "ops_padded", "bytes",
            "layers", "mac_layers", "windows", "layers_per_out", "mac_channels")  # fmt: skip
_OPS, _BYTES, _COUNTS = 0, _AMOUNTS.index("bytes"), slice(_AMOUNTS.index("layers"), _AMOUNTS.index("mac_channels"))


@dataclass(frozen=True)
class BlockArrays:
    """A block of L layers and its geometry at C core counts."""

    cores: np.ndarray  # [C]
    amounts: np.ndarray  # [L, len(_AMOUNTS)] of LayerFacts.amounts()
    divides: np.ndarray  # [L] bool: a core that makes a part of the output's channels needs this layer's in part only
    inside: np.ndarray  # [L] bool: what it writes stays inside the block
    computed: np.ndarray  # [L, C] rows that all bands compute / rows there are
    tallest: np.ndarray  # [L, C] rows of the tallest band / rows there are
    overlap: np.ndarray  # [L] rows that one more band recomputes / rows there are
    input_bytes: float
    read: np.ndarray  # [C] input bytes read by all bands together
    output_bytes: float
    weight_bytes: float
    rows: int  # of the block's output
    out_channels: int  # of the block's output
    layout: float  # share of the bytes read and written that lie blocked
    template: float  # code of the template


def feature_rows(block: BlockArrays) -> np.ndarray:
    """``[C, len(COLUMNS)]``, float64."""
    b, amounts = block, block.amounts
    ops = amounts[:, _OPS]
    inner = amounts[:, _BYTES] * b.inside
    whole = amounts.sum(axis=0)
    total, mac_ops, per_out, per_in = whole[0], whole[1], whole[4], whole[5]
    shares, computed, read, channelwise = b.tallest, b.computed, b.read, 0.0  # shares [L, C]: by the busiest core
    if b.rows < b.cores[-1]:
        # More cores than rows: dividing the channels instead may give the busiest core less.
        part = np.ceil(b.out_channels / b.cores) / b.out_channels
        divided = np.where(b.divides[:, None], part, 1.0)
        channelwise = (b.rows < b.cores) & (ops @ divided < ops @ b.tallest)
        shares = np.where(channelwise, divided, shares)
        computed = np.where(channelwise, b.cores * divided, computed)
        read = np.where(channelwise, b.cores * b.input_bytes, read)
    rows = np.empty((len(b.cores), len(COLUMNS)))
    rows[:, 0] = b.cores
    rows[:, STATIC] = (
        whole[8], whole[9], whole[10], total, mac_ops, b.rows, b.out_channels,
        mac_ops / per_out if per_out else 0.0, mac_ops / per_in if per_in else 0.0,
        amounts[:, -1].min() if whole[9] else 0.0, b.input_bytes, b.output_bytes, b.weight_bytes, inner.sum(),
        b.layout, b.template, total / (b.input_bytes + b.output_bytes + b.weight_bytes),
    )  # fmt: skip
    busiest = shares.T @ amounts[:, :_BYTES]  # [C, 7]
    held = shares * inner[:, None]
    rows[:, _BANDS] = np.minimum(b.cores, b.rows)
    rows[:, _BANDS + 1] = ops @ computed
    rows[:, _BANDS + 2 : _BANDS + 9] = busiest
    rows[:, _BANDS + 9] = whole[11]
    rows[:, _BANDS + 10] = np.minimum(total / (b.cores * np.maximum(busiest[:, 0], 1e-9)), 1.0) if total else 1.0
    rows[:, _BANDS + 11] = channelwise
    rows[:, _BANDS + 12] = b.overlap @ ops
    rows[:, _BANDS + 13] = read
    rows[:, _BANDS + 14] = held.sum(axis=0)
    rows[:, _BANDS + 15] = (held[:-1] + held[1:]).max(axis=0) if len(held) > 1 else 0.0
    rows[:, _BANDS + 16] = b.overlap @ inner
    return rows
