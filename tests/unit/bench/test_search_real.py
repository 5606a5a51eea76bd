"""The bookkeeping of the evidence on a real CPU, on rows that are made up and a command that measures nothing."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from bench import tuning
from bench.search import real

FAKE_CLI = """
import json, sys
given = dict(zip(sys.argv[2::2], sys.argv[3::2]))
if "broken" in sys.argv[2]: print("first", file=sys.stderr); sys.exit("It is broken.")
with open(LOG, "a") as log: log.write(json.dumps(sys.argv[1:]) + "\\n")
print(json.dumps(REPORT))
"""
REPORT: dict[str, Any] = {
    "device": {"model": "Some CPU", "cores": 2}, "toolchain": "tvm-0.27", "trials": {"measured": 77},
    "speedup": {"over_greedy": 1.2, "over_greedy_interval": [1.1, 1.3], "over_greedy_rounds": 10,
                "over_onnxruntime": 1.5},
    "latency_ms": {"tuned": {"median": 5.0}, "greedy": None},
    "prediction": {"predicted_ms": 5.5, "measured_ms": 5.0, "error": 0.1, "fastest_ms": 5.4, "fastest_error": 0.02,
                   "over_default": {"predicted": 1.4, "measured": 1.47, "interval": [1.4, 1.5], "error": 0.05}},
    "seconds": {"deciding": 3.0, "total": 100.0}, "machine": {"busy": 0.9, "steal": 0.012, "load": 2.0},
}  # fmt: skip

FORESEEN = "5.50 | 5.00 | +10.0% | 5.40 | +2.0% | 1.40x | 1.47x | +5.0%"  # cells of the report's prediction


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the command notes its arguments."""
    path = tmp_path / "log"
    monkeypatch.setattr(real.zoo, "write", lambda name, path, seed=0: path)
    script = FAKE_CLI.replace("LOG", repr(str(path))).replace("REPORT", repr(REPORT))
    monkeypatch.setattr(tuning, "COMMAND", (sys.executable, "-c", script))
    return path


def row(model: str = "a", seed: int = 0, **others: Any) -> dict[str, Any]:
    return (
        {"model": model, "seed": seed, "budget": 180.0, "date": "2026-01-02"} | tuning.search_figures(REPORT) | others
    )


def test_all_models_come_before_some_are_repeated() -> None:
    assert [key[:2] for key in real.wanted(("a", "b", "c"), ("a", "c"), 3, 9.0)] == [
        ("a", 0), ("b", 0), ("c", 0), ("a", 1), ("c", 1), ("a", 2), ("c", 2),
    ]  # fmt: skip
    assert len(list(real.wanted(real.MODELS, real.REPEATED, 3, 9.0))) == 9 + 2 * 2


def test_an_interrupted_run_goes_on_where_it_was(tmp_path: Path, log: Path) -> None:
    lines = tmp_path / "out" / "real.jsonl"
    given = ["--repeated", "b", "--seeds", "2", "--out", str(lines.parent)]
    assert real.main(["--models", "a", *given]) == 0
    with lines.open("a") as file:
        file.write('{"model": "b", "se')  # killed in the middle of a row
    assert real.main(["--models", "a,b", *given]) == 0
    asked = [json.loads(line) for line in log.read_text().splitlines()]
    assert [(Path(a[1]).stem, a[a.index("--seed") + 1]) for a in asked] == [("a", "0"), ("b", "0"), ("b", "1")]
    assert all(a[0] == "tune" and a[a.index("--strategy") + 1] == "joint" for a in asked)
    assert len({a[a.index("--db") + 1] for a in asked}) == 3  # nobody profits from another's records
    assert list(real.read_rows(lines)) == [("a", 0, 180.0), ("b", 0, 180.0), ("b", 1, 180.0)]


def test_a_row_of_another_budget_is_another_row(tmp_path: Path, log: Path) -> None:
    for seconds in ("180", "20", "180"):
        real.main(["--models", "a", "--seconds", seconds, "--seeds", "1", "--out", str(tmp_path)])
    assert len(log.read_text().splitlines()) == 2


def test_a_failed_run_is_a_row_and_is_measured_again_on_request(tmp_path: Path, log: Path) -> None:
    given = ["--models", "broken,a", "--seeds", "1", "--out", str(tmp_path)]
    assert real.main(given) == 1
    assert real.main(given) == 1
    lines = (tmp_path / "real.jsonl").read_text().splitlines()
    assert len(lines) == 2 and "It is broken." in json.loads(lines[0])["error"]
    assert real.main([*given, "--retry"]) == 1
    assert len((tmp_path / "real.jsonl").read_text().splitlines()) == 3
    assert len(log.read_text().splitlines()) == 1


def test_a_run_that_hangs_is_a_failed_one(monkeypatch: pytest.MonkeyPatch, log: Path) -> None:
    monkeypatch.setattr(tuning, "COMMAND", (sys.executable, "-c", "import time; time.sleep(60)"))
    monkeypatch.setattr(tuning, "GRACE", 0.1)
    assert "did not end within 0.4 s" in real.measure("a", 0, 0.1)["error"]


def lines_of(*rows: dict[str, Any], models: str = "abcde") -> list[str]:
    keys = list(real.wanted(models, models[:1], 2, 180.0))
    return real.table(keys, {(r["model"], r["seed"], r["budget"]): r for r in rows}).splitlines()


def test_the_prediction_its_outcome_and_its_error_have_a_column_each() -> None:
    found = lines_of(row("a"), row("a", 1, prediction=None), models="a")
    assert f"| a | 0 | 1.20x | 1.10 to 1.30, 10 | {FORESEEN} | 1.50x | 77 | 1.2% |" in found
    assert "| a | 1 | 1.20x | 1.10 to 1.30, 10 | none |  |  |  |  | none |  |  | 1.50x | 77 | 1.2% |" in found
    assert any("fixed before it was built or timed as a whole" in line for line in found)
    command = "`python -m bench.search.real --seconds 180`, then `--render`"
    assert f"{command}; 2026-01-02, on Some CPU, 2 cores, tvm-0.27." in found


def test_what_is_missing_or_failed_is_marked_not_left_out() -> None:
    failed = {"model": "b", "seed": 0, "budget": 180.0, "date": "2026-01-02", "error": "first\nIt is broken."}
    found = lines_of(row("a"), failed, row("c", over_greedy=None, interval=None, rounds=None), models="abc")
    assert "| a | 1 | not measured | | | | | | | | | | | | |" in found
    assert "| b | 0 | failed | | | | | | | | | | | | |" in found and "- b, seed 0: It is broken." in found
    assert f"| c | 0 | no pair |  | {FORESEEN} | 1.50x | 77 | 1.2% |" in found
    assert any("Nothing has been measured yet" in line for line in lines_of(models="a"))


def test_only_intervals_and_errors_that_hold_are_counted() -> None:
    near, far = {"predicted_ms": 1.0, "measured_ms": 1.0, "error": -0.1}, {
        "predicted_ms": 1.0, "measured_ms": 2.0, "error": -0.5,
    }  # fmt: skip
    rows = [
        row("a", prediction=near), row("b", interval=[0.9, 1.4], prediction=far),
        row("c", over_greedy=0.8, interval=[0.7, 0.9], prediction=None),
        row("d", over_greedy=None, interval=None, rounds=None),
    ]  # fmt: skip
    assert lines_of(*rows)[-1] == (
        "4 of 6 runs measured. Of 3 pairs joint's plan is faster in 1 and slower in 1, the interval being all on that "
        "side of 1. Of 3 predictions 2 are within 10% of the median; of 1 bare sums 1 are of the fastest call; of 1 of "
        "the gain over the default plan 1."
    )


def test_what_was_tuned_for_the_peers_is_not_tuned_again(tmp_path: Path, log: Path) -> None:
    found = {"seconds": 9.0, "search": tuning.search_figures(REPORT)}
    common = {"mode": "peers", "budget": 180.0, "date": "2026-01-03", "error": None}
    with (tmp_path / "peers.jsonl").open("w") as file:
        for threads in (2, 1):
            file.write(json.dumps(common | {"model": "a", "threads": threads, "tuning": found}) + "\n")
        file.write(json.dumps(common | {"model": "b", "threads": 2, "tuning": None}) + "\n")
        file.write(json.dumps(common | {"model": "b", "threads": 2, "mode": "ablation-all", "tuning": found}) + "\n")
    assert real.main(["--models", "a,b", "--seeds", "1", "--out", str(tmp_path)]) == 0
    assert [Path(json.loads(line)[1]).stem for line in log.read_text().splitlines()] == ["b"]
    rows = real.read_rows(tmp_path / "real.jsonl")
    assert rows["a", 0, 180.0]["date"] == "2026-01-03" and set(rows) == {("a", 0, 180.0), ("b", 0, 180.0)}
    text = real.table([("a", 0, 180.0), ("b", 0, 180.0)], rows)
    assert "`python -m bench.peers --seconds 180`; `python -m bench.search.real --seconds 180`" in text
