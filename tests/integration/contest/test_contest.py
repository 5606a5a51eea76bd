"""The contest with real processes: engines that misbehave, engines that spin, and ONNX Runtime against itself."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import psutil
import pytest
from onnx import TensorProto, helper, numpy_helper

from tuner.errors import CandidateError, UserError
from tuner.measure import contest as module
from tuner.measure.contest import Contestant, ContestResult, TurnOptions, contest, ratio, run_once
from tuner.measure.contest_gauge import TurnGauge
from tuner.measure.contest_process import Contender
from tuner.types import FailureKind

pytestmark = pytest.mark.alone

QUICK = TurnOptions(
    warm_seconds=0.002, turn_seconds=0.01, foreign_load=float("inf"), patience=0, load_limit=30, turn_limit=30
)
X = {"x": np.arange(6, dtype=np.float32).reshape(2, 3)}


def fake(name: str, kind: str = "Doubler", **options: Any) -> Contestant:
    return Contestant(name, f"contest_fakes:{kind}", Path("none"), options)


def race(*contestants: Contestant, rounds: int = 3, **more: Any) -> ContestResult:
    return contest(contestants, X, threads=2, rounds=rounds, **{"options": QUICK, **more})


@pytest.fixture(autouse=True)
def nothing_is_left() -> Any:
    """Every test ends with no child process and no scratch folder of its own."""
    yield
    assert psutil.Process().children(recursive=True) == []


def test_every_contestant_has_a_turn_of_at_least_three_calls_in_every_round() -> None:
    found = race(fake("a"), fake("slower", sleep=0.02), rounds=4)
    assert found.rounds == 4
    for standing in found.standings:
        assert [t.round for t in standing.turns] == [0, 1, 2, 3]
        assert all(3 <= len(t.samples) <= 50 for t in standing.turns)
        assert standing.failure is None
    assert found["slower"].min >= 0.02
    assert found["a"].load_seconds < 5
    assert found["a"].peak_memory > 1 << 20
    speedup = ratio(found, "a", "slower")
    assert speedup is not None and speedup.median > 1


def test_outputs_come_back_by_name_and_in_order_whatever_the_names() -> None:
    outputs = race(fake("a"), rounds=1)["a"].outputs
    assert list(outputs) == ["file", "../y/0", "cpus"]
    np.testing.assert_array_equal(outputs["file"], 2 * X["x"])
    assert outputs["../y/0"] == 2  # threads


def test_affinity_confines_the_contestant() -> None:
    cpu = min(os.sched_getaffinity(0))
    assert race(fake("a"), rounds=1, affinity=[cpu])["a"].outputs["cpus"] == 1


@pytest.mark.parametrize(("at", "turns"), [(0, 0), (1, 0), (10, 0), (30, 1)])
def test_a_crash_is_a_failure_with_stderr_and_the_rest_goes_on(at: int, turns: int) -> None:
    options = replace(QUICK, min_calls=10, max_calls=10, warm_calls=5, warm_seconds=0)  # 15 or more calls a turn
    found = race(fake("bad", at=at, what="crash"), fake("good"), options=options)
    bad = found["bad"]
    assert bad.failure is not None
    assert bad.failure.kind == FailureKind.CRASH
    assert "SIGSEGV" in bad.failure.message
    assert "about to crash" in bad.failure.stderr
    assert len(bad.turns) == turns
    assert len(found["good"].turns) == 3


@pytest.mark.parametrize("at", [0, 2])
def test_a_hang_is_a_timeout_and_the_rest_goes_on(at: int) -> None:
    options = replace(QUICK, load_limit=1.5, turn_limit=1.5)
    found = race(fake("bad", at=at, what="hang"), fake("good"), options=options)
    assert found["bad"].failure is not None
    assert found["bad"].failure.kind == FailureKind.TIMEOUT
    assert len(found["good"].turns) == 3


def test_an_exception_is_a_failure_with_its_text() -> None:
    failure = race(fake("bad", at=0, what="raise"), rounds=1)["bad"].failure
    assert failure is not None
    assert (failure.kind, failure.message) == (FailureKind.ERROR, "ValueError: no such operator")


def test_a_missing_package_says_how_to_get_it() -> None:
    failure = race(fake("absent", "Unavailable"), rounds=1)["absent"].failure
    assert failure is not None
    assert failure.message == "fusetune_no_such_engine is not installed: pip install fusetune[bench]"


def test_an_unknown_kind_is_a_failure() -> None:
    failure = race(Contestant("a", "caffe", Path("none")), rounds=1)["a"].failure
    assert failure is not None and "onnxruntime" in failure.message


def test_a_spinning_contestant_uses_no_processor_time_between_its_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[float, float]] = []
    take_turn = module._Lane.turn

    def turn(lane: Any, number: int) -> None:
        others = [p for p in processes if p.stopped and p is not lane._process]
        before = [p.cpu_seconds for p in others]
        take_turn(lane, number)
        seen.extend(zip(before, [p.cpu_seconds for p in others], strict=True))

    processes: list[Contender] = []
    start = Contender.__init__

    def register(self: Contender, *args: Any) -> None:
        start(self, *args)
        processes.append(self)

    monkeypatch.setattr(module._Lane, "turn", turn)
    monkeypatch.setattr(Contender, "__init__", register)
    race(fake("spinner", "Spinner"), fake("a", sleep=0.02), fake("b", sleep=0.02))
    assert len(seen) == 18  # 3 rounds, 3 turns each, 2 others
    assert all(before == after for before, after in seen)
    assert max(before for before, _ in seen) > 0.01  # it did spin when it was its turn


def test_a_turn_under_foreign_load_is_retaken_once(monkeypatch: pytest.MonkeyPatch) -> None:
    loads = [0.0, 0.9, 0.1, 0.9, 0.9]  # of one turn, and of two that are each taken twice
    left = list(loads)
    monkeypatch.setattr(module._Meter, "foreign", lambda self, cores: left.pop(0))
    turns = race(fake("a"), rounds=3, options=replace(QUICK, foreign_load=0.15))["a"].turns
    assert [t.disturbed for t in turns] == [False, False, True]
    assert left == []


def test_a_turn_on_contended_cores_is_retaken_once(monkeypatch: pytest.MonkeyPatch) -> None:
    # Before and after each take: calm; retaken; contended twice; contended beforehand, when retaking is no use.
    readings = [1.0, 1.0, 1.0, 1.5, 1.0, 1.1, 1.0, 1.3, 1.0, 1.6, 1.5, 1.0]
    left = list(readings)
    monkeypatch.setattr(TurnGauge, "_ask", lambda self, patience: left.pop(0))
    turns = race(fake("a"), rounds=4)["a"].turns
    assert [t.disturbed for t in turns] == [False, False, True, True]
    assert left == []


def test_cores_are_gauged_between_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[float, float]] = []
    ask = TurnGauge._ask

    def listen(self: TurnGauge, patience: float) -> float:
        asked.append((patience, ask(self, patience)))
        return asked[-1][1]

    monkeypatch.setattr(TurnGauge, "_ask", listen)
    race(fake("a"), rounds=8, options=replace(QUICK, patience=0.01))
    assert [p for p, _ in asked[:2]] == [0.01, 0.0]
    assert all(1.0 <= reading < 100 for _, reading in asked)
    assert len({reading for _, reading in asked}) > 1  # measured, not assumed


def test_slow_contestants_may_leave_early_and_still_be_compared() -> None:
    found = race(fake("a"), fake("slow", rounds=2), rounds=5)
    assert (len(found["a"].turns), len(found["slow"].turns)) == (5, 2)
    speedup = ratio(found, "a", "slow")
    assert speedup is not None and speedup.pairs == 2


def test_the_time_limit_ends_the_contest_after_a_whole_round() -> None:
    found = race(fake("a"), fake("b"), rounds=1000, seconds=0.0)
    assert found.rounds == 1
    assert [len(s.turns) for s in found.standings] == [1, 1]


def test_it_ends_when_cancelled() -> None:
    asked = iter([False, False, False, False, True])
    found = race(fake("a"), fake("b"), rounds=1000, cancelled=lambda: next(asked, True))
    assert found.rounds <= 1


def test_nothing_is_left_after_an_exception() -> None:
    def cancelled() -> bool:
        if len(psutil.Process().children()) == 2:
            raise KeyboardInterrupt
        return False

    with pytest.raises(KeyboardInterrupt):
        race(fake("a"), fake("spinner", "Spinner"), cancelled=cancelled)


def test_contestants_need_names_of_their_own() -> None:
    with pytest.raises(UserError):
        race(fake("a"), fake("a"))
    with pytest.raises(UserError):
        race()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    weights = np.random.default_rng(0).standard_normal((8, 4, 3, 3)).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("Conv", ["image", "w"], ["c"], pads=[1] * 4), helper.make_node("Relu", ["c"], ["y"])],
        "tiny",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 4, 20, 20])],
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, 8, 20, 20]) for n in ("y", "c")],
        [numpy_helper.from_array(weights, "w")],
    )
    path = tmp_path_factory.mktemp("model") / "tiny.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def image(seed: int = 0) -> dict[str, np.ndarray]:
    return {"image": np.random.default_rng(seed).standard_normal((1, 4, 20, 20)).astype(np.float32)}


def test_onnxruntime_against_itself(model: Path) -> None:
    one, two = Contestant("one", "onnxruntime", model), Contestant("two", "onnxruntime", model)
    found = contest([one, two], image(), threads=1, rounds=9, options=replace(QUICK, turn_seconds=0.02))
    assert found["one"].failure is None and found["two"].failure is None
    for name in ("y", "c"):
        np.testing.assert_array_equal(found["one"].outputs[name], found["two"].outputs[name])
    both = ratio(found, "one", "two")
    assert both is not None
    assert 0 < both.low <= both.median <= both.high and both.pairs >= 5  # how equal they are, a shared machine decides


@pytest.mark.parametrize("kind", ["openvino", "tvm"])
def test_engines_agree(model: Path, kind: str) -> None:
    if kind == "openvino":
        pytest.importorskip("openvino")
    inputs = [image(1), image(2)]
    reference = run_once(Contestant("ort", "onnxruntime", model), inputs, 2)
    found = run_once(Contestant("it", kind, model), inputs, 2)
    assert len(found) == len(reference) == 2
    for got, expected in zip(found, reference, strict=True):
        assert list(got) == list(expected) == ["y", "c"]
        for name in expected:
            np.testing.assert_allclose(got[name], expected[name], rtol=0, atol=1e-4)
    assert not np.array_equal(found[0]["y"], found[1]["y"])


def test_onnxruntime_reads_a_file_format_newer_than_it_knows(model: Path, tmp_path: Path) -> None:
    newer, inputs = onnx.load(model), image()
    newer.ir_version = max(onnx.IR_VERSION, 14)
    onnx.save(newer, tmp_path / "newer.onnx")
    expected = run_once(Contestant("ort", "onnxruntime", model), [inputs], 1)
    found = run_once(Contestant("ort", "onnxruntime", tmp_path / "newer.onnx"), [inputs], 1)
    for name in ("y", "c"):
        np.testing.assert_array_equal(found[0][name], expected[0][name])


def test_a_missing_input_is_named(model: Path) -> None:
    failure = contest([Contestant("a", "onnxruntime", model)], X, threads=1, rounds=1)["a"].failure
    assert failure is not None and "'image'" in failure.message


def test_torch_wants_a_module(model: Path) -> None:
    failure = contest([Contestant("a", "torch", model)], image(), threads=1, rounds=1)["a"].failure
    assert failure is not None
    assert "not installed" in failure.message or "factory" in str(failure) or "module" in failure.message


def test_run_once_raises_what_went_wrong() -> None:
    with pytest.raises(CandidateError, match="SIGSEGV") as caught:
        run_once(fake("bad", at=1, what="crash"), [X], 1, options=QUICK)
    assert "about to crash" in caught.value.hint


def test_run_once_with_other_inputs() -> None:
    found = run_once(fake("a"), [X, {"x": X["x"] + 1}], 1, options=QUICK)
    np.testing.assert_array_equal(found[1]["file"], 2 * X["x"] + 2)


def test_a_contestant_dies_with_the_parent(tmp_path: Path) -> None:
    """Also a stopped one, though SIGKILL gives the parent no chance to say so."""
    code = (
        "import sys, pathlib, numpy as np\n"
        "from tuner.measure.contest import *\n"
        "import tuner.measure.contest as m, os, signal\n"
        "def die():\n"
        "    if len(m_children()) < 2: return False\n"
        "    print(*m_children(), flush=True); os.kill(os.getpid(), signal.SIGKILL)\n"
        "def m_children():\n"
        "    return [int(c) for c in open(f'/proc/self/task/{os.getpid()}/children').read().split()]\n"
        "who = [Contestant(n, 'contest_fakes:Spinner', pathlib.Path('none')) for n in 'ab']\n"
        "contest(who, {'x': np.zeros(3)}, threads=1, cancelled=die)\n"
    )
    import subprocess
    import sys

    env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "TMPDIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=60)
    assert done.returncode == -9, done.stderr
    pids = [int(p) for p in done.stdout.split()]
    assert len(pids) == 2
    deadline = time.monotonic() + 10
    while any(_alive(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not any(_alive(pid) for pid in pids)


def _alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
