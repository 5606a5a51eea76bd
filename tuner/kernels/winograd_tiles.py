"""How Winograd's algorithm divides an image: tiles of outputs, blocks of tiles, and which knobs can be any good."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from math import ceil, prod

from tuner.kernels.base import Knobs
from tuner.kernels.conv_shape import ConvShape
from tuner.types import Device

LEAST = 1.2  # times fewer products, below which the transforms cost more than they bring


@dataclass(frozen=True)
class Tiling:
    """Tiles of ``m`` x ``m`` outputs in blocks of ``bh`` x ``bw`` tiles."""

    shape: ConvShape
    m: int
    bh: int
    bw: int

    @staticmethod
    def of(shape: ConvShape, k: Knobs) -> Tiling:
        return Tiling(shape, k["m"], k["bh"], k["bw"])

    @property
    def side(self) -> int:
        """Pixels down and across that a tile reads, and points that they are transformed to."""
        return (self.m - 1) * self.step + self.shape.kh

    @property
    def step(self) -> int:
        """Pixels from one output to the next, down and across."""
        return self.shape.stride[0]

    @property
    def points(self) -> int:
        return self.side**2

    @property
    def tiles(self) -> int:
        """In a block."""
        return self.bh * self.bw

    @property
    def spared(self) -> float:
        """How many times fewer products than a direct convolution's; those of pixels beyond the image are in vain."""
        s = self.shape
        return s.kh * s.kw * s.oh * s.ow / (self.points * prod(self.image))

    @cached_property
    def image(self) -> tuple[int, int]:
        """Tiles down and across the output."""
        return ceil(self.shape.oh / self.m), ceil(self.shape.ow / self.m)

    @cached_property
    def blocks(self) -> tuple[int, int]:
        """Blocks down and across."""
        return ceil(self.image[0] / self.bh), ceil(self.image[1] / self.bw)


class Rule:
    """Which knobs can be any good: tiles fill their blocks and registers, and a block's data fit the cache."""

    def __init__(self, shape: ConvShape, device: Device) -> None:
        self.shape, self.device = shape, device

    def __call__(self, k: Knobs) -> bool:
        t = Tiling.of(self.shape, k)
        (rows, cols), (down, across) = t.image, t.blocks
        if t.bh > rows or t.bw > cols or k["oc_t"] * k["reg_n"] > self.device.registers - 2:
            return False
        if t.tiles % k["reg_n"] and not (t.tiles < 4 and k["reg_n"] == 4):
            return False
        covered = down * across * t.tiles
        data = t.points * t.tiles * (self.shape.ic + self.device.lanes * k["oc_t"]) * 4
        return covered * 7 <= rows * cols * 9 and t.tiles >= 4 and data <= 2 * self.device.l2

    def worthwhile(self, knobs: Mapping[str, Sequence[int]]) -> bool:
        """Whether an allowed point spares enough: not of images with fewer tiles than a block has, say."""
        return any(Tiling.of(self.shape, point).spared >= LEAST for point in self._narrow(knobs))

    def default(self, knobs: Mapping[str, Sequence[int]]) -> dict[str, int]:
        """The point with the least estimated work: products and transforms, and U read once per block."""
        point = min(self._narrow(knobs), key=self._cost)
        return point | {"scheme": self._scheme(point)}

    def _narrow(self, knobs: Mapping[str, Sequence[int]]) -> Iterator[dict[str, int]]:
        """Allowed points of at most two vectors of channels and scheme 0."""
        values = [[t for t in v if t <= 2] if name == "oc_t" else v for name, v in knobs.items() if name != "scheme"]
        names = [name for name in knobs if name != "scheme"]
        points = ({**dict(zip(names, p, strict=True)), "scheme": 0} for p in product(*values))
        return (p for p in points if self(p))

    def _scheme(self, k: Knobs) -> int:
        down, across = Tiling.of(self.shape, k).blocks
        return 0 if down * across >= 2 * self.device.cores else 1

    def _cost(self, k: Knobs) -> float:
        s, t = self.shape, Tiling.of(self.shape, k)
        blocks = t.blocks[0] * t.blocks[1]
        pairs = s.ic // s.groups * s.oc
        products = t.points * blocks * t.tiles * pairs
        loads = max(1 / k["oc_t"] + 1 / k["reg_n"], 0.6) / min(k["oc_t"] * k["reg_n"] / 10, 1)
        weights = t.points * pairs * (1 + 0.25 * (blocks - 1))
        return products * loads + 30 * weights + 12 * t.points * blocks * t.tiles * (s.ic + s.oc)
