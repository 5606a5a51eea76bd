"""Bad input: exit code 2, one line on stderr that names the thing, and no output folder."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from cli_tools import Done, Tuned, conv_net, fusetune, here, save
from onnx import helper


def tune(folder: Path, model: object, *more: object) -> Done:
    database = [] if "--db" in more else ["--db", f"sqlite:///{folder}/records.db"]
    out = [] if "--out" in more else ["--out", "out"]
    return here(folder, "tune", model, "--trials", 2, "--no-baselines", *database, *out, *more)


def refused(done: Done, *words: str) -> None:
    assert done.code == 2, (done.out, done.err)
    assert done.err.startswith("fusetune: "), done.err
    assert len(done.err.splitlines()) == 1, done.err
    for word in words:
        assert word in done.err, done.err


@pytest.fixture
def folder(tmp_path: Path, net: Path) -> Path:
    shutil.copy(net, tmp_path / "net.onnx")
    return tmp_path


# models --------------------------------------------------------------------------------------------------------------


def not_onnx(path: Path) -> tuple[str, ...]:
    path.write_text("This is a letter, not a network.\n" * 50)
    return ("ONNX",)


def truncated(path: Path) -> tuple[str, ...]:
    data = conv_net(path).read_bytes()
    path.write_bytes(data[: len(data) // 2])
    return ()


def external(path: Path) -> tuple[str, ...]:
    model = onnx.load(conv_net(path))
    tensor = model.graph.initializer[0]
    secret = path.parent.parent / "secret.bin"
    secret.write_bytes(tensor.raw_data)
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    for key, value in {"location": "../secret.bin", "offset": "0", "length": str(secret.stat().st_size)}.items():
        entry = tensor.external_data.add()
        entry.key, entry.value = key, value
    path.write_bytes(model.SerializeToString())
    return ("secret.bin",)


def unknown_operator(path: Path) -> tuple[str, ...]:
    node = helper.make_node("Frobnicate", ["image"], ["scores"], name="the-odd-one")
    save(path, [node], {"image": [1, 3]}, {"scores": [1, 3]})
    return ("Frobnicate", "the-odd-one")


def shape_bomb(path: Path) -> tuple[str, ...]:
    nodes = [
        helper.make_node("ConstantOfShape", ["shape"], ["huge"], name="bomb"),
        helper.make_node("ReduceSum", ["huge"], ["sum"], keepdims=0),
        helper.make_node("Add", ["image", "sum"], ["scores"]),
    ]
    shape = np.array([1 << 20, 1 << 20], np.int64)
    save(path, nodes, {"image": [1, 3]}, {"scores": [1, 3]}, {"shape": shape})
    return ("huge",)


def open_shape(path: Path) -> tuple[str, ...]:
    conv_net(path, batch="N")
    return ("image", "--shape")


@pytest.mark.parametrize(
    "make", [not_onnx, truncated, external, unknown_operator, shape_bomb, open_shape], ids=lambda f: f.__name__
)
def test_bad_models(tmp_path: Path, make: Callable[[Path], tuple[str, ...]]) -> None:
    folder = tmp_path / "models"
    folder.mkdir()
    words = make(folder / "bad.onnx")
    refused(tune(folder, "bad.onnx"), *words)
    assert not (folder / "out").exists()


def test_no_model(tmp_path: Path) -> None:
    refused(fusetune(tmp_path, "tune", "nowhere.onnx", "--out", "out"), "nowhere.onnx")
    assert not (tmp_path / "out").exists()


# options -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--shape", "image=1,99,24,24"], ["image"]),
        (["--shape", "picture=1,16,24,24"], ["picture"]),
        (["--device", "abacus"], ["abacus"]),
        (["--strategy", "hope"], ["hope", "greedy"]),
        (["--precision", "fp4"], ["fp4", "fp32"]),
        (["--disable-pass", "polish"], ["polish"]),
        (["--cores", "4096"], ["4096"]),
        (["--input", "image=nowhere.npy"], ["nowhere.npy"]),
        (["--plan", "nowhere.json"], ["nowhere.json"]),
        (["--db", "sqlite:///corrupt.db"], ["corrupt.db"]),
        (["--db", "carrier-pigeon://loft"], ["database", "URL"]),
    ],
)
def test_bad_options(folder: Path, options: list[str], words: list[str]) -> None:
    (folder / "corrupt.db").write_bytes(b"SQLite format 3\0" + os.urandom(5000))
    refused(tune(folder, "net.onnx", *options), *words)
    assert not (folder / "out").exists()


def test_plan_knows_the_cores_too(folder: Path) -> None:
    refused(here(folder, "plan", "net.onnx", "--cores", "4096"), "4096")


def test_options_that_cannot_be_read_end_before_any_work(folder: Path) -> None:
    done = tune(folder, "net.onnx", "--trials", "-3")
    assert done.code == 2
    assert "--trials" in done.err
    assert "Traceback" not in done.err
    assert not (folder / "out").exists()


@pytest.mark.parametrize("kind", ["shape", "pickled", "letter"])
def test_bad_inputs(folder: Path, kind: str) -> None:
    good = np.zeros((1, 16, 24, 24), np.float32)
    proof = folder / "it-ran"
    if kind == "pickled":  # would create the file if anybody unpickled it
        np.save(folder / "x.npy", np.array([_Trap(proof)], dtype=object), allow_pickle=True)
    elif kind == "letter":
        (folder / "x.npy").write_text("Dear tuner,\n")
    else:
        np.save(folder / "x.npy", good[:, :3])
    refused(tune(folder, "net.onnx", "--input", "image=x.npy"), "image")
    assert not proof.exists()
    assert not (folder / "out").exists()


class _Trap:
    def __init__(self, proof: Path) -> None:
        self._proof = proof

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self._proof),)


def cut_short(plan: dict) -> str:
    return json.dumps(plan)[:-30]


def of_another_graph(plan: dict) -> str:
    return json.dumps(plan | {"graph": "0" * 64})


def with_an_unknown_layer(plan: dict) -> str:
    plan["stages"][0]["lanes"][0]["blocks"][0]["layers"] = ["Conv_99"]
    return json.dumps(plan)


def with_unknown_knobs(plan: dict) -> str:
    plan["stages"][0]["lanes"][0]["blocks"][0]["knobs"] = {"speed": 11}
    return json.dumps(plan)


@pytest.mark.parametrize(
    "spoil",
    [cut_short, of_another_graph, with_an_unknown_layer, with_unknown_knobs],
    ids=lambda f: f.__name__,
)
def test_plans_that_do_not_fit(folder: Path, tuned: Tuned, spoil: Callable[[dict], str]) -> None:
    (folder / "plan.json").write_text(spoil(json.loads((tuned.out / "plan.json").read_text())))
    refused(tune(folder, "net.onnx", "--plan", "plan.json"))
    assert not (folder / "out").exists()


# where the result goes -----------------------------------------------------------------------------------------------


def test_the_output_is_a_file(folder: Path) -> None:
    (folder / "out").write_text("precious")
    refused(tune(folder, "net.onnx"), "out", "file")
    assert (folder / "out").read_text() == "precious"


def test_the_output_is_somebody_elses_folder(folder: Path) -> None:
    (folder / "thesis").mkdir()
    (folder / "thesis" / "chapter1.tex").write_text("precious")
    refused(tune(folder, "net.onnx", "--out", "thesis"), "thesis")
    assert [p.name for p in (folder / "thesis").iterdir()] == ["chapter1.tex"]
    assert (folder / "thesis" / "chapter1.tex").read_text() == "precious"


def test_errors_for_programs(folder: Path) -> None:
    done = tune(folder, "net.onnx", "--strategy", "hope", "--json")
    refused(done, "hope")
    assert done.json["error"]["code"] == "unknown-strategy"


# other commands ------------------------------------------------------------------------------------------------------


def test_run_without_an_artifact(folder: Path) -> None:
    refused(fusetune(folder, "run", "nowhere"), "nowhere")


def test_run_with_a_wrong_input(folder: Path, tuned: Tuned) -> None:
    np.save(folder / "x.npy", np.zeros((1, 3, 24, 24), np.float32))
    refused(fusetune(folder, "run", tuned.out, "--input", "image=x.npy"), "image")


def test_bench_of_another_model(folder: Path, tuned: Tuned) -> None:
    conv_net(folder / "other.onnx", seed=1)
    refused(fusetune(folder, "bench", "other.onnx", "--artifact", tuned.out), "other.onnx")


def test_unknown_model_of_the_zoo(folder: Path) -> None:
    refused(here(folder, "zoo", "unicorn"), "unicorn")
