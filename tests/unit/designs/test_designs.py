"""MetaSchedule's design spaces as named parameters: drawn within limits, applied, read back, refused unbuilt."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

import numpy as np
import optuna
import pytest
import tvm

from tests.unit.designs.design_functions import conv, cpu, gpu, matmul
from tuner.designs.parameters import factorisations
from tuner.designs.space import DesignSpace, design_spaces
from tuner.errors import CandidateError

CASES = {"conv on a GPU": (conv, gpu), "matmul on a GPU": (matmul, gpu), "conv on a CPU": (conv, cpu)}


@pytest.fixture(scope="module", params=list(CASES))
def spaces(request: pytest.FixtureRequest) -> tuple[DesignSpace, ...]:
    function, target = CASES[request.param]
    return design_spaces(function(), target())


def test_factorisations_are_all_ordered_products() -> None:
    found = factorisations(56, 3)
    assert len(found) == len(set(found)) == 10 * 3
    assert all(prod(f) == 56 for f in found)
    assert factorisations(1, 4) == ((1, 1, 1, 1),)
    assert factorisations(7, 1) == ((7,),)


def test_every_decision_has_a_name_and_the_default_is_one(spaces: tuple[DesignSpace, ...]) -> None:
    assert spaces
    for space in spaces:
        assert {"tile0", "tile1", "choice0"} <= set(space.parameters)
        assert space.default.keys() == space.parameters.keys() == space.distributions.keys()
        for name, number in space.default.items():
            assert space.distributions[name]._contains(number)


def test_what_is_drawn_comes_out_as_it_was_asked_for_or_as_it_was_read_back(spaces: tuple[DesignSpace, ...]) -> None:
    space = spaces[0]
    for knobs in space.draw(6, np.random.default_rng(3)):
        design = made(space, knobs)
        if design is None:
            continue
        again = space.apply(design.knobs)
        assert again.knobs == design.knobs
        tvm.ir.assert_structural_equal(again.schedule.mod, design.schedule.mod)
        tiles = {n: v for n, v in knobs.items() if n.startswith("tile")}
        assert {n: design.knobs[n] for n in tiles} == tiles


def test_draws_are_different_deterministic_and_within_the_limits(spaces: tuple[DesignSpace, ...]) -> None:
    space = spaces[0]
    points = space.draw(50, np.random.default_rng(1))
    assert points == space.draw(50, np.random.default_rng(1))
    assert len({tuple(p.items()) for p in points}) == 50
    assert all(space.allows(p) for p in points)


@pytest.mark.parametrize("function", [conv, matmul])
def test_most_draws_for_a_gpu_pass_and_few_uniform_ones_do(function: Callable[[], Any]) -> None:
    space = design_spaces(function(), gpu())[0]
    drawn = space.draw(20, np.random.default_rng(0))
    random = np.random.default_rng(0)
    uniform = [{n: int(random.integers(len(p.values))) for n, p in space.parameters.items()} for _ in range(20)]
    assert sum(made(space, p) is not None for p in drawn) >= 18
    assert sum(made(space, p) is not None for p in uniform) <= 8


def test_what_verify_gpu_code_refuses_is_refused_without_a_build() -> None:
    space = design_spaces(matmul(), gpu())[0]
    tiles = [n for n, p in space.parameters.items() if n.startswith("tile") and len(p.values[0]) == 5]
    lone = {n: next(k for k, v in enumerate(space.parameters[n].values) if v[2] == prod(v)) for n in tiles}
    knobs = space.default | lone  # 64 x 96 threads
    assert not space.allows(knobs)
    with pytest.raises(CandidateError, match="VerifyGPUCode") as raised:
        space.apply(knobs)
    assert raised.value.code == "rejected"


def test_illegal_decisions_are_read_back_as_tvm_repaired_them() -> None:
    space = next(s for s in design_spaces(conv(), cpu()) if "place0" in s.parameters)
    farthest = len(space.parameters["place0"].values) - 1  # deeper than any loop nest here
    design = space.apply(space.default | {"place0": farthest})
    assert design.knobs["place0"] < farthest


def test_numbers_are_spelled_as_decisions() -> None:
    space = design_spaces(matmul(), gpu())[0]
    spelled = space.spelled(space.default)
    assert prod(spelled["tile0"]) == 64 and prod(spelled["tile1"]) == 96 and prod(spelled["tile2"]) == 128
    assert isinstance(spelled["choice0"], int)


def test_optuna_searches_a_space() -> None:
    space = design_spaces(matmul(), gpu())[0]
    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=0))
    trial = study.ask(space.distributions)
    assert trial.params.keys() == space.parameters.keys()
    trial = optuna.trial.create_trial(params=space.default, distributions=space.distributions, value=1.0)
    study.add_trial(trial)
    assert study.best_params == space.default


@pytest.mark.slow
def test_tensor_cores_are_in_the_spaces_of_their_rules() -> None:
    spaces = design_spaces(matmul(256, 256, 256, "float16"), gpu(), "cuda-tensorcore")
    for space in spaces:
        designs = [made(space, knobs) for knobs in space.draw(20, np.random.default_rng(0))]
        passed = [d for d in designs if d is not None]
        assert passed
        assert "wmma" in passed[0].schedule.mod.script()
        loops = space.apply(passed[0].knobs, tensorise=False)
        assert "tvm_mma_sync" not in loops.schedule.mod.script()


def made(space: DesignSpace, knobs: dict[str, int]) -> Any:
    try:
        return space.apply(knobs)
    except CandidateError:
        return None


def test_loops_for_one_core_are_not_shared() -> None:
    space = design_spaces(conv(), cpu())[0]
    shared, alone = (space.apply(space.default, serial=serial) for serial in (False, True))
    assert "T.parallel" in shared.schedule.mod.script() and "T.parallel" not in alone.schedule.mod.script()
    assert "T.vectorized" in alone.schedule.mod.script()
    assert shared.knobs == alone.knobs == space.default
