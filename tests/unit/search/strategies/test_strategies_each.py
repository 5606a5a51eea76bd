"""What each strategy measures and chooses, on spaces small enough to know the answer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pytest

from tests.unit.plan.plan_graphs import DEVICE, WEIGHTS, conv, graph_of, layer, random_dag, residual
from tests.unit.search.strategies.strategy_toys import CORES, chain, names_of, run, spaces, state_of, tell, truth
from tuner.errors import InternalError, UserError
from tuner.graph.costs import layer_cost
from tuner.plan.chains import AnyChain
from tuner.plan.partition import best_partition
from tuner.plan.space import PlanSpace, plan_space
from tuner.search.strategies import random as random_module
from tuner.search.strategies import schemes
from tuner.search.strategies.base import State
from tuner.search.strategies.dlfusion import Thresholds
from tuner.search.strategies.random import partitions
from tuner.search.strategies.registry import strategy
from tuner.search.strategies.tpe import _Encoding


def searched(name: str, space: PlanSpace, **options: float) -> tuple[State, list[str], tuple[int, ...], float]:
    """(state at the end, layers of each block chosen, its cores, seconds)."""
    table = truth(space)
    state, searching = state_of(space, table), strategy(name, **options)
    run(searching, state, table)
    choice = searching.choose(state)
    return state, names_of(space, choice.blocks), choice.cores, choice.seconds


SPACES = spaces()
RESIDUAL = SPACES["residual"]
SINGLE = ["START", "C1", "R1", "C2", "SUM", "OUT"]


class TestNone:
    def test_every_layer_alone_on_one_core(self) -> None:
        state, blocks, cores, _ = searched("none", RESIDUAL)
        assert blocks == SINGLE and set(cores) == {1}
        assert {c for _, c in state.order} == {0}
        assert state.measured == 3  # Relus, convolutions and the sum: equal ones once

    def test_without_one_core_there_is_no_such_plan(self) -> None:
        space = plan_space(residual(), DEVICE, (2, 4), AnyChain())
        with pytest.raises(UserError) as refused:
            strategy("none").propose(State(space), 1)
        assert refused.value.code == "bad-option"

    def test_of_several_layouts_the_best_are_taken(self) -> None:
        space = SPACES["layouts"]
        state, blocks, _, seconds = searched("none", space)
        assert blocks == ["T0", "T1", "T2", "T3"]
        single = [b for b in space.blocks if len(b.layers) == 1]
        assert {q for q, _ in state.order} == {b.question for b in single}
        assert seconds < max(sum(state.seconds[b.question, 0] for b in single if v in b.writes.values())
                             for v in ("plain", "NCHW8c"))  # fmt: skip


class TestFixed:
    @pytest.mark.parametrize(
        ("name", "blocks"),
        [
            ("layers", SINGLE),
            ("greedy", ["START", "C1+R1", "C2+SUM+OUT"]),
            ("all", ["START+C1+R1+C2+SUM+OUT"]),
        ],
    )
    def test_the_scheme_is_fixed(self, name: str, blocks: list[str]) -> None:
        state, chosen, cores, _ = searched(f"fixed-{name}", RESIDUAL)
        assert chosen == blocks and set(cores) == {4} == {CORES[c] for _, c in state.order}
        state, chosen, cores, _ = searched(f"fixed-{name}", RESIDUAL, cores=2)
        assert chosen == blocks and set(cores) == {2} == {CORES[c] for _, c in state.order}
        asked = {q for q, _ in state.order}
        state, chosen, cores, seconds = searched(f"cores-{name}", RESIDUAL)
        assert chosen == blocks and state.measured == 4 * len(asked)
        questions = [RESIDUAL.blocks[b].question for b in best(state, RESIDUAL, blocks)]
        assert seconds == pytest.approx(state.seconds[questions].min(axis=1).sum())
        state, *_ = searched(f"cores-{name}", RESIDUAL, powers=1)
        assert {CORES[c] for _, c in state.order} == {1, 2, 4}

    def test_a_core_count_that_is_not_considered_is_named(self) -> None:
        with pytest.raises(UserError) as refused:
            strategy("fixed-layers", cores=7).propose(State(RESIDUAL), 1)
        assert "cores=7" in refused.value.message and "1, 2, 3, 4" in refused.value.hint

    def test_all_core_counts_of_a_plan_come_before_the_next(self) -> None:
        state, *_ = searched("cores-layers", RESIDUAL)
        assert [c for _, c in state.order] == sorted((c for _, c in state.order), reverse=True)

    @pytest.mark.parametrize("seed", range(8))
    def test_schemes_cover_every_graph_with_legal_blocks(self, seed: int) -> None:
        space = plan_space(random_dag(seed, 20)[0], DEVICE, CORES, AnyChain(3))
        position = space.graph.position
        for scheme in (schemes.layers, schemes.greedy, schemes.fewest):
            blocks = scheme(space)
            assert all(b in space.block_of for b in blocks)
            assert sorted(i for b in blocks for i in b) == sorted(position)
            sinks = [max(position[i] for i in b) for b in blocks]
            assert sinks == sorted(sinks)
        assert len(schemes.fewest(space)) <= len(schemes.greedy(space)) <= len(schemes.layers(space))


def best(state: State, space: PlanSpace, blocks: list[str]) -> list[int]:
    return [space.block_of[frozenset(names.split("+"))][0] for names in blocks]


class TestExhaustive:
    @pytest.mark.parametrize("name", SPACES)
    def test_it_finds_the_best_there_is(self, name: str) -> None:
        space = SPACES[name]
        state, _, _, seconds = searched("exhaustive", space)
        assert state.measured == space.evaluations
        assert seconds == best_partition(space, truth(space)).seconds

    def test_a_space_that_is_too_large_is_refused_with_its_size(self) -> None:
        for searching in (strategy("exhaustive", limit=10), strategy("exhaustive", limit=10, reduced=1)):
            with pytest.raises(UserError) as refused:
                searching.done(State(RESIDUAL))
            assert refused.value.code == "space-too-large"
        with pytest.raises(UserError, match=f"{RESIDUAL.evaluations:,} evaluations"):
            strategy("exhaustive", limit=10).propose(State(RESIDUAL), 1)

    def test_the_reduced_search_cuts_behind_groups_alone(self) -> None:
        space = SPACES["chain"]
        state, blocks, cores, seconds = searched("exhaustive", space, reduced=1)
        asked = {"+".join(b.layers) for b in space.blocks if not np.isnan(state.seconds[b.question, 0])}
        groups = ["T0+T1", "T2+T3", "T4+T5", "T6+T7"]
        whole = {"+".join(groups[a:b]) for a in range(4) for b in range(a + 1, 5) if b - a <= 3}
        assert whole <= asked and "T0" not in asked and "T0+T1+T2" not in asked
        assert set(blocks) <= whole and set(cores) <= {1, 2, 4}
        assert {CORES[c] for _, c in state.order} == {1, 2, 4}
        assert best_partition(space, truth(space)).seconds <= seconds


class TestRandom:
    @pytest.mark.parametrize("seed", range(6))
    def test_partitions_are_counted_right(self, seed: int) -> None:
        space = plan_space(random_dag(seed, 9)[0], DEVICE, (1,), AnyChain())
        sets = {b.mask for b in space.blocks}

        def count(left: int) -> int:
            first = left & -left
            return 1 if not left else sum(count(left & ~m) for m in sets if m & first and m & left == m)

        assert partitions(space)[(1 << 9) - 1] == count((1 << 9) - 1)

    def test_all_plans_have_the_same_chance(self) -> None:
        space = plan_space(chain(2), DEVICE, (1, 2), AnyChain())
        drawn = strategy("random", plans=4000).plans(State(space))  # type: ignore[attr-defined]
        plans = [tuple(names_of(space, p.choice.blocks)) for p in drawn]
        cuts = Counter(plans)
        assert len(cuts) == 8  # three places to cut or not
        assert all(abs(n - 500) < 5 * np.sqrt(500) for n in cuts.values())

    def test_the_best_of_the_plans_drawn_is_not_put_together_from_several(self) -> None:
        space = SPACES["chain"]
        table = truth(space)
        state, searching = state_of(space, table), strategy("random", plans=10)
        run(searching, state, table)
        plans = list(searching.plans(state))  # type: ignore[attr-defined]
        assert searching.choose(state).seconds == pytest.approx(
            min(sum(table[e] for e in p.evaluations) for p in plans)
        )
        assert searching.choose(state).seconds > best_partition(space, state.seconds).seconds

    def test_no_plan_counts_before_it_is_known_in_whole(self) -> None:
        space = SPACES["chain"]
        table = truth(space)
        state, searching = state_of(space, table), strategy("random")
        first = next(searching.plans(state)).evaluations  # type: ignore[attr-defined]
        tell(state, first[1:], table)
        with pytest.raises(InternalError):
            searching.choose(state)
        tell(state, first[:1], table)
        assert searching.choose(state).seconds == pytest.approx(sum(table[e] for e in first))

    def test_seeds_draw_different_plans(self) -> None:
        one, two = (strategy("random").propose(State(SPACES["chain"], seed=s), 20) for s in (1, 2))
        assert one != two

    def test_a_graph_of_too_many_branches_is_refused(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(random_module, "MOST_STATES", 20)
        branches = [layer("Relu", ["x"], f"a{i}") for i in range(6)]
        wide = graph_of([*branches, layer("Concat", [f"a{i}" for i in range(6)], "y", axis=1)], ["y"])
        with pytest.raises(UserError) as refused:
            strategy("random").propose(State(plan_space(wide, DEVICE, (1,), AnyChain())), 1)
        assert refused.value.code == "graph-too-wide"


@dataclass
class Answers:
    """An Optuna trial whose parameters are decided."""

    values: Mapping[str, int]

    def suggest_categorical(self, name: str, choices: tuple[int, ...]) -> int:
        assert self.values.get(name, 0) in choices
        return self.values.get(name, 0)

    def suggest_int(self, name: str, low: int, high: int) -> int:
        assert low <= self.values.get(name, 0) <= high
        return self.values.get(name, 0)


class TestTpe:
    @pytest.mark.parametrize("name", SPACES)
    def test_every_plan_has_an_encoding(self, name: str) -> None:
        space = SPACES[name]
        for choice in (p.choice for p in strategy("random", plans=50).plans(State(space))):  # type: ignore[attr-defined]
            values = {}
            for index, cores in zip(choice.blocks, choice.cores, strict=True):
                block = space.blocks[index]
                values[f"cores {block.sink}"] = CORES.index(cores)
                values |= {f"fuse {i}": 1 for i in range(block.sink) if block.mask >> i & 1}
                values[f"layouts {block.sink}"] = space.block_of[frozenset(block.layers)].index(index)
            assert _Encoding(space).plan(Answers(values)).choice == choice  # type: ignore[arg-type]

    def test_it_learns_from_what_it_measured(self) -> None:
        space = SPACES["chain"]
        table = truth(space)
        first, last = [], []
        for seed in range(2):
            state, searching = state_of(space, table, seed=seed), strategy("tpe", plans=40, startup=15)
            run(searching, state, table)
            times = [p.seconds(table) for p in searching.plans(state)]  # type: ignore[attr-defined]
            first.append(np.mean(times[:15]))
            last.append(np.mean(times[-15:]))
        assert np.mean(last) < 0.9 * np.mean(first)


LAUNCH, RATE = 2e-5, 1e10  # seconds; operations per second of one core


@dataclass(frozen=True)
class Machine:
    """A predictor: every block takes a launch and its operations on one core's rate, as long as cores do not bind."""

    enough: float = 1e6  # operations per core at which more cores stop to pay

    def predict(self, state: State) -> tuple[np.ndarray, np.ndarray]:
        # Once something is measured it says something else: the plan must not move with it.
        shift = state.measured
        space, rows = state.space, []
        for question in space.questions:
            ops = sum(layer_cost(space.graph, space.graph.by_id[i]).ops for i in question.layers)
            used = max(1.0, ops / self.enough)
            rows.append([LAUNCH + ops / RATE / c + 1e-3 * abs(np.log2(c / used)) ** 2 * (c > 1) + shift
                         for c in space.cores])  # fmt: skip
        mean = np.log(rows)
        return mean, np.zeros_like(mean)


class TestDLFusion:
    def test_without_calibration_it_says_so(self) -> None:
        with pytest.raises(UserError) as refused:
            strategy("dlfusion").propose(State(RESIDUAL), 1)
        assert refused.value.code == "no-model"

    def test_a_share_of_the_peak_has_to_be_one(self) -> None:
        with pytest.raises(UserError) as refused:
            strategy("dlfusion", saturation=1).propose(State(RESIDUAL, predictor=Machine()), 1)
        assert "saturation" in refused.value.message

    @pytest.mark.parametrize("wanted", [1, 2, 3, 6])
    def test_a_block_grows_until_a_core_comes_near_its_peak(self, wanted: int) -> None:
        graph = chain(12)
        work = sum(layer_cost(graph, x).ops for x in graph.layers[:2])

        def rate(count: float) -> float:
            return count * work / (LAUNCH + count * work / RATE)

        space = plan_space(graph, DEVICE, (1,), AnyChain())
        saturation = rate(wanted - 0.4) / rate(12)
        part = strategy("dlfusion", saturation=saturation)._part(State(space, predictor=Machine()))  # type: ignore[attr-defined]
        assert [len(space.blocks[b].layers) for b in part.blocks] == [2 * wanted] * (12 // wanted)

    def test_more_cores_want_more_work(self) -> None:
        graph = chain(12)
        one, two = (plan_space(graph, DEVICE, cores, AnyChain()) for cores in ((1,), (1, 2)))
        fewer, more = (
            len(strategy("dlfusion", per_core=p)._part(State(two, predictor=Machine(enough=6e5))).blocks)  # type: ignore[attr-defined]
            for p in (1, 0)
        )
        alone = len(strategy("dlfusion")._part(State(one, predictor=Machine())).blocks)  # type: ignore[attr-defined]
        assert fewer < more == alone

    def test_it_measures_its_own_plan_alone_and_stays_with_it(self) -> None:
        for space in (SPACES["chain"], RESIDUAL, SPACES["tangle"]):
            table = truth(space)
            state, searching = State(space, predictor=Machine()), strategy("dlfusion")
            planned = searching._part(state)  # type: ignore[attr-defined]
            run(searching, state, table, batch=1)
            assert state.measured == planned.evaluations <= len(planned.blocks)
            again = State(space, predictor=Machine())
            tell(again, state.order, table)
            assert strategy("dlfusion").choose(again) == searching.choose(state)
            assert searching.choose(state).blocks == planned.blocks

    def test_cores_follow_operations_and_channels(self) -> None:
        space = plan_space(chain(2), DEVICE, (1, 2, 4, 8, 16, 32), AnyChain())
        learned = Thresholds(1e6, np.array([-16.0, 1.0, 0.5]), np.array([2.0, 0.0, 0.0]))
        assert [space.cores[learned.column(space, 2.0**k, 1)] for k in (3, 16, 18, 21, 40)] == [1, 1, 4, 32, 32]
        assert [space.cores[learned.column(space, 2.0**16, c)] for c in (1, 4, 16, 64)] == [1, 2, 4, 8]
        assert space.cores[learned.column(space, 0, 0)] == 1
        assert space.cores[learned.column(space, 2.0**40, 1, dense=True)] == 4

    def test_a_cut_is_made_before_a_branch_that_would_leave_two_tensors(self) -> None:
        space = RESIDUAL
        state = State(space, predictor=Machine())
        # Reached by one convolution: within START + C1 + R1, which two tensors leave.
        part = strategy("dlfusion", saturation=0.5)._part(state)  # type: ignore[attr-defined]
        assert names_of(space, part.blocks) == ["START", "C1+R1", "C2+SUM+OUT"]

    def test_dense_layers_stay_alone(self) -> None:
        graph = graph_of(
            [conv("x", "a"), layer("Flatten", ["a"], "b"), layer("Gemm", ["b", "v"], "c"), layer("Relu", ["c"], "d"),
             layer("Gemm", ["d", "u"], "e"), layer("Softmax", ["e"], "f")],
            ["f"], shapes={n: (1, 2048 if n == "b" else 64) for n in "bcdef"},
            constants={**WEIGHTS, "v": (2048, 64), "u": (64, 64)},
        )  # fmt: skip
        space = plan_space(graph, DEVICE, (1, 2), AnyChain())
        part = strategy("dlfusion", saturation=0.99)._part(State(space, predictor=Machine()))  # type: ignore[attr-defined]
        assert names_of(space, part.blocks) == ["A", "B", "C+D", "E", "F"]

    def test_a_model_without_operations_is_fused_as_far_as_it_goes(self) -> None:
        graph = graph_of([layer("Reshape", ["x"], "a"), layer("Reshape", ["a"], "b")], ["b"])
        space = plan_space(graph, DEVICE, (1, 2), AnyChain())
        part = strategy("dlfusion")._part(State(space, predictor=Machine()))  # type: ignore[attr-defined]
        assert names_of(space, part.blocks) == ["A+B"]
