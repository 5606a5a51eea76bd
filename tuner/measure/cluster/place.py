"""A cluster as the place where a job measures: runner and whole models, or bundles for a GPU, and their device."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, closing, nullcontext

from tuner.errors import CandidateError, DeviceError, UserError
from tuner.measure.cluster.cluster import Cluster
from tuner.measure.cluster.conversation import Conversation
from tuner.measure.cluster.gpu import ClusterGpu
from tuner.measure.cluster.runner import ClusterRunner
from tuner.measure.cluster.wholes import ClusterModels
from tuner.measure.options import MeasureOptions
from tuner.measure.roof import Roof
from tuner.types import Device


class OnCluster:
    """What a job needs to measure on one device of a cluster; whether the device is there need not be known yet.

    ``models`` and ``runner`` are for a Session, ``gpu`` for Rounds on a GPU.

    Args:
        address: of the cluster's head.
        device: any machine of the cluster with this fingerprint is it.
        environment: where the cluster's settings are; None = this process's.
        waiting: entered while no such machine is there.

    Raises:
        UserError: ``bad-address``, ``cluster-not-safe``.
    """

    def __init__(
        self,
        address: str,
        device: Device,
        environment: Mapping[str, str] | None = None,
        waiting: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        self.device = device
        self.waiting = waiting
        self._address, self._environment = address, environment
        self._conversation = Conversation(Cluster(address, environment), device, self._wait)
        self.models = ClusterModels(self._conversation)
        self.gpu = ClusterGpu(self._conversation)

    def runner(self, device: Device, options: MeasureOptions) -> ClusterRunner:
        """A runner with a connection of its own."""
        return ClusterRunner(Cluster(self._address, self._environment), device, options, self._wait)

    def roof(self) -> Roof:
        """As ``tuner.measure.roof.measure_roof``."""
        header = {"what": "roof", "contestants": [], "device": self.device.to_json()}
        try:
            return Roof(**self._conversation.ask(header)[0]["roof"])
        except CandidateError as error:
            raise DeviceError(error.message, code="no-roof") from error

    def close(self) -> None:
        """Leave the cluster. Idempotent."""
        self._conversation.close()

    def _wait(self) -> AbstractContextManager[None]:
        return self.waiting()


def offered(address: str, environment: Mapping[str, str] | None = None) -> tuple[Device, ...]:
    """The devices that a cluster offers now. Raises as OnCluster, and DeviceError as Cluster.devices."""
    with closing(Cluster(address, environment)) as cluster:
        try:
            return cluster.devices()
        finally:
            cluster.dispose()


def choose(devices: Sequence[Device], name: str) -> Device:
    """The device of this fingerprint or name. Raises UserError(code="unknown-device") unless there is exactly one."""
    found = [d for d in devices if name in (d.fingerprint, d.name)]
    if len(found) != 1:
        known = ", ".join(f"{d.name} = {d.fingerprint} ({d.model}, {d.cores} cores)" for d in devices)
        why = "several devices are called" if found else "no device is called"
        hint = "Choose one by its fingerprint."
        raise UserError(f"In the cluster {why} {name!r}; there are: {known}.", code="unknown-device", hint=hint)
    return found[0]
