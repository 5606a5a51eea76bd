"""The bookkeeping of the search bench: rows that resume, rows that are missing, and what is said of a search."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import bench.search.sim as sim
from bench.lines import keep, read
from bench.search.plots import at, bars, multiples
from bench.search.progress import follow, percent, reached, row
from bench.search.spaces import SimSpace
from bench.search.tables import document, middle
from tuner.graph.ir import Graph, Layer, Tensor
from tuner.measure.device import devices
from tuner.plan.chains import AnyChain
from tuner.plan.space import plan_space
from tuner.search.strategies.registry import strategy
from tuner.simulate.runner import table
from tuner.simulate.spec import load

DEVICE = devices("sim:mlu100")


def toy(layers: int = 4) -> SimSpace:
    """A chain of Relus on one to four cores."""
    tensors = {f"t{i}": Tensor(f"t{i}", (1, 32, 28, 28)) for i in range(layers + 1)}
    chain = tuple(Layer(f"l{i}", "Relu", (f"t{i}",), (f"t{i + 1}",)) for i in range(layers))
    graph = Graph(("t0",), (f"t{layers}",), chain, tensors, {})
    plans, spec = plan_space(graph, DEVICE, (1, 2, 4), AnyChain()), load("sim:mlu100")
    return SimSpace("toy", None, spec, plans, table(spec, plans), np.zeros((len(plans.questions), 3, 1), np.float32))


def line(model: str = "toy", name: str = "none", seed: int = 0, **others: Any) -> dict[str, Any]:
    space = toy()
    progress = follow(space, strategy("none"), seed, None, None)
    made = row(space, progress, sim.unoptimised(space), None)
    return {"model": model, "strategy": name, "seed": seed, "calibration": 0} | made | others


def test_percent_is_of_speed_not_of_time() -> None:
    assert percent(1.0, 2.0) == 50.0 and percent(2.0, 2.0) == 100.0


def test_a_level_counts_from_where_it_is_kept() -> None:
    assert reached([(0, 80.0), (10, 96.0), (20, 94.0), (30, 99.5)], 95) == 30
    assert reached([(0, 80.0), (10, 96.0), (20, 97.0)], 95) == 10
    assert reached([(0, 99.0)], 95) == 0
    assert reached([(5, 90.0), (9, 94.9)], 95) is None
    assert reached([], 95) is None


def test_never_is_worse_than_any_number() -> None:
    assert middle([3, None, 5]) == 5 and middle([3, None, None]) is None


def test_a_search_that_measures_everything_finds_the_oracle_but_for_noise() -> None:
    space = toy()
    progress = follow(space, strategy("exhaustive"), 0, None, None)
    made = row(space, progress, sim.unoptimised(space), None)
    assert made["measured"] == made["evaluations"] == len(space.plans.questions) * 3 and made["share"] == 1.0
    assert 95.0 < made["percent"] <= 100.0
    assert made["speedup"] == pytest.approx(made["none_seconds"] / made["seconds"], rel=1e-3)


def test_noise_is_of_the_seed_alone() -> None:
    space = toy()
    assert space.measure((0, 0), 1) == space.measure((0, 0), 1) != space.measure((0, 0), 2)
    assert space.measure((0, 0), 1) == pytest.approx(space.table[0, 0], rel=0.1)


def test_none_is_judged_without_noise() -> None:
    made = line()
    assert made["speedup"] == 1.0 and made["seconds"] == pytest.approx(made["none_seconds"])


def test_a_budget_ends_a_search() -> None:
    assert follow(toy(), strategy("random"), 0, 5, None).curve[-1][0] == 5


def test_budgets_follow_from_the_evaluations() -> None:
    assert sim.budget_of("joint", 100_000) == sim.budget_of("joint-cold", 100_000) == 1000
    assert sim.budget_of("joint", 100) == 40 and sim.budget_of("tpe", 100) == 160
    assert sim.budget_of("cores-all", 100) is None


def test_what_the_noise_cannot_move_has_one_seed() -> None:
    keys = list(sim.wanted(("a", "b"), ("none", "joint"), 3))
    assert keys.count(("a", "none", 0)) == 1 and ("a", "none", 1) not in keys
    assert [k for k in keys if k[1] == "joint"] == [(m, "joint", s) for s in range(3) for m in "ab"]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """What was run; spaces are toys."""
    found: list[tuple[str, int]] = []

    def noted(space: SimSpace, name: str, seed: int, _: Any) -> dict[str, Any]:
        found.append((name, seed))
        return {k: v for k, v in line(name=name, seed=seed).items() if k not in ("model", "strategy", "seed")}

    monkeypatch.setattr(sim, "sim_space", lambda *_: toy())
    monkeypatch.setattr(sim, "run_one", noted)
    return found


def test_rows_that_are_there_are_not_run_again(tmp_path: Path, asked: Sequence[tuple[str, int]]) -> None:
    keys = list(sim.wanted(("toy",), ("none", "random"), 2))
    sim.run(DEVICE, keys[:2], tmp_path, ())
    lines = tmp_path / "sim.jsonl"
    with lines.open("a") as file:
        file.write('{"model": "toy", "strategy": "rand')  # killed in the middle of a row
    sim.run(DEVICE, keys, tmp_path, sim.known("sim:toy", tmp_path))
    assert asked == [("none", 0), ("random", 0), ("random", 1)]


def test_a_row_after_a_half_written_one_is_kept(tmp_path: Path, asked: Sequence[tuple[str, int]]) -> None:
    lines = tmp_path / "sim.jsonl"
    lines.write_text('{"model": "toy", "strategy": "rand')
    sim.run(DEVICE, [("toy", "none", 0)], tmp_path, ())
    assert ("toy", "none", 0) in sim.read_rows(lines)


def test_rows_of_the_repository_count_unless_all_is_run_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    recorded = tmp_path / "recorded.jsonl.gz"
    keep(recorded, [line(), line(name="joint")])
    monkeypatch.setattr(sim, "RECORDED", recorded)
    (tmp_path / "sim.jsonl").write_text(json.dumps(line() | {"percent": 1.0}) + "\n")
    own, joint = ("toy", "none", 0), ("toy", "joint", 0)
    found = sim.known(sim.RECORDED_DEVICE, tmp_path)
    assert set(found) == {own, joint} and found[own]["percent"] == 1.0
    assert set(sim.known(sim.RECORDED_DEVICE, tmp_path, anew=True)) == set(sim.known("sim:other", tmp_path)) == {own}
    before = recorded.read_bytes()
    keep(recorded, read(recorded))
    assert recorded.read_bytes() == before


def test_the_rows_in_the_repository_are_those_of_the_bench() -> None:
    keys = set(sim.known(sim.RECORDED_DEVICE, Path("none")))
    assert len(keys) > 1000 and keys <= set(sim.wanted(sim.MODELS, sim.STRATEGIES, 20))


def test_missing_rows_are_marked(tmp_path: Path) -> None:
    rows = {("toy", "none", 0): line(), ("toy", "joint", 0): line(name="joint")}
    text = document(rows, ("toy", "absent"), ("joint", "none", "tpe"), 2)
    assert "| tpe | missing | missing |" in text
    assert "<sub>n=1</sub>" in next(x for x in text.splitlines() if x.startswith("| joint |"))
    assert "sub" not in next(x for x in text.splitlines() if x.startswith("| none |"))
    assert "| absent | missing |" in text and "**simulated**" in text


def test_rows_survive_being_written(tmp_path: Path) -> None:
    lines = tmp_path / "sim.jsonl"
    lines.write_text(json.dumps(line()) + "\n")
    assert sim.read_rows(lines)["toy", "none", 0]["percent"] == line()["percent"]


def test_plots_say_that_they_are_simulated() -> None:
    curve = [[0, 80.0], [16, 99.0]]
    assert at(curve, 15) == 80.0 and at(curve, 16) == 99.0 and at([[5, 90.0]], 4) == 0.0
    drawn = multiples({"toy": {"joint": [curve, curve], "tpe": []}})
    assert "simulated" in drawn and "joint" in drawn and "tpe" not in drawn
    assert "simulated" in bars({"toy": {"joint": 4.0}}, (3.6, 7.9))
