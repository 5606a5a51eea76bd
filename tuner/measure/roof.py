"""The roof of a CPU: its peak of float32 operations and its memory bandwidth, measured on all its cores.

``python -m tuner.measure.roof`` prints both as JSON; ``measure_roof`` runs that in a process of its own. The peak is
that of independent chains of multiply-adds in registers; the bandwidth that of reading a buffer several times the
last-level cache, as weights are read in a running model.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import dataclass
from statistics import median
from typing import Any

from tuner.environment import child_environment
from tuner.errors import DeviceError
from tuner.types import Device

SECONDS = 120.0  # after which the child hangs
ROUNDS = 7  # samples of each; the fastest counts for the peak (nothing can be faster than it), the median for memory
CHAINS = {16: 10, 32: 20}  # vector registers of the device -> independent chains: latency x ports, and some are left
STEPS = 200_000  # multiply-adds of a chain per call: about a tenth of a second


@dataclass(frozen=True)
class Roof:
    """What a device can do at most."""

    flops: float  # floating-point operations per second, a multiply-add counting as two
    bandwidth: float  # bytes per second read from memory


def measure_roof(device: Device) -> Roof:
    """Measure in a child process; takes about five seconds. Raises DeviceError (``no-roof``) if that fails.

    The child stays in our process group, and so dies with us where that is killed.
    """
    try:
        done = subprocess.run(
            [sys.executable, "-m", "tuner.measure.roof"], input=json.dumps(device.to_json()), text=True,
            capture_output=True, timeout=SECONDS, check=False,
            env=child_environment() | {"TVM_NUM_THREADS": str(device.cores)},
        )  # fmt: skip
        return Roof(**json.loads(done.stdout))
    except (subprocess.TimeoutExpired, ValueError, TypeError) as error:
        raise DeviceError(f"The peak of {device.name} could not be measured: {error}.", code="no-roof") from error


def main() -> int:
    device = Device.from_json(json.load(sys.stdin))
    print(json.dumps({"flops": _flops(device), "bandwidth": _bandwidth(device)}))
    return 0


def _flops(device: Device) -> float:
    import numpy as np

    chains = CHAINS.get(device.registers, 8)
    run = _compile(_chains(device, chains), device)
    factor = np.full(device.lanes, 0.999, np.float32)
    out = np.zeros((device.cores, chains * device.lanes), np.float32)
    times = _times(run, factor, out)
    return 2.0 * STEPS * out.size / min(times)


def _bandwidth(device: Device) -> float:
    import numpy as np

    part = max(4 * device.l3, 64 << 20) // 4 // device.cores // (8 * device.lanes) * (8 * device.lanes)
    run = _compile(_sums(device, part), device)
    data = np.ones((device.cores, part), np.float32)
    out = np.zeros((device.cores, 8 * device.lanes), np.float32)
    return data.nbytes / median(_times(run, data, out))


def _chains(device: Device, chains: int) -> Any:
    """Each core: ``chains`` accumulators, each x = x * a + a again and again."""
    from tvm.script import tirx as T

    cores, lanes, width = device.cores, device.lanes, chains * device.lanes

    @T.prim_func(s_tir=True)
    def main(a: T.Buffer((lanes,), "float32"), y: T.Buffer((cores, width), "float32")) -> None:  # type: ignore[valid-type]
        T.func_attr({"global_symbol": "main", "tirx.noalias": True})
        for core in T.parallel(cores):
            acc = T.decl_buffer((width,), "float32", scope="local")
            for c in T.unroll(chains):
                for v in T.vectorized(lanes):
                    acc[c * lanes + v] = T.float32(1)
            for _ in T.serial(STEPS):
                for c in T.unroll(chains):
                    for v in T.vectorized(lanes):
                        acc[c * lanes + v] = acc[c * lanes + v] * a[v] + a[v]
            for c in T.unroll(chains):
                for v in T.vectorized(lanes):
                    y[core, c * lanes + v] = acc[c * lanes + v]

    return main


def _sums(device: Device, part: int) -> Any:
    """Each core adds up its part of a large buffer."""
    from tvm.script import tirx as T

    cores, lanes = device.cores, device.lanes
    width = 8 * lanes

    @T.prim_func(s_tir=True)
    def main(x: T.Buffer((cores, part), "float32"), y: T.Buffer((cores, width), "float32")) -> None:  # type: ignore[valid-type]
        T.func_attr({"global_symbol": "main", "tirx.noalias": True})
        for core in T.parallel(cores):
            acc = T.decl_buffer((width,), "float32", scope="local")
            for c in T.unroll(8):
                for v in T.vectorized(lanes):
                    acc[c * lanes + v] = T.float32(0)
            for i in T.serial(part // width):
                for c in T.unroll(8):
                    for v in T.vectorized(lanes):
                        acc[c * lanes + v] = acc[c * lanes + v] + x[core, i * width + c * lanes + v]
            for c in T.unroll(8):
                for v in T.vectorized(lanes):
                    y[core, c * lanes + v] = acc[c * lanes + v]

    return main


def _compile(function: Any, device: Device) -> Any:
    import tvm

    return tvm.compile(tvm.IRModule({"main": function}), target=tvm.target.Target(device.target()))


def _times(run: Any, *arrays: Any) -> list[float]:
    import tvm

    given = [tvm.runtime.tensor(a) for a in arrays]
    run["main"](*given)
    times = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        run["main"](*given)
        times.append(time.perf_counter() - began)
    return times


if __name__ == "__main__":
    sys.exit(main())
