"""How the children of measuring runners are set up: configuration, environment, memory."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tuner.environment import child_environment
from tuner.measure.options import MeasureOptions
from tuner.measure.process import Child
from tuner.types import Device, digest

REFERENCES = "references"  # the folder of references in a runner's scratch folder


def starter(role: str, device: Device, options: MeasureOptions, folder: Path) -> Callable[[Path], Child]:
    """A function that starts a child of this role, given the file for what it writes to stderr.

    Args:
        role: "build", "run" or "reference".
        device: what is built for and measured on; its cores are the child's threads.
        options: limits on time and memory among them.
        folder: the runner's scratch folder.
    """
    config: dict[str, Any] = {
        "device": device.to_json(),
        "options": options.to_json(),
        "references": str(folder / REFERENCES),
        "burst": str(folder / f"burst-{digest(device.fingerprint)[:16]}.so"),  # what contention is gauged with
    }
    threads = str(device.cores)  # TVM would take half the logical cores on x86, believing in SMT
    env = child_environment() | {
        "TVM_NUM_THREADS": threads,
        "OMP_NUM_THREADS": threads,
        "OPENBLAS_NUM_THREADS": "1",  # numpy packs and compares; its pool would only spin beside ours
        "MKL_NUM_THREADS": "1",
    }
    if role == "run":
        env["TVM_USE_RUNTIME_LIB"] = "1"  # no compiler needed: starts in half the time and memory
    memory = device.memory if role == "reference" else options.memory(device.memory)
    return lambda stderr: Child(role, config, stderr, env, options.start_limit, memory)
