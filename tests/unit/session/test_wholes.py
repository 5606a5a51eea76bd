"""What a job in bf16 or int8 builds until it is exact enough: images in float32 first, then weights."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

sys.path.append(str(Path(__file__).parents[1] / "plan"))
from plan_graphs import DEVICE, residual

from tuner.build.verify import Verification
from tuner.builds import BuildCost
from tuner.clock import Clock
from tuner.errors import InternalError
from tuner.graph.ir import Graph
from tuner.plan.layout import is_narrow
from tuner.plan.narrow import image_operands, narrow_tensors
from tuner.plan.plan import Plan
from tuner.precision import BF16, DOT_FEATURE, FP32, INT8, INT8_FEATURE, ROUNDING
from tuner.search.courses import Planned
from tuner.search.fusion import greedy
from tuner.search.questions import questions
from tuner.search.sidebyside import SideBySide
from tuner.types import JobSpec
from tuner.wholes import Wholes

MACHINE = replace(DEVICE, lanes=16, registers=32, features=(DOT_FEATURE, INT8_FEATURE))
GRAPH = replace(residual(), opset=20)


def kind(plan: Plan) -> tuple[bool, bool]:
    """Whether images are stored rounded, and whether anything multiplies bfloat16."""
    return any(map(is_narrow, plan.layouts.values())), any(b.template in ROUNDING for b in plan.blocks)


@dataclass
class Built:
    """Builds and compares nothing; the first ``exact`` of the plans are not exact enough."""

    inexact: int
    plans: list[Plan] = field(default_factory=list)
    first: BuildCost = field(default_factory=BuildCost)
    seconds: float = 0.0

    def build(self, plan: Plan, name: str) -> list[Any]:
        self.plans.append(plan)
        return []

    def folder(self, name: str) -> Path:
        return Path("none")

    def verify(self, name: str) -> Verification:
        error = 0.5 if len(self.plans) <= self.inexact else 1e-3
        return Verification(1, error, error, 2e-2)


def wholes(built: Built, spec: JobSpec) -> Wholes:
    return Wholes(spec, MACHINE, GRAPH, built, built, Clock(), lambda *_: None)  # type: ignore[arg-type]


def begun(precision: str = BF16) -> Planned:
    names = narrow_tensors(GRAPH, image_operands(GRAPH)) if precision == BF16 else frozenset[str]()
    plan = greedy(GRAPH, MACHINE, 2, names)
    asked = questions(plan, GRAPH, MACHINE, cores=(1, 2), precision=precision, seed=0, residency="cache")
    return Planned(plan, asked)


@pytest.mark.parametrize(
    ("inexact", "kinds"),
    [
        (0, [(True, True)]),
        (1, [(True, True), (False, True)]),
        (2, [(True, True), (False, True), (False, False)]),
    ],
)
def test_a_default_plan_that_is_not_exact_enough_gives_up_images_and_then_weights(
    inexact: int, kinds: list[tuple[bool, bool]]
) -> None:
    built = Built(inexact)
    made = wholes(built, JobSpec("m", precision=BF16))
    made.build_default(begun())
    assert [kind(plan) for plan in built.plans] == kinds
    assert made.plans["default"] is built.plans[-1] and made.verified("default").passed


@pytest.mark.parametrize(("inexact", "lowered"), [(0, [True]), (1, [True, False]), (9, [True, False, False])])
def test_in_int8_convolutions_of_integers_are_given_up(inexact: int, lowered: list[bool]) -> None:
    built = Built(inexact)
    wholes(built, JobSpec("m", precision=INT8)).build_default(begun(INT8))
    assert [kind(plan) for plan in built.plans] == [(False, each) for each in lowered]
    assert {b.template for b in built.plans[0].blocks} & set(ROUNDING) == {"conv2d_int8"}


def test_a_plan_found_does_the_same_and_is_not_built_twice() -> None:
    built = Built(2)
    made = wholes(built, JobSpec("m", precision=BF16))
    made.plans["default"] = Plan("g", ())
    made.build_found({"tuned": begun()})
    assert [kind(plan) for plan in built.plans] == [(True, True), (False, True), (False, False)]
    assert made.plans["tuned"] is built.plans[-1]


def test_in_float32_and_with_a_given_plan_the_default_is_built_as_it_is() -> None:
    plan = begun().plan
    for spec, start in ((JobSpec("m"), begun(FP32)), (JobSpec("m", precision=BF16, plan=plan.to_json()), begun())):
        built = Built(9)
        wholes(built, spec).build_default(start)
        assert len(built.plans) == 1


def test_the_graph_is_what_the_tests_are_about() -> None:
    assert isinstance(GRAPH, Graph) and kind(greedy(GRAPH, MACHINE, 2)) == (False, False)


def beside(monkeypatch: pytest.MonkeyPatch, built: Built, spec: JobSpec | None = None) -> Wholes:
    """Wholes that have the default plan, and were told that the same with two blocks in lanes pays."""
    plan = begun(FP32)
    made = wholes(built, spec or JobSpec("m"))
    made.build_default(plan)
    other = SideBySide(made.plans["default"].map(lambda b: replace(b, cores=1)), 0.9, 1.0)
    monkeypatch.setattr("tuner.wholes.side_by_side", lambda *_: other)
    made.build_lanes(plan.asked, 1.0)
    return made


def test_blocks_side_by_side_are_one_whole_more(monkeypatch: pytest.MonkeyPatch) -> None:
    made = beside(monkeypatch, Built(0))
    assert set(made.plans) == set(made.steps) == {"default", "lanes"}
    assert {b.cores for b in made.plans["lanes"].blocks} == {1}


@pytest.mark.parametrize("spec", [JobSpec("m", strategy="greedy"), JobSpec("m", plan={})])
def test_other_strategies_and_given_plans_stay_as_they_are(monkeypatch: pytest.MonkeyPatch, spec: JobSpec) -> None:
    assert set(beside(monkeypatch, Built(0), spec).plans) == {"default"}


def test_lanes_that_are_wrong_or_do_not_run_harm_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    assert set(beside(monkeypatch, Built(9)).plans) == {"default"}

    class Crashing(Built):
        def verify(self, name: str) -> Verification:
            raise InternalError("It crashed.", code="not-verified")

    said: list[str] = []
    built = Crashing(0)
    made = Wholes(JobSpec("m"), MACHINE, GRAPH, built, built, Clock(), lambda _, text: said.append(text))  # type: ignore[arg-type]
    plan = begun(FP32)
    made.build_default(plan)
    other = SideBySide(made.plans["default"].map(lambda b: replace(b, cores=1)), 0.9, 1.0)
    monkeypatch.setattr("tuner.wholes.side_by_side", lambda *_: other)
    made.build_lanes(plan.asked, 1.0)
    assert set(made.plans) == {"default"}
    assert "It crashed." in said[-1]
