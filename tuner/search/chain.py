"""What two or three convolutions in one kernel should take, from shapes and the device alone; see ``expectation``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil, log, log2

from tuner.graph.ir import Graph
from tuner.kernels.conv_chain_shape import ChainShape, is_bordered, is_depthwise, pair_of, weight_bytes
from tuner.kernels.conv_shape import ConvShape
from tuner.kernels.inverted_residual_shape import TrioShape, trio_of
from tuner.search.expectation import CLOCK, COPY, ISSUE, L2, L3, LATENCY, LAUNCH, SPILL, TASK
from tuner.types import Device

BROKEN = 1.2  # how much longer a register tile takes whose pixels lie in several rows: each has its own address


@dataclass(frozen=True)
class ChainFacts:
    """Two convolutions as the cost model sees them, and the device."""

    shape: ChainShape
    device: Device

    @staticmethod
    def of(workload: Graph, device: Device) -> ChainFacts | None:
        pair = pair_of(workload)
        return None if pair is None else ChainFacts(ChainShape.of(workload, pair), device)

    def log_seconds(self, knobs: Mapping[str, int], cores: int) -> float:
        """Expected log(seconds)."""
        task = self._computing(knobs) + self._moving(knobs) + TASK
        return log((LAUNCH + ceil(self._tasks(knobs) / cores) * task) / CLOCK)

    def derived(self, knobs: Mapping[str, int], cores: int) -> list[float]:
        """The columns that ``features`` has for register-tiled kernels; of one convolution means of the heavier."""
        side = "a" if self._cycles("a", knobs) > self._cycles("b", knobs) else "b"
        oc, reg = knobs[f"oc_{side}"], knobs[f"reg_{side}"]
        pixels = self.shape.pixels(knobs["rows"])[side == "b"]
        tasks, held = self._tasks(knobs), float(self._held(knobs))
        return [
            float(oc * reg),
            1 / oc + 1 / reg,
            ceil(pixels / reg) * reg / pixels,
            log2(tasks),
            ceil(tasks / cores) * cores / tasks,
            log2(1 + self._weights(knobs) / self.device.l2),
            log2(1 + held / self.device.l1),
            log2(1 + (self._weights(knobs) + held) / self.device.l2),
        ]

    def _tasks(self, knobs: Mapping[str, int]) -> int:
        return self.shape.second.n * self.shape.bands(knobs["rows"]) * knobs["parts"]

    def _conv(self, side: str) -> ConvShape:
        return self.shape.first if side == "a" else self.shape.second

    def _computing(self, knobs: Mapping[str, int]) -> float:
        return self._cycles("a", knobs) + self._cycles("b", knobs)

    def _cycles(self, side: str, knobs: Mapping[str, int]) -> float:
        """Cycles of one task in one of the convolutions."""
        pixels = self.shape.pixels(knobs["rows"])[side == "b"]
        return tile_cycles(self._conv(side), side, pixels, knobs, self.device) / self._divided(side, knobs)

    def _divided(self, side: str, knobs: Mapping[str, int]) -> int:
        """Into how many tasks the channels of a convolution are divided."""
        return knobs["parts"] if side == "b" or self.shape.apart else 1

    def _moving(self, knobs: Mapping[str, int]) -> float:
        """Cycles of one task for weights that do not stay in the first-level cache, and for copies with borders."""
        weights = self._weights(knobs)
        copied = self._held(knobs) if is_bordered(self.shape.second) else 0
        if is_bordered(self.shape.first):
            first = self.shape.first
            channels = first.ic / (self._divided("a", knobs) if is_depthwise(first) else 1)
            copied += int(4 * channels * self.shape.height(knobs["rows"]) * first.stride[0] * first.reach[1])
        passing = self._passing("a", knobs) + self._passing("b", knobs)
        return weights / (L2 if weights <= self.device.l2 / 2 else L3) + copied / COPY + passing

    def _passing(self, side: str, knobs: Mapping[str, int]) -> float:
        """Cycles of a task for reading its band once per chunk of weights, or its weights once per tile of the band."""
        s = self._conv(side)
        if is_depthwise(s):
            return 0.0
        pixels = self.shape.pixels(knobs["rows"])[side == "b"]
        if knobs["order"]:
            times, size = pixels / knobs[f"reg_{side}"], weight_bytes(s) / self._divided(side, knobs)
        else:
            times = ceil(s.oc / self.device.lanes) / knobs[f"oc_{side}"] / self._divided(side, knobs)
            size = 4.0 * s.ic * pixels * s.stride[0] * s.stride[1]
        if size <= self.device.l1 / 2:
            return 0.0
        return (times - 1) * size / (L2 if size <= self.device.l2 / 2 else L3)

    def _weights(self, knobs: Mapping[str, int]) -> float:
        """Bytes of weights that one task reads."""
        sides = [(self._conv(side), self._divided(side, knobs)) for side in "ab"]
        return sum(weight_bytes(s) / parts for s, parts in sides)

    def _held(self, knobs: Mapping[str, int]) -> int:
        """Bytes of the image between the convolutions that one task holds at a time."""
        channels = self.device.lanes * knobs["oc_a"] if self.shape.apart else self.shape.first.oc
        return self.shape.held(knobs["rows"], channels)


def tile_cycles(s: ConvShape, side: str, pixels: int, knobs: Mapping[str, int], device: Device) -> float:
    """Cycles that so many pixels of a convolution take in its register tiles."""
    oc, reg = knobs.get(f"oc_{side}", 1), knobs[f"reg_{side}"]
    tiles = ceil(pixels / reg)
    chunks = ceil(s.oc / device.lanes) / oc
    accumulators = oc * reg
    step = max(accumulators / ISSUE, (oc + reg) / ISSUE, LATENCY)
    step += SPILL * max(0, accumulators + oc + 2 - device.registers)  # beside weights and a pixel
    if s.kh * s.kw > 1 and s.ow % reg and reg % s.ow:
        step *= BROKEN
    return tiles * chunks * (s.ic // s.groups) * s.kh * s.kw * step


@dataclass(frozen=True)
class TrioFacts:
    """An inverted residual block as the cost model sees it, and the device."""

    shape: TrioShape
    device: Device

    @staticmethod
    def of(workload: Graph, device: Device) -> TrioFacts | None:
        trio = trio_of(workload)
        return None if trio is None else TrioFacts(TrioShape.of(workload, trio), device)

    def log_seconds(self, knobs: Mapping[str, int], cores: int) -> float:
        """Expected log(seconds)."""
        task = sum(self._cycles(side, knobs) for side in "abc") + self._moving(knobs) + TASK
        return log((LAUNCH + ceil(self._tasks(knobs) / cores) * task) / CLOCK)

    def derived(self, knobs: Mapping[str, int], cores: int) -> list[float]:
        """The columns that ``features`` has for register-tiled kernels; of one convolution means of the heaviest."""
        side = max("abc", key=lambda s: self._cycles(s, knobs))
        oc, reg, rows = knobs.get(f"oc_{side}", 1), knobs[f"reg_{side}"], knobs["rows"]
        pixels, tasks = self.shape.pixels(side, rows), self._tasks(knobs)
        held, weights = self._held(knobs), sum(weight_bytes(self.shape.conv(s)) for s in "abc")
        return [
            float(oc * reg),
            1 / oc + 1 / reg,
            ceil(pixels / reg) * reg / pixels,
            log2(tasks),
            ceil(tasks / cores) * cores / tasks,
            log2(1 + weights / self.device.l2),
            log2(1 + held / self.device.l1),
            log2(1 + (weights + held + self.shape.hidden(rows)) / self.device.l2),
        ]

    def _tasks(self, knobs: Mapping[str, int]) -> int:
        return self.shape.third.n * self.shape.chain.bands(knobs["rows"])

    def _cycles(self, side: str, knobs: Mapping[str, int]) -> float:
        pixels = self.shape.pixels(side, knobs["rows"])
        return tile_cycles(self.shape.conv(side), side, pixels, knobs, self.device)

    def _held(self, knobs: Mapping[str, int]) -> int:
        """Bytes of the expanded image that one task holds at a time."""
        return self.shape.chain.held(knobs["rows"], self.device.lanes * knobs["oc_a"])

    def _moving(self, knobs: Mapping[str, int]) -> float:
        """Cycles of one task for weights and images that do not stay in the first-level cache."""
        rows, third = knobs["rows"], self.shape.third
        weights = sum(weight_bytes(self.shape.conv(side)) for side in "abc")
        hidden = self.shape.hidden(rows)
        held = self._held(knobs)
        steps = ceil(self.shape.conv("b").oc / self.device.lanes) / knobs["oc_a"]
        cycles = weights / self._rate(weights) + self._passed(held, 2 * steps) + self._passed(hidden, 1)
        if knobs["order"]:
            return cycles + self._passed(weight_bytes(third), rows * third.ow / knobs["reg_c"])
        return cycles + self._passed(hidden, ceil(third.oc / self.device.lanes) / knobs["oc_c"])

    def _passed(self, size: float, times: float) -> float:
        """Cycles for so many bytes, read or written so often; none if they stay close."""
        return 0.0 if size <= self.device.l1 / 2 else times * size / self._rate(size)

    def _rate(self, size: float) -> float:
        return L2 if size <= self.device.l2 / 2 else L3
