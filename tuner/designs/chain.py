"""Convolutions one behind the other in one GPU kernel: a design space of our own.

A block of threads makes a tile of the last convolution's result: some rows, columns and channels. It goes through the
channels between the last two convolutions in chunks: of each it computes all the pixels that its tile needs, halo
included, convolution by convolution, into images in shared memory, and adds what the chunk contributes. What is
elementwise behind a convolution, and the next one's border of zeros, is computed on the way into its image. Of the
convolutions between the first and the last each is depthwise, so that a chunk needs no channels but its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from math import ceil, prod
from typing import Any

import numpy as np
from optuna.distributions import IntDistribution
from tvm.s_tir import ScheduleError

from tuner.designs.chain_schedule import INPUT, UNROLLED, scheduled
from tuner.designs.chain_stages import Stages, required
from tuner.designs.chain_tile import Tile, tile_of
from tuner.designs.margins import widened
from tuner.designs.parameters import Parameter, spelled
from tuner.designs.shared import shared_bytes
from tuner.designs.space import Design
from tuner.errors import CandidateError

KIND = "chain"  # of its parameters
_EACH = (1, 2, 3, 4, 7, 8)  # rows, columns or channels of the result that one thread makes
_THREADS = (1, 2, 4, 7, 8, 14, 16, 28, 32, 56, 64, 128)
_MAKES = ((1, 1), (1, 2), (1, 4), (2, 1), (2, 2), (2, 4), (4, 1), (4, 2), (4, 4), (8, 1), (8, 2), (8, 4))
_CHUNKS = (4, 8, 12, 16, 24, 32, 48, 64, 96, 128)
_WASTE = 1.4  # how much larger than an axis its tiles may be together
_ACCUMULATORS = 64  # of one thread
_BATCH, _BATCHES = 2048, 4  # drawn at a time, and how often before a space counts as one without points


class ChainSpace:
    """The design space of one chain. Its interface is that of tuner.designs.space.DesignSpace.

    ``shared``: B of shared memory, ``threads``: the most that one block may have.

    Raises ValueError for a function that is no chain.
    """

    number = 0

    def __init__(self, module: Any, shared: int, threads: int, warp: int = 32) -> None:
        stages = required(module)
        names = stages.names
        total, image = names.index(stages.sums[0]), names.index(stages.images[0])
        before = None if stages.before is None else names.index(stages.before)
        self.module = widened(module, before, total, image, stages.convolutions[0])
        self.stages = stages if self.module is module else required(self.module)
        self._shared, self._threads, self._warp = shared, threads, warp
        self.parameters = {p.name: p for p in _parameters(stages)}

    @property
    def distributions(self) -> dict[str, IntDistribution]:
        """The parameters as Optuna knows them."""
        return {name: parameter.distribution for name, parameter in self.parameters.items()}

    def spelled(self, knobs: Mapping[str, int]) -> dict[str, Any]:
        """What these numbers stand for."""
        return spelled(self.parameters, knobs)

    def tile(self, knobs: Mapping[str, int]) -> Tile:
        """What a point comes to, without making it."""
        return tile_of(self.stages, {name: p.values[knobs[name]] for name, p in self.parameters.items()})

    def allows(self, knobs: Mapping[str, int]) -> bool:
        """Whether a point is within what one block of threads may have."""
        values = {name: p.values[knobs[name]] for name, p in self.parameters.items()}
        tile = tile_of(self.stages, values)
        made = prod(values[name][1] for name in ("rows", "columns", "channels"))
        if not self._warp <= tile.threads <= self._threads or tile.held > self._shared or made > _ACCUMULATORS:
            return False
        extent = tile.rows, tile.columns
        for number in reversed(range(len(self.stages.images))):
            extent = self.stages.convolutions[number + 1].extent(*extent)
            channels, columns = values[f"image{number}"]
            more = ceil(extent[1] / columns) * columns - extent[1]  # columns that would be made for nothing
            reads_shared = number > 0 or values["stage"] & INPUT  # for these, more than was put there
            if tile.chunk % channels or more > (0 if reads_shared else (_WASTE - 1) * extent[1]):
                return False
        return True

    def draw(self, count: int, random: np.random.Generator) -> list[dict[str, int]]:
        """At most ``count`` different points that are allowed, drawn evenly; fewer where there are few."""
        found: dict[tuple[int, ...], dict[str, int]] = {}
        for knobs in self._drawn(random):
            if self.allows(knobs):
                found.setdefault(tuple(knobs.values()), knobs)
                if len(found) >= count:
                    break
        return list(found.values())

    def _drawn(self, random: np.random.Generator) -> Iterator[dict[str, int]]:
        sizes = [len(p.values) for p in self.parameters.values()]
        for _ in range(_BATCHES):
            for row in random.integers(0, sizes, (_BATCH, len(sizes))):
                yield dict(zip(self.parameters, map(int, row), strict=True))

    def apply(self, knobs: Mapping[str, int], *, tensorise: bool = True, serial: bool = False) -> Design:
        """The schedule of a point. Raises CandidateError (``rejected``) for one that is not allowed."""
        if not self.allows(knobs):
            raise CandidateError("A block of threads may not have as much as that.", code="rejected")
        values = {name: p.values[knobs[name]] for name, p in self.parameters.items()}
        try:
            schedule = scheduled(self.module, self.stages, values)
            taken = shared_bytes(schedule.mod["main"])
            if taken > self._shared:  # where tiles are cut off at an image's end TVM may make buffers larger
                raise CandidateError(f"It takes {taken} bytes of shared memory.", code="rejected")
            return Design(dict(knobs), schedule)
        except (ScheduleError, ValueError) as error:
            reason = str(error).strip().splitlines()[-1][:200] if str(error).strip() else type(error).__name__
            raise CandidateError(f"The decisions make no schedule: {reason}", code="rejected") from error


def _parameters(stages: Stages) -> list[Parameter]:
    last = stages.convolutions[-1]

    def pairs(extent: int, most: int) -> tuple[tuple[int, int], ...]:
        found = [(t, e) for t in _THREADS if t <= most for e in _EACH]
        fitting = [p for p in found if ceil(extent / prod(p)) * prod(p) <= _WASTE * extent]
        return tuple(fitting) or ((1, 1),)

    inner = last.out_channels if last.depthwise else last.in_channels
    chunks = [c for c in _CHUNKS if c < inner and inner % c == 0]
    values: dict[str, Sequence[Any]] = {
        "rows": pairs(last.size[0], 32), "columns": pairs(last.size[1], 64), "channels": pairs(last.out_channels, 128),
        "stage": tuple(range(4)), "unroll": UNROLLED,
    }  # fmt: skip
    if not last.depthwise:
        values["chunk"] = (*chunks, inner) if inner <= 2 * _CHUNKS[-1] or not chunks else tuple(chunks)
    for number in range(len(stages.images)):
        values[f"image{number}"] = _MAKES  # channels and columns of it that a thread makes at a time
    return [Parameter(name, KIND, tuple(v)) for name, v in values.items()]
