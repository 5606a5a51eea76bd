"""The comparison's rows, tables and plot, on rows that are made up."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from bench import peers as package
from bench.peers import __main__ as command
from bench.peers import ablation, models, tables
from bench.peers.bounding import KINDS
from bench.peers.plot import plot
from bench.peers.rows import Key, best_peer, by_fastest, fill, key_of, named, read_rows
from tuner.errors import UserError

MACHINE = {"cpu": "Some CPU", "toolchain": "tvm-0.27"}
MISSING = "error: torch is not installed: pip install 'fusetune[torch]'"


def ratio(median: float, low: float, high: float) -> dict[str, Any]:
    return {"median": median, "low": low, "high": high, "pairs": 15}


def entry(name: str, ms: float | None, failure: str | None = None, precision: str = "fp32") -> dict[str, Any]:
    return {
        "name": name, "median_ms": ms, "failure": failure, "precision": precision, "disturbed": 0,
        "min_ms": ms and 0.9 * ms, "peak_memory_mb": ms and {"tuned": 120.0}.get(name, 100.0),
    }  # fmt: skip


def row(model: str = "a", threads: int = 2, *, scale: float = 1.0, **others: Any) -> dict[str, Any]:
    """OpenVINO is the best peer, 1.2 times as slow as ours; torch is not installed."""
    entries = [
        entry("tuned", 5.0), entry("default", 8.0), entry("onnxruntime", 7.0), entry("openvino", 6.0),
        entry("torch", None, MISSING), entry("tvm", 90.0),
    ]  # fmt: skip
    tuned = {"onnxruntime": ratio(1.4, 1.3, 1.5), "openvino": ratio(1.2 * scale, 1.1 * scale, 1.3 * scale),
             "tvm": ratio(18, 17, 19), "default": ratio(1.6, 1.5, 1.7)}  # fmt: skip
    return {
        "mode": "peers", "model": model, "threads": threads, "budget": 900.0, "date": "2026-01-02", "error": None,
        "bench": {"machine": MACHINE, "rounds": 15, "rows": entries}, "bound_ms": 2.0,
        "ratios": {"tuned": tuned, "default": {"openvino": ratio(0.75, 0.7, 0.8), "tuned": ratio(0.6, 0.5, 0.7)}},
        "tuning": {"seconds": 321.0, "measured": 77, "max_rel_error": 2e-6},
    } | others  # fmt: skip


def comparison(*rows: dict[str, Any], names: str = "abc") -> list[str]:
    keys: list[Key] = [("peers", m, 2, 900.0) for m in names]
    return tables.comparison(keys, {key_of(r): r for r in rows}, 2, "`cmd`").splitlines()


def test_the_best_peer_is_the_fastest_in_float32_that_is_not_ours() -> None:
    found = best_peer(row())
    assert found is not None and found[0] == "openvino" and found[1]["median"] == 1.2
    assert best_peer(row(ratios={"tuned": {"default": ratio(1, 1, 1)}})) is None
    assert best_peer({"error": "x"}) is None


def test_a_line_has_times_ratio_share_of_the_roofline_and_tuning_time() -> None:
    found = comparison(row(), names="a")
    assert (
        "| a | 5.00 | 8.00 | 7.00 | 6.00 | missing | – | 90.00 | openvino | 1.20 (1.10–1.30, 15) | 1.20 "
        "| 0.75 | 40% | 120 | 1.20 | 321 | 2e-06 |"
    ) in found
    assert "`cmd`, then `--render`; 2026-01-02, on Some CPU, tvm-0.27." in found
    assert f"- a (2 threads): torch: {MISSING}" in found


def test_the_fastest_calls_are_compared_too() -> None:
    calmer = row()
    calmer["bench"]["rows"][3]["min_ms"] = 9.0  # OpenVINO's, now above ONNX Runtime's 6.3
    assert by_fastest(row()) == pytest.approx(6.0 / 5.0) and by_fastest(calmer) == pytest.approx(6.3 / 4.5)
    assert by_fastest({"error": "x"}) is None
    found = comparison(row("a"), calmer | {"model": "b"}, names="ab")
    assert any(line.endswith("; by fastest calls 1.30.") for line in found)


def test_a_tuned_plans_time_is_told_by_what_bounds_it() -> None:
    none = {"blocks": 0, "ms": 0.0, "bound_ms": 0.0}
    spent = dict.fromkeys(KINDS, none) | {
        "winograd": {"blocks": 3, "ms": 3.0, "bound_ms": 6.0}, "rest": {"blocks": 2, "ms": 1.0, "bound_ms": 0.1},
    }  # fmt: skip
    keys: list[Key] = [("peers", m, 2, 900.0) for m in "ab"]
    found = tables.bounding(keys, {keys[0]: row(parts=spent)}, 1).splitlines()
    assert found[0] == "## What bounds the tuned plans, 1 thread"
    assert "| a | 75% of 3 (200%) | – | – | – | – | 25% of 2 (10%) | 1.25 |" in found
    assert found[-1].startswith("| b | not measured |")


def in_bf16(model: str, scale: float = 1.0, **others: Any) -> dict[str, Any]:
    entries = [
        entry("tuned", 2.0, precision="bf16") | {"max_rel_error": 5e-3}, entry("onnxruntime", 7.0),
        entry("openvino-bf16", 3.0, precision="bf16") | {"max_rel_error": 0.04},
    ]  # fmt: skip
    return row(model) | {
        "mode": "bf16", "bench": {"machine": MACHINE, "rounds": 15, "rows": entries}, "limit": 0.04,
        "ratio": ratio(1.5 * scale, 1.4 * scale, 1.6 * scale),
        "rounding": {"images": 65, "stored_bf16": 64, "kept_fp32": ["c"]},
    } | others  # fmt: skip


def test_the_table_in_bf16_says_at_which_error_who_is_faster() -> None:
    broken = in_bf16("c", rounding=None, tuning=None, ratio=None, error="it broke")
    rows = [in_bf16("a"), in_bf16("b", scale=0.6), broken]
    keys: list[Key] = [("bf16", m, 2, 900.0) for m in "abcd"]
    found = tables.bf16(keys, {key_of(r): r for r in rows}, "`cmd`").splitlines()
    assert (
        "| a | 2 | 2.00 | 3.00 | 1.50 (1.40–1.60, 15) | 7.00 | 4e-02 | 5e-03 | 4e-02 | 64 of 65 | 1 | 321 |"
    ) in found
    assert any(line.startswith("| d | 2 | not measured |") for line in found)
    assert "- c (2 threads): it broke" in found
    summed = "Of 2 models ours is faster in 1 and slower in 1, the interval being all on that side of 1;"
    assert f"{summed} geometric mean 1.16." in found
    assert len({line.count("|") for line in found if line.startswith("|")}) == 1


def test_the_table_in_int8_is_the_same_against_another_peer() -> None:
    row = in_bf16("a")
    entries = [e | ({"name": "onnxruntime-int8"} if e["name"] == "openvino-bf16" else {}) for e in row["bench"]["rows"]]
    rounding = {"images": 0, "stored_bf16": 0, "kept_fp32": []}
    row |= {"mode": "int8", "bench": row["bench"] | {"rows": entries}, "rounding": rounding}
    found = tables.int8([("int8", "a", 2, 900.0)], {key_of(row): row}, "`cmd`").splitlines()
    assert found[0] == "## In int8" and any("onnxruntime.quantization" in line for line in found)
    assert ("| a | 2 | 2.00 | 3.00 | 1.50 (1.40–1.60, 15) | 7.00 | 4e-02 | 5e-03 | 4e-02 | 0 of 0 | 0 | 321 |") in found


def test_what_is_missing_or_failed_is_marked_not_left_out() -> None:
    failed = {**named(("peers", "b", 2, 900.0)), "error": "UserError: first\nand last"}
    found = comparison(row(), failed)
    assert any(line.startswith("| b | failed |") for line in found)
    assert any(line.startswith("| c | not measured |") for line in found)
    assert "- b (2 threads): UserError: first and last" in found
    widths = {line.count("|") for line in found if line.startswith("|")}
    assert len(widths) == 1
    assert "`cmd`. Nothing has been measured yet." in comparison()


def test_a_sum_counts_only_intervals_that_are_on_one_side() -> None:
    rows = [row("a"), row("b", scale=0.5), row("c", scale=0.9)]
    assert (
        "Of 3 models the tuned plan is faster than the best float32 peer in 1 and slower in 1, the interval being all "
        "on that side of 1; geometric mean 0.92, of the defaults 0.75; by fastest calls 1.20."
    ) in comparison(*rows)


def test_a_kept_artifact_that_could_not_be_loaded_is_no_crash() -> None:
    found = comparison(row(tuning=None, ratios={}, error="tuned: The tuning failed: x"), names="a")
    assert any(line.startswith("| a |") and "| – | – | – |" in line for line in found)


def test_a_row_that_others_disturbed_is_marked_and_measured_again_on_request(tmp_path: Path) -> None:
    mine = row()
    mine["bench"]["rows"][3]["disturbed"] = 8
    found = comparison(mine, names="a")
    assert any(line.startswith("| a \\* |") for line in found)
    assert any(line.startswith("\\* Other processes") for line in found)
    assert not any("\\*" in line for line in comparison(row(), names="a"))
    asked = []
    for retry in (False, False, True):
        fill(tmp_path / "peers.jsonl", [key_of(mine)], lambda key: asked.append(key) or mine, retry=retry)
    assert len(asked) == 2


def test_metaschedule_stands_beside_ours() -> None:
    mine = row(mode="metaschedule", trials=640, bench={
        "machine": MACHINE, "rounds": 15, "rows": [entry("tuned", 5.0), entry("metaschedule", 15.0)],
    }, ratios={"tuned": {"metaschedule": ratio(3.0, 2.9, 3.1)}})  # fmt: skip
    keys: list[Key] = [("metaschedule", m, 2, 900.0) for m in "ab"]
    found = tables.metaschedule(keys, {key_of(mine): mine}, "`cmd`").splitlines()
    assert "| a | 2 | 900 | 5.00 | 15.00 | 3.00 (2.90–3.10, 15) | 77 | 640 |" in found
    assert "| b | 2 | 900 | not measured |  |  |  |  |" in found


def test_an_ablation_has_a_line_per_variant_and_a_column_per_model() -> None:
    mine = row(mode="ablation:winograd", ratios={"tuned": {"winograd": ratio(1.5, 1.4, 1.6)}})
    failed = {**named(("ablation:winograd", "b", 2, 900.0)), "error": "it"}
    same = {**named(("ablation:winograd", "d", 2, 900.0)), "same": True, "bench": None, "ratios": {}, "error": None}
    rows = {key_of(r): r for r in (mine, failed, same)}
    found = tables.ablation({"winograd": "direct"}, "abcd", rows, 2, 900.0, "`cmd`").splitlines()  # type: ignore[arg-type]
    assert "| without | a | b | c | d |" in found
    assert "| winograd (direct) | 1.50 (1.40–1.60) | failed | not measured | same graph |" in found


def test_the_plot_has_a_dot_per_model_and_peer_and_the_faster_lie_right_of_1() -> None:
    drawn = ElementTree.fromstring(plot({"a": row(), "b": row(scale=0.5), "c": {"error": "x"}}))
    space = "{http://www.w3.org/2000/svg}"
    dots = {
        t.text: float(c.attrib["cx"])
        for c in drawn.iter(f"{space}circle")
        if (t := c.find(f"{space}title")) is not None
    }
    assert list(dots) == [f"{m}, {p}" for m, p in (
        ("a", "onnxruntime: 1.40x"), ("a", "openvino: 1.20x"), ("a", "tvm: 18.00x"),
        ("b", "onnxruntime: 1.40x"), ("b", "openvino: 0.60x"), ("b", "tvm: 18.00x"),
    )]  # fmt: skip
    one = next(float(t.attrib["x"]) for t in drawn.iter(f"{space}text") if t.text == "1x")
    assert dots["b, openvino: 0.60x"] < one < dots["a, openvino: 1.20x"] < dots["a, tvm: 18.00x"]
    assert [t.text for t in drawn.iter(f"{space}text")].count("c") == 1


def test_an_interrupted_run_goes_on_where_it_was(tmp_path: Path) -> None:
    lines, asked = tmp_path / "out" / "peers.jsonl", []
    keys: list[Key] = [("peers", m, 2, 900.0) for m in "ab"]

    def measure(key: Key) -> dict[str, Any]:
        asked.append(key[1])
        if key[1] == "b":
            raise UserError("It is\nbroken.", code="x")
        return row(key[1])

    assert fill(lines, keys[:1], measure)
    with lines.open("a") as file:
        file.write('{"mode": "pe')  # killed in the middle of a row
    assert not fill(lines, keys, measure)
    assert not fill(lines, keys, measure)
    assert asked == ["a", "b"]
    assert read_rows(lines)[keys[1]]["error"] == "UserError: It is broken."
    assert not fill(lines, keys, measure, retry=True)
    assert asked == ["a", "b", "b"]
    assert not fill(lines, keys, measure, again=True)
    assert asked == ["a", "b", "b", "a", "b"]


def test_every_mode_asks_for_its_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    asked: list[Key] = []

    def measure(key: Key, options: Any) -> dict[str, Any]:
        asked.append(key)
        return {**row(key[1], key[2]), "mode": key[0], "budget": key[3]}

    monkeypatch.setattr(command, "measure", measure)
    given = ["--seconds", "9", "--out", str(tmp_path)]
    for mode in ([], ["--metaschedule"], ["--ablation"], []):
        assert command.main([*given, *mode]) == 0
    count = len(models.MODELS)
    assert count == 14 and len(set(asked)) == len(asked)
    assert [key[2] for key in asked[: 2 * count]] == [2] * count + [1] * count
    assert len(asked) == 2 * count + 3 + 4 * len(ablation.VARIANTS)
    assert len((tmp_path / "peers.jsonl").read_text().splitlines()) == len(asked)


def test_rendering_writes_the_section_of_the_mode_and_the_plot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    monkeypatch.setattr(command, "RESULTS", tmp_path / "RESULTS.md")
    monkeypatch.setattr(command, "KEPT", tmp_path / "rows.jsonl.gz")
    for count, mode in enumerate(([], ["--metaschedule"], ["--ablation"]), 1):
        assert command.main(["--render", *mode, "--out", str(tmp_path)]) == 0
        assert (tmp_path / "RESULTS.md").read_text().count("Nothing has been measured yet.") == 1 + count
    text = (tmp_path / "RESULTS.md").read_text()
    assert text.count("| vit_tiny | not measured |") == 4 and "| winograd (" in text
    picture = tmp_path / tables.plot_of(2)
    assert not picture.exists() and "svg" not in text
    (tmp_path / "peers.jsonl").write_text(json.dumps(row("squeezenet")) + "\n")
    assert command.main(["--render", "--out", str(tmp_path)]) == 0
    assert f"]({tables.plot_of(2)})" in (tmp_path / "RESULTS.md").read_text()
    assert "squeezenet" in picture.read_text()
    (tmp_path / "peers.jsonl").write_text(json.dumps(row("resnet50")) + "\n")  # another day, another folder
    assert command.main(["--render", "--out", str(tmp_path)]) == 0
    assert all(name in picture.read_text() for name in ("squeezenet", "resnet50"))
    assert not (tmp_path / tables.plot_of(1)).exists()


def test_unknown_models_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        command.main(["--models", "lenet"])
    assert "'lenet'" in capsys.readouterr().err


def test_importing_the_package_brings_no_torch() -> None:
    assert "torch-compile" in package.PEERS
