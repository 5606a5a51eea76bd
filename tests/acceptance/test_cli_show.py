"""The commands around tuning: plan, run, devices, records, zoo."""

from __future__ import annotations

import json

import numpy as np
import pytest
from cli_tools import Tuned, fusetune, reference


def test_run_gives_what_onnx_runtime_gives(tuned: Tuned) -> None:
    image = np.random.default_rng(7).standard_normal((1, 16, 24, 24)).astype(np.float32)
    np.save(tuned.home / "seven.npy", image)
    done = fusetune(tuned.home, "run", tuned.out, "--input", "image=seven.npy", "--output", "seven.npz")
    assert done.code == 0, done.err
    expected = reference(tuned.model, image)
    with np.load(tuned.home / "seven.npz") as outputs:
        assert outputs.files == ["scores"]
        assert np.abs(outputs["scores"] - expected).max() <= 1e-4 * np.abs(expected).max()


def test_run_on_random_inputs(tuned: Tuned) -> None:
    first, other = (fusetune(tuned.home, "run", tuned.out, "--seed", seed) for seed in (3, 4))
    assert first.code == other.code == 0, first.err
    assert first.out.startswith("scores: float32 [1, 10]")
    assert first.out != other.out
    image = np.random.default_rng(3).standard_normal((1, 16, 24, 24)).astype(np.float32)
    assert f"index of the largest {reference(tuned.model, image).argmax()}" in first.out


def test_plan_prints_what_plan_and_tune_read(tuned: Tuned) -> None:
    printed = fusetune(tuned.home, "plan", "net.onnx", "--json")
    assert printed.code == 0, printed.err
    assert printed.json["graph"] == json.loads((tuned.out / "plan.json").read_text())["graph"]
    (tuned.home / "printed.json").write_text(printed.out)
    shown = fusetune(tuned.home, "plan", "net.onnx", "--plan", "printed.json")
    assert shown.code == 0, shown.err
    assert "Conv_1 Relu_1" in shown.out


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--strategy", "joint"), ("greedy, none", "`fusetune tune MODEL --strategy joint`")),
        (
            ("--device", "sim:mlu100", "--strategy", "joint"),
            ("fixed-greedy", "none", "`fusetune tune MODEL --device sim:mlu100 --strategy joint`"),
        ),
        (("--device", "sim:mlu100", "--strategy", "greedy"), ("Unknown strategy 'greedy'",)),
        (("--device", "sim:mlu100", "--strategy", "none", "--cores", "4,8"), ("cores=1", "4, 8")),
        (("--device", "sim:mlu100", "--plan", "net.fusetune/plan.json"), ("--plan",)),
    ],
)
def test_plan_refuses_what_it_would_have_to_measure(
    tuned: Tuned, options: tuple[str, ...], said: tuple[str, ...]
) -> None:
    done = fusetune(tuned.home, "plan", "net.onnx", *options)
    assert done.code == 2 and "Traceback" not in done.err and not done.out
    assert all(words in done.err for words in said), done.err


def test_plan_of_a_simulated_device(tuned: Tuned) -> None:
    def cores(*options: object) -> list[int]:
        done = fusetune(tuned.home, "plan", "net.onnx", "--device", "sim:mlu100", "--json", *options)
        assert done.code == 0, done.err
        return [block["cores"] for s in done.json["stages"] for lane in s["lanes"] for block in lane["blocks"]]

    fused, alone = cores("--cores", "4,8"), cores("--strategy", "none")
    assert set(fused) == {8} and set(alone) == {1} and len(fused) < len(alone)
    shown = fusetune(tuned.home, "plan", "net.onnx", "--device", "sim:mlu100")
    assert shown.code == 0 and "simulated" in shown.out and "Conv_1 Relu_1" in shown.out


def test_devices(tuned: Tuned) -> None:
    done = fusetune(tuned.home, "devices", "--json")
    assert done.code == 0, done.err
    device, *others = done.json
    report = tuned.done.json
    assert device["fingerprint"] == report["device"]["fingerprint"]
    assert device["cores"] == report["device"]["cores"] >= 1
    assert device["toolchain"] == report["toolchain"] and device["measures"]
    assert {"xeon-4214r", "sim:mlu100", "sim:xeon-4214r"} <= {d["name"] for d in others}
    assert all(d["simulated"] == d["name"].startswith("sim:") for d in others)


def test_records(tuned: Tuned) -> None:
    done = fusetune(tuned.home, "records", "--json", "--db", tuned.db)
    assert done.code == 0, done.err
    assert "conv2d" in {r["template"] for r in done.json}  # a trial beside which the machine was slow is no record
    one = done.json[0]
    assert one["seconds"] > 0
    assert one["device"] == tuned.done.json["device"]["fingerprint"]
    few = fusetune(tuned.home, "records", "--json", "--db", tuned.db, "--workload", one["workload"][:12])
    assert few.json
    assert {r["workload"] for r in few.json} == {one["workload"]}
    assert fusetune(tuned.home, "records", "--json", "--db", tuned.db, "--device", "0" * 16).json == []


def test_zoo(tuned: Tuned) -> None:
    listed = fusetune(tuned.home, "zoo")
    assert listed.code == 0, listed.err
    for name in ("resnet50", "squeezenet"):
        assert name in listed.out


@pytest.mark.parametrize("command", ["tune", "plan", "bench", "run", "zoo", "devices", "records"])
def test_every_command_has_help(tuned: Tuned, command: str) -> None:
    done = fusetune(tuned.home, command, "--help")
    assert done.code == 0
    assert f"fusetune {command}" in done.out
