"""The simulated machine: seconds of a block on so many cores, from geometry and the spec alone. Analytic; no noise.

A block is one launch. Its output is split over the cores into bands of rows, or into parts of its channels, whichever
is faster for the block. A core works through its part in tiles of rows as large as fit on chip beside the weights;
what neighbouring bands and tiles both need is computed by both (the halo). Weights, inputs and outputs move over DRAM,
what is made and used up inside the block does not, unless it does not fit on chip even row by row. DRAM feeds data that
all cores want at the same time to all of them at once. Moving and computing overlap, save that weights too large for
the chip can only be fetched while their own layer computes:

    seconds = launch + synchronisation(cores) + max(sum over layers of max(computing, streaming), moving)
    computing = operations / rate + passes over tiles * half_work / (core_peak * peak_share)
    streaming = share of the layer's weights that does not fit on chip * time to move its weights
    moving = max(all bytes / bandwidth, bytes of the busiest core / core_bandwidth)

See docs/simulated-devices.md for what is assumed, and what is left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from tuner.errors import UserError
from tuner.graph.ir import Graph
from tuner.plan.halo import Bands, Floats, Halo, Ints
from tuner.simulate.spec import SimSpec
from tuner.simulate.work import Work
from tuner.types import digest


def times(spec: SimSpec, workload: Graph, cores: Sequence[int]) -> Floats:
    """Seconds [len(cores)] of one call of this block on so many cores, noise-free.

    Raises UserError(code="bad-cores") for counts the machine does not have.
    """
    counts = np.asarray(cores, dtype=np.int64)
    if counts.ndim != 1 or (counts < 1).any() or (counts > spec.cores).any():
        raise UserError(f"{spec.name} has 1 to {spec.cores} cores, asked for {list(cores)}.", code="bad-cores")
    seconds: Floats = spec.launch + _synchronisation(spec, counts) + _Block(spec, workload).busy(counts)
    return seconds


def noisy(seconds: float, spec: SimSpec, key: str, seed: int, count: int = 5) -> tuple[float, ...]:
    """``count`` samples around ``seconds``, log-normal with the spec's noise: the same for the same arguments."""
    entropy = int(digest([spec.digest, key, seed])[:32], 16)
    factors = np.exp(spec.noise * np.random.default_rng(entropy).standard_normal(count))
    return tuple(float(seconds * f) for f in factors)


def _synchronisation(spec: SimSpec, cores: Ints) -> Floats:
    steps = np.log2(cores) if spec.sync_growth == "log" else cores - 1.0
    return np.asarray(spec.sync * steps, dtype=np.float64)


@dataclass(frozen=True)
class _Ways:
    """N ways to run a block: ``groups`` cores side by side in rows, each group's rows in ``tiles``, and ``parts``
    cores side by side in channels."""

    groups: Ints
    tiles: Ints
    parts: Ints
    share: Floats  # of the output's channels that the busiest core makes
    active: Ints  # cores that have work

    def only(self, which: NDArray[np.bool_]) -> _Ways:
        return _Ways(*(getattr(self, f.name)[which] for f in fields(self)))

    @staticmethod
    def joined(ways: Sequence[_Ways]) -> _Ways:
        return _Ways(*(np.concatenate([getattr(w, f.name) for w in ways]) for f in fields(_Ways)))


class _Block:
    """One workload on one machine."""

    def __init__(self, spec: SimSpec, workload: Graph) -> None:
        self.spec = spec
        self.halo = Halo(workload)
        self.work = Work.of(workload, self.halo.signatures, spec)
        self.inputs = len(workload.inputs)
        self.heights = _heights(self.halo.output_rows)  # [K] of tiles, ascending
        of_layers, of_inputs = self.halo.inner(self.heights)
        self.row_bytes = self.work.sizes / np.concatenate([self.halo.input_rows, self.halo.rows])  # [T]
        buffers = np.concatenate([of_inputs, of_layers]) * self.row_bytes[:, None]  # [T, K] bytes of a tile's rows
        live, split = self.work.live.astype(float), self.work.needed == 0
        self.whole = live[:, ~split] @ buffers[~split]  # [L, K] bytes on chip while a layer works, of whole tensors ...
        self.parted = live[:, split] @ buffers[split]  # ... and of those of which a core has its channels alone
        made = self.work.needed[self.inputs :]  # a group's share is taken for whole: few groups, or few weights
        self.fixed_weights = float(self.work.weights[made > 0].sum())  # bytes that every core needs ...
        self.parted_weights = float(self.work.weights[made == 0].sum())  # ... and bytes of which each has a part
        self.inner = (live[:, self.work.inner] @ buffers[self.work.inner]).max(axis=0)  # [K]

    def busy(self, cores: Ints) -> Floats:
        """[C] seconds of computing and moving on so many cores, in the best of the ways considered."""
        one = np.ones_like(cores)
        rows, rows_beside = self._ways(cores, one)
        channels, channels_beside = self._ways(one, cores)
        more = np.stack([rows_beside.tiles, channels_beside.tiles]) > np.stack([rows.tiles, channels.tiles])
        ways = [rows, channels, rows_beside.only(more[0]), channels_beside.only(more[1])]
        seconds = self._seconds(_Ways.joined(ways))
        count = len(cores)
        best: Floats = np.minimum(seconds[:count], seconds[count : 2 * count])
        np.minimum.at(best, np.nonzero(more)[1], seconds[2 * count :])
        return best

    def _ways(self, groups: Ints, parts: Ints) -> tuple[_Ways, _Ways]:
        """With the fewest tiles whose rows fit on chip, and with the fewest that leave room for the weights as well."""
        way = self._way(groups, np.ones_like(groups), parts)
        room = self._room(self._fullest(way), way.active)  # [K, N]
        rows = -(-self.halo.output_rows // groups)

        def tiled(fits: NDArray[np.bool_]) -> _Ways:
            height = self.heights[np.maximum(fits.sum(axis=0) - 1, 0)]
            return self._way(groups, -(-rows // height), parts)

        return tiled(room >= 0), tiled(room >= self._core_weights(way))

    def _way(self, groups: Ints, tiles: Ints, parts: Ints) -> _Ways:
        channels = self.work.split_channels
        parts = np.minimum(parts, channels)
        share = np.ceil(channels / parts) / channels
        return _Ways(groups, tiles, parts, share, np.minimum(groups, self.halo.output_rows) * parts)

    def _seconds(self, way: _Ways) -> Floats:
        """[N] seconds of each way."""
        bands = self.halo.split(way.groups, way.tiles)
        shares = np.maximum(self.work.needed[:, None], way.share)  # [T, N] of its channels that one core makes or needs
        again, spilled = self._refetched(way, bands)
        layers = shares[self.inputs :]
        working = np.maximum(self._computing(bands, layers), self._streaming(layers, again)).sum(axis=0)
        return np.maximum(working, self._moving(way, bands, shares, again, spilled))

    def _computing(self, bands: Bands, shares: Floats) -> Floats:
        """[L, N] seconds of the busiest core in each layer."""
        spec = self.spec
        work = (self.work.ops / self.halo.rows)[:, None] * shares * bands.busiest
        filling = spec.half_work / (spec.core_peak * spec.peak_share) * self.work.passes[:, None] * bands.passes
        return work / self._rates(shares) + filling

    def _streaming(self, shares: Floats, again: Floats) -> Floats:
        """[L, N] seconds of moving those weights that are too many to be fetched before their layer begins."""
        spec = self.spec
        weights = self.work.weights[:, None]
        own = weights * shares
        late = np.maximum(own - (spec.core_memory + spec.shared_memory), 0.0) / np.maximum(own, 1.0)
        return again * late * np.maximum(weights / spec.bandwidth, own / spec.core_bandwidth)

    def _rates(self, shares: Floats) -> Floats:
        """[L, N] FLOP/s of one core: of the array as far as channels fill it, or of the vector units if faster."""
        spec, work = self.spec, self.work
        own = np.maximum(np.ceil(work.channels[:, None] * shares), 1.0)
        filled_out = own / (np.ceil(own / spec.array_out) * spec.array_out)
        filled_in = work.reduced / (np.maximum(np.ceil(work.reduced / spec.array_in), 1.0) * spec.array_in)
        rates: Floats = np.maximum(spec.core_peak * filled_in[:, None] * filled_out, spec.core_vector_peak)
        return spec.peak_share * rates

    def _moving(self, way: _Ways, bands: Bands, shares: Floats, again: Floats, spilled: Floats) -> Floats:
        """[N] seconds of moving weights, inputs, outputs and what does not fit."""
        spec, work, passes, read = self.spec, self.work, bands.passes, bands.read
        weights = work.weights.sum() * again
        in_bytes, left = self.row_bytes[: self.inputs, None], work.outputs
        made = self.row_bytes[self.inputs + left] @ bands.busiest[left] * way.share + spilled * passes
        inputs = in_bytes * bands.read_busiest
        if spec.shared_memory >= work.weights.sum() + work.sizes[: self.inputs].sum():
            read = np.minimum(read, 1.0)  # cores find in the shared memory what another one fetched
            fetched = weights / way.active + inputs.sum(axis=0) / way.parts
        else:
            fetched = self._core_weights(way) * again + (inputs * shares[: self.inputs]).sum(axis=0)
        total = weights + work.sizes[: self.inputs] @ read + work.sizes[self.inputs + left].sum()
        total = total + spilled * passes * way.active
        return np.maximum(total / spec.bandwidth, (fetched + made) / spec.core_bandwidth)

    def _refetched(self, way: _Ways, bands: Bands) -> tuple[Floats, Floats]:
        """[N] times that the weights are fetched over all tiles, and [N] bytes of a tile that go to DRAM and return."""
        index = np.searchsorted(self.heights, -(-self.halo.output_rows // bands.bands))
        used: Floats = (self.whole[:, index] + self.parted[:, index] * way.share).max(axis=0)
        room = self._room(used, way.active)
        kept = np.clip(room / np.maximum(self._core_weights(way), 1.0), 0.0, 1.0)
        spilled = 2.0 * np.minimum(np.maximum(-room, 0.0), self.inner[index])
        return 1.0 + (bands.passes - 1) * (1.0 - kept), spilled

    def _fullest(self, way: _Ways) -> Floats:
        """[K, N] bytes on chip at the fullest moment of a tile of each height."""
        if (way.share == 1.0).all():
            return (self.whole + self.parted).max(axis=0)[:, None]
        found: Floats = (self.whole[:, :, None] + self.parted[:, :, None] * way.share).max(axis=0)
        return found

    def _room(self, used: Floats, active: Ints) -> Floats:
        """Bytes left for weights beside a tile's rows; below 0 where not even those fit.

        Rows that a core's own memory does not hold go to the shared one, where weights lie once for all cores.
        """
        over = np.maximum(used - self.spec.core_memory, 0.0)
        shared = self.spec.shared_memory - active * over
        own = np.maximum(self.spec.core_memory - used, 0.0)
        return np.where(shared < 0, shared / active, own + shared)

    def _core_weights(self, way: _Ways) -> Floats:
        """[N] bytes of weights that one core uses."""
        return self.fixed_weights + self.parted_weights * way.share


@lru_cache(maxsize=1024)
def _heights(rows: int) -> Ints:
    """The tile heights that equal bands of ``rows`` rows can have, ascending."""
    return np.unique(-(-rows // np.arange(1, rows + 1)))
