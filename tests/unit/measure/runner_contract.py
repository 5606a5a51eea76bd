"""What every Runner promises, as tests: a runner's own tests inherit RunnerContract and give it a runner."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator

import pytest

from tuner.errors import DeviceError, InternalError
from tuner.measure.runner import Runner
from tuner.types import Candidate, Purpose


class RunnerContract:
    """Fixtures to give: ``runner``, and ``candidates``, of which at least two succeed and one fails."""

    def test_every_candidate_becomes_one_trial(self, runner: Runner, candidates: list[Candidate]) -> None:
        trials = list(runner.run([*candidates, *candidates[:1]]))
        assert Counter(t.candidate.key for t in trials) == Counter(c.key for c in [*candidates, candidates[0]])
        assert {t.failure is None for t in trials} == {True, False}

    def test_trials_carry_their_purpose(self, runner: Runner, candidates: list[Candidate]) -> None:
        assert {t.purpose for t in runner.run(candidates, Purpose.FINAL)} == {Purpose.FINAL}

    def test_candidates_are_taken_lazily(self, runner: Runner, candidates: list[Candidate]) -> None:
        taken = itertools.count()

        def endless() -> Iterator[Candidate]:
            while True:
                yield candidates[next(taken) % len(candidates)]

        trials = runner.run(endless())
        assert next(taken) == 0
        next(trials)
        trials.close()  # type: ignore[attr-defined]
        assert next(taken) < 100
        assert len(list(runner.run(candidates))) == len(candidates)

    def test_one_run_at_a_time(self, runner: Runner, candidates: list[Candidate]) -> None:
        trials = runner.run(candidates)
        next(trials)
        with pytest.raises(InternalError) as raised:
            runner.run(candidates)
        assert raised.value.code == "runner-busy"

    def test_what_the_candidates_raise_reaches_the_consumer(self, runner: Runner, candidates: list[Candidate]) -> None:
        def broken() -> Iterator[Candidate]:
            yield candidates[0]
            raise KeyError("strategy")

        with pytest.raises(KeyError, match="strategy"):
            list(runner.run(broken()))
        assert len(list(runner.run(candidates))) == len(candidates)

    def test_closing_ends_a_run_and_refuses_the_next(self, runner: Runner, candidates: list[Candidate]) -> None:
        trials = runner.run(itertools.cycle(candidates))
        next(trials)
        runner.close()
        assert list(trials) == []
        runner.close()
        with pytest.raises(DeviceError) as raised:
            runner.run(candidates)
        assert raised.value.code == "runner-closed"

    def test_it_names_its_devices(self, runner: Runner) -> None:
        assert runner.devices()
