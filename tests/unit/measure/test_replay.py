"""Replay: recordings survive their file, the runner answers what was recorded and nothing else."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from runner_conformance import RunnerConformance

from tuner.errors import UserError
from tuner.graph.ir import Constant, Graph, Layer, Tensor, freeze_attrs
from tuner.measure.replay import Point, Recording, ReplayRunner
from tuner.types import PROTOCOL, Candidate, Device, Failure, FailureKind

DEVICE = Device(
    name="cpu", kind="cpu", model="imaginary", mcpu="haswell", features=("avx2",), cores=2, lanes=8, registers=16,
    l1=32 << 10, l2=512 << 10, l3=8 << 20, memory=8 << 30,
)  # fmt: skip
SHAPE = (1, 16, 8, 8)
CONV = Graph(
    inputs=("i0",), outputs=("t0",), tensors={n: Tensor(n, SHAPE) for n in ("i0", "t0")},
    layers=(Layer("l0", "Conv", ("i0", "c0"), ("t0",), freeze_attrs({"pads": (1, 1, 1, 1)})),),
    constants={"c0": Constant("c0", (16, 16, 3, 3))}, opset=17,
)  # fmt: skip
LAYOUTS = {"i0": "NCHW8c", "t0": "NCHW8c"}
DEFAULT = {"oc_t": 1, "rows": 4}
QUESTION = Candidate(CONV.to_json(), CONV.hash, LAYOUTS, "conv2d", 1, DEFAULT, 2)
POINTS = (
    Point({"oc_t": 1, "rows": 2}, (3.1e-4, 3.0e-4, 3.3e-4)),
    Point({"oc_t": 1, "rows": 4}, (2.00004e-4, 2.1e-4)),
    Point({"oc_t": 2, "rows": 2}, failure=Failure(FailureKind.REJECTED, "It spills.")),
)  # oc_t = 2 with rows = 4 is outside the space


@pytest.fixture
def recording() -> Recording:
    values = {"oc_t": (1, 2), "rows": (2, 4)}
    return Recording("small", "made by hand", DEVICE, "tvm-x", PROTOCOL, QUESTION, values, POINTS)


@pytest.fixture
def runner(recording: Recording) -> ReplayRunner:
    return ReplayRunner([recording])


def at(**knobs: int) -> Candidate:
    return replace(QUESTION, knobs=knobs)


class TestReplayRunner(RunnerConformance):
    """On a recording that is large enough: 24 points that were measured, and one that failed."""

    @pytest.fixture
    def runner(self) -> Iterator[ReplayRunner]:
        points = [Point({"rows": n}, (1e-4 * (n + 1), 1.1e-4 * (n + 1))) for n in range(24)]
        points.append(Point({"rows": 24}, failure=Failure(FailureKind.REJECTED, "It spills.")))
        question = replace(QUESTION, knobs={"rows": 0})
        values = {"rows": tuple(range(25))}
        with ReplayRunner(
            [Recording("large", "made by hand", DEVICE, "tvm-x", PROTOCOL, question, values, tuple(points))]
        ) as made:
            yield made

    def candidate(self, number: int) -> Candidate:
        return at(rows=number)

    def failing(self) -> Candidate:
        return at(rows=24)


def test_a_recording_survives_its_file(recording: Recording, tmp_path: Path) -> None:
    path = tmp_path / "small.json.gz"
    recording.save(path)
    found = Recording.load(path)
    assert found.candidate == recording.candidate
    assert found.candidate.record_key == QUESTION.record_key
    assert (found.device, found.note, found.toolchain) == (DEVICE, "made by hand", "tvm-x")
    assert found.points[1].samples == (2e-4, 2.1e-4)  # five digits
    assert found.points[2] == POINTS[2]
    assert found.workload.hash == CONV.hash
    first = path.read_bytes()
    found.save(path)
    assert path.read_bytes() == first


def test_its_space_is_what_was_recorded(recording: Recording) -> None:
    assert list(recording.space.points) == [dict(p.knobs) for p in POINTS]
    assert recording.space.default == DEFAULT
    assert {"oc_t": 2, "rows": 4} not in recording.space
    assert recording.best == pytest.approx(2.05002e-4)


def test_answers_are_the_recorded_samples_and_failures(runner: ReplayRunner) -> None:
    good, bad = runner.run([at(oc_t=1, rows=2), at(oc_t=2, rows=2)])
    assert good.samples == POINTS[0].samples
    assert good.seconds == 3.1e-4
    assert bad.failure == POINTS[2].failure
    assert runner.devices() == (DEVICE,)


@pytest.mark.parametrize("knobs", [{"oc_t": 2, "rows": 4}, {"oc_t": 1}, {"oc_t": 1, "rows": 2, "order": 0}, {}])
def test_a_point_that_was_not_recorded_is_a_failed_trial(runner: ReplayRunner, knobs: dict[str, int]) -> None:
    (trial,) = runner.run([replace(QUESTION, knobs=knobs)])
    assert trial.failure is not None
    assert trial.failure.kind is FailureKind.ERROR
    assert "small" in trial.failure.message and str(knobs) in trial.failure.message


def test_another_question_is_a_failed_trial_that_names_what_is_recorded(runner: ReplayRunner) -> None:
    (trial,) = runner.run([replace(QUESTION, cores=1)])
    assert trial.failure is not None and "small" in trial.failure.message


def test_recordings_of_two_devices_are_refused(recording: Recording) -> None:
    other = replace(recording, device=replace(DEVICE, l2=1 << 20))
    for recordings in ([recording, other], []):
        with pytest.raises(UserError) as raised:
            ReplayRunner(recordings)
        assert raised.value.code == "bad-recording"


@pytest.mark.parametrize(
    "content",
    [b"", b"not gzip", gzip.compress(b"{"), gzip.compress(json.dumps({}).encode())],
    ids=["empty", "no gzip", "no JSON", "no recording"],
)
def test_a_file_that_is_no_recording_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "odd.json.gz"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"odd\.json\.gz"):
        Recording.load(path)


def test_another_format_is_refused(recording: Recording, tmp_path: Path) -> None:
    path = tmp_path / "new.json.gz"
    recording.save(path)
    data = json.loads(gzip.decompress(path.read_bytes()))
    path.write_bytes(gzip.compress(json.dumps(data | {"version": 99}).encode()))
    with pytest.raises(UserError, match="99"):
        Recording.load(path)
