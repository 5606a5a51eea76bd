"""A toy accelerator to learn: other formulas than the roofline's, the same physics. Nothing of it is a real machine."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cost_model.machine import Machine
from tuner.graph.costs import layer_cost
from tuner.graph.ir import Graph
from tuner.plan.halo import Halo
from tuner.types import Device

CORES = 16
MACHINE = Machine(
    cores=CORES, peak_flops=16e12, vector_flops=1e12, bandwidth=80e9, core_bandwidth=25e9, core_memory=512e3,
    shared_memory=0.0,
)  # fmt: skip
DEVICE = Device("toy", "cpu", "toy", "generic", (), CORES, 16, 32, 64 << 10, 512 << 10, 8 << 20, 1 << 33)


def toy_seconds(workload: Graph, cores: Sequence[int], speed: float = 1.0) -> np.ndarray:
    """Noise-free seconds per core count."""
    halo = Halo(workload)
    bands = halo.split(np.array(cores))
    shares = bands.busiest / halo.rows[:, None]
    compute = np.zeros(len(cores))
    for layer, share in zip(workload.layers, shares, strict=True):
        cost = layer_cost(workload, layer)
        work = cost.ops * share
        rate = MACHINE.core_flops * (1 - np.exp(-work / 3e5 - 0.02)) * min(1.0, 0.3 + cost.channels / 64)
        compute += work / (rate if cost.macs else MACHINE.core_flops / 16)
    outer = [workload.tensors[n].bytes for n in (*workload.inputs, *workload.outputs)]
    weights = sum(c.bytes for c in workload.constants.values())
    inner = sum(
        (workload.tensors[x.outputs[0]].bytes * s for x, s in zip(workload.layers[:-1], shares, strict=False)),
        np.zeros(len(cores)),
    )
    passes = 1 + 0.3 * np.log2(np.maximum(1.0, inner / MACHINE.core_memory))
    bandwidth = np.minimum(MACHINE.bandwidth, np.asarray(cores) * 25e9)
    memory = (sum(outer) + weights * passes) / bandwidth
    return (np.maximum(compute * passes, memory) + 8e-6 + 1e-6 * np.asarray(cores) ** 0.5) / speed
