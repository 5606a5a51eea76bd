"""Two convolutions in one kernel: their layers, the geometry of a band of rows, and good tilings of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product
from math import ceil

from tuner.graph.ir import Graph, Layer
from tuner.kernels.conv_shape import ConvShape
from tuner.types import Device

TASK = 2000.0  # cycles that a task costs besides computing
FAR = 8.0  # bytes a cycle of weights that do not stay in a core's cache from band to band
DEPTHWISE = 3.0  # how much longer a multiply-add of a depthwise convolution takes: each loads its own operands


@dataclass(frozen=True)
class Pair:
    """A workload cut behind its first convolution's elementwise layers; ``middle`` is the tensor in between."""

    first: Layer
    second: Layer
    middle: str
    front: Graph  # the workload up to ``middle``
    back: Graph  # the rest, which reads ``middle``


def pair_of(workload: Graph) -> Pair | None:
    """The two convolutions of a workload, one behind the other; None where it has no such two.

    The tensor between them is read by the second alone, as its image, and nothing else made before it is read behind.
    """
    convs = [x for x in workload.layers if x.op == "Conv"]
    if len(convs) != 2:
        return None
    cut = cut_before(workload, convs[1])
    return None if cut is None else Pair(convs[0], convs[1], *cut)


def cut_before(workload: Graph, conv: Layer) -> tuple[str, Graph, Graph] | None:
    """The image that a convolution reads, the workload up to it, and the rest; None where it cannot be cut there.

    The convolution alone reads the image, as its image, and nothing else made before it is read behind.
    """
    middle = conv.inputs[0]
    if len(workload.outputs) != 1 or middle not in workload.producer or middle in workload.outputs:
        return None
    before = _ancestors(workload, middle)
    ahead = tuple(x for x in workload.layers if x.id in before)
    behind = tuple(x for x in workload.layers if x.id not in before)
    made = {o for x in ahead for o in x.outputs if o}
    crossing = [n for x in behind for n in x.inputs if n in made]
    if not any(x.op == "Conv" for x in ahead) or crossing != [middle] or middle in conv.inputs[1:]:
        return None
    return middle, part_of(workload, ahead, middle), part_of(workload, behind, workload.outputs[0])


def _ancestors(workload: Graph, tensor: str) -> set[str]:
    """Ids of the layers that a tensor is made of."""
    found: set[str] = set()
    todo = [tensor]
    while todo:
        maker = workload.producer.get(todo.pop())
        if maker is not None and maker.id not in found:
            found.add(maker.id)
            todo.extend(maker.inputs)
    return found


def part_of(workload: Graph, layers: tuple[Layer, ...], output: str) -> Graph:
    """Some layers of a workload, in running order, of which only ``output`` is read outside."""
    made = [o for x in layers for o in x.outputs if o]
    read = dict.fromkeys(n for x in layers for n in x.inputs if n in workload.tensors and n not in made)
    tensors = {n: workload.tensors[n] for n in (*read, *made)}
    return replace(workload, inputs=tuple(read), outputs=(output,), layers=layers, tensors=tensors)


def has_own_weights(workload: Graph, conv: Layer) -> bool:
    """Whether its weights are constants that nothing else reads: one kernel packs a constant one way."""
    weights = conv.inputs[1]
    if not workload.is_constant(weights) or workload.constants[weights].value is not None:
        return False
    return sum(layer.inputs.count(weights) for layer in workload.layers) == 1


@dataclass(frozen=True)
class ChainShape:
    """The numbers of both convolutions. A band is ``rows`` output rows of the second, with what it needs of the first.

    Bands are equally high: the last one is moved back to end with the image where the rows do not divide.
    """

    first: ConvShape
    second: ConvShape

    @staticmethod
    def of(workload: Graph, pair: Pair) -> ChainShape:
        return ChainShape(ConvShape.of(workload, pair.first), ConvShape.of(workload, pair.second))

    @cached_property
    def apart(self) -> bool:
        """Whether the second works channel by channel, so that vectors of channels can be done one after the other."""
        return is_depthwise(self.second)

    def bands(self, rows: int) -> int:
        return ceil(self.second.oh / rows)

    def reach(self, rows: int) -> int:
        """Rows of the (padded) image between the convolutions that a band reads."""
        s = self.second
        return (rows - 1) * s.stride[0] + (s.kh - 1) * s.dilation[0] + 1

    def height(self, rows: int) -> int:
        """Rows of the first convolution that a band computes: its own and the halo, never rows outside the image."""
        return min(self.reach(rows), self.first.oh)

    def pixels(self, rows: int) -> tuple[int, int]:
        """Pixels that a band computes of the first convolution, and of the second."""
        return self.height(rows) * self.first.ow, rows * self.second.ow

    def held(self, rows: int, channels: int) -> int:
        """Bytes of the image between the convolutions that a task keeps, for so many channels of it."""
        s = self.second
        border = self.reach(rows) * s.reach[1] if is_bordered(s) else 0
        return 4 * channels * (self.height(rows) * self.first.ow + border)

    def cycles(self, rows: int, parts: int, device: Device) -> float:
        """About how long it takes on all cores, by multiply-adds, evenness, and weights read again by every band."""
        tasks = self.second.n * self.bands(rows) * parts
        pixels = self.pixels(rows)
        ahead, behind = pixels[0] * multiply_adds(self.first), pixels[1] * multiply_adds(self.second)
        work = ahead / (parts if self.apart else 1) + behind / parts
        cycles = work / (2 * device.lanes) + TASK
        weights = weight_bytes(self.first) + weight_bytes(self.second)
        if weights > device.l2 // 2:
            cycles += weights / FAR / (parts if self.apart else 1)
        channels = device.lanes if self.apart else self.first.oc
        if self.held(rows, channels) > device.l2 // 2:
            cycles *= 1.3
        return ceil(tasks / device.cores) * cycles

    def order(self, rows: int) -> int:
        """Knob ``order``: 0 = a band passes by once per chunk of weights, 1 = all weights once per tile of the band."""
        weights = sum(weight_bytes(s) for s in (self.first, self.second) if not is_depthwise(s))
        return int(is_depthwise(self.first) and not self.apart and weights < self.held(rows, self.first.oc))


def is_depthwise(s: ConvShape) -> bool:
    return s.groups > 1 and s.groups == s.ic == s.oc


def is_bordered(s: ConvShape) -> bool:
    """Whether a convolution reads anything outside of its image."""
    return any(s.pads) or s.reach[0] > s.h or s.reach[1] > s.w


def weight_bytes(s: ConvShape) -> int:
    return s.oc * (s.ic // s.groups) * s.kh * s.kw * 4


def multiply_adds(s: ConvShape) -> float:
    """Multiply-adds of one pixel, those of depthwise convolutions counted for as long as they take."""
    macs = s.oc * (s.ic // s.groups) * s.kh * s.kw
    return macs * (DEPTHWISE if is_depthwise(s) else 1.0)


# tilings -----------------------------------------------------------------------------------------------------------


def vectors(s: ConvShape, device: Device) -> list[int]:
    """Vectors of channels in a register tile; never 3, because LLVM splits vectors of 48 badly."""
    chunks = ceil(s.oc / device.lanes)
    return [1] if is_depthwise(s) else [t for t in (1, 2, 4) if chunks % t == 0]


def widths(s: ConvShape, device: Device) -> list[int]:
    """Pixels in a register tile: those that end with rows, those that fill the registers, and always 1."""
    if is_depthwise(s):
        even = [n for n in range(2, 15) if s.ow % n == 0]
        return sorted({1, *even[-4:], *(() if even and even[-1] >= 4 else (4, 6, 8))})
    most = device.registers - 4
    even = [n for n in range(2, most + 1) if s.ow % n == 0 or n % s.ow == 0]
    return sorted({1, *even[-3:], *(most // t for t in vectors(s, device))})


def fitting(pixels: int, among: Sequence[int]) -> list[int]:
    """Of these widths those that waste at most an eighth of a band's pixels; 1 where there is no other."""
    good = [n for n in among if 1 < n <= pixels and (-pixels % n) * 8 <= pixels]
    return good or [1]


def best_tile(s: ConvShape, pixels: int, oc: Sequence[int], reg: Sequence[int], device: Device) -> tuple[int, int]:
    """(vectors of channels, pixels) of the best register tile by loads and chains per multiply-add, without spills."""

    def score(tile: tuple[int, int]) -> float:
        t, n = tile
        loads = 1 / t + 1 / n
        chains = min(t * n / 10, 1)
        broken = 0.8 if s.ow % n and n % s.ow and s.kh * s.kw > 1 else 1.0  # a tile's pixels in several rows
        return broken * chains / max(loads, 0.6) / (ceil(pixels / n) * n / pixels) + 0.002 * t * n

    return max(_tiles(oc, fitting(pixels, reg), device), key=score)


def _tiles(oc: Sequence[int], reg: Sequence[int], device: Device) -> Iterator[tuple[int, int]]:
    """Those that fit the registers beside a step's weights and pixel; the smallest does always."""
    smallest = (min(oc), min(reg))
    return ((t, n) for t, n in product(oc, reg) if t * n + t + 2 <= device.registers or (t, n) == smallest)


def best_split(shape: ChainShape, rows: Sequence[int], parts: Sequence[int], device: Device) -> tuple[int, int]:
    """(rows of a band, parts of the channels) by ``ChainShape.cycles``."""
    return min(product(rows, parts), key=lambda split: (shape.cycles(split[0], split[1], device), -split[0], split[1]))


def allowed(shape: ChainShape, knobs: Mapping[str, int], among: Mapping[str, Sequence[int]], device: Device) -> bool:
    """Whether a choice of knobs can be good: tiles fit registers and bands, and the image in between stays in cache."""
    first, second = shape.pixels(knobs["rows"])
    if knobs["reg_a"] not in fitting(first, among["reg_a"]) or knobs["reg_b"] not in fitting(second, among["reg_b"]):
        return False
    for side in "ab":
        tile = knobs[f"oc_{side}"] * knobs[f"reg_{side}"]
        if tile > device.registers - 2 and knobs[f"reg_{side}"] > 1:
            return False
    chunks = ceil(shape.second.oc / device.lanes)
    if chunks % (knobs["parts"] * step(shape, knobs)):
        return False
    channels = device.lanes * (knobs["oc_a"] if shape.apart else ceil(shape.first.oc / device.lanes))
    return knobs["rows"] == min(among["rows"]) or shape.held(knobs["rows"], channels) <= device.l2


def step(shape: ChainShape, knobs: Mapping[str, int]) -> int:
    """Vectors of output channels that a task does at a time."""
    return knobs["oc_a"] if shape.apart else knobs["oc_b"]
