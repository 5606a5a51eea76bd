"""What a user takes home: checksums, processor features, the README's ten lines, the tuning log in stock TVM."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from build_models import (
    LOADER,
    Weights,
    agree,
    build,
    candidates,
    cleaned,
    feeds,
    machine,
    node,
    onnxruntime_outputs,
    rand,
    small_net,
    stock_python,
)

from tuner.build.artifact import load, read_manifest, require_features
from tuner.build.assemble import assemble
from tuner.build.binary import Arg, KernelBinary
from tuner.build.kernel import build_kernel
from tuner.build.objects import Objects
from tuner.build.tuning_log import PER_QUESTION, write_tuning_log
from tuner.errors import CandidateError, DeviceError, UserError
from tuner.graph.ir import Graph
from tuner.kernels.registry import template
from tuner.plan.layout import Pack
from tuner.search.fusion import greedy
from tuner.types import Failure, FailureKind, Trial


@pytest.fixture(scope="module")
def net() -> tuple[Graph, Weights]:
    return small_net()


@pytest.fixture(scope="module")
def built(net: tuple[Graph, Weights], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("artifact")
    build(folder, *net)
    return folder


@pytest.fixture
def artifact(built: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(built, tmp_path / "artifact"))


def test_equal_blocks_are_built_once_and_share_a_kernel(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    nodes = [node("Conv", ["x" if i == 0 else f"r{i - 1}", f"w{i}"], f"c{i}", pads=[1] * 4) for i in range(3)]
    nodes += [node("Relu", [f"c{i}"], f"r{i}") for i in range(3)]
    nodes.sort(key=lambda n: n.output[0][1:])
    graph, weights = cleaned(
        nodes, {"x": (1, 16, 6, 6)}, ["r2"], {f"w{i}": rand(16, 16, 3, 3, seed=i) for i in range(3)}
    )
    plan = greedy(graph, machine(), 1)
    plan = plan.map(lambda b: replace(b, reads={}, knobs=None))
    made: list[str] = []
    maker = type(template("conv2d"))
    build_one = maker.build

    def count(self: Any, workload: Graph, *rest: Any) -> Any:
        made.append(workload.hash)
        return build_one(self, workload, *rest)

    monkeypatch.setattr(maker, "build", count)
    found = assemble(graph, weights, plan, machine(), Objects(tmp_path))
    steps = [s for s in found.steps if s.template == "conv2d"]
    kernels = {(s.symbol, tuple(sorted(s.layouts.items()))) for s in steps}
    assert len(steps) == 3 and len(made) == len(kernels) < 3


def test_the_manifest_says_what_is_inside(net: tuple[Graph, Weights], built: Path) -> None:
    manifest = read_manifest(built)
    assert manifest["format"] == 1
    assert manifest["model"] == "test"
    assert set(manifest["sha256"]) == {"model.so", "params.bin"}
    assert manifest["inputs"] == [{"name": "x", "shape": [1, 3, 31, 33], "dtype": "float32"}]
    assert [o["name"] for o in manifest["outputs"]] == ["y"]
    assert manifest["device"]["features"] == list(machine().features)
    size = (built / "params.bin").stat().st_size
    ends = [p["offset"] + p["bytes"] for p in manifest["parameters"]]
    assert all(p["offset"] % 64 == 0 for p in manifest["parameters"])
    assert max(ends) == size
    for p in manifest["parameters"]:
        assert p["bytes"] == int(np.prod(p["shape"])) * np.dtype(p["dtype"]).itemsize


@pytest.mark.parametrize("name", ["model.so", "params.bin"])
def test_one_flipped_bit_is_refused(name: str, artifact: Path) -> None:
    data = bytearray((artifact / name).read_bytes())
    data[len(data) // 2] ^= 1
    (artifact / name).write_bytes(data)
    with pytest.raises(UserError) as caught:
        load(artifact)
    assert caught.value.code == "bad-artifact"
    assert name in caught.value.message


def test_a_missing_file_is_refused(artifact: Path) -> None:
    (artifact / "params.bin").unlink()
    with pytest.raises(UserError, match=r"params\.bin is missing"):
        load(artifact)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"format": 99}'])
def test_a_manifest_that_is_none(text: str, artifact: Path) -> None:
    (artifact / "manifest.json").write_text(text)
    with pytest.raises(UserError) as caught:
        load(artifact)
    assert caught.value.code == "no-artifact"


def test_a_folder_that_is_no_artifact(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        load(tmp_path)
    assert caught.value.code == "no-artifact"


def test_a_lesser_machine_is_told_what_it_lacks(artifact: Path) -> None:
    manifest = json.loads((artifact / "manifest.json").read_text())
    manifest["device"]["features"] = sorted([*manifest["device"]["features"], "avx1024"])
    (artifact / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(DeviceError) as caught:
        load(artifact)
    assert caught.value.code == "lesser-machine"
    assert "lacks avx1024," in caught.value.message
    require_features([])


def test_a_model_without_constants_has_a_file_that_can_be_mapped(tmp_path: Path) -> None:
    build(tmp_path, *cleaned([node("Relu", ["x"], "y")], {"x": [2, 3]}, ["y"]))
    assert read_manifest(tmp_path)["parameters"] == []
    x = np.array([[-1, 2, 3], [4, -5, 6]], np.float32)
    np.testing.assert_array_equal(load(tmp_path).run({"x": x})["y"], np.maximum(x, 0))


def readme_code(folder: Path) -> str:
    """The indented lines of README.txt, as a user would copy them."""
    lines = (folder / "README.txt").read_text().splitlines()
    return textwrap.dedent("\n".join(x for x in lines if x.startswith("    ")))


@pytest.mark.parametrize("outputs", [1, 2])
def test_the_readme_works_as_it_is_written(
    outputs: int, built: Path, net: tuple[Graph, Weights], tmp_path: Path
) -> None:
    graph, weights = net
    folder = built
    if outputs == 2:
        graph, weights = cleaned([node("Relu", ["x"], "a"), node("Exp", ["x"], "b")], {"x": [2, 3]}, ["a", "b"])
        folder = tmp_path
        build(folder, graph, weights)
    code = readme_code(folder)
    assert len(code.splitlines()) <= 15
    keep = "import numpy\nfound = [output] if hasattr(output, 'numpy') else list(output)\n"
    done = stock_python(f"{code}\n{keep}numpy.savez('answer.npz', *[v.numpy() for v in found])", folder)
    assert done.returncode == 0, done.stderr
    zeros = {n: np.zeros(graph.tensors[n].shape, np.float32) for n in graph.inputs}
    answer = np.load(folder / "answer.npz")
    agree({n: answer[f"arr_{k}"] for k, n in enumerate(graph.outputs)}, onnxruntime_outputs(graph, weights, zeros))


def test_the_readme_answers_for_real_numbers_too(built: Path, net: tuple[Graph, Weights]) -> None:
    graph, weights = net
    inputs = feeds(graph, 5)
    np.save(built / "x.npy", inputs["x"])
    code = readme_code(built).replace('np.zeros(i["shape"], i["dtype"])', "np.load('x.npy')")
    done = stock_python(f"{code}\nnp.save('y.npy', output.numpy())", built)
    assert done.returncode == 0, done.stderr
    agree({"y": np.load(built / "y.npy")}, onnxruntime_outputs(graph, weights, inputs))


# tuning log --------------------------------------------------------------------------------------------------------


def test_the_tuning_log_replays_and_compiles_in_stock_tvm(net: tuple[Graph, Weights], tmp_path: Path) -> None:
    trials = [Trial(c, samples=(0.001 * (k + 1), 0.002)) for k, c in enumerate(candidates(net))]
    failed = Trial(replace(trials[0].candidate, cores=7), failure=Failure(FailureKind.CRASH, "it died"))
    assert write_tuning_log(tmp_path, [failed, *trials], machine()) == len(trials)
    done = stock_python(LOADER, tmp_path)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.strip().splitlines()
    assert len(lines) == len(trials) + 1
    assert sorted(line.split(" ", 1)[1] for line in lines[:-1]) == sorted(str(list(t.samples)) for t in trials)


def test_the_log_keeps_the_best_trials_of_each_question_once(net: tuple[Graph, Weights], tmp_path: Path) -> None:
    first = candidates(net)[0]
    w = Graph.from_json(first.workload)
    points = template(first.template).space(w, first.layouts, machine()).points[: PER_QUESTION + 2]
    trials = [Trial(replace(first, knobs=p), samples=(0.1 / (k + 1),)) for k, p in enumerate(points)]
    again = [replace(t, samples=(9.0,)) for t in trials]  # the same candidates, measured slower
    count = min(PER_QUESTION, len(points))
    assert write_tuning_log(tmp_path, [*trials, *again], machine()) == count
    records = [json.loads(x) for x in (tmp_path / "database_tuning_record.json").read_text().splitlines()]
    times = sorted(r[1][1][0] for r in records)
    assert times == pytest.approx(sorted(t.samples[0] for t in trials)[:count])


# single kernels ----------------------------------------------------------------------------------------------------


def test_a_kernel_is_built_and_described_by_value(net: tuple[Graph, Weights], tmp_path: Path) -> None:
    for k, candidate in enumerate(candidates(net)):
        binary = build_kernel(candidate, machine(), tmp_path / f"{k}.so")
        assert Path(binary.library).exists()
        assert not (tmp_path / f"{k}.o").exists()
        assert KernelBinary.from_json(json.loads(json.dumps(binary.to_json()))).args == binary.args
        roles = [a.role for a in binary.args]
        assert roles == sorted(roles, key=["input", "constant", "output"].index)


def test_a_refusing_template_is_a_candidate_error(net: tuple[Graph, Weights], tmp_path: Path) -> None:
    candidate = replace(candidates(net)[0], template="dense")
    with pytest.raises(CandidateError) as caught:
        build_kernel(candidate, machine(), tmp_path / "k.so")
    assert caught.value.code == "build-failed"
    assert list(tmp_path.iterdir()) == []


def test_binaries_survive_json_with_all_kinds_of_packing() -> None:
    steps: tuple[tuple[Any, ...], ...] = (("pad", [[0, 1]]), ("gather", [0, -1], [2]), ("take", 0, [1]))
    packs: Mapping[str, Pack] = {"c0": Pack(steps)}
    binary = KernelBinary("a.so", "main", (Arg("i0", "input", (1, 2), "float32", "NCHW8c"),), packs)
    assert KernelBinary.from_json(json.loads(json.dumps(binary.to_json()))) == binary


def test_running_takes_the_runtime_alone(built: Path, net: tuple[Graph, Weights]) -> None:
    """No compiler in memory, and no PyTorch, which TVM's bindings import where they find it."""
    code = """
        import sys, numpy as np
        from pathlib import Path
        from tuner.build.runtime_only import runtime_only
        runtime_only()
        from tuner.build.artifact import load
        model = load(Path("."))
        np.savez("alone.npz", **model.run({"x": np.load("x.npy")}))
        loaded = open("/proc/self/maps").read()
        assert "libtvm_runtime" in loaded and "libtvm_compiler" not in loaded and "libtorch" not in loaded
    """
    inputs = feeds(net[0], 7)
    np.save(built / "x.npy", inputs["x"])
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], cwd=built, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    with np.load(built / "alone.npz") as found:
        agree({"y": found["y"]}, onnxruntime_outputs(*net, inputs))
