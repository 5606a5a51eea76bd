"""The runner that asks the simulated machine, and the table of all its answers. Nothing is built, nothing computed."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from tuner.errors import DeviceError, FusetuneError, InternalError
from tuner.graph.ir import Graph
from tuner.measure.runner import Runner
from tuner.plan.halo import Floats
from tuner.simulate.machine import noisy, times
from tuner.simulate.spec import SimSpec, load
from tuner.types import Candidate, Device, Failure, FailureKind, Purpose, Trial

TEMPLATE = "simulated"
TEMPLATE_VERSION = 1
SAMPLES = 5
FINAL_SAMPLES = 15  # of a finalist


class Questions(Protocol):
    """What ``table`` reads of a PlanSpace."""

    @property
    def questions(self) -> Sequence[Any]: ...
    @property
    def cores(self) -> Sequence[int]: ...
    def workload(self, question: int) -> Graph: ...


def table(spec: SimSpec, space: Questions) -> Floats:
    """Noise-free seconds [questions, cores] of everything in a space: what an oracle knows."""
    rows = [times(spec, space.workload(q), space.cores) for q in range(len(space.questions))]
    return np.array(rows, dtype=np.float64).reshape(-1, len(space.cores))


def runner_of(device: Device, seed: int = 0) -> SimRunner:
    """The runner of a simulated device, found again by its name. Raises DeviceError when its spec file has changed."""
    spec = load(device.name)
    if spec.device(device.name).fingerprint != device.fingerprint:
        raise DeviceError(f"The spec of {device.name} has changed since it was read.", code="device-changed")
    return SimRunner(spec, seed, device)


class SimRunner(Runner):
    """Answers Candidates of the template "simulated" with noisy samples. See Runner for the contract.

    The same candidate, purpose and seed give the same samples, whatever was asked before.
    """

    def __init__(self, spec: SimSpec, seed: int = 0, device: Device | None = None) -> None:
        self._spec = spec
        self._seed = seed
        self._device = device or spec.device()
        self._closed = threading.Event()
        self._running: Any = None  # the generator in use

    def devices(self) -> tuple[Device, ...]:
        return (self._device,)

    def run(
        self,
        candidates: Iterable[Candidate],
        purpose: Purpose = Purpose.SEARCH,
        best_seconds: Mapping[str, float] | None = None,
    ) -> Iterator[Trial]:
        if self._closed.is_set():
            raise DeviceError("The runner is closed.", code="runner-closed")
        if self._running is not None and self._running.gi_frame is not None:
            raise InternalError("The runner is already measuring.", code="runner-busy")
        self._running = self._trials(iter(candidates), purpose)
        trials: Iterator[Trial] = self._running
        return trials

    def close(self) -> None:
        self._closed.set()

    def _trials(self, candidates: Iterator[Candidate], purpose: Purpose) -> Iterator[Trial]:
        while not self._closed.is_set():
            candidate = next(candidates, None)
            if candidate is None or self._closed.is_set():
                return
            yield self._trial(candidate, purpose)

    def _trial(self, candidate: Candidate, purpose: Purpose) -> Trial:
        if candidate.template != TEMPLATE:
            failure = f"{self._device.name} is simulated and knows no template {candidate.template!r}"
            return Trial(candidate, purpose, failure=Failure(FailureKind.BUILD, failure))
        try:
            seconds = times(self._spec, Graph.from_json(candidate.workload), [candidate.cores])[0]
        except FusetuneError as error:
            return Trial(candidate, purpose, failure=Failure(FailureKind.BUILD, error.message))
        except (KeyError, IndexError, TypeError, ValueError) as error:
            reason = f"The workload cannot be read: {type(error).__name__}: {error}"
            return Trial(candidate, purpose, failure=Failure(FailureKind.ERROR, reason))
        final = purpose is Purpose.FINAL
        key = f"{candidate.key}:final" if final else candidate.key
        samples = noisy(float(seconds), self._spec, key, self._seed, FINAL_SAMPLES if final else SAMPLES)
        return Trial(candidate, purpose, samples=samples)
