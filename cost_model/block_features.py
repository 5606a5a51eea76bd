"""From the arrays that describe a block's layers to one row of numbers per core count.

Everything is a plain amount (operations, bytes, rows, channels, counts), so that the roofline can compute with it; the
trees see logarithms. The cores divide a block by rows of its output, where each band recomputes what it overlaps with
its neighbours (its halo), and by channels of its output, where layers that every channel depends on are computed by
each core. Of all divisions into bands x parts the row describes the one that keeps the busiest core least long, at the
machine's balance of operations and bytes.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from math import ceil, inf

import numpy as np

COLUMNS = (
    "cores",
    # what the block is: the same in all its rows
    "layers",  # number of layers
    "mac_layers",  # of those, with multiply-accumulates over channels: depthwise convolutions do not count
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
    "inner_bytes",  # of tensors that fusion keeps from memory, those not counted that never leave registers
    "layout",  # share of the bytes read and written that lie blocked by channels
    "template",  # code of the kernel template
    "intensity",  # operations per byte from and to memory
    # how it is divided among the cores
    "bands",  # of rows
    "parts",  # of channels
    "all_ops",  # operations of all cores together, what is computed twice included
    "core_ops",  # of the busiest core
    "core_mac_ops",
    "core_vector_ops",  # in layers without multiply-accumulates
    "core_depthwise_ops",  # in convolutions of one channel per group
    "core_ops_padded",  # what multiply-accumulates come to with channels rounded up to lanes, less core_mac_ops
    "core_ops_per_out",  # multiply-accumulate operations / channels that the core writes, summed over layers
    "core_ops_per_in",  # multiply-accumulate operations / channels summed over, summed over layers
    "core_layers_per_out",  # sum over layers of multiply-accumulates of 1 / channels that the core writes
    "even",  # operations / (cores x those of the busiest core): 1 = nothing is lost
    "halo_ops",  # operations that a core recomputes for one more band
    "needed_bytes",  # of inputs: less than input_bytes where strides leave rows out
    "read_bytes",  # of inputs, by all bands together
    "shared_bytes",  # that several cores read at the same time: inputs once for each part, weights for each band
    "core_bytes",  # that one core reads and writes, weights included
    "core_weights",  # bytes of weights that one core needs
    "held_bytes",  # of inner tensors, of the busiest core
    "peak_bytes",  # of those, held at one time
    "end_bytes",  # of inputs and outputs, of the busiest core
    "halo_bytes",  # of inner tensors and inputs, that a core holds twice for one more band
    "halo_read",  # bytes of inputs that a core reads again for one more band
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
    weights: float  # bytes read of constants

    def amounts(self, lanes: int) -> tuple[float, ...]:
        """What blocks add up over their layers; see _AMOUNTS. To be kept: it is the same wherever the layer occurs.

        Args:
            lanes: channels that the machine works on side by side.
        """
        out, summed = max(self.channels, 1.0), max(self.summed, 1.0)
        mac = self.mac and not self.depthwise
        mac_ops = self.ops if mac else 0.0
        filled = ceil(summed / lanes) * lanes / summed
        return (
            self.ops, mac_ops, 0.0 if self.mac else self.ops, self.ops * self.depthwise, mac_ops * filled,
            mac_ops / out, mac_ops / summed, mac / out, self.bytes, self.weights, 1.0, float(mac),
            float(self.window), self.channels if mac else inf, out,
        )  # fmt: skip


_AMOUNTS = ("ops", "mac_ops", "vector_ops", "depthwise_ops", "filled_ops", "ops_per_out", "ops_per_in",
            "layers_per_out", "bytes", "weights", "layers", "mac_layers", "windows", "mac_channels",
            "channels")  # fmt: skip
_A = {name: i for i, name in enumerate(_AMOUNTS)}


@dataclass(frozen=True)
class BlockArrays:
    """N blocks of L layers and I inputs each, and their geometry when their outputs are cut into 1 .. B bands of rows.

    B is the smaller of the most cores and the output's rows.
    """

    cores: np.ndarray  # [C]
    lanes: int  # channels that the machine works on side by side
    both_ways: bool  # cores may divide rows and channels at once
    balance: float  # operations per byte at which a core computes as long as it waits for memory
    vector_cost: float  # of an operation in a layer without multiply-accumulates; 1 for others
    amounts: np.ndarray  # [N, L, len(_AMOUNTS)] of LayerFacts.amounts()
    parts: np.ndarray  # [N, L] most parts into which its channels divide when the output's are divided; 1 = all needed
    inside: np.ndarray  # [N, L] bool: what it writes stays inside the block
    computed: np.ndarray  # [N, L, B] rows that all bands compute / rows there are
    tallest: np.ndarray  # [N, L, B] rows of the tallest band / rows there are
    overlap: np.ndarray  # [N, L] rows that one more band recomputes / rows there are
    inputs: np.ndarray  # [N, I] bytes of each input
    input_parts: np.ndarray  # [N, I] the same of each input
    read: np.ndarray  # [N, I, B] rows that all bands read / rows there are
    read_tallest: np.ndarray  # [N, I, B] rows that the band reads which reads most / rows there are
    output_bytes: np.ndarray  # [N]
    weight_bytes: np.ndarray  # [N]
    rows: np.ndarray  # [N] of the block's output
    out_channels: np.ndarray  # [N] of the block's output


def feature_rows(blocks: BlockArrays) -> np.ndarray:
    """``[N, C, len(COLUMNS)]``, float64; with plain layouts and by the first template."""
    b, amounts = blocks, blocks.amounts
    ops, channels, weights = amounts[..., _A["ops"]], amounts[..., _A["channels"]], amounts[..., _A["weights"]]
    inner = amounts[..., _A["bytes"]] * b.inside
    whole = amounts.sum(axis=1)
    total, mac_ops = whole[:, _A["ops"]], whole[:, _A["mac_ops"]]
    per_out, per_in = whole[:, _A["ops_per_out"]], whole[:, _A["ops_per_in"]]
    # Shares of each layer's channels that one of 1 .. P parts makes, [N, L, P]; and rounded up to whole lanes.
    counts = np.arange(1.0, b.cores[-1] + 1)
    made = np.ceil(channels[..., None] / np.minimum(counts, b.parts[..., None]))
    lanewise = np.ceil(made / b.lanes) * (b.lanes / channels[..., None])
    made /= channels[..., None]
    plain = b.vector_cost * (amounts[..., _A["vector_ops"]] + amounts[..., _A["depthwise_ops"]])
    filled = amounts[..., _A["filled_ops"]]
    work = _turned(b.tallest) @ (filled[..., None] * lanewise + plain[..., None] * made)  # [N, B, P]
    # The same of the bytes that one core reads and writes.
    split = 1.0 / np.minimum(counts, b.input_parts[..., None])  # [N, I, P]
    written = (b.output_bytes[:, None] * b.tallest[:, -1])[..., None] * made[:, -1, None]
    traffic = _turned(b.read_tallest * b.inputs[..., None]) @ split + written
    traffic += _weighted(weights, made)[:, None]
    band, part = _division(b.cores, np.maximum(work, traffic * b.balance), b.both_ways)  # [N, C] both
    input_bytes = b.inputs.sum(axis=1)
    rows_of, made, lanewise = _at(b.tallest, band), _at(made, part), _at(lanewise, part)  # [N, L, C]
    shares = rows_of * made
    mac_channels = amounts[..., _A["mac_channels"]].min(axis=1)
    static = (
        whole[:, _A["layers"]], whole[:, _A["mac_layers"]], whole[:, _A["windows"]], total, mac_ops, b.rows,
        b.out_channels, _ratio(mac_ops, per_out), _ratio(mac_ops, per_in), np.where(per_out > 0, mac_channels, 0.0),
        input_bytes, b.output_bytes, b.weight_bytes, inner.sum(axis=1), 0.0, 0.0,
        total / (input_bytes + b.output_bytes + b.weight_bytes),
    )  # fmt: skip
    rows = np.empty((len(amounts), len(b.cores), len(COLUMNS)))
    rows[..., 0] = b.cores
    for column, values in enumerate(static, start=STATIC.start):
        rows[..., column] = np.reshape(values, (-1, 1))
    busiest = _turned(shares) @ amounts[..., :4]  # [N, C, 4]
    held = shares * inner[..., None]
    rows[..., _BANDS] = band + 1
    rows[..., _BANDS + 1] = part + 1
    rows[..., _BANDS + 2] = _weighted(ops, _at(b.computed, band) * made) * (part + 1)
    rows[..., _BANDS + 3 : _BANDS + 7] = busiest
    rows[..., _BANDS + 7] = _weighted(filled, rows_of * lanewise) - busiest[..., 1]
    rows[..., _BANDS + 8] = _weighted(amounts[..., _A["ops_per_out"]], rows_of)
    rows[..., _BANDS + 9] = _weighted(amounts[..., _A["ops_per_in"]], shares)
    rows[..., _BANDS + 10] = _weighted(amounts[..., _A["layers_per_out"]], 1.0 / made)
    even = np.minimum(total[:, None] / (b.cores * np.maximum(busiest[..., 0], 1e-9)), 1.0)
    rows[..., _BANDS + 11] = np.where(total[:, None] > 0, even, 1.0)
    rows[..., _BANDS + 12] = _weighted(b.overlap * ops, made)
    read, needed = _weighted(b.inputs, b.read), _weighted(weights, made)  # [N, B] and [N, C]
    read_now = np.take_along_axis(read, band, axis=1)
    copies = _weighted(b.inputs, _at(b.read, band) * _at(split, part)) * (part + 1)
    rows[..., _BANDS + 13] = read[:, :1]
    rows[..., _BANDS + 14] = read_now
    rows[..., _BANDS + 15] = copies - read_now + needed * ((band + 1) * (part + 1)) - b.weight_bytes[:, None]
    rows[..., _BANDS + 16] = traffic[np.arange(len(rows))[:, None], band, part]
    rows[..., _BANDS + 17] = needed
    rows[..., _BANDS + 18] = held.sum(axis=1)
    rows[..., _BANDS + 19] = (held[:, :-1] + held[:, 1:]).max(axis=1) if held.shape[1] > 1 else 0.0
    ends = _turned(_at(b.read_tallest, band) * _at(split, part)) @ b.inputs[..., None]
    rows[..., _BANDS + 20] = ends[..., 0] + b.output_bytes[:, None] * shares[:, -1]
    halo_read = np.maximum(read[:, min(1, read.shape[1] - 1), None] - read[:, :1], 0.0) / (part + 1)
    rows[..., _BANDS + 21] = _weighted(b.overlap * inner, made) + halo_read
    rows[..., _BANDS + 22] = halo_read
    return rows


def _turned(values: np.ndarray) -> np.ndarray:
    """``[N, A, B]`` as ``[N, B, A]``."""
    return values.swapaxes(1, 2)


def _weighted(weights: np.ndarray, values: np.ndarray) -> np.ndarray:
    """``[N, B]``: sums over A of weights [N, A] times values [N, A, B]."""
    return np.asarray((weights[:, None] @ values)[:, 0])


def _at(values: np.ndarray, index: np.ndarray) -> np.ndarray:
    """``[N, A, C]``: of values [N, A, B] those at the places ``index`` [N, C]; what is summed over lies together."""
    return _turned(np.take_along_axis(_turned(values), index[..., None], axis=1))


def _ratio(values: np.ndarray, by: np.ndarray) -> np.ndarray:
    """0 where it would be divided by nothing."""
    return np.asarray(np.divide(values, by, out=np.zeros_like(values), where=by > 0))


def _division(cores: np.ndarray, cost: np.ndarray, both_ways: bool) -> tuple[np.ndarray, np.ndarray]:
    """For each block and core count the indexes of the best bands and parts; ``cost``: [N, B, P] of the busiest core.

    As many parts as the cores allow beside so many bands; of equal divisions the one with most bands.
    """
    bands, parts, exists = _pairs(tuple(cores.astype(int).tolist()), cost.shape[1], both_ways)
    best = np.where(exists, cost[:, bands, parts], inf).argmin(axis=1)
    columns = np.arange(len(cores))
    return bands[best, columns], parts[best, columns]


@lru_cache(maxsize=256)
def _pairs(cores: tuple[int, ...], most: int, both_ways: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Indexes of bands (falling) and of parts, and whether there are so many cores, each ``[options, C]``."""
    counts = np.array(cores)
    if not both_ways:
        only = np.zeros_like(counts)
        bands = np.stack([np.minimum(counts, most) - 1, only])
        return bands, np.stack([only, counts - 1]), np.ones_like(bands, dtype=bool)
    bands = np.repeat(np.arange(most, 0, -1)[:, None], len(cores), axis=1)
    return bands - 1, np.maximum(counts // bands, 1) - 1, bands <= counts
