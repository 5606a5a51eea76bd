"""The kernel search of a job: budgets are exact, stops are prompt, nothing known is measured, failures are values."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from unittest.mock import patch

import numpy as np
import pytest
from search_fakes import (
    DEVICE,
    LARGE,
    SMALL,
    FakeRunner,
    MemoryStore,
    conv_seconds,
    every_second,
    question,
    trial,
    tuning,
)  # fmt: skip

from cost_model.boosted import BoostedTrees
from tuner.search.questions import Question
from tuner.search.tuning import FINAL_MARGIN
from tuner.types import Candidate, FailureKind, Purpose


def purposes(runner: FakeRunner) -> list[Purpose]:
    return [p for _, p in runner.asked]


@pytest.mark.parametrize("budget", [0, 1, 2, 3, 5, 12, 40])
def test_never_more_trials_than_the_budget(budget: int) -> None:
    work, runner = tuning(question(cores=(1, 4)), question(channels=128, cores=(1, 4))), FakeRunner()
    yielded = list(work.run(runner, budget, None))
    assert work.measured == len(yielded) == len(runner.asked)
    assert work.measured <= budget
    if budget >= 2:
        assert work.measured == budget  # there is enough to do


def test_failures_count() -> None:
    work, runner = tuning(question()), FakeRunner(seconds=lambda _: FailureKind.BUILD)
    list(work.run(runner, 10, None))
    assert work.measured == work.failed == len(runner.asked) <= 10
    assert work.latency is None


def test_defaults_are_measured_first() -> None:
    asked = [question(), question(channels=128), question(LARGE, channels=256)]
    runner = FakeRunner()
    list(tuning(*asked).run(runner, 20, None))
    first = {c.workload_hash: c.knobs for c, _ in runner.asked[:3]}
    assert first == {q.workload.hash: q.space.default for q in asked}


def test_nothing_is_measured_twice_but_finalists() -> None:
    runner = FakeRunner()
    list(tuning(question(cores=(1, 2, 4)), question(LARGE, channels=128, cores=(1, 2, 4))).run(runner, 150, None))
    searched = [c.key for c, p in runner.asked if p is not Purpose.FINAL]
    assert len(set(searched)) == len(searched)
    again = {c.key for c, p in runner.asked if p is Purpose.FINAL}
    assert again <= set(searched)


def test_some_failures_break_nothing_and_are_not_retried() -> None:
    def seconds(candidate: Candidate) -> float | FailureKind:
        failing = {0: FailureKind.CRASH, 1: FailureKind.TIMEOUT}.get(candidate.knobs["reg_n"] % 4)
        return failing or conv_seconds(candidate)

    ask, runner = question(), FakeRunner(seconds=seconds)
    work = tuning(ask)
    list(work.run(runner, 60, None))
    searched = [c.key for c, p in runner.asked if p is not Purpose.FINAL]
    assert len(set(searched)) == len(searched)
    assert 0 < work.failed < work.measured
    answer = ask.answer()
    assert answer.seconds is not None
    assert answer.knobs["reg_n"] % 4 > 1


def test_a_failing_default_does_not_end_the_search() -> None:
    def seconds(candidate: Candidate) -> float | FailureKind:
        return FailureKind.BUILD if candidate.knobs == SMALL.default else conv_seconds(candidate)

    ask, runner = question(), FakeRunner(seconds=seconds)
    list(tuning(ask).run(runner, 30, None))
    assert ask.answer().seconds is not None


def test_finds_a_near_best_kernel() -> None:
    ask, runner = question(), FakeRunner()
    list(tuning(ask).run(runner, 80, None))
    best = every_second(SMALL, conv_seconds, ask.main.candidate)[0]
    assert (ask.answer().seconds or 1) <= best * 1.12


def test_it_ends_when_nothing_is_left() -> None:
    runner = FakeRunner(seconds=lambda _: 1e-4)
    list(tuning(question()).run(runner, None, 3600.0))
    assert len(runner.asked) <= SMALL.bound


def test_a_deadline_that_passed_measures_nothing() -> None:
    runner = FakeRunner()
    assert list(tuning(question()).run(runner, None, -1.0)) == []
    assert runner.asked == []


def test_a_deadline_is_kept_to_the_trial() -> None:
    now = 1000.0

    def later(_: int) -> None:
        nonlocal now
        now += 1.0

    runner = FakeRunner(after=later)
    with patch("tuner.search.tuning.time.monotonic", lambda: now):
        list(tuning(question(cores=(1, 4)), question(channels=128, cores=(1, 4))).run(runner, None, 20.0))
    assert 1017 <= now <= 1021  # the trial in flight at the deadline ends, no other begins
    assert Purpose.CORES in purposes(runner)  # a share of the time is theirs


@pytest.mark.parametrize("at", [1, 2, 9, 30])
def test_stop_ends_after_the_trial_in_flight(at: int) -> None:
    store = MemoryStore()
    work = tuning(question(cores=(1, 4)), question(channels=128), store=store)
    runner = FakeRunner(after=lambda count: work.stop() if count == at else None)
    list(work.run(runner, 100, None))
    assert len(runner.asked) == work.measured == len(store.trials) == at


def test_stop_before_the_start_measures_nothing() -> None:
    work, runner = tuning(question()), FakeRunner()
    work.stop()
    assert list(work.run(runner, 10, None)) == []
    assert runner.asked == []


def test_every_trial_is_stored_before_it_is_shown() -> None:
    store = MemoryStore()
    work = tuning(question(), store=store)
    for number, shown in enumerate(work.run(FakeRunner(), 10, None), 1):
        assert len(store.trials) == number
        assert store.trials[-1] is shown


def test_recall_measures_nothing_known_and_continues() -> None:
    store = MemoryStore()
    first = FakeRunner()
    list(tuning(question(cores=(1, 4)), store=store).run(first, 20, None))

    work, second = tuning(question(cores=(1, 4)), store=store), FakeRunner()
    work.recall()
    assert work.reused == len(set(first.keys))
    assert work.measured == 0
    assert work.latency is not None
    list(work.run(second, 10, None))
    assert work.measured == len(second.asked) <= 10  # it may end early: nothing left to win
    fresh = {c.key for c, p in second.asked if p is not Purpose.FINAL}
    assert not fresh & set(first.keys)


def test_known_failures_are_recalled_too() -> None:
    store = MemoryStore()
    first = FakeRunner(seconds=lambda _: FailureKind.BUILD)
    list(tuning(question(), store=store).run(first, 10, None))
    work, second = tuning(question(), store=store), FakeRunner()
    work.recall()
    list(work.run(second, 10, None))
    assert not set(first.keys) & set(second.keys)
    assert work.failed == 0  # this job's own


def test_an_interrupted_job_counts_its_own_trials_and_repeats_none() -> None:
    store = MemoryStore()
    first = FakeRunner()
    list(tuning(question(cores=(1, 4)), store=store).run(first, 12, None))

    work, second = tuning(question(cores=(1, 4)), store=MemoryStore(own=store.trials), fresh=True), FakeRunner()
    work.recall()
    assert (work.measured, work.reused) == (len(first.asked), 0)
    list(work.run(second, 20, None))
    assert work.measured == len(first.asked) + len(second.asked) <= 20
    assert not {c.key for c, p in second.asked if p is not Purpose.FINAL} & set(first.keys)


def test_a_retry_repeats_what_failed_for_a_passing_reason_and_nothing_else() -> None:
    def seconds(candidate: Candidate) -> float | FailureKind:
        failing = {0: FailureKind.TIMEOUT, 1: FailureKind.WRONG, 2: FailureKind.LOST}.get(candidate.knobs["reg_n"] % 4)
        return failing or conv_seconds(candidate)

    store = MemoryStore()
    list(tuning(question(), store=store).run(FakeRunner(seconds=seconds), 40, None))
    passing = {t.candidate.key for t in store.trials if t.passing}
    lasting = {t.candidate.key for t in store.trials if not t.passing}
    assert passing and lasting

    work, second = tuning(question(), store=MemoryStore(own=store.trials)), FakeRunner()
    work.retry = True
    work.recall()
    list(work.run(second, len(store.trials), None))  # the budget is spent
    assert {c.key for c, p in second.asked if p is not Purpose.FINAL} == passing
    assert not passing & lasting


def test_another_jobs_passing_failures_are_tried_again() -> None:
    store = MemoryStore()
    list(tuning(question(), store=store).run(FakeRunner(seconds=lambda _: FailureKind.TIMEOUT), 5, None))
    work = tuning(question(), store=store)
    work.recall()
    assert work.reused == 0
    runner = FakeRunner()
    list(work.run(runner, 1, None))
    assert runner.asked[0][0].knobs == SMALL.default


def test_waiting_for_the_device_costs_no_budget() -> None:
    now = 0.0

    @contextmanager
    def turn(_: str) -> Iterator[None]:
        nonlocal now
        with work.clock.stopped():
            now += 1000.0
        yield

    with patch("tuner.search.tuning.time.monotonic", lambda: now):
        work = tuning(question())
        work.turn = turn
        assert len(list(work.run(FakeRunner(), 5, 60.0))) >= 4  # a share of the trials is for finalists
        assert work.clock.seconds < 60


def test_fresh_recalls_nothing() -> None:
    store = MemoryStore()
    list(tuning(question(), store=store).run(FakeRunner(), 10, None))
    work = tuning(question(), store=store, fresh=True)
    work.recall()
    assert work.reused == 0
    assert work.trials == []


@pytest.mark.parametrize("space", [SMALL, LARGE])
def test_a_resumed_search_proposes_what_an_uninterrupted_one_would(space: object) -> None:
    """The state is in the trials: two searches that know the same trials go on in the same way."""
    store = MemoryStore()
    list(tuning(question(space), store=store, seed=3).run(FakeRunner(), 14, None))  # type: ignore[arg-type]
    known = list(store.trials)
    resumed = []
    for _ in range(2):
        work, runner = tuning(question(space), store=MemoryStore(known), seed=3), FakeRunner()  # type: ignore[arg-type]
        work.recall()
        list(work.run(runner, 20, None))
        resumed.append(runner.keys)
    assert resumed[0] == resumed[1]


def test_the_order_of_stored_trials_does_not_matter_to_what_is_known() -> None:
    store = MemoryStore()
    list(tuning(question(), store=store).run(FakeRunner(), 20, None))
    answers = []
    for trials in (store.trials, store.trials[::-1]):
        ask = question()
        tuning(ask, store=MemoryStore(trials)).recall()
        answers.append(ask.answer())
    assert answers[0] == answers[1]
    assert answers[0].seconds is not None


def test_the_best_knobs_are_tried_on_other_core_counts() -> None:
    ask, runner = question(cores=(1, 2, 4)), FakeRunner()
    list(tuning(ask).run(runner, 60, None))
    searched = [(c, conv_seconds(c)) for c, p in runner.asked if p is Purpose.SEARCH]
    assert {c.cores for c, _ in searched} == {4}
    best = sorted({seconds for _, seconds in searched})[:2]
    tried = [c for c, p in runner.asked if p is Purpose.CORES]
    assert {c.cores for c in tried} == {1, 2}
    for candidate in tried:  # only knobs as fast as the best two on all cores, whichever of equals they are
        assert conv_seconds(replace(candidate, cores=4)) <= best[-1]


def test_fewer_cores_win_where_they_are_faster() -> None:
    ask = question(cores=(1, 4))
    list(tuning(ask).run(FakeRunner(seconds=lambda c: 1e-6 * c.cores + conv_seconds(c) * 1e-3), 30, None))
    assert ask.answer().cores == 1


@pytest.mark.parametrize(("factor", "close"), [(1.03, True), (1.5, False)])
def test_finalists_are_the_best_and_those_that_come_close(factor: float, close: bool) -> None:
    """The k-th kernel tried is so many times slower than the one before: runners-up are near, or are not."""
    times: dict[str, float] = {}

    def seconds(candidate: Candidate) -> float:
        return times.setdefault(candidate.key, 1e-4 * factor ** len(times))

    runner = FakeRunner(seconds=seconds)
    list(tuning(question()).run(runner, 12, None))
    finals = [c for c, p in runner.asked if p is Purpose.FINAL]
    best = min(times.values())
    assert (len(finals) > 1) is close and times[finals[0].key] == best
    assert all(times[c.key] <= best * FINAL_MARGIN for c in finals)


def test_heavy_blocks_have_their_default_kernel_measured_again_beside_the_finalists() -> None:
    times: dict[str, float] = {}

    def seconds(candidate: Candidate) -> float:
        return times.setdefault(candidate.key, 1e-4 * 0.9 ** len(times))

    work, runner = tuning(question()), FakeRunner(seconds=seconds)
    list(work.run(runner, 20, None))
    finals = [c for c, p in runner.asked if p is Purpose.FINAL]
    default = work.questions[0].main.space.default
    assert [dict(c.knobs) == dict(default) for c in finals].count(True) == 1
    assert dict(finals[0].knobs) == dict(work.questions[0].answer().knobs)


def test_what_is_best_after_finalists_were_measured_again_is_measured_again() -> None:
    """The luck of the first to be found does not hold; the next best is one that had none."""
    known: dict[str, int] = {}

    def seconds(candidate: Candidate) -> float:
        known[candidate.key] = known.get(candidate.key, 0) + 1
        lucky = candidate.knobs["reg_n"] % 2 and known[candidate.key] == 1
        return conv_seconds(candidate) * (0.96 if lucky else 1.0)

    work, runner = tuning(question()), FakeRunner(seconds=seconds)
    list(work.run(runner, 60, None))
    best = work.questions[0].answer()
    assert any(p is Purpose.FINAL and dict(c.knobs) == dict(best.knobs) for c, p in runner.asked)


def test_finalists_are_not_measured_a_third_time() -> None:
    store = MemoryStore()
    list(tuning(question(), store=store).run(FakeRunner(seconds=lambda _: 1e-4), 12, None))
    assert any(t.purpose is Purpose.FINAL for t in store.trials)
    before = {t.candidate.key for t in store.trials if t.purpose is Purpose.FINAL}
    work, runner = tuning(question(), store=store), FakeRunner(seconds=lambda _: 1e-4)
    work.recall()
    list(work.run(runner, 8, None))
    assert not before.intersection(c.key for c, p in runner.asked if p is Purpose.FINAL)


def test_the_heavier_block_gets_more() -> None:
    heavy, light = question(uses=20), question(channels=128)
    runner = FakeRunner()
    list(tuning(heavy, light).run(runner, 30, None))  # with more, the heavy one has its best and rests
    counts = {q.workload.hash: sum(c.workload_hash == q.workload.hash for c, _ in runner.asked) for q in (heavy, light)}
    assert counts[heavy.workload.hash] > 1.5 * counts[light.workload.hash]
    assert counts[light.workload.hash] >= 1


def test_latency_counts_uses() -> None:
    work = tuning(question(uses=3), question(channels=128))
    assert work.latency is None
    for ask, seconds in zip(work.questions, (1e-3, 5e-3), strict=True):
        work._tell(trial(ask.main.with_knobs(ask.space.default), seconds))
    assert work.latency == pytest.approx(8e-3)


def test_the_runner_hears_of_the_best_known_times() -> None:
    seen: list[dict[str, float]] = []

    class Listening(FakeRunner):
        def run(self, candidates, purpose=Purpose.SEARCH, best_seconds=None):  # type: ignore[no-untyped-def]
            seen.append(best_seconds)
            return super().run(candidates, purpose, best_seconds)

    store = MemoryStore()
    ask = question()
    store.add(trial(ask.main.with_knobs(SMALL.default), 2e-5))
    work = tuning(ask, store=store)
    work.recall()
    list(work.run(Listening(), 6, None))
    assert seen[0][ask.main.candidate.record_key] <= 2e-5


def test_seconds_are_accounted_for() -> None:
    work = tuning(question())
    list(work.run(FakeRunner(), 8, None))
    assert work.build_seconds == pytest.approx(0.1 * work.measured)
    assert work.measure_seconds == pytest.approx(0.1 * work.measured)
    assert 0 <= work.deciding_seconds <= work.run_seconds
    assert "Conv" in work.message
    assert DEVICE.cores == 4


def rivals() -> Question:
    """A question that two templates can answer."""
    ask = question()
    other = replace(ask.main.candidate, template="winograd")
    ask.searches[("winograd", 4)] = replace(ask.main, candidate=other, results={})
    return ask


def test_the_faster_template_answers() -> None:
    def seconds(candidate: Candidate) -> float:
        return conv_seconds(candidate) * (0.4 if candidate.template == "winograd" else 1.0)

    ask = rivals()
    list(tuning(ask).run(FakeRunner(seconds=seconds), 60, None))
    assert ask.answer().template == "winograd"
    assert ask.answer(without=("winograd",)).template == "conv2d"


def test_a_hopeless_template_is_soon_left_alone() -> None:
    def seconds(candidate: Candidate) -> float:
        return conv_seconds(candidate) * (10.0 if candidate.template == "winograd" else 1.0)

    ask, runner = rivals(), FakeRunner(seconds=seconds)
    list(tuning(ask).run(runner, 80, None))
    counts = {name: sum(c.template == name for c, _ in runner.asked) for name in ("conv2d", "winograd")}
    assert counts["winograd"] < counts["conv2d"] / 2


def test_the_model_is_asked_once_about_all_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    predict = BoostedTrees.predict

    def counting(self: BoostedTrees, features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        asked.append(len(features))
        return predict(self, features)

    searched = tuning(*(question(channels=channels) for channels in (32, 64, 128)))
    for _ in range(2):
        batch = searched.allocation.propose(24)
        for candidate in batch:
            searched.allocation.tell(trial(candidate, conv_seconds(candidate)))
    monkeypatch.setattr(BoostedTrees, "predict", counting)
    assert searched.allocation.propose(24)
    assert asked == [3 * len(SMALL.points)]
