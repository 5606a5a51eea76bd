"""When to stop sampling, what to retake, what to keep."""

from __future__ import annotations

import pytest

from tuner.measure.options import MeasureOptions
from tuner.measure.timing import CALM, Load, Sample, Wanted, calls_per_sample, enough, kept, take

WANTED = Wanted(minimum=7, maximum=50, seconds=0.02, retakes=7)


def samples(count: int, seconds: float = 0.001, preemptions: int = 0) -> list[Sample]:
    return [Sample(seconds, preemptions)] * count


def test_short_calls_are_sampled_until_the_time_is_used_up() -> None:
    assert not enough(samples(19), WANTED)
    assert enough(samples(20), WANTED)


def test_very_short_calls_stop_at_the_maximum() -> None:
    assert not enough(samples(49, 1e-6), WANTED)
    assert enough(samples(50, 1e-6), WANTED)


def test_long_calls_are_sampled_the_minimum_number_of_times() -> None:
    assert not enough(samples(6, 1.0), WANTED)
    assert enough(samples(7, 1.0), WANTED)


def test_disturbed_samples_are_retaken_but_not_for_ever() -> None:
    assert not enough(samples(6, 1.0) + samples(7, 1.0, 1), WANTED)
    assert enough(samples(7, 1.0) + samples(5, 1.0, 1), WANTED)
    assert enough(samples(14, 1.0, 1), WANTED)


def test_only_clean_samples_are_kept_when_there_are_some() -> None:
    mixed = [Sample(1.0), Sample(9.0, 2), Sample(1.1), Sample(1.2)]
    assert kept(mixed) == [1.0, 1.1, 1.2]


def test_all_samples_are_kept_when_nearly_all_were_disturbed() -> None:
    mixed = [Sample(1.0), *samples(5, 9.0, 1)]
    assert kept(mixed) == [1.0, 9.0, 9.0, 9.0, 9.0, 9.0]


def test_a_hopeless_candidate_is_stopped_after_three_samples() -> None:
    wanted = Wanted.of(MeasureOptions(), best_seconds=0.001)
    assert not enough(samples(2, 0.002), wanted)
    assert enough(samples(3, 0.002), wanted)
    assert not enough([*samples(2, 0.002), Sample(0.0016)], wanted)  # one sample was fast enough
    assert not enough(samples(3, 0.002, preemptions=1), wanted)  # slow because it was disturbed


def test_a_finalist_is_never_stopped_early_and_sampled_three_times_as_often() -> None:
    wanted = Wanted.of(MeasureOptions(), final=True, best_seconds=1e-6)
    assert not enough(samples(20, 1.0), wanted)
    assert enough(samples(21, 1.0), wanted)


@pytest.mark.parametrize(("seconds", "calls"), [(1e-3, 1), (20e-6, 1), (10e-6, 2), (3e-6, 7), (1e-9, 16), (0.0, 16)])
def test_short_calls_are_grouped(seconds: float, calls: int) -> None:
    assert calls_per_sample(seconds, 20e-6) == calls


def test_foreign_load_is_what_neither_we_nor_the_clock_ticks_explain() -> None:
    assert Load(busy=2.0, own=2.0, wall=1.0).foreign(2) == 0.0
    assert Load(busy=0.02, own=0.0, wall=0.02).foreign(2) == 0.0  # one tick per core proves nothing
    assert Load(busy=2.0, own=1.0, wall=1.0).foreign(2) == pytest.approx(0.5, abs=0.03)


def test_each_sample_is_refreshed_and_makes_all_its_calls() -> None:
    log: list[object] = []
    taken, _ = take(log.append, lambda calls: log.append(f"fresh {calls}"), 3, Wanted(2, 2, 0.0, 0))
    assert log == ["fresh 3", 0, 1, 2, "fresh 3", 0, 1, 2]
    assert len(taken) == 2


class Readings:
    """A gauge that reads from a list, and its last entry again and again."""

    def __init__(self, *values: float) -> None:
        self.values = list(values)

    def read(self) -> float:
        return self.values.pop(0) if len(self.values) > 1 else self.values[0]


def times(gauge: Readings, wanted: Wanted, patience: float = 0.0) -> tuple[list[Sample], float]:
    return take(lambda _: None, lambda _: None, 1, wanted, gauge, patience)


def test_a_sample_is_disturbed_when_the_cores_were_contended_before_or_after_it() -> None:
    taken, waited = times(Readings(1.0, 1.0, 1.5, 1.0, 1.0), Wanted(4, 4, 0.0, 0))
    assert [s.contention for s in taken] == [1.0, 1.5, 1.5, 1.0]
    assert [s.contention > CALM for s in taken] == [False, True, True, False]
    assert waited == 0


def test_it_waits_for_calm_cores() -> None:
    taken, waited = times(Readings(1.4, 1.4, 1.3, 1.0), Wanted(2, 2, 0.0, 0), patience=10.0)
    assert [s.contention for s in taken] == [1.0, 1.0]
    assert 0 < waited < 5


def test_it_does_not_wait_for_ever() -> None:
    taken, waited = times(Readings(1.4), Wanted(3, 3, 0.0, 2), patience=0.01)
    assert [s.contention for s in taken] == [1.4] * 5  # two of them retakes
    assert 0.01 <= waited < 1.0


def test_contended_samples_are_kept_rather_than_interrupted_ones() -> None:
    mixed = [Sample(1.0), *[Sample(1.3, 0, 1.5)] * 4, *[Sample(9.0, 1, 1.5)] * 3]
    assert kept(mixed) == [1.0, 1.3, 1.3, 1.3, 1.3]
