"""A designed set of synthetic blocks to calibrate a device with: what to measure, as numbers only.

DLFusion's first step (arXiv 2011.05630) is a sweep of synthesised layers over operation count, channels and cores. Here
the same space, with fusion depth, is filled evenly instead: low-discrepancy candidates (Halton 1960), put in an order
whose every prefix covers the space (farthest point first, Kennard and Stone 1969), so that any budget gets a good part.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

# Kinds, and how often each appears among the candidates.
KINDS = {
    "conv": 6,  # one convolution, a Relu behind it
    "chain": 6,  # convolutions in a row, each with its Relu
    "residual": 2,  # a chain, and the sum with its input
    "branches": 2,  # a 1x1 convolution, read by a 1x1 and a 3x3 one whose results are concatenated
    "pooled": 2,  # a chain, pooling behind it
    "depthwise": 2,  # a depthwise 3x3 convolution between two 1x1 ones; depth 1: alone
    "dense": 2,  # fully connected layers
    "pool": 1,  # pooling alone
    "elementwise": 2,  # a Relu; the sum of two tensors and a Relu
}
COUNT = 256  # evaluations in the default design
_CANDIDATES = 12  # so many times the count are drawn to choose from
_ELEMENTS = 4 << 20  # the largest tensor: VGG's first (64 x 224 x 224) has 3.2 million
_WEIGHTS = 5 << 20  # elements of a convolution's weights: VGG's largest have 2.4 million
_DENSE_WEIGHTS = 40 << 20  # of a fully connected layer's
_OPS = 1 << 33  # of a block
_PRIMES = (2, 3, 5, 7, 11, 13, 17, 19)


@dataclass(frozen=True)
class BlockDesign:
    """A synthetic block and the cores to run it on. Images are square, batch 1."""

    kind: str  # of KINDS
    channels: int  # of the input; of a dense block: its features
    width: int  # channels that its layers write
    size: int  # pixels of the input along each side; 1 for a dense block
    kernel: int  # side of the windows
    stride: int  # of the first layer
    depth: int  # layers of multiply-accumulates, or of windows where there are none
    cores: int

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @property
    def out_size(self) -> int:
        """Pixels of the output of the first layer along each side."""
        return -(-self.size // self.stride)

    @property
    def ops(self) -> float:
        """Operations, roughly."""
        area = self.out_size**2
        wide, tall = self.channels * self.width, self.width**2
        if self.kind == "dense":
            return 2.0 * (wide + (self.depth - 1) * tall)
        if self.kind == "pool":
            return float(area * self.channels * self.kernel**2)
        if self.kind == "elementwise":
            return float(area * self.channels * self.depth)
        if self.kind == "depthwise":
            if self.depth == 1:
                return 2.0 * area * self.channels * 9
            return 2.0 * (self.size**2 * wide + area * (self.width * 9 + wide))
        if self.kind == "branches":
            return 2.0 * area * (wide + 10 * tall)
        return 2.0 * area * self.kernel**2 * (wide + (self.depth - 1) * tall)

    @property
    def place(self) -> tuple[float, ...]:
        """Where it lies in the space to fill, each axis about as long as it matters."""
        log = np.log2
        return (
            0.5 * log(1 + self.ops), 0.7 * log(self.channels), 0.7 * log(self.width), 0.8 * log(self.size),
            1.0 * log(self.cores), 0.8 * self.depth, 1.0 * log(self.kernel), 1.0 * (self.stride - 1),
        )  # fmt: skip


def design(cores: int | Sequence[int], count: int = COUNT, kinds: Sequence[str] = tuple(KINDS)) -> list[BlockDesign]:
    """The blocks to measure on a machine, best first: every prefix covers the space about as well as its length allows.

    Args:
        cores: how many cores the machine has, or the core counts to consider.
        count: how many are wanted.
        kinds: which kinds the device can run.
    """
    counts = sorted(set(range(1, cores + 1) if isinstance(cores, int) else cores))
    shares = {kind: KINDS[kind] for kind in kinds}
    total = sum(shares.values())
    each = {kind: max(1, round(count * share / total)) for kind, share in shares.items()}
    queues = {kind: _spread(list(_candidates(kind, wanted * _CANDIDATES, counts)), wanted)
              for kind, wanted in each.items()}  # fmt: skip
    # Merge the kinds evenly: always the one that is furthest behind its share.
    merged: list[BlockDesign] = []
    taken = dict.fromkeys(queues, 0)
    while len(merged) < count and any(taken[k] < len(q) for k, q in queues.items()):
        open_ = [k for k, q in queues.items() if taken[k] < len(q)]
        kind = min(open_, key=lambda k: ((taken[k] + 1) / shares[k], k))
        merged.append(queues[kind][taken[kind]])
        taken[kind] += 1
    return merged


def _candidates(kind: str, count: int, cores: Sequence[int]) -> Iterator[BlockDesign]:
    found = 0
    for index in range(1, 60 * count):
        made = _candidate(kind, [_halton(index, prime) for prime in _PRIMES], cores)
        if _fits(made):
            yield made
            found += 1
            if found == count:
                return


def _candidate(kind: str, u: Sequence[float], cores: Sequence[int]) -> BlockDesign:
    """A block from eight numbers in [0, 1)."""
    channels = _choice(u[0], (3, 8, 16, 24, 32, 48, 64, 96, 128, 160, 192, 256, 320, 384, 512, 768, 1024, 1536, 2048))
    width = _choice(u[1], (8, 16, 24, 32, 48, 64, 96, 128, 160, 192, 256, 320, 384, 512, 768, 1000, 1024, 2048))
    size = _choice(u[2], (7, 7, 8, 13, 14, 14, 17, 27, 28, 28, 35, 55, 56, 56, 83, 112, 112, 149, 224))
    used = _geometric(u[3], cores)
    kernel = _choice(u[4], (1, 1, 1, 3, 3, 3, 3, 5, 7))
    stride = _choice(u[5], (1, 1, 1, 2))
    depth = _choice(u[6], (2, 2, 3, 3, 4, 5, 6, 8))
    if kind == "conv":
        return BlockDesign(kind, channels, width, size, kernel, stride, 1, used)
    if kind in ("chain", "pooled"):
        depth = depth if kind == "chain" else 1 + depth % 3
        return BlockDesign(kind, channels, width, size, min(kernel, 5), stride, depth, used)
    if kind == "residual":
        return BlockDesign(kind, width, width, size, min(kernel, 3), 1, 1 + depth % 3, used)
    if kind == "branches":
        return BlockDesign(kind, channels, width, size, 3, 1, 3, used)
    if kind == "depthwise":
        return BlockDesign(kind, channels, width, size, 3, stride, 1 if u[6] < 0.4 else 3, used)
    if kind == "dense":
        features = _choice(u[0], (128, 256, 512, 1024, 2048, 4096, 9216, 25088))
        outputs = _choice(u[1], (10, 128, 512, 1000, 1024, 2048, 4096))
        return BlockDesign(kind, features, outputs, 1, 1, 1, 1 + (u[6] > 0.7), used)
    if kind == "pool":
        window = 0 if u[4] < 0.25 else 2 if u[4] < 0.5 else 3  # 0: of the whole image
        return BlockDesign(kind, channels, channels, size, window or size, (window and stride) or size, 1, used)
    return BlockDesign(kind, channels, channels, size, 1, 1, 1 if u[6] < 0.5 else 2, used)


def _fits(block: BlockDesign) -> bool:
    """Whether it is of a size that occurs in networks."""
    widest = max(block.channels, block.width * (2 if block.kind == "branches" else 1))
    weights = block.width * max(block.channels, block.width if block.depth > 1 else 1) * block.kernel**2
    if block.kind in ("pool", "elementwise"):
        weights = 0
    return (
        widest * block.size**2 <= _ELEMENTS
        and weights <= (_DENSE_WEIGHTS if block.kind == "dense" else _WEIGHTS)
        and block.ops <= _OPS
        and block.size >= min(block.kernel, 7)
        and not (block.kind == "pooled" and block.out_size < 7)
        and (block.channels >= 8 or block.size >= 55)  # images are large
    )


def _spread(candidates: list[BlockDesign], count: int) -> list[BlockDesign]:
    """``count`` of them, each the one farthest from all before it; first the one nearest to the middle."""
    places = np.asarray([c.place for c in candidates])
    chosen = [int(np.argmin(((places - places.mean(axis=0)) ** 2).sum(axis=1)))]
    nearest = ((places - places[chosen[0]]) ** 2).sum(axis=1)
    while len(chosen) < min(count, len(candidates)):
        chosen.append(int(np.argmax(nearest)))
        nearest = np.minimum(nearest, ((places - places[chosen[-1]]) ** 2).sum(axis=1))
    return [candidates[i] for i in chosen]


def _choice(u: float, options: Sequence[int]) -> int:
    return options[int(u * len(options))]


def _geometric(u: float, options: Sequence[int]) -> int:
    """One of ascending numbers, evenly along their logarithm."""
    logs = np.log2(np.asarray(options, dtype=np.float64))
    return int(options[int(np.argmin(np.abs(logs - logs[0] - u * (logs[-1] - logs[0] + 1e-9))))])


def _halton(index: int, base: int) -> float:
    """The radical inverse of ``index``: its digits mirrored at the point."""
    value, share = 0.0, 1.0 / base
    while index:
        value += share * (index % base)
        index //= base
        share /= base
    return value
