"""Figures of how well a job's cost models predict workloads that they have not seen."""

from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np
import pytest

from cost_model.block_model import BlockModel
from tests.unit.search.search_fakes import SMALL, conv_seconds, question
from tuner.graph.ir import Constant, Graph, Layer, Tensor, freeze_attrs
from tuner.measure.device import devices
from tuner.plan.chains import AnyChain
from tuner.plan.space import PlanSpace, plan_space
from tuner.search.blocks import machine_of
from tuner.search.examination import FEWEST_BLOCKS, FEWEST_TRIALS, Figures, examine_blocks, examine_knobs
from tuner.search.knobs import KnobSearch
from tuner.search.predictor import BlockPredictor
from tuner.search.samples import Samples
from tuner.search.strategies.base import State
from tuner.simulate.machine import times
from tuner.simulate.spec import load
from tuner.types import Purpose, Trial

SIM = "sim:mlu100"
DEVICE = devices(SIM)
CORES = (1, 2, 4, 8, 16, 32)


def chain(depth: int) -> Graph:
    """Convolutions of growing width one behind the other."""
    attrs = freeze_attrs({"pads": (1, 1, 1, 1), "strides": (1, 1), "kernel_shape": (3, 3), "group": 1,
                          "dilations": (1, 1)})  # fmt: skip
    wide = [16 * (n + 1) for n in range(depth + 1)]
    layers = tuple(Layer(f"l{n}", "Conv", (f"t{n}", f"w{n}"), (f"t{n + 1}",), attrs) for n in range(depth))
    tensors = {f"t{n}": Tensor(f"t{n}", (1, wide[n], 28, 28)) for n in range(depth + 1)}
    weights = {f"w{n}": Constant(f"w{n}", (wide[n + 1], wide[n], 3, 3), digest=f"w{n}") for n in range(depth)}
    return Graph(("t0",), (f"t{depth}",), layers, tensors, weights)


@pytest.fixture(scope="module")
def space() -> PlanSpace:
    return plan_space(chain(6), DEVICE, CORES, AnyChain())


def told(
    space: PlanSpace, seconds: Callable[[int], np.ndarray], samples: Samples | None = None
) -> tuple[BlockPredictor, State]:
    """Everything measured; ``seconds`` gives a question's times on each core count."""
    predictor = BlockPredictor(space, BlockModel(machine_of(DEVICE)), samples)
    state = State(space, predictor=predictor)
    for q in range(len(space.questions)):
        state.tell(((q, c), float(s)) for c, s in enumerate(seconds(q)))
    return predictor, state


def simulated(space: PlanSpace) -> Callable[[int], np.ndarray]:
    return lambda q: times(load(SIM), space.workload(q), CORES)


def test_blocks_that_follow_the_physics_are_predicted_well(space: PlanSpace) -> None:
    found = examine_blocks(*told(space, simulated(space)))
    assert (found.samples, found.workloads, found.reason) == (
        len(space.questions) * len(CORES),
        len(space.questions),
        None,
    )
    assert found.rank_correlation is not None and found.rank_correlation > 0.9
    assert found.median_error is not None and 0.0 < found.median_error < 0.2
    assert found.top1 in {0.0, 1.0} and found.top8 is not None and found.top8 >= 0.5
    assert found.within_one is not None and found.within_two is not None
    assert 0.3 < found.within_one <= found.within_two <= 1.0


def test_what_was_known_of_the_same_workload_does_not_help(space: PlanSpace) -> None:
    """Times are luck, and the very same times are among the samples: who looks them up would be right."""
    luck = np.random.default_rng(0).lognormal(-9.0, 1.5, (len(space.questions), 1)) * np.ones(len(CORES))
    predictor, state = told(space, lambda q: luck[q])
    rows = predictor.features.reshape(-1, predictor.features.shape[-1])
    known = Samples.of(rows.astype(np.float64) * (1 + 1e-9), luck.reshape(-1))
    found = examine_blocks(*told(space, lambda q: luck[q], known))
    assert found.median_error is not None and found.median_error > 0.5
    assert state.measured == found.samples


def test_samples_of_other_workloads_help(space: PlanSpace) -> None:
    few = plan_space(chain(3), DEVICE, (1, 8), AnyChain())
    seconds = lambda q: times(load(SIM), few.workload(q), (1, 8))  # noqa: E731
    predictor, _ = told(space, simulated(space))
    rows = predictor.features.reshape(-1, predictor.features.shape[-1]).astype(np.float64)
    known = Samples.of(rows, np.concatenate([simulated(space)(q) for q in range(len(space.questions))]))
    alone, together = examine_blocks(*told(few, seconds)), examine_blocks(*told(few, seconds, known))
    assert alone.median_error is not None and together.median_error is not None
    assert together.median_error < alone.median_error


def test_too_few_blocks_or_one_workload_have_a_reason(space: PlanSpace) -> None:
    predictor = BlockPredictor(space, BlockModel(machine_of(DEVICE)))
    empty = examine_blocks(predictor, State(space, predictor=predictor))
    assert empty == Figures(0, 0, reason=f"Only 0 evaluations were measured; it takes {FEWEST_BLOCKS}.")
    failed = State(space, predictor=predictor)
    failed.tell(((0, c), None) for c in range(len(CORES)))
    assert examine_blocks(predictor, failed).samples == 0
    many = plan_space(chain(1), DEVICE, tuple(range(1, 20)), AnyChain())
    one = examine_blocks(*told(many, lambda q: times(load(SIM), many.workload(q), many.cores)))
    assert one.rank_correlation is None and one.reason is not None and "of 1 workload" in one.reason


def searched(channels: int, points: int, seconds: Callable[..., float] = conv_seconds, seed: int = 0) -> KnobSearch:
    search = question(SMALL, channels).main
    chosen = np.random.default_rng(seed).permutation(len(SMALL.points))[:points]
    for at in chosen:
        candidate = search.with_knobs(SMALL.points[at])
        search.tell(Trial(candidate, Purpose.SEARCH, samples=(seconds(candidate),), max_rel_error=0.0))
    return search


def test_knobs_that_act_alike_in_all_kernels_are_ranked_well() -> None:
    found = examine_knobs([searched(channels, 40) for channels in (32, 64, 128, 256)])
    assert (found.samples, found.workloads, found.reason) == (160, 4, None)
    assert found.rank_correlation is not None and found.rank_correlation > 0.6
    assert found.top8 is not None and found.top1 is not None and found.top8 >= max(found.top1, 0.5)


def test_luck_is_not_ranked() -> None:
    random = np.random.default_rng(0)
    found = examine_knobs([searched(c, 60, lambda _: random.lognormal(-9, 1)) for c in (32, 64, 128)])
    assert found.rank_correlation is not None and abs(found.rank_correlation) < 0.35


def test_few_trials_or_one_workload_have_a_reason() -> None:
    assert examine_knobs([]) == Figures(
        0, 0, reason=f"Only 0 trials are of kernels tried with several knobs; it takes {FEWEST_TRIALS}."
    )
    assert (
        examine_knobs([searched(64, FEWEST_TRIALS - 1), searched(32, 1)]).reason is not None
    )  # one trial compares nothing
    alone = examine_knobs([searched(64, 60)])
    assert (alone.samples, alone.workloads, alone.top1) == (60, 1, None)
    assert alone.reason == "All 60 are of 1 workload; it takes two to hold one out."


def test_many_trials_are_sampled() -> None:
    searches = [searched(32 * n, 250) for n in range(1, 9)]
    found = examine_knobs(searches)
    assert found.workloads == 8 and 400 <= found.samples <= 600


def test_figures_are_json_numbers(space: PlanSpace) -> None:
    data = json.loads(json.dumps(examine_blocks(*told(space, simulated(space))).to_json()))
    assert set(data) == {"samples", "workloads", "rank_correlation", "top1", "top8", "median_error", "within_one",
                         "within_two", "reason"}  # fmt: skip
    assert data["rank_correlation"] == round(data["rank_correlation"], 4)


@pytest.mark.parametrize(("before", "learned"), [(0, [0, 8, 16]), (300, [0, 8, 16]), (600, [0, 12])])
def test_with_many_samples_the_model_learns_anew_less_often(
    space: PlanSpace, monkeypatch: pytest.MonkeyPatch, before: int, learned: list[int]
) -> None:
    fits: list[int] = []
    monkeypatch.setattr(BlockModel, "fit", lambda self, rows, *_: fits.append(len(rows) - before))
    width = BlockPredictor(space, BlockModel(machine_of(DEVICE))).features.shape[-1]
    known = Samples.of(np.ones((before, width)), np.ones(before)) if before else None
    state = State(space, predictor=BlockPredictor(space, BlockModel(machine_of(DEVICE)), known))
    for number in range(20):
        assert state.predicted is not None
        state.tell([((number % 6, number // 6), 1e-3)])
    assert fits == [n for n in learned if n or before]
