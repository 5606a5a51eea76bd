"""A job on a simulated device: its report and files, going on after a kill, and the same again from the same seed."""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from service.rules import SIMULATED_STRATEGIES
from tuner.errors import UserError
from tuner.measure.device import devices
from tuner.plan.plan import Plan
from tuner.simulated import SimulatedSession
from tuner.store import NoStore, TrialStore
from tuner.types import Budget, JobSpec, Trial

MLU = devices("sim:mlu100")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two convolutions with their Relus."""
    random, same = np.random.default_rng(0), {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}
    weights = {"w0": (32, 16, 3, 3), "w1": (32, 32, 3, 3)}
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["image", "w0"], ["a0"], **same),
            helper.make_node("Relu", ["a0"], ["r0"]),
            helper.make_node("Conv", ["r0", "w1"], ["a1"], **same),
            helper.make_node("Relu", ["a1"], ["r1"]),
        ],
        "net",
        [helper.make_tensor_value_info("image", onnx.TensorProto.FLOAT, [1, 16, 28, 28])],
        [helper.make_tensor_value_info("r1", onnx.TensorProto.FLOAT, [1, 32, 28, 28])],
        [numpy_helper.from_array(random.standard_normal(s, dtype=np.float32), n) for n, s in weights.items()],
    )
    path = tmp_path_factory.mktemp("model") / "net.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


class Kept(NoStore):
    """Remembers what one job measured, as a database would after a kill."""

    def __init__(self, mine: Collection[Trial] = ()) -> None:
        self.trials = list(mine)

    def mine(self) -> list[Trial]:
        return list(self.trials)

    def add(self, trial: Trial) -> None:
        self.trials.append(trial)


def session(
    model: Path, *, trials: int | None = None, seed: int = 0, strategy: str = "joint", store: TrialStore | None = None,
    out: Path | None = None, cores: tuple[int, ...] = (1, 2, 4, 8),
) -> SimulatedSession:  # fmt: skip
    spec = JobSpec("0" * 64, MLU.name, strategy, Budget(trials=trials), cores=cores, seed=seed)
    return SimulatedSession(spec, model, MLU, out, store or NoStore())


def untimed(report: dict[str, Any]) -> dict[str, Any]:
    """Without what depends on this machine's speed."""
    model = {k: v for k, v in report["model"].items() if k != "passes"}  # each of which took its time
    return {k: v for k, v in report.items() if k not in {"seconds", "curve"}} | {"model": model}


def test_the_report_says_what_was_simulated_and_how_much(model: Path) -> None:
    report = session(model).run()
    assert report["measured"] is False and report["device"]["simulated"]
    assert report["verification"] is None and report["latency_ms"]["onnxruntime"] is None
    space, trials = report["space"], report["trials"]
    assert space["evaluations"] == space["questions"] * 4 and space["exact"] and space["complete"]
    assert 0 < trials["measured"] <= space["evaluations"] and trials["failed"] == 0
    assert all(report["latency_ms"][name] for name in ("tuned", "unoptimised", "unfused", "default"))
    assert report["left_out"] == {}
    assert report["speedup"]["over_unoptimised"] > 1.0
    assert [i for block in report["blocks"] for i in block["layers"]]
    assert sum(block["share"] for block in report["blocks"]) == pytest.approx(1.0, abs=1e-3)
    assert {block["cores"] for block in report["blocks"]} <= {1, 2, 4, 8}


@pytest.mark.parametrize("strategy", SIMULATED_STRATEGIES)
def test_what_cores_leave_out_is_not_compared_with(model: Path, strategy: str) -> None:
    """Without 1 there is no unoptimised plan; the others run on the most cores allowed, not on all of the device's."""
    asked = session(model, strategy=strategy, cores=(4, 8))
    if strategy == "none":
        with pytest.raises(UserError, match="cores=1"):
            asked.run()
        return
    report = asked.run()
    assert report["latency_ms"]["unoptimised"] is None and report["speedup"]["over_unoptimised"] is None
    assert report["left_out"].keys() == {"unoptimised"} and "4, 8" in report["left_out"]["unoptimised"]
    only = session(model, strategy="fixed-layers", cores=(8,)).run()["latency_ms"]
    assert report["latency_ms"]["unfused"] == only["unfused"] == only["tuned"]
    assert report["latency_ms"]["default"]["median"] < only["unfused"]["median"]
    assert report["speedup"]["over_unfused"] >= 1.0
    assert {block["cores"] for block in report["blocks"]} <= {4, 8}


def test_the_report_says_how_well_unseen_blocks_were_predicted(model: Path) -> None:
    report = session(model, cores=tuple(range(1, 33))).run()
    found, measured = report["cost_model"], report["trials"]["measured"]
    assert (found["predictions"], found["blocks"]["samples"]) == (measured, measured)
    assert (found["blocks"]["rank_correlation"] is None) == (found["blocks"]["reason"] is not None)
    assert found["knobs"] is None  # nothing simulated has knobs
    assert session(model, strategy="fixed-layers").run()["cost_model"]["blocks"] is None  # it decided without a model


def test_the_plan_it_leaves_is_one(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    report = session(model, out=out).run()
    plan = Plan.from_json(json.loads((out / "plan.json").read_text()))
    assert plan.hash == report["plan"]
    assert json.loads((out / "report.json").read_text())["plan"] == report["plan"]
    assert len((out / "trials.jsonl").read_text().splitlines()) == report["trials"]["measured"]
    assert json.loads((out / "manifest.json").read_text())["simulated"] is True
    assert "simulated" in (out / "README.txt").read_text() and not (out / "model.so").exists()


def test_equal_seeds_give_equal_results(model: Path) -> None:
    first, second, other = (session(model, seed=seed).run() for seed in (1, 1, 2))
    assert untimed(first) == untimed(second)
    assert first["latency_ms"] != other["latency_ms"]


def test_nothing_is_measured_twice_after_a_kill(model: Path) -> None:
    whole = Kept()
    report = session(model, store=whole).run()
    half = Kept(whole.trials[: len(whole.trials) // 2])
    resumed = session(model, store=half).run()
    keys = [t.candidate.key for t in half.trials]
    assert len(keys) == len(set(keys)) and len(keys) > len(whole.trials) // 2
    assert untimed(resumed)["plan"] == report["plan"]
    again = Kept(whole.trials)
    session(model, store=again).run()
    assert again.trials == whole.trials


def test_trials_that_cannot_make_a_plan_are_too_few(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(UserError) as raised:
        session(model, trials=1, strategy="cores-layers", out=out).run()
    assert raised.value.code == "budget-too-small" and "1 trials" in raised.value.message
    assert not out.exists()


def test_a_plan_of_its_own_is_refused(model: Path) -> None:
    asked = session(model)
    asked.spec = JobSpec("0" * 64, MLU.name, plan={"version": 1})
    with pytest.raises(UserError) as raised:
        asked.run()
    assert raised.value.code == "bad-plan"


def test_foreign_folders_are_left_alone(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "thesis.tex").write_text("years of work")
    with pytest.raises(UserError):
        session(model, out=out).run()
    assert (out / "thesis.tex").read_text() == "years of work"
