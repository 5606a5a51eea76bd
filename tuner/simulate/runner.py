"""The runner that asks the simulated machine, and the table of all its answers. Nothing is built, nothing computed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from tuner.errors import DeviceError, FusetuneError
from tuner.graph.ir import Graph
from tuner.measure.answering import AnsweringRunner
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


class SimRunner(AnsweringRunner):
    """Answers Candidates of the template "simulated" with noisy samples. See Runner for the contract.

    The same candidate, purpose and seed give the same samples, whatever was asked before.
    """

    def __init__(self, spec: SimSpec, seed: int = 0, device: Device | None = None) -> None:
        super().__init__()
        self._spec = spec
        self._seed = seed
        self._device = device or spec.device()

    def devices(self) -> tuple[Device, ...]:
        return (self._device,)

    def _answer(self, candidate: Candidate, purpose: Purpose) -> Trial:
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
