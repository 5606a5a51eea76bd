"""What every Runner must do, whatever it measures on: derive a class, give it ``runner`` and ``candidate``."""

from __future__ import annotations

import itertools
import threading
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator
from typing import ClassVar

import pytest

from tuner.errors import DeviceError, InternalError
from tuner.measure.runner import Runner
from tuner.types import Candidate, Purpose


class RunnerConformance(ABC):
    """The contract in ``Runner``'s docstring, test by test. ``runner`` is a fixture that closes what it made."""

    taken_ahead: ClassVar[int] = 0  # candidates that may be taken before they are asked for

    @abstractmethod
    def candidate(self, number: int) -> Candidate:
        """The ``number``-th of many different candidates that can be measured; at least 20 of them."""

    @abstractmethod
    def failing(self) -> Candidate:
        """A candidate that fails."""

    def test_it_names_its_devices(self, runner: Runner) -> None:
        assert runner.devices() and runner.devices() == runner.devices()

    def test_every_candidate_becomes_one_trial_with_samples_or_a_failure(self, runner: Runner) -> None:
        wanted = [*(self.candidate(n) for n in range(6)), self.failing(), *(self.candidate(n) for n in range(6, 12))]
        wanted.append(self.candidate(0))  # asked twice, answered twice
        trials = list(runner.run(iter(wanted)))
        assert Counter(t.candidate.key for t in trials) == Counter(c.key for c in wanted)
        failed = [t.candidate.key for t in trials if t.failure is not None]
        assert failed == [self.failing().key]
        assert all(s > 0 for t in trials for s in t.samples)

    def test_the_purpose_is_kept(self, runner: Runner) -> None:
        trials = list(runner.run([self.candidate(0), self.failing()], Purpose.FINAL))
        assert [t.purpose for t in trials] == [Purpose.FINAL, Purpose.FINAL]
        assert {bool(t.samples) for t in trials} == {True, False}

    def test_no_candidates_no_trials(self, runner: Runner) -> None:
        assert list(runner.run([])) == []

    def test_candidates_are_taken_lazily_and_a_closed_iterator_frees_the_runner(self, runner: Runner) -> None:
        count = itertools.count()
        trials = runner.run(self.candidate(next(count) % 20) for _ in itertools.repeat(None))
        assert next(count) == 0  # nothing is taken before it is asked for
        next(trials)
        with pytest.raises(InternalError) as raised:
            runner.run([])
        assert raised.value.code == "runner-busy"
        trials.close()  # type: ignore[attr-defined]
        assert next(count) <= 2 + self.taken_ahead
        assert len(list(runner.run([self.candidate(1)]))) == 1

    def test_what_the_candidates_raise_reaches_the_consumer(self, runner: Runner) -> None:
        def broken() -> Iterator[Candidate]:
            yield self.candidate(0)
            raise KeyError("strategy")

        with pytest.raises(KeyError, match="strategy"):
            list(runner.run(broken()))
        assert len(list(runner.run([self.candidate(1)]))) == 1

    def test_close_ends_a_suspended_run_and_may_come_again_and_from_any_thread(self, runner: Runner) -> None:
        trials = runner.run(self.candidate(n % 20) for n in itertools.count())
        next(trials)
        closer = threading.Thread(target=runner.close)
        closer.start()
        closer.join()
        assert list(trials) == []
        runner.close()
        with pytest.raises(DeviceError) as raised:
            runner.run([])
        assert raised.value.code == "runner-closed"

    def test_leaving_its_with_block_closes_it(self, runner: Runner) -> None:
        with runner as entered:
            assert entered is runner
        with pytest.raises(DeviceError):
            runner.run([])
