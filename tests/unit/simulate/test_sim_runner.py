"""The runner of simulated devices: the contract of runners, determinism, and the oracle's table."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

import numpy as np
import pytest
from runner_conformance import RunnerConformance
from sim_blocks import MLU, convs, relu

from tuner.errors import DeviceError
from tuner.graph.ir import Graph
from tuner.simulate.machine import times
from tuner.simulate.runner import TEMPLATE, TEMPLATE_VERSION, SimRunner, runner_of, table
from tuner.types import Candidate, FailureKind, Purpose

ROOT = Path(__file__).parents[3]


def candidate(graph: Graph, cores: int = 4, template: str = TEMPLATE) -> Candidate:
    layouts = dict.fromkeys((*graph.inputs, *graph.outputs), "plain")
    return Candidate(graph.to_json(), graph.hash, layouts, template, TEMPLATE_VERSION, {}, cores)


class TestSimRunner(RunnerConformance):
    @pytest.fixture
    def runner(self) -> Iterator[SimRunner]:
        with SimRunner(MLU) as made:
            yield made

    def candidate(self, number: int) -> Candidate:
        return candidate(convs(), 1 + number)

    def failing(self) -> Candidate:
        return candidate(convs(), MLU.cores + 1)


def test_samples_lie_around_the_machines_time() -> None:
    (trial,) = SimRunner(MLU).run([candidate(convs())])
    exact = float(times(MLU, convs(), [4])[0])
    assert len(trial.samples) == 5 and len(set(trial.samples)) == 5
    assert median(trial.samples) == pytest.approx(exact, rel=4 * MLU.noise)
    assert trial.max_rel_error is None


def test_trials_do_not_depend_on_order_but_on_seed_and_purpose() -> None:
    asked = [candidate(convs(), c) for c in range(1, 9)]
    forth = {t.candidate.key: t.samples for t in SimRunner(MLU, seed=3).run(asked)}
    back = {t.candidate.key: t.samples for t in SimRunner(MLU, seed=3).run(reversed(asked))}
    assert forth == back
    other = {t.candidate.key: t.samples for t in SimRunner(MLU, seed=4).run(asked)}
    assert all(forth[k] != other[k] for k in forth)
    (final,) = SimRunner(MLU, seed=3).run(asked[:1], Purpose.FINAL)
    assert len(final.samples) > 5 and not set(final.samples) & set(forth[asked[0].key])


def test_what_it_cannot_do_is_a_failed_trial() -> None:
    broken = replace(candidate(convs()), workload={"layers": 3})
    strange, wide, unreadable = SimRunner(MLU).run([candidate(convs(), 4, "conv2d"), candidate(convs(), 33), broken])
    for trial, kind, word in ((strange, FailureKind.BUILD, "conv2d"), (wide, FailureKind.BUILD, "32 cores")):
        assert trial.failure is not None and trial.failure.kind is kind and word in trial.failure.message
    assert unreadable.failure is not None and unreadable.failure.kind is FailureKind.ERROR


def test_a_device_leads_back_to_its_runner() -> None:
    device = MLU.device()
    assert runner_of(device).devices() == (device,)
    with pytest.raises(DeviceError, match="changed") as raised:
        runner_of(replace(device, features=("spec-0",)))
    assert raised.value.code == "device-changed"


@dataclass(frozen=True)
class Space:
    questions: tuple[Graph, ...]
    cores: tuple[int, ...]

    def workload(self, question: int) -> Graph:
        return self.questions[question]


def test_the_table_is_what_the_machine_says_without_noise() -> None:
    space = Space((convs(), relu(), convs(3)), (1, 2, 32))
    found = table(MLU, space)
    assert found.shape == (3, 3) and found.dtype == np.float64
    assert (found == [times(MLU, g, space.cores) for g in space.questions]).all()
    assert table(MLU, Space((), (1, 2))).shape == (0, 2)


def test_the_cost_model_never_loads_the_simulator() -> None:
    program = (
        "import importlib, pathlib, sys\n"
        "for path in sorted(pathlib.Path('cost_model').glob('*.py')):\n"
        "    importlib.import_module('cost_model' if path.stem == '__init__' else f'cost_model.{path.stem}')\n"
        "found = [m for m in sys.modules if m.startswith('tuner')]\n"
        "assert not found, found\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
