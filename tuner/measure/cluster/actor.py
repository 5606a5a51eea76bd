"""A machine's Host as a Ray actor. Bytes in, bytes out."""

from __future__ import annotations

from typing import Any

import ray

from tuner.measure.cluster.host import Host
from tuner.types import Device


class Member:
    """Builds side by side, measures one candidate at a time, and says at any time who it is."""

    def __init__(self, device: dict[str, Any] | None, builders: int, cores: int) -> None:
        self._host = Host(Device.from_json(device) if device else None, builders, cores)

    def describe(self) -> bytes:
        return self._host.describe()

    @ray.method(concurrency_group="build")
    def build(self, message: bytes) -> bytes:
        return self._host.build(message)

    @ray.method(concurrency_group="measure")
    def measure(self, message: bytes) -> bytes:
        return self._host.measure(message)

    @ray.method(concurrency_group="measure")
    def files(self, message: bytes) -> bytes:
        return self._host.files(message)

    @ray.method(concurrency_group="measure")
    def whole(self, message: bytes) -> bytes:
        return self._host.whole(message)


def make(
    name: str, resources: dict[str, float], device: dict[str, Any] | None, builders: int, cores: int
) -> Any:  # fmt: skip
    """A new actor; it lives no longer than the process that made it, and is never made anew by itself."""
    remote = ray.remote(
        num_cpus=0, resources=resources, max_restarts=0, max_task_retries=0,
        concurrency_groups={"build": max(1, builders), "measure": 1},
    )(Member)  # fmt: skip
    return remote.options(name=name).remote(device, builders, cores)
