"""Streams, events, graphs and green contexts as they reach the driver, and an artifact run as a CUDA graph."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.gpu.conftest import Round
from tuner.errors import DeviceError, UserError
from tuner.gpu.loading import stages_of
from tuner.gpu.program import Program
from tuner.gpu.timing import time_artifact

# Three stages, the second of two branches, on a launcher; says which stream each launch went to.
SCRIPT = """
import json, sys
import tvm_ffi
from tuner.gpu.launching import Streams
from tuner.gpu.streams import Cuda

device = tvm_ffi.device("cuda", 0)
streams = Streams(device, Cuda(0), partitioned=sys.argv[1] == "partitioned")
seen = []

def launch(what):
    seen.append((what, tvm_ffi.get_raw_stream(device)))

def work(launcher):
    launch("before")
    for name, branch in zip("ab", launcher.fork([20, 41])):
        with branch:
            launch(name)
    launcher.join()
    launch("after")

streams.capture(work)()
streams.finish()
print(json.dumps([seen, streams.main]))
"""


def launched(how: str) -> tuple[dict[str, int], int, str]:
    """Stream by launch, the main stream, and what the driver saw."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, how], capture_output=True, text=True, check=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3]), "TVM_USE_RUNTIME_LIB": "1"},
    )  # fmt: skip
    seen, main = json.loads(done.stdout.strip().splitlines()[-1])
    return dict(seen), main, done.stderr


def test_branches_run_on_streams_that_wait_for_one_another(gpu: bool) -> None:
    if not gpu:
        return
    seen, main, log = launched("streams")
    assert seen["before"] == seen["after"] == seen["a"] == main != seen["b"]
    lines = log.splitlines()
    fork = next(line.split()[1] for line in lines if line.endswith(f"on {main}"))
    join = next(line.split()[1] for line in lines if line.endswith(f"on {seen['b']}"))
    assert fork != join
    assert lines.index(f"{seen['b']} waits for {fork}") < lines.index(f"{main} waits for {join}")
    assert lines[-1] == "graph launched"


def test_branches_have_sms_of_their_own_where_the_driver_can_set_them_apart(gpu: bool) -> None:
    if not gpu:
        return
    seen, main, log = launched("partitioned")
    assert len({main, seen["a"], seen["b"]}) == 3
    assert [line for line in log.splitlines() if "apart" in line] == ["set 20 SMs apart", "set 42 SMs apart"]


def test_a_driver_without_green_contexts_says_so(gpu: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not gpu:
        return
    monkeypatch.setenv("STAND_IN_GREEN", "0")
    with pytest.raises(subprocess.CalledProcessError) as raised:
        launched("partitioned")
    assert "cuDeviceGetDevResource failed (801)" in raised.value.stderr


def test_an_artifact_runs_as_a_graph_of_all_its_kernels(
    gpu: bool, first_round: Round, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not gpu:
        return
    manifest = json.loads((first_round.out / "manifest.json").read_text())
    assert manifest["launches"]["cuda_graph"] is True
    timed = time_artifact(first_round.out)
    assert timed["how"] == "graph" and timed["why"] == []
    assert min(timed["samples"]) > 0
    monkeypatch.setenv("STAND_IN_CAPTURE", "0")
    timed = time_artifact(first_round.out)
    assert timed["how"] == "one after another"
    assert "cudaStreamBeginCapture failed" in timed["why"][0]


def test_too_little_memory_on_the_gpu_is_said(gpu: bool, first_round: Round, monkeypatch: pytest.MonkeyPatch) -> None:
    if not gpu:
        return
    monkeypatch.setenv("STAND_IN_MEMORY", "1000")
    with pytest.raises(DeviceError, match="too little free memory for the model, which needs") as raised:
        time_artifact(first_round.out)
    assert raised.value.code == "out-of-memory"


def test_a_model_that_hangs_the_gpu_costs_its_process(
    gpu: bool, first_round: Round, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not gpu:
        return
    monkeypatch.setenv("STAND_IN_HANG", "1")
    with pytest.raises(DeviceError, match="did not run to its end"):
        time_artifact(first_round.out, limit=3.0)


def test_a_plan_of_another_program_is_refused(first_round: Round, tmp_path: Path) -> None:
    program = Program.from_json(json.loads((first_round.out / "manifest.json").read_text())["launches"]["program"])
    plan = json.loads((first_round.out / "plan.json").read_text())
    assert stages_of(first_round.out, program)
    (tmp_path / "plan.json").write_text(json.dumps(plan | {"graph": "0" * 64}))
    with pytest.raises(UserError, match=r"plan\.json cannot be used: the plan is of another program") as raised:
        stages_of(tmp_path, program)
    assert raised.value.code == "bad-artifact"
