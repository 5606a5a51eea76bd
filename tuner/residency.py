"""Where a running model finds its weights at each call: what makes a kernel's time hold in the whole."""

from __future__ import annotations

from tuner.graph.costs import total_macs
from tuner.graph.ir import Graph
from tuner.search.expectation import peak
from tuner.types import Device

DRAM, CACHE = "dram", "cache"  # the latter: the last level, which cores share
SHARE = 0.75  # of the last-level cache that weights may fill
KEPT = 1e-3  # seconds that it keeps what it holds


def residency(graph: Graph, device: Device) -> str:
    """CACHE where weights fit into that cache and a call is so short that they are there at the next, else DRAM.

    The cache belongs to all cores of a processor, and to other guests of a host, which go on writing to it meanwhile:
    on a virtual machine with two cores of a Zen 4 half of 6 MiB had left it after 1 to 3 ms, all after 10 (throw-away
    program, twice). What a call takes is told from its multiply-adds at the device's peak, so that the same model has
    the same answer every day: it takes two to three times that.
    """
    weights = sum(constant.bytes for constant in graph.constants.values())
    seconds = 2 * total_macs(graph) / peak(device, device.cores)
    return CACHE if weights <= SHARE * device.l3 and seconds <= KEPT else DRAM
