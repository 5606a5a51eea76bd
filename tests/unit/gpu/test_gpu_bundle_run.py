"""A bundle measured in a child that may die: what the parent makes of it. No TVM, no device."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tuner.gpu import bundle_run
from tuner.gpu.bundle_run import Unusable, arguments, measure, read_bundle, relative_error

KNOBS = {"space": 0, "tile0": 3}

# A stand-in for measure.py's child: it answers as each key says.
CHILD = """
import json, os, sys, time
print(json.dumps({"device": {"model": "test"}}), flush=True)
for line in sys.stdin:
    key = json.loads(line)
    if key == "crash": os.kill(os.getpid(), 11)
    if key == "hang": time.sleep(60)
    print(json.dumps({"samples": [1e-6], "failure": None, "max_rel_error": 0.0}), flush=True)
"""


def bundle(folder: Path, keys: list[str], child: str = CHILD) -> Path:
    candidates = [
        {"key": k, "task": "t", "template": "metaschedule", "version": 1, "knobs": KNOBS, "predicted": 1e-6}
        for k in keys
    ]
    tasks = [{"hash": "t", "args": [[[4], "float32"], [[4], "float32"]]}]
    text = {"format": 1, "model": {"sha256": "m"}, "arch": "sm_86", "tasks": tasks, "candidates": candidates}
    (folder / "bundle.json").write_text(json.dumps(text))
    (folder / "measure.py").write_text(child)
    return folder


def test_a_candidate_that_hangs_or_crashes_costs_its_own_time_alone(tmp_path: Path) -> None:
    folder = bundle(tmp_path, ["a", "crash", "b", "hang", "c"])
    said: list[str] = []
    found = {r["key"]: r for r in measure(folder, 2.0, said.append)["results"]}
    assert [bool(found[k]["samples"]) for k in ("a", "b", "c")] == [True] * 3
    assert found["crash"]["failure"]["kind"] == "crash" and "-11" in found["crash"]["failure"]["message"]
    assert found["hang"]["failure"]["kind"] == "timeout"
    assert len(said) == 5


def test_a_bundle_that_cannot_be_measured_here_says_why(tmp_path: Path) -> None:
    reason = json.dumps({"unusable": "libcuda.so.1: cannot open shared object file"})
    with pytest.raises(Unusable, match="libcuda"):
        measure(bundle(tmp_path, ["a"], f"print({reason!r})"))
    with pytest.raises(Unusable, match="did not start"):
        measure(bundle(tmp_path, ["a"], "raise SystemExit(1)"))
    with pytest.raises(Unusable, match="holds no bundle"):
        read_bundle(tmp_path / "absent")


def test_a_child_that_dies_before_each_candidate_is_not_started_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dying = 'import json, os; print(json.dumps({"device": {}}), flush=True); os.close(0); os._exit(0)'
    monkeypatch.setattr(bundle_run, "MOST_IDLE", 2)
    try:
        done = measure(bundle(tmp_path, ["a"], dying), 5.0)
    except Unusable as error:
        assert "before it measures" in str(error)
    else:  # the key was written before the child was gone
        assert done["results"][0]["failure"]["kind"] == "crash"


def test_arguments_are_the_same_everywhere() -> None:
    args = [[[2, 3], "float32"], [[5], "int64"], [[4], "float32"]]
    first, second = arguments(args, 7), arguments(args, 7)
    assert [x.shape for x in first] == [(2, 3), (5,)]
    assert [str(x.dtype) for x in first] == ["float32", "int64"]
    assert all((a == b).all() for a, b in zip(first, second, strict=True))


def test_errors_are_relative_to_the_largest_value_and_nans_are_errors() -> None:
    reference = np.array([0.0, -4.0], np.float32)
    assert relative_error(np.array([1.0, -4.0], np.float32), reference) == 0.25
    assert relative_error(np.array([np.nan, -4.0], np.float32), reference) == float("inf")
    assert relative_error(np.zeros(3, np.float32), reference) == float("inf")
