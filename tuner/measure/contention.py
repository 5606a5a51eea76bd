"""Whether others compute on our cores' other hardware threads: a short burst of work on every core, timed.

A neighbour there (on a virtual machine: another guest of the host) slows a core and shows in no counter of the
operating system. The burst is what kernels do: a register tile of a matrix product whose operands lie in the
first-level cache. On a core of one's own it takes the same time again and again. Whatever else slows arithmetic, such
as a lower clock, reads the same. Builders build it, because measuring processes have no compiler.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tuner.measure.arena import aligned
from tuner.measure.timing import Floor
from tuner.types import Device

DEPTH = 128  # length of the sums: operands of 11 KiB
PASSES = {16: 48, 32: 24}  # vector registers of the device -> how often the sums are done; 10 to 20 microseconds
ROWS = {16: 6, 32: 12}  # rows of the tile; it is two vectors wide
BURSTS = 5  # of which the fastest is a reading

Burst = Callable[[], float]  # does the work on all cores and returns the seconds that it took


class Gauge:
    """How much longer a burst takes than it needs to.

    Args:
        burst: what is timed.
        floor: seconds of a burst on calm cores, as earlier processes found.
    """

    def __init__(self, burst: Burst, floor: float = float("inf")) -> None:
        self._burst = burst
        self._floor = Floor(floor)

    @property
    def floor(self) -> float:
        """Seconds of a burst on calm cores, as far as is known; infinite before the first reading."""
        return self._floor.seconds

    def hear(self, floor: float) -> None:
        """Take over what another process found, if that is less."""
        if floor < self.floor:
            self._floor = Floor(floor)

    def read(self) -> float:
        """Contention right now, at least 1, from the fastest of a few bursts.

        One alone is also slow where the operating system looked in for a moment: of kernels' times it foretells half as
        much (correlation 0.3 against 0.6).
        """
        self._burst()  # brings its operands back into the cache
        seconds = min(self._burst() for _ in range(BURSTS))
        self._floor.take(seconds)
        return self._floor.contention(seconds)


def kernel_burst(device: Device, library: Path) -> Burst | None:
    """A burst on TVM's own threads, the ones that kernels run on; None where nobody has built its ``library``."""
    if not library.exists():
        return None
    import tvm.runtime  # noqa: F401 - brings the thread pool that kernels call
    from tvm_ffi import from_dlpack, load_module

    function = load_module(str(library))["main"]
    arrays = [aligned(shape, np.dtype(np.float32)) for shape in _shapes(device)]
    for array in arrays:
        array.fill(1e-3)
    arguments = [from_dlpack(array) for array in arrays]
    now = time.perf_counter_ns

    def burst() -> float:
        began = now()
        function(*arguments)
        return (now() - began) * 1e-9

    return burst


def _shapes(device: Device) -> list[tuple[int, ...]]:
    """Of rows, columns and results."""
    rows, width = ROWS.get(device.registers, 6), 2 * device.lanes
    return [(device.cores, DEPTH * rows), (device.cores, DEPTH * width), (device.cores, rows * width)]


def work(device: Device) -> Any:
    """The burst as a scheduled function of rows, columns and results (see ``_shapes``)."""
    from tvm.script import tirx as T

    cores, lanes = device.cores, device.lanes
    rows, passes = ROWS.get(device.registers, 6), PASSES.get(device.registers, 48)
    width = 2 * lanes

    @T.prim_func(s_tir=True)
    def main(
        a: T.Buffer((cores, DEPTH * rows), "float32"),  # type: ignore[valid-type]
        b: T.Buffer((cores, DEPTH * width), "float32"),  # type: ignore[valid-type]
        y: T.Buffer((cores, rows * width), "float32"),  # type: ignore[valid-type]
    ) -> None:
        T.func_attr({"global_symbol": "main", "tirx.noalias": True})
        for core in T.parallel(cores):
            acc = T.decl_buffer((rows * width,), "float32", scope="local")
            for m in T.unroll(rows * 2):
                for v in T.vectorized(lanes):
                    acc[m * lanes + v] = T.float32(0)
            for _ in T.serial(passes):
                for k in T.serial(DEPTH):
                    for m in T.unroll(rows):
                        for n in T.unroll(2):
                            for v in T.vectorized(lanes):
                                acc[m * width + n * lanes + v] = (
                                    acc[m * width + n * lanes + v]
                                    + a[core, k * rows + m] * b[core, k * width + n * lanes + v]
                                )
            for m in T.unroll(rows * 2):
                for v in T.vectorized(lanes):
                    y[core, m * lanes + v] = acc[m * lanes + v]

    return main


def build_burst(device: Device, library: Path) -> None:
    """Build the burst into ``library`` unless it is there; several processes may do so at once."""
    if library.exists():
        return
    import tvm

    from tuner.build.linking import assemble

    half = library.with_suffix(f".{os.getpid()}.so")
    compiled = tvm.compile(tvm.IRModule({"main": work(device)}), target=tvm.target.Target(device.target()))
    assemble(compiled.mod, half)
    half.replace(library)
