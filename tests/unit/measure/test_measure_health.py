"""A device that drifts: noticed by its calibration kernel; what it measures then is measured again or marked."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import count

import pytest
from runner_conformance import RunnerConformance

from tuner.measure.answering import AnsweringRunner
from tuner.measure.health import LEAST, LIMIT, RECENT, WINDOW, Condition, judge
from tuner.measure.steady import HELD, Memory, SteadyRunner
from tuner.types import Candidate, Device, Failure, FailureKind, Purpose, Trial, digest

DEVICE = Device("cpu", "cpu", "Test CPU", "znver5", ("avx2",), 2, 16, 32, 2**15, 2**20, 2**25, 2**34)
USUAL, SECONDS = 15e-6, 1e-3  # of the calibration kernel, of every candidate


def candidate(number: int, what: str = "good") -> Candidate:
    return Candidate({}, digest(what), {"i0": "plain"}, what, 1, {"number": number}, 1)


class Throttled(AnsweringRunner):
    """A simulated device: from its ``hot``-th measurement on, and before its ``cool``-th, it takes ``factor`` times as
    long for everything."""

    def __init__(self, hot: int = 1 << 30, cool: int = 1 << 30, factor: float = 1.6) -> None:
        super().__init__()
        self._count = count()
        self._hot, self._cool, self._factor = hot, cool, factor
        self.asked: Counter[str] = Counter()

    def devices(self) -> tuple[Device, ...]:
        return (DEVICE,)

    def _answer(self, candidate: Candidate, purpose: Purpose) -> Trial:
        self.asked[candidate.key] += 1
        if candidate.template == "wrong":
            return Trial(candidate, purpose, failure=Failure(FailureKind.WRONG, "t0 differs"))
        number = next(self._count)
        factor = self._factor if self._hot <= number < self._cool else 1.0
        noise = 1.0 + 0.05 * (number % 3)  # a neighbour now and then
        return Trial(candidate, purpose, samples=(SECONDS * factor,), calibration=USUAL * noise * factor)


class TestSteadyRunner(RunnerConformance):
    @pytest.fixture
    def runner(self) -> Iterator[SteadyRunner]:
        with SteadyRunner(Throttled(hot=3), Memory()) as made:
            yield made

    def candidate(self, number: int) -> Candidate:
        return candidate(number)

    def failing(self) -> Candidate:
        return candidate(0, "wrong")


def test_nothing_is_said_before_there_are_readings_enough() -> None:
    assert judge([USUAL] * (LEAST - 1)) == Condition()
    assert judge([USUAL] * LEAST).usual == USUAL


def test_a_device_drifts_when_it_is_slower_than_usual_and_is_well_when_it_is_not_any_more() -> None:
    steady = [USUAL] * 100
    assert not judge([*steady, *[USUAL * 3] * (RECENT // 2)]).drifting  # a few moments are none
    slow = judge([*steady, *[USUAL * (LIMIT + 0.1)] * RECENT])
    assert slow.drifting and slow.ratio == pytest.approx(LIMIT + 0.1)
    nearly = [*steady, *[USUAL * (LIMIT - 0.05)] * RECENT]
    assert judge(nearly, drifting=True).drifting and not judge(nearly).drifting
    assert not judge([*steady, *[USUAL * LIMIT * 2] * 30, *[USUAL] * RECENT], drifting=True).drifting


def test_a_device_that_stays_slower_is_at_some_time_as_it_is() -> None:
    readings = [*[USUAL] * (WINDOW // 2 - 1), *[USUAL * 2] * (WINDOW // 2 + 1)]
    assert judge(readings, drifting=True) == Condition(USUAL * 2, 1.0, False)


def test_what_a_throttling_device_measures_is_measured_again_or_marked_and_discounted() -> None:
    told: list[bool] = []
    runner = SteadyRunner(inner := Throttled(hot=60, cool=90), Memory(), lambda c: told.append(c.drifting))
    found: list[Trial] = []
    for first in range(0, 130, 16):
        found += runner.run([candidate(n) for n in range(first, min(130, first + 16))])
    assert Counter(t.candidate.key for t in found) == Counter(candidate(n).key for n in range(130))  # each once
    assert told == [True, False] and not runner.condition.drifting
    marked = [t for t in found if t.drift is not None]
    again = {key for key, times in inner.asked.items() if times > 1}
    assert again and max(inner.asked.values()) == 2 and len(again) <= 2 * HELD
    assert len(marked) == 30 - len(again)  # all that it measured meanwhile, but for what was then measured again
    assert all(t.samples == (SECONDS * 1.6,) for t in marked)  # as measured ...
    assert all(t.seconds == pytest.approx(SECONDS, rel=0.12) for t in found)  # ... and what that says


def test_a_moment_of_slowness_costs_one_more_measurement_and_marks_nothing() -> None:
    inner = Throttled(hot=35, cool=37)
    trials = list(SteadyRunner(inner, Memory()).run([candidate(n) for n in range(60)]))
    assert len(trials) == 60 and [t for t in trials if t.drift is not None] == []
    assert sum(inner.asked.values()) == 62


def test_what_earlier_jobs_found_usual_tells_at_once() -> None:
    books = Memory()
    books.note([USUAL] * 100)
    (trial, *_) = SteadyRunner(Throttled(hot=0), books).run([candidate(n) for n in range(3)])
    assert trial.drift == pytest.approx(1.6, rel=0.12)
    runner = SteadyRunner(Throttled(hot=0), books)
    assert all(t.drift is not None for t in runner.run([candidate(n) for n in range(RECENT)]))
    assert books.note([])[1]  # and others learn of it


def test_devices_without_a_calibration_kernel_are_left_alone() -> None:
    class Untimed(Throttled):
        def _answer(self, candidate: Candidate, purpose: Purpose) -> Trial:
            return Trial(candidate, purpose, samples=(SECONDS,))

    runner = SteadyRunner(Untimed(), Memory())
    assert all(t.drift is None for t in runner.run([candidate(n) for n in range(40)]))
    assert runner.condition == Condition()
