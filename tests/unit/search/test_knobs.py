"""The search inside one question: the default first, nothing twice, near the best after few trials."""

from __future__ import annotations

from unittest.mock import patch

import pytest
from search_fakes import LARGE, SMALL, conv_seconds, every_second, question, trial

from cost_model.boosted import BoostedTrees
from tuner.kernels.base import Space
from tuner.search import knobs as knobs_module
from tuner.search.knobs import WHOLE, KnobSearch
from tuner.types import FailureKind, Purpose

SPACES = [pytest.param(SMALL, id="ranked-whole"), pytest.param(LARGE, id="proposed-by-optuna")]


def search_of(space: Space) -> KnobSearch:
    return question(space).main


def learned(search: KnobSearch) -> BoostedTrees:
    model = BoostedTrees(rounds=30)
    model.update(*search.samples())
    return model


def run(search: KnobSearch, rounds: int, count: int = 8) -> BoostedTrees:
    """Propose, measure, learn; as a job does with one question."""
    model = BoostedTrees(rounds=30)
    for _ in range(rounds):
        for candidate in search.propose(count, model):
            search.tell(trial(candidate, conv_seconds(candidate)))
        model = learned(search)
    return model


def test_the_spaces_of_these_tests_lie_on_both_sides_of_the_limit() -> None:
    assert SMALL.bound <= WHOLE < LARGE.bound


@pytest.mark.parametrize("space", SPACES)
class TestEverySpace:
    def test_the_default_comes_first(self, space: Space) -> None:
        search = search_of(space)
        first = search.propose(5, BoostedTrees())
        assert first[0].knobs == space.default
        search.tell(trial(first[0], 1e-4))
        assert space.default not in [c.knobs for c in search.propose(20, BoostedTrees())]

    def test_one_proposal_is_the_default(self, space: Space) -> None:
        assert [c.knobs for c in search_of(space).propose(1, BoostedTrees())] == [space.default]

    def test_nothing_is_proposed_twice(self, space: Space) -> None:
        search, seen = search_of(space), set()
        model = BoostedTrees(rounds=10)
        for _ in range(8):
            batch = search.propose(10, model)
            assert len(batch) == 10
            for candidate in batch:
                assert candidate.knobs in space
                assert candidate.key not in seen
                seen.add(candidate.key)
                search.tell(trial(candidate, conv_seconds(candidate)))
            model = learned(search)

    def test_failed_points_are_not_proposed_again(self, space: Space) -> None:
        search = search_of(space)
        failed = search.propose(10, BoostedTrees())
        for candidate in failed:
            search.tell(trial(candidate, FailureKind.TIMEOUT))
        assert search.best is None
        again = {c.key for _ in range(3) for c in search.propose(20, BoostedTrees())}
        assert not again & {c.key for c in failed}

    def test_finds_a_near_best_point_in_far_fewer_trials_than_the_space(self, space: Space) -> None:
        search = search_of(space)
        run(search, rounds=9)
        assert len(search.results) <= 72 < space.bound / 10
        best = every_second(space, conv_seconds, search.candidate)[0]
        assert search.best is not None
        assert search.best[1] <= best * 1.12
        assert search.best[1] < conv_seconds(search.with_knobs(space.default))

    def test_equal_seeds_and_trials_give_equal_proposals(self, space: Space) -> None:
        proposals = []
        for _ in range(2):
            search = search_of(space)
            model = run(search, rounds=3)
            proposals.append([c.key for c in search.propose(12, model)])
        assert proposals[0] == proposals[1]

    def test_gain_falls_to_nothing_only_when_it_should(self, space: Space) -> None:
        search = search_of(space)
        assert search.lost  # never tried: asked before any gain is
        assert search.gain(BoostedTrees()) == 0.0
        search.tell(trial(search.propose(1, BoostedTrees())[0], 1e-4))
        assert not search.lost
        assert 0 < search.gain(BoostedTrees()) < 1e-4

    def test_failures_teach_the_model_to_stay_away(self, space: Space) -> None:
        search = search_of(space)
        for reg_n in range(1, 15):
            knobs = {"oc_t": 1, "reg_n": reg_n, "rows": 1, "order": 0}
            search.tell(trial(search.with_knobs(knobs), FailureKind.BUILD if reg_n > 8 else 1e-4))
        bad, good = search.scores(
            [{"oc_t": 1, "reg_n": 20, "rows": 1, "order": 1}, {"oc_t": 1, "reg_n": 8, "rows": 1, "order": 1}],
            learned(search),
        )
        assert bad > good + 0.5


@pytest.mark.parametrize("space", SPACES)
def test_a_model_of_other_kernels_helps_before_anything_was_measured(space: Space) -> None:
    model = run(search_of(space), rounds=2)
    batch = search_of(space).propose(4, model)
    assert batch[0].knobs == space.default
    assert len({c.key for c in batch}) == 4


def test_small_spaces_are_ranked_whole_by_the_model() -> None:
    search = search_of(SMALL)
    model = run(search, rounds=3)
    unseen = [p for p in SMALL.points if not search.knows(p)]
    most_promising = min(zip(search.scores(unseen, model), range(len(unseen)), strict=True))[1]
    assert unseen[most_promising] in [c.knobs for c in search.propose(8, model)]


def test_a_share_of_each_batch_is_optunas_own() -> None:
    search = search_of(SMALL)
    model = run(search, rounds=2)
    with patch.object(search, "_ask", wraps=search._ask) as ask:
        batch = search.propose(8, model)
    assert ask.call_count == 1
    assert ask.call_args.args[0] == 2
    assert len(batch) == 8


def test_large_spaces_are_never_listed() -> None:
    huge = Space({f"k{i}": list(range(32)) for i in range(8)}, {f"k{i}": 0 for i in range(8)})  # 10^12 points
    search = search_of(huge)
    batch = search.propose(10, BoostedTrees())
    assert len({c.key for c in batch}) == 10
    assert "points" not in vars(huge)  # a cached property: would be here had anybody listed them


def test_a_space_is_exhausted_without_repeats() -> None:
    space = Space({"oc_t": [1, 2], "reg_n": [2, 4, 7], "rows": [1]}, {"oc_t": 1, "reg_n": 2, "rows": 1})
    search = search_of(space)
    for _ in range(6):
        for candidate in search.propose(4, BoostedTrees()):
            assert not search.knows(candidate.knobs)
            search.tell(trial(candidate, 1e-4))
    assert search.left == 0
    assert len(search.results) == 6
    assert search.propose(4, BoostedTrees()) == []
    assert search.gain(BoostedTrees()) == 0.0


def test_trials_of_an_older_space_are_left_out() -> None:
    search = search_of(SMALL)
    search.tell(trial(search.with_knobs({"oc_t": 16, "reg_n": 7, "rows": 1, "order": 0}), 1e-9))
    search.tell(trial(search.with_knobs({"oc_t": 1, "reg_n": 7}), 1e-9))
    assert search.results == {}
    assert search.best is None


def test_further_samples_of_a_point_move_its_median() -> None:
    search = search_of(SMALL)
    candidate = search.with_knobs(SMALL.default)
    search.tell(trial(candidate, 1e-4))
    search.tell(trial(candidate, 3e-4, Purpose.FINAL))
    search.tell(trial(candidate, 3e-4, Purpose.FINAL))
    assert search.best == (SMALL.default, 3e-4)
    assert search.finals(SMALL.default) == 2 and search.confirmed(2) == [3e-4] and not search.confirmed(3)
    assert len(search.results) == 1


def test_a_failure_does_not_take_back_a_time() -> None:
    search = search_of(SMALL)
    candidate = search.with_knobs(SMALL.default)
    search.tell(trial(candidate, 1e-4))
    search.tell(trial(candidate, FailureKind.LOST, Purpose.FINAL))
    assert search.best == (SMALL.default, 1e-4)


def test_ranked_is_fastest_first() -> None:
    search = search_of(SMALL)
    for reg_n in (7, 4, 14):
        search.tell(trial(search.with_knobs({**SMALL.default, "reg_n": reg_n}), reg_n * 1e-5))
    search.tell(trial(search.with_knobs({**SMALL.default, "reg_n": 2}), FailureKind.CRASH))
    assert [k["reg_n"] for k, _ in search.ranked(5)] == [4, 7, 14]
    assert len(search.ranked(2)) == 2


def test_a_proposal_differs_from_its_question_in_knobs_alone() -> None:
    search = search_of(SMALL)
    proposal = search.propose(1, BoostedTrees())[0]
    assert proposal.record_key == search.candidate.record_key
    assert proposal.workload == search.candidate.workload


def test_the_limit_of_whole_spaces_is_what_decides() -> None:
    with patch.object(knobs_module, "WHOLE", len(SMALL.points) - 1):
        search = search_of(SMALL)
        model = run(search, rounds=1)
        with patch.object(search, "_ask", wraps=search._ask) as ask:
            search.propose(4, model)
        assert knobs_module.ASKED in [call.args[0] for call in ask.call_args_list]
