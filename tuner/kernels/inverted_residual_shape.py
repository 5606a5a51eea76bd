"""An inverted residual block in one kernel: its three convolutions, the geometry of a band of rows, good tilings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil

from tuner.graph.ir import Graph, Layer
from tuner.kernels.conv_chain_shape import (
    FAR,
    TASK,
    ChainShape,
    Pair,
    best_tile,
    cut_before,
    fitting,
    multiply_adds,
    pair_of,
    vectors,
    weight_bytes,
    widths,
)
from tuner.kernels.conv_shape import ConvShape
from tuner.types import Device

NEAR, BEYOND = 32.0, 12.0  # bytes a cycle that reach a core from its second-level cache, and from the one they share
CLEARLY = 1.1  # by how much one kernel is to be expected faster than three before any is measured


@dataclass(frozen=True)
class Trio:
    """A workload of three convolutions; ``hidden`` is the image between the second's layers and the third."""

    pair: Pair
    third: Layer
    hidden: str
    back: Graph  # the workload behind ``hidden``

    @property
    def parts(self) -> tuple[Graph, Graph, Graph]:
        """The workload cut behind each convolution's elementwise layers."""
        return self.pair.front, self.pair.back, self.back


def trio_of(workload: Graph) -> Trio | None:
    """The three convolutions of a workload, each behind the one before; None where it has no such three."""
    convs = [x for x in workload.layers if x.op == "Conv"]
    if len(convs) != 3:
        return None
    cut = cut_before(workload, convs[2])
    if cut is None:
        return None
    hidden, ahead, back = cut
    pair = pair_of(ahead)
    return None if pair is None else Trio(pair, convs[2], hidden, back)


@dataclass(frozen=True)
class TrioShape:
    """The numbers of the three convolutions: any, depthwise, 1x1. A band is ``rows`` rows of the output."""

    chain: ChainShape
    third: ConvShape

    @staticmethod
    def of(workload: Graph, trio: Trio) -> TrioShape:
        return TrioShape(ChainShape.of(workload, trio.pair), ConvShape.of(workload, trio.third))

    def conv(self, side: str) -> ConvShape:
        return {"a": self.chain.first, "b": self.chain.second, "c": self.third}[side]

    def pixels(self, side: str, rows: int) -> int:
        """Pixels of a band that a convolution computes."""
        return self.chain.pixels(rows)[side != "a"]

    def hidden(self, rows: int) -> int:
        """Bytes of the depthwise convolution's image that a task keeps: of all channels."""
        return 4 * self.chain.second.oc * rows * self.chain.second.ow

    def cycles(self, rows: int, device: Device) -> float:
        """About how long it takes on all cores, by multiply-adds, evenness, and weights read again by every band."""
        tasks = self.third.n * self.chain.bands(rows)
        work = sum(self.pixels(side, rows) * multiply_adds(self.conv(side)) for side in "abc")
        cycles = work / (2 * device.lanes) + TASK
        weights = sum(weight_bytes(self.conv(side)) for side in "abc")
        kept = weights + self.hidden(rows)
        if kept > device.l2 // 2:
            cycles += kept / FAR
        if self.chain.held(rows, device.lanes) > device.l2 // 4:
            cycles *= 1.3
        return ceil(tasks / device.cores) * cycles

    def order(self, rows: int) -> int:
        """Knob ``order``: 0 = the hidden image passes by once per chunk of weights, 1 = all weights once per tile."""
        return int(weight_bytes(self.third) < self.hidden(rows))


def is_served(shape: TrioShape) -> bool:
    """Whether the convolutions are an inverted residual block: the second depthwise, the third 1x1, pixel by pixel."""
    first, second, third = (shape.conv(side) for side in "abc")
    if second.stride[0] > second.kh or second.stride[1] > second.kw:
        return False  # pixels that nobody reads would be computed
    return shape.chain.apart and first.groups == third.groups == 1 and third.in_place


def is_worthwhile(workload: Graph, device: Device) -> bool:
    """Whether one kernel on all cores should clearly take less time than three, where nothing is measured.

    By the multiply-adds of both, the halo, evenness, and what three kernels write of the wide images and read again.
    """
    trio = trio_of(workload)
    if trio is None:
        return False
    shape = TrioShape.of(workload, trio)
    if not is_served(shape):
        return False
    apart = 0.0
    for side in "abc":
        s = shape.conv(side)
        apart += s.n * s.oh * s.ow * multiply_adds(s) / (2 * device.lanes) / device.cores + TASK
        if side != "c":
            each = 4 * s.n * s.oc * s.oh * s.ow / device.cores  # bytes of a core's part of what it makes
            apart += 2 * each / (NEAR if each <= device.l2 / 2 else BEYOND)
    rows = knobs_of(shape, device)["rows"]
    return apart > CLEARLY * min(shape.cycles(r, device) for r in rows)


# knobs -------------------------------------------------------------------------------------------------------------


def knobs_of(shape: TrioShape, device: Device) -> dict[str, list[int]]:
    first, second, third = (shape.conv(side) for side in "abc")
    height = third.oh
    return {
        "rows": sorted({r for r in (1, 2, 4, 7, 14, 28) if r <= height} | ({height} if height <= 56 else set())),
        "oc_a": vectors(first, device),
        "reg_a": sorted({1, *widths(first, device)[-4:]}),
        "reg_b": sorted({1, *widths(second, device)[-2:]}),
        "oc_c": vectors(third, device),
        "reg_c": sorted({1, *widths(third, device)[-4:]}),
        "order": [0, 1],
    }  # fmt: skip


def default_of(shape: TrioShape, among: Mapping[str, Sequence[int]], device: Device) -> dict[str, int]:
    """Good knobs without a search: the band by ``TrioShape.cycles``, register tiles by loads per multiply-add."""
    rows = min(among["rows"], key=lambda r: (shape.cycles(r, device), -r))
    found = {"rows": rows, "order": shape.order(rows)}
    narrow = [t for t in among["oc_a"] if shape.chain.held(rows, t * device.lanes) <= device.l1 // 2]
    for side in "ac":
        pixels = shape.pixels(side, rows)
        even = [n for n in among[f"reg_{side}"] if pixels % n == 0]  # a ragged row takes an address per pixel
        good = even if max(even, default=0) >= 4 else among[f"reg_{side}"]
        oc = among["oc_c"]
        if side == "a":  # the tile's epilogue and the rows outside the image want registers, too
            oc, good = narrow or [1], [n for n in good if n <= device.registers // 2] or good
        tile = best_tile(shape.conv(side), pixels, oc, good, device)
        found |= {f"oc_{side}": tile[0], f"reg_{side}": tile[1]}
    found["reg_b"] = max(fitting(shape.pixels("b", rows), among["reg_b"]))
    return {name: found[name] for name in among}


def allowed(shape: TrioShape, knobs: Mapping[str, int], among: Mapping[str, Sequence[int]], device: Device) -> bool:
    """Whether a choice of knobs can be good: tiles fit registers and bands, and the images between stay in cache."""
    rows = knobs["rows"]
    for side in "abc":
        oc, reg = knobs.get(f"oc_{side}", 1), knobs[f"reg_{side}"]
        if reg not in fitting(shape.pixels(side, rows), among[f"reg_{side}"]):
            return False
        if oc * reg > device.registers - 2 and reg > 1:
            return False
    held = shape.hidden(rows) + shape.chain.held(rows, device.lanes * knobs["oc_a"])
    return rows == min(among["rows"]) or held <= device.l2
