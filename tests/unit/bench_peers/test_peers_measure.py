"""How the rows of the comparison come about, short of measuring: cores, bounds, tunings, and the ablation's steps."""

from __future__ import annotations

import json
import os
import sqlite3
import sys
import time
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import psutil
import pytest
from onnx import helper, numpy_helper

from bench import tuning
from bench.lines import append
from bench.peers import ablation, built, measure, metaschedule, roofs, without
from bench.peers.ablation import VARIANTS, Variant
from bench.peers.bounding import bound, parts
from bench.peers.engines import TorchModel
from bench.peers.measure import confined
from bench.peers.quantised import quantise
from tuner import wholes
from tuner.errors import CandidateError, UserError
from tuner.graph import zoo
from tuner.graph.ir import Constant, Graph, Layer, Tensor
from tuner.graph.load import import_model
from tuner.graph.passes.registry import NAMES
from tuner.inputs import Inputs
from tuner.kernels import registry
from tuner.measure.device import detect_cpu
from tuner.measure.roof import Roof
from tuner.plan import joins
from tuner.search.fusion import greedy

REPORT = {
    "seconds": {"total": 12.0, "deciding": 0.5}, "trials": {"measured": 3, "failed": 1},
    "verification": {"max_rel_error": 1e-6}, "device": {"model": "Some CPU", "cores": 2}, "toolchain": "tvm-0.27",
    "speedup": dict.fromkeys(("over_greedy", "over_greedy_interval", "over_greedy_rounds", "over_onnxruntime")),
    "latency_ms": {"tuned": {"median": 5.0}, "greedy": None}, "prediction": None, "machine": {"busy": 0.9},
}  # fmt: skip


def test_a_roof_is_told_from_all_readings_of_the_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One reading of a busy moment, and what was read of another device, change nothing."""
    readings = iter([Roof(1e9, 9e9), Roof(2e9, 4e9), Roof(2e9, 5e9), Roof(2e9, 5e9), Roof(1e9, 1e9)])
    monkeypatch.setattr(roofs, "measure_roof", lambda device: next(readings))
    lines, device = tmp_path / "roofs.jsonl", detect_cpu()
    append(lines, {"fingerprint": "another", "cores": device.cores, "flops": 7e9, "bandwidth": 7e9})
    assert roofs.roof_of(device, lines) == Roof(2e9, 5e9)
    assert roofs.roof_of(device, lines) == Roof(2e9, 5e9)
    assert next(readings, None) is None, "four readings for the first row, one for each later one"


def test_confined_to_one_core_the_device_has_one() -> None:
    before = os.sched_getaffinity(0)
    with confined(1) as device:
        assert device.cores == detect_cpu().cores == len(os.sched_getaffinity(0)) == 1
    assert os.sched_getaffinity(0) == before
    assert detect_cpu().cores == len(before)


def test_the_bound_adds_up_layers_each_by_what_binds_it() -> None:
    """Layer one: 2 * 8 * 4 operations on 4 * 8 weights; layer two: none but 32 bytes of weights, and 8 additions."""
    graph = Graph(
        ("x",), ("z",),
        (Layer("one", "MatMul", ("x", "w"), ("y",)), Layer("two", "Add", ("y", "b"), ("z",))),
        {"x": Tensor("x", (1, 4)), "y": Tensor("y", (1, 8)), "z": Tensor("z", (1, 8))},
        {"w": Constant("w", (4, 8)), "b": Constant("b", (8,))},
    )  # fmt: skip
    small, large = SimpleNamespace(l3=100), SimpleNamespace(l3=1000)
    assert bound(graph, Roof(64.0, 32.0), large) == pytest.approx(1.0 + 8 / 64)  # type: ignore[arg-type]
    assert bound(graph, Roof(64.0, 32.0), small) == pytest.approx(128 / 32 + 32 / 32)  # type: ignore[arg-type]


def test_a_plan_is_parted_by_what_bounds_its_blocks() -> None:
    """The peak is 1e6 operations a second, memory 1e6 bytes: a product of 64 by 64 takes 8 ms, its weights 16."""
    graph = Graph(
        ("x",), ("s",),
        (Layer("one", "MatMul", ("x", "w"), ("y",)), Layer("two", "Add", ("y", "b"), ("z",)),
         Layer("three", "MatMul", ("z", "w"), ("r",)), Layer("four", "Softmax", ("r",), ("s",))),
        {name: Tensor(name, (1, 64)) for name in "xyzrs"},
        {"w": Constant("w", (64, 64)), "b": Constant("b", (64,))},
    )  # fmt: skip
    blocks = [
        {"layers": ["one", "two"], "template": "dense", "ms": 20.0},
        {"layers": ["three"], "template": "dense", "ms": 18.0},
        {"layers": ["four"], "template": "softmax", "ms": 0.5}, {"layers": ["four"], "template": "view", "ms": None},
    ]  # fmt: skip
    roof = Roof(1e6, 1e6)
    found = parts(blocks, graph, roof, SimpleNamespace(l3=100))  # type: ignore[arg-type]
    assert (found["weights"]["blocks"], found["weights"]["ms"]) == (2, 38.0)
    assert found["weights"]["bound_ms"] == pytest.approx(2 * 16.384 + 0.256)
    assert found["rest"] == {"blocks": 1, "ms": 0.5, "bound_ms": pytest.approx(0.32)}
    assert sum(part["blocks"] for part in found.values()) == 3
    warm = parts(blocks, graph, roof, SimpleNamespace(l3=10**6))  # type: ignore[arg-type]
    assert warm["products"]["blocks"] == 2 and warm["products"]["bound_ms"] == pytest.approx(2 * 8.192 + 0.064)
    assert parts(blocks, graph, Roof(1e12, 1e12), SimpleNamespace(l3=100))["small"]["blocks"] == 3  # type: ignore[arg-type]


def test_of_a_table_only_the_rows_that_are_taken_are_read() -> None:
    """16 rows of 8 numbers are looked up in a table of 1000: 512 bytes at 64 bytes a second."""
    graph = Graph(
        ("i",), ("y",), (Layer("one", "Gather", ("t", "i"), ("y",)),),
        {"i": Tensor("i", (16,), "int64"), "y": Tensor("y", (16, 8))}, {"t": Constant("t", (1000, 8))},
    )  # fmt: skip
    assert bound(graph, Roof(1e6, 64.0), SimpleNamespace(l3=100)) == pytest.approx(8.0)  # type: ignore[arg-type]


def test_a_tuning_gives_its_report_or_says_why_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = f"import json, sys; print(json.dumps({REPORT!r} | {{'asked': sys.argv[1:]}}))"
    given = tmp_path / "m.onnx", tmp_path / "out", tmp_path / "r.db", ["--seed", "1"]
    report = tuning.tune(*given, 5.0, (sys.executable, "-c", fake))
    assert report["asked"][:4] == ["tune", str(tmp_path / "m.onnx"), "--seed", "1"]
    assert f"sqlite:///{tmp_path}/r.db" in report["asked"] and "--json" in report["asked"]
    found = tuning.summary(report)
    assert found.pop("search") == tuning.search_figures(REPORT) and found == {
        "seconds": 12.0, "measured": 3, "failed": 1, "max_rel_error": 1e-6
    }  # fmt: skip
    broken = "import sys; print('first', file=sys.stderr); sys.exit('It is broken.')"
    with pytest.raises(UserError, match=r"failed: It is broken\."):
        tuning.tune(*given, 5.0, (sys.executable, "-c", broken))
    monkeypatch.setattr(tuning, "GRACE", 0.1)
    with pytest.raises(UserError, match=r"did not end within 0\.4 s"):
        tuning.tune(*given, 0.1, (sys.executable, "-c", "import time; time.sleep(60)"))


@pytest.mark.parametrize(("theirs", "limit"), [(5e-2, "0.05"), (1e-3, "0.02"), (None, "0.02")])
def test_in_bf16_ours_may_be_as_inexact_as_the_peer(
    theirs: float | None, limit: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []

    def tune(path: Path, out: Path, database: Path, options: Any, seconds: float, command: Any = ()) -> dict[str, Any]:
        out.mkdir()
        (out / "report.json").write_text(json.dumps({"rounding": dict.fromkeys(measure._ROUNDING, 7)}))
        asked.append(list(options))
        return REPORT

    class Report:
        result = None

        def __getitem__(self, name: str) -> Any:
            return SimpleNamespace(max_rel_error=theirs)

        def to_json(self) -> dict[str, Any]:
            return {}

    monkeypatch.setattr(built, "tune", tune)
    monkeypatch.setattr(measure, "bench", lambda *_, **__: Report())
    monkeypatch.setattr(measure, "ratio", lambda *_: None)
    monkeypatch.setattr(built.models, "write", lambda _, path: path.write_text("m"))
    monkeypatch.setattr(measure, "_BF16_FEATURES", set(detect_cpu().features))
    row = measure.bf16_row("squeezenet", 1, 9.0, 3, tmp_path)
    assert asked == [["--seconds", "9", "--precision", "bf16", "--accuracy", limit]]
    assert row["limit"] == float(limit) and row["rounding"]["stored_bf16"] == 7 and row["error"] is None
    monkeypatch.setattr(measure, "_BF16_FEATURES", set())
    with pytest.raises(UserError, match="no bf16 arithmetic"):
        measure.bf16_row("squeezenet", 1, 9.0, 3, tmp_path)


def test_what_was_tuned_is_kept_for_who_measures_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, list[str]]] = []

    def tune(path: Path, out: Path, database: Path, options: Any, seconds: float, command: Any = ()) -> dict[str, Any]:
        assert not database.exists() and path.read_text() == "m"
        database.write_text("records")
        asked.append((out.parent.name, list(options)))
        if "--bad" in options:
            raise UserError("It is broken.", code="no-tuning")
        out.mkdir()
        return REPORT

    monkeypatch.setattr(built, "tune", tune)
    monkeypatch.setattr(built.models, "write", lambda _, path: path.write_text("m"))
    path = built.write_model("squeezenet", tmp_path / "it")
    first = built.build(path, {"tuned": ["--seconds", "9"], "default": ["--bad"]}, 9.0)
    assert first.problems == ["default: It is broken."] and list(first.artifacts) == ["tuned"]
    assert first.artifacts["tuned"].is_dir() and first.tunings["tuned"]["measured"] == 3
    again = built.build(built.write_model("squeezenet", tmp_path / "it"), {"tuned": ["--seconds", "9"]}, 9.0)
    assert (again.artifacts, again.tunings) == (first.artifacts, first.tunings) and not again.problems
    assert [name for name, _ in asked] == ["tuned", "default"]  # nothing anew
    built.build(path, {"tuned": ["--seconds", "8"], "default": ["--bad"]}, 9.0)  # other options; what failed
    monkeypatch.setattr(built, "ENGINE", "newer kernels")
    built.build(path, {"tuned": ["--seconds", "8"]}, 9.0)
    assert asked[2:] == [("tuned", ["--seconds", "8"]), ("default", ["--bad"]), ("tuned", ["--seconds", "8"])]


def test_in_int8_the_peer_is_quantised_with_the_inputs_that_ours_are_measured_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is held to the same limit, and takes part under its own name and precision."""
    asked: list[Any] = []

    def bench(path: Path, artifacts: Any, peers: Any, **more: Any) -> Any:
        asked.append((peers, more["precision"], [(c.name, c.kind, c.options) for c in more["others"]]))
        return (
            SimpleNamespace(result=None, to_json=dict, __getitem__=None)
            if artifacts
            else {"onnxruntime-int8": SimpleNamespace(max_rel_error=0.2)}
        )

    def build(path: Path, wanted: Any, *_: Any) -> Any:
        asked.append(wanted["tuned"])
        (tmp_path / "report.json").write_text(json.dumps({"rounding": dict.fromkeys(measure._ROUNDING, 0)}))
        return SimpleNamespace(artifacts={"tuned": tmp_path}, tunings={"tuned": {}}, problems=[])

    monkeypatch.setattr(measure, "bench", bench)
    monkeypatch.setattr(measure, "build", build)
    monkeypatch.setattr(measure, "ratio", lambda *_: None)
    monkeypatch.setattr(measure, "check_features", lambda *_: None)
    monkeypatch.setattr(measure, "quantise", lambda _, out, inputs: asked.append(len(inputs)) or out)
    row = measure.int8_row("squeezenet", 1, 9.0, 3, tmp_path)
    others = [("onnxruntime-int8", "onnxruntime", {"precision": "int8"})]
    assert asked[0] == 3 and asked[1] == asked[3] == (("onnxruntime",), "int8", others)
    assert asked[2] == ["--seconds", "9", "--precision", "int8", "--accuracy", "0.2"]
    assert row["mode"] == "int8" and row["limit"] == 0.2 and row["error"] is None


def test_a_model_quantised_by_onnxruntimes_tools_runs_and_is_near(tmp_path: Path) -> None:
    import onnxruntime

    path = zoo.write("squeezenet", tmp_path / "m.onnx")
    inputs = Inputs(import_model(path).graph, {}).sets
    sessions = [
        onnxruntime.InferenceSession(str(p), providers=["CPUExecutionProvider"])
        for p in (path, quantise(path, tmp_path / "q.onnx", inputs))
    ]
    exact, near = (session.run(None, dict(inputs[0]))[0] for session in sessions)
    assert near.shape == exact.shape and 0 < abs(near - exact).max() < 0.5 * abs(exact).max()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m.onnx", "q.onnx"]


def test_a_template_that_is_taken_out_serves_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "TEMPLATES", registry.TEMPLATES)
    before = [t.name for t in registry.TEMPLATES]
    without.take_out(["winograd", "lrn"])
    assert [t.name for t in registry.TEMPLATES] == [n for n in before if n not in ("winograd", "lrn")]
    with pytest.raises(UserError, match="nothing"):
        without.take_out(["nothing"])


def test_parts_that_are_no_templates_are_taken_out_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(joins, "contiguous", joins.contiguous)
    monkeypatch.setattr(wholes, "side_by_side", wholes.side_by_side)
    monkeypatch.setattr(registry, "TEMPLATES", registry.TEMPLATES)
    graph = import_model(zoo.write("squeezenet", tmp_path / "m.onnx")).graph
    plan = greedy(graph, detect_cpu(), 1)
    assert len(list(joins.free_blocks(graph, plan))) == 8  # its fire modules
    without.take_out(["joins", "lanes"])
    assert not list(joins.free_blocks(graph, greedy(graph, detect_cpu(), 1)))
    assert wholes.side_by_side(plan, graph, {}, detect_cpu(), "l3", lambda _: True) is None


def test_the_variants_cover_each_pass_and_name_templates_that_are() -> None:
    assert [v.removeprefix("pass ") for v in VARIANTS if v.startswith("pass ")] == list(NAMES)
    known = {t.name for t in registry.TEMPLATES} | without.PARTS.keys()
    assert {t for v in VARIANTS.values() for t in v.without} <= known


def test_variants_begin_with_the_same_records_and_the_full_tuning_is_made_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[Any, ...]] = []

    def tune(path: Path, out: Path, database: Path, options: Any, seconds: float, command: Any = ()) -> dict[str, Any]:
        with sqlite3.connect(database) as connection:
            connection.execute("create table if not exists records (made_by)")
            known = [name for (name,) in connection.execute("select made_by from records")]
            connection.execute("insert into records values (?)", [out.name])
        connection.close()
        out.mkdir(parents=True)
        asked.append((out.name, known, list(options), list(command[-1:])))
        return REPORT

    def bench(path: Path, artifacts: dict[str, Path], *_: Any, **__: Any) -> Any:
        assert all(folder.is_dir() for folder in artifacts.values())
        return SimpleNamespace(to_json=lambda: {"rows": list(artifacts)})

    monkeypatch.setattr(ablation, "tune", tune)
    monkeypatch.setattr(ablation, "bench", bench)
    monkeypatch.setattr(ablation, "ratios_over", lambda *_: {})
    monkeypatch.setattr(built.models, "write", lambda _, path: path.write_text("m"))
    monkeypatch.setattr(ablation, "VARIANTS", {
        "idle": Variant("pass", ("--disable-pass", "it"), graph_pass="idle"),
        "winograd": VARIANTS["winograd"], "core choice": VARIANTS["core choice"], "search": VARIANTS["search"],
        "none": Variant("nothing", longer=3.0), "nothing": VARIANTS["nothing"],
        "pass": Variant("pass", (*ablation.UNTUNED, "--disable-pass", "it"), graph_pass="it", searching=False),
    })  # fmt: skip
    monkeypatch.setattr(ablation, "makes_no_difference", lambda path, name: path.exists() and name == "idle")
    names = list(ablation.VARIANTS)
    idle = ablation.ablation_row(names.pop(0), "m", 1, 9.0, 3, tmp_path)
    assert idle["same"] and idle["bench"] is None and not asked, "a pass without effect costs no tuning"
    rows = [ablation.ablation_row(name, "m", 1, 9.0, 3, tmp_path) for name in names]
    limited, first = ["--seed", "1", "--seconds", "9"], ["first"]
    assert asked == [
        ("first", [], ["--seconds", "9"], []),
        ("full", first, limited, []),
        ("artifact", first, limited, ["winograd"]),
        ("artifact", first, [*limited, "--cores", "1"], []),
        ("artifact", first, ["--seed", "1", "--trials", "0"], []),
        ("artifact", first, ["--seed", "1", "--seconds", "27"], []),
        ("artifact", first, [*limited, "--seed", "2"], []),
        ("untuned", [], ["--seed", "1", "--trials", "0"], []),
        ("artifact", [], ["--seed", "1", "--trials", "0", "--disable-pass", "it"], []),
    ]
    assert [list(row["ratios"]) for row in rows[-2:]] == [["tuned"], ["untuned"]]
    assert not any("same" in row for row in rows)
    assert rows[0]["mode"] == "ablation:winograd" and rows[0]["bench"] == {"rows": ["tuned", "winograd"]}
    json.dumps(rows)


def test_a_pass_makes_no_difference_where_the_graph_is_the_same(tmp_path: Path) -> None:
    path = zoo.write("squeezenet", tmp_path / "m.onnx")
    assert not ablation.makes_no_difference(path, "eliminate-nop")  # its Dropout layer goes
    assert ablation.makes_no_difference(path, "fuse-layer-norm")


def test_a_database_that_was_cut_short_loses_its_last_line(tmp_path: Path) -> None:
    (tmp_path / "database_workload.json").write_text('["a"]\n["b"]\n["c')
    (tmp_path / "database_tuning_record.json").write_text("[0]\n[1]\n[")
    assert metaschedule.trials(tmp_path) == 2
    assert (tmp_path / "database_workload.json").read_text() == '["a"]\n["b"]\n'
    (tmp_path / "none").mkdir()
    assert metaschedule.trials(tmp_path / "none") == 0


def test_metaschedule_gets_the_bounds_of_a_clip_as_numbers(tmp_path: Path) -> None:
    from tvm import relax

    weights = np.ones((4, 3, 3, 3), np.float32)
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "w"], ["c"]), helper.make_node("Clip", ["c", "low", "high"], ["y"])], "m",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1, 3, 8, 8])],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)],
        [numpy_helper.from_array(a, n) for n, a in (("w", weights), ("low", np.float32(0)), ("high", np.float32(6)))],
    )  # fmt: skip
    path = tmp_path / "m.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(path))
    model = metaschedule.prepared(path, 1)
    assert [tuple(map(int, value.shape)) for value in model.params] == [weights.shape]
    with model.target:
        fused = relax.pipeline.zero_pipeline()(model.module)
    (name,) = (v.name_hint for v in fused.get_global_vars() if v.name_hint != "main")
    assert "conv2d" in name and "minimum" in name and "where" not in name


def test_metaschedule_is_ended_when_its_time_is_up_and_keeps_what_it_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = tmp_path / "python"
    fake.write_text(
        '#!/bin/sh\necho "[1]" > "$4/database_tuning_record.json"\nsleep 60 & echo $! > "$4/pid"; >"$4/ready"; wait\n'
    )
    fake.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(fake))
    monkeypatch.setattr(metaschedule, "find_spec", lambda _: True)
    assert metaschedule.tune(tmp_path / "m.onnx", tmp_path / "records", 0.5, 1) == 1
    pid, end = int((tmp_path / "records" / "pid").read_text()), time.monotonic() + 20
    with suppress(psutil.NoSuchProcess):
        while psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:  # it dies when it would run next
            assert time.monotonic() < end
            time.sleep(0.05)
    fake.write_text("#!/bin/sh\necho first >&2; echo It is broken. >&2; exit 1\n")
    with pytest.raises(UserError, match=r"failed: It is broken\."):
        metaschedule.tune(tmp_path / "m.onnx", tmp_path / "records", 30.0, 1)
    monkeypatch.setattr(metaschedule, "find_spec", lambda _: None)
    with pytest.raises(UserError, match=r"pip install 'fusetune\[bench\]'"):
        metaschedule.tune(tmp_path / "m.onnx", tmp_path / "records", 30.0, 1)


def test_without_pytorch_its_contestant_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.peers.engines.find_spec", lambda _: None)
    with pytest.raises(CandidateError, match=r"pip install 'fusetune\[torch\]'"):
        TorchModel(Path("m.onnx"), {}, 1)
