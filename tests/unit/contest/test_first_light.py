"""The zoo benchmark's bookkeeping: resuming, failures as lines, the table in RESULTS.md."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from bench import first_light as module
from bench.first_light import first_light, read_rows
from bench.results import render, section
from tuner.errors import UserError

MACHINE = {
    "cpu": "Some CPU", "cores": 2, "l1": 48 << 10, "l2": 1 << 20, "l3": 32 << 20, "kernel": "6.1",
    "toolchain": "tvm-0.27",
}  # fmt: skip


def contestant(name: str, ms: float | None, ratio: float | None = None) -> dict[str, Any]:
    found = None if ratio is None else {"median": ratio, "low": ratio - 0.01, "high": ratio + 0.01, "pairs": 15}
    return {"name": name, "median_ms": ms, "ratio": found, "disturbed": 0}


def row(model: str, error: str | None = None, **more: Any) -> dict[str, Any]:
    rows = [contestant("tuned", 10.0), contestant("default", 12.5, 1.25), contestant("onnxruntime", 11.0, 1.1)]
    return {
        "model": model,
        "error": error,
        "command": "python -m bench.first_light --seconds 300",
        "bench": {"rows": rows, "machine": MACHINE, "threads": 2, "rounds": 15, "date": "2026-11-21T10:00:00+00:00"},
        "default_ratio": {"median": 0.88, "low": 0.87, "high": 0.89, "pairs": 15},
        "tuning": {"seconds": 301.4, "measured": 1234, "trials_per_second": 4.09, "max_rel_error": 2.1e-6},
        "again": {"seconds": 9.6, "measured": 0},
        **more,
    }


class Bench:
    """Counts what is measured; fails for the models it is told to."""

    def __init__(self, *failing: str) -> None:
        self.failing = failing
        self.measured: list[str] = []

    def __call__(self, name: str, folder: Path) -> Mapping[str, Any]:
        self.measured.append(name)
        (folder / f"{name}.onnx").write_text("large")
        (folder / "tuned").mkdir()
        (folder / "tuned.log").write_text("small")
        if name in self.failing:
            raise UserError("It cannot be read.")
        return {"bench": None}


def test_models_with_a_line_are_not_measured_again(tmp_path: Path) -> None:
    first, second = Bench(), Bench()
    first_light(["a"], tmp_path, first)
    rows = first_light(["a", "b"], tmp_path, second)
    assert (first.measured, second.measured) == (["a"], ["b"])
    assert [r["model"] for r in rows] == ["a", "b"]


def test_a_failure_is_a_line_and_the_next_model_has_its_turn(tmp_path: Path) -> None:
    rows = first_light(["a", "b"], tmp_path, Bench("a"))
    assert rows[0]["error"] == "UserError: It cannot be read."
    assert rows[1]["error"] is None
    assert list(read_rows(tmp_path / "rows.jsonl")) == ["a", "b"]


def test_failed_models_are_measured_again_only_on_request(tmp_path: Path) -> None:
    first_light(["a", "b"], tmp_path, Bench("a"))
    again, retry = Bench(), Bench()
    first_light(["a", "b"], tmp_path, again)
    rows = first_light(["a", "b"], tmp_path, retry, retry=True)
    assert (again.measured, retry.measured) == ([], ["a"])
    assert rows[0]["error"] is None
    assert read_rows(tmp_path / "rows.jsonl")["a"]["error"] is None


def test_disturbed_rows_are_marked_and_measured_again_on_request(tmp_path: Path) -> None:
    noisy = row("a")
    noisy["bench"]["rows"][0]["disturbed"] = 8
    text = section({"a": noisy, "b": row("b")}, ["a", "b"])
    assert r"| a \* |" in text and "| b |" in text and "quiet machine" in text
    (tmp_path / "rows.jsonl").write_text(json.dumps(noisy) + "\n" + json.dumps(row("b")) + "\n")
    bench = Bench()
    first_light(["a", "b"], tmp_path, bench, retry=True)
    assert bench.measured == ["a"]


def test_a_torn_last_line_is_measured_again(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text(json.dumps(row("a")) + '\n{"model": "b", "err\n')
    bench = Bench()
    first_light(["a", "b"], tmp_path, bench)
    assert bench.measured == ["b"]


@pytest.mark.parametrize("keep", [False, True])
def test_models_and_artifacts_are_removed_unless_kept(tmp_path: Path, keep: bool) -> None:
    first_light(["a"], tmp_path, Bench(), keep=keep)
    left = {p.name for p in (tmp_path / "a").iterdir()}
    assert left == ({"a.onnx", "tuned", "tuned.log"} if keep else {"tuned.log"})


def test_the_table_has_the_figures_and_marks_what_is_missing() -> None:
    text = section({"a": row("a"), "b": {"model": "b", "error": "UserError: no"}}, ["a", "b", "c"])
    cells = [c.strip() for c in next(x for x in text.splitlines() if x.startswith("| a |")).split("|")][1:-1]
    assert cells == [
        "a", "11.00", "–", "12.50", "10.00", "1.10 (1.09–1.11)", "0.88", "301", "1234", "4.1", "2e-06", "10", "0",
    ]  # fmt: skip
    assert "| c (not measured) | – |" in text
    assert "- b: UserError: no" in text
    assert "`python -m bench.first_light --seconds 300`, 2026-11-21, on Some CPU, 2 cores, 2 threads" in text


def test_rows_of_two_machines_are_told_apart() -> None:
    other = row("b")
    other["bench"] = other["bench"] | {"machine": MACHINE | {"cpu": "Another CPU"}}
    text = section({"a": row("a"), "b": other}, ["a", "b"])
    assert "Some CPU" in text and "Another CPU" in text
    assert "(a)" in text and "(b)" in text


def test_rendering_replaces_only_what_is_between_the_markers(tmp_path: Path) -> None:
    path = tmp_path / "RESULTS.md"
    path.write_text("# Mine\n\nbefore\n")
    render({}, path, ["a"])
    path.write_text(path.read_text() + "\nafter\n")
    render({"a": row("a")}, path, ["a"])
    text = path.read_text()
    assert text.startswith("# Mine\n\nbefore\n")
    assert text.endswith("\nafter\n")
    assert "(not measured)" not in text
    once = text
    render({"a": row("a")}, path, ["a"])
    assert path.read_text() == once


FAKE_CLI = """
import json, pathlib, sys, time
out = pathlib.Path(sys.argv[sys.argv.index("--out") + 1])
if "0" in sys.argv: print("no such thing", file=sys.stderr); sys.exit(2)
if "9" in sys.argv: time.sleep(60)
out.mkdir()
(out / "report.json").write_text(json.dumps({"argv": sys.argv[1:]}))
"""


def test_tuning_is_called_with_model_budget_out_and_database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "COMMAND", (sys.executable, "-c", FAKE_CLI))
    problems: list[str] = []
    report = module._tune(tmp_path / "m.onnx", tmp_path, "tuned", ["--seconds", "5"], "tuned.db", 30, problems)
    assert report is not None and problems == []
    paths = ["--no-baselines", "--out", str(tmp_path / "tuned"), "--json", "--db", f"sqlite:///{tmp_path}/tuned.db"]
    assert report["argv"] == ["tune", str(tmp_path / "m.onnx"), "--seconds", "5", *paths]
    assert (tmp_path / "tuned.report.json").exists()


@pytest.mark.parametrize(
    ("seconds", "limit", "says"), [("0", 60, "exit code 2: no such thing"), ("9", 1, "did not end within 1 s")]
)
def test_a_tuning_that_fails_is_a_problem(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seconds: str, limit: float, says: str
) -> None:
    monkeypatch.setattr(module, "COMMAND", (sys.executable, "-c", FAKE_CLI))
    problems: list[str] = []
    assert module._tune(tmp_path / "m.onnx", tmp_path, "tuned", ["--seconds", seconds], "t.db", limit, problems) is None
    assert says in problems[0]
