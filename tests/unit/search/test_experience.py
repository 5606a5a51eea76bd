"""What earlier trials teach the search for knobs: of which questions, how many points, and what comes of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from search_fakes import DEVICE, SMALL, conv_seconds, question

from cost_model.boosted import BoostedTrees
from db.store import Store
from tuner.kernels.registry import template
from tuner.search.allocation import Allocation
from tuner.search.calibration import place
from tuner.search.experience import FEWEST, OF_EACH, Experience, load_experience
from tuner.search.knobs import KnobSearch
from tuner.types import Candidate, Trial

VERSION = template("conv2d").version


def tried(channels: int, count: int, version: int = VERSION, factor: float = 1.0) -> list[Trial]:
    """Trials of the first so many points of a convolution's knobs."""
    main = question(channels=channels).main
    made = [replace(main.with_knobs(p), template_version=version) for p in SMALL.points[:count]]
    return [Trial(c, samples=(factor * conv_seconds(c),) * 3) for c in made]


def known(trials: list[Trial]) -> Experience:
    found = Experience.of(trials, DEVICE)
    assert found is not None
    return found


def test_it_is_what_the_search_itself_learns_of_the_same_trials() -> None:
    trials = tried(64, 20)
    search = question(channels=64).main
    for trial in trials:
        search.tell(trial)
    rows, targets = search.samples()
    found = known(trials)
    assert np.array_equal(found.rows, rows, equal_nan=True)
    assert np.allclose(found.targets, targets)
    assert {*found.keys} == {trials[0].candidate.record_key}


def test_how_fast_a_question_is_as_a_whole_does_not_matter() -> None:
    assert np.allclose(known(tried(64, 20)).targets, known(tried(64, 20, factor=3.0)).targets)


def test_repeated_trials_are_one_point() -> None:
    trials = tried(64, 5)
    slow = [replace(t, samples=tuple(9 * s for s in t.samples)) for t in trials[:1]]
    found = known([*trials, *trials, *slow])
    assert len(found) == 5
    assert np.allclose(found.targets, known(trials).targets)  # the median of all its samples


def test_too_few_points_and_old_versions_teach_nothing() -> None:
    assert Experience.of([], DEVICE) is None
    assert Experience.of(tried(64, FEWEST - 1), DEVICE) is None
    assert Experience.of(tried(64, 20, version=VERSION - 1), DEVICE) is None
    unknown = [replace(t, candidate=replace(t.candidate, template="gone")) for t in tried(64, 20)]
    assert Experience.of(unknown, DEVICE) is None


def test_a_kernel_searched_at_length_does_not_outweigh_others() -> None:
    found = known([*tried(64, 200), *tried(128, 10)])
    assert len(found) == OF_EACH + 10


def test_what_is_asked_again_is_left_to_its_own_search() -> None:
    first, second = tried(64, 10), tried(128, 10)
    rows, targets = known([*first, *second]).besides({first[0].candidate.record_key})
    assert np.array_equal(rows, known(second).rows, equal_nan=True)
    assert len(targets) == 10


def rounds_to_the_top(experience: Experience | None) -> int:
    """Proposals until a point within 5% of the best of 64 channels was among them; 100 = never."""
    search = question(channels=64).main
    best = min(conv_seconds(search.with_knobs(p)) for p in SMALL.points)
    allocation = Allocation({search.candidate.record_key: search}, BoostedTrees(), experience)
    for count in range(1, 100):
        if not (proposed := allocation.propose(1)):
            return 100  # it sees nothing to win
        (candidate,) = proposed
        seconds = conv_seconds(candidate)
        if seconds <= best / 0.95:
            return count
        allocation.tell(Trial(candidate, samples=(seconds,) * 3))
    return 100


def test_a_job_that_knows_other_kernels_comes_to_the_top_sooner() -> None:
    others = known([t for channels in (32, 96, 128, 256) for t in tried(channels, 400)[::12]])
    assert rounds_to_the_top(others) < rounds_to_the_top(None)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(f"sqlite:///{tmp_path / 'test.db'}") as store:
        store.devices.put(DEVICE)
        yield store


class TestLoading:
    def test_of_the_device_by_whichever_job(self, store: Store) -> None:
        assert load_experience(store, DEVICE) is None
        trials = tried(64, 8)
        for trial in trials:
            store.trials.add(None, trial, device=DEVICE.fingerprint, toolchain=place(DEVICE))
        found = load_experience(store, DEVICE)
        assert found is not None
        assert np.allclose(found.targets, known(trials).targets)
        assert load_experience(store, replace(DEVICE, model="another")) is None

    def test_other_toolchains_teach_nothing(self, store: Store) -> None:
        for trial in tried(64, 8):
            store.trials.add(None, trial, device=DEVICE.fingerprint, toolchain="older")
        assert load_experience(store, DEVICE) is None

    def test_a_simulated_device_has_no_knobs(self, store: Store) -> None:
        assert load_experience(store, replace(DEVICE, simulated=True)) is None


def test_candidates_of_these_tests_are_told_by_the_search() -> None:
    search: KnobSearch = question(channels=64).main
    made: Candidate = tried(64, 1)[0].candidate
    assert search.with_knobs(made.knobs).knobs == made.knobs
