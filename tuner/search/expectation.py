"""What a register-tiled convolution should take, from shapes and the device alone: where a search starts when cold.

Only the order of points matters to a search, so the constants are round numbers of current x86 cores: two fused
multiply-adds and two loads a cycle, four cycles until a result can be used, caches that deliver so many bytes a cycle.
After the analytic models of Low et al., "Analytical Modeling Is Enough for High-Performance BLIS" (ACM TOMS 2016).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil, log

from tuner.types import Device

CLOCK = 3e9  # cycles per second
ISSUE, LATENCY = 2, 4  # multiply-adds (and loads) a cycle; cycles from one to the next on the same accumulator
SPILL = 3.0  # cycles per step for each accumulator that finds no register; compilers keep four for operands
L2, L3, MEMORY = 32.0, 12.0, 4.0  # bytes a cycle that reach one core
COPY = 10.0  # bytes a cycle at which a task copies its part of the image, zeros around it
LAUNCH = 3000.0  # cycles to start and end a parallel region
TASK = 200.0  # cycles per task besides
COUNTED = ("oc_t", "reg_n", "rows", "order", "stream")  # knobs that it looks at


def peak(device: Device, cores: int) -> float:
    """Operations a second of so many cores, a multiply-add counting as two."""
    return 2 * ISSUE * device.lanes * CLOCK * cores


@dataclass(frozen=True)
class ConvFacts:
    """A convolution as the model sees it."""

    ic: float  # input channels that one output channel reads
    h: float
    w: float
    oc: float
    oh: float
    ow: float
    kh: float
    kw: float
    stride: float
    groups: float = 1
    bordered: bool = False  # zeros around the image
    flat: bool = False  # its pixels are tiled as one long row; see ConvShape.flat
    prepared: float = 0.0  # bytes of the image that are copied before all tasks
    each: int = 1  # products that one instruction adds to a sum: two of bfloat16, four of 8-bit integers

    @property
    def bytes(self) -> float:
        """Of each operand of a product."""
        return 4.0 / self.each

    @property
    def image(self) -> float:
        """Bytes of the input as the tasks read it."""
        return self.bytes * self.ic * self.groups * self.h * self.w

    def copied(self, channels: float, rows: int, reg_n: int) -> float:
        """Bytes that a task of so many output channels copies before it computes; 0 where the image serves as it is.

        It does not where it has a border, or where the last register tile reads past the end of a row.
        """
        if self.flat:
            return 0.0
        width = (ceil(self.ow / reg_n) * reg_n - 1) * self.stride + self.kw
        if not self.bordered and width <= self.w:
            return 0.0
        height = (min(rows, self.oh) - 1) * self.stride + self.kh
        read = self.ic * min(
            self.groups, max(1.0, channels * self.groups / self.oc)
        )  # input channels of all the groups it touches
        return 4.0 * read * height * width


def conv_terms(c: ConvFacts, knobs: Mapping[str, int], cores: int, device: Device) -> tuple[float, ...]:
    """Cycles of one core: computing, weights from caches, what comes from beyond or is copied, waiting for the last."""
    lanes, oc_t, reg_n = device.lanes, knobs["oc_t"], knobs["reg_n"]
    rows, order, stream = knobs.get("rows", 1), knobs.get("order", 0), knobs.get("stream", 0)
    width, height = (c.oh * c.ow, 1.0) if c.flat else (c.ow, c.oh)
    steps = ceil(width / reg_n)
    bands = ceil(steps / rows) if c.flat else ceil(height / rows)
    chunks = ceil(c.oc / (lanes * oc_t))
    tasks, tiles = (chunks if order < 2 else 1) * bands, chunks * steps * height
    depth = c.ic * c.kh * c.kw
    instructions = depth * c.bytes / 4  # of an accumulator

    accumulators = oc_t * reg_n
    step = max(accumulators / ISSUE, (oc_t + reg_n) / ISSUE, LATENCY)
    step += SPILL * max(0, accumulators + 4 - device.registers)
    compute = tiles * instructions * step
    if stream:  # accumulators are put down and taken up again for each slice of input channels
        compute += tiles * ceil(c.ic / (stream * lanes)) * accumulators

    chunk = c.bytes * lanes * oc_t * depth  # bytes of the weights that a task reads, tile by tile
    again = chunk * min(1.0, stream * lanes / c.ic) if stream else chunk
    near = 0.0 if again <= device.l1 / 2 else tiles * chunk / (L2 if again <= device.l2 / 2 else L3)

    weights = chunk * chunks
    if order == 0:  # a chunk's weights stay, the image passes once per chunk
        far = weights / MEMORY + (chunks - 1) * c.image / _rate(c.image, device)
    else:  # a band of the image stays, all weights pass once per band
        far = c.image / L3 + weights / MEMORY + (bands - 1) * weights / _rate(weights, device)
    far += (c.prepared + tasks * c.copied(lanes * oc_t, rows, reg_n)) / COPY
    busy = max(compute, near) + far + tasks * TASK
    return compute, near, far, busy * (ceil(tasks / cores) * cores / tasks - 1)


def conv_seconds(c: ConvFacts, knobs: Mapping[str, int], cores: int, device: Device) -> float:
    return seconds_of(conv_terms(c, knobs, cores, device), cores)


def seconds_of(terms: tuple[float, ...], cores: int) -> float:
    """Of what ``conv_terms`` gave."""
    compute, near, far, waiting = terms
    return (LAUNCH + (max(compute, near) + far + waiting) / cores) / CLOCK


def log_seconds(c: ConvFacts, knobs: Mapping[str, int], cores: int, device: Device) -> float:
    return log(conv_seconds(c, knobs, cores, device))


def _rate(size: float, device: Device) -> float:
    """Bytes a cycle from the cache in which ``size`` bytes stay."""
    return L2 if size <= device.l2 / 2 else L3 if size <= device.l3 else MEMORY
