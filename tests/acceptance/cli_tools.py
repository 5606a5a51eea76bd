"""What the acceptance tests share: small models, and the command ``fusetune`` as a process of its own."""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import chdir, closing, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import numpy as np
import onnx
import onnxruntime
from onnx import helper, numpy_helper

ROOT = Path(__file__).resolve().parents[2]
TRIALS = 8  # of the artifact that tests share
LIMIT = 200.0  # seconds after which a command hangs
FILES = {
    "model.so",
    "params.bin",
    "manifest.json",
    "plan.json",
    "report.json",
    "trials.jsonl",
    "tuning_log",
    "README.txt",
}


@dataclass(frozen=True)
class Done:
    """A command that ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


def assert_refused(done: Done, folder: Path, out: str, *words: str) -> None:
    """That a command said in one error what is wrong, in these words, and wrote nothing."""
    assert done.code == 2 and "Traceback" not in done.err
    assert all(word in " ".join(done.err.split()) for word in words), done.err
    assert not (folder / out).exists()


def assert_runs(folder: Path, artifact: str) -> None:
    """That an artifact runs, and that all its results are finite."""
    done = fusetune(folder, "run", artifact, "--output", "out.npz")
    assert done.code == 0, done.err
    with np.load(folder / "out.npz") as arrays:
        assert arrays.files and all(np.isfinite(arrays[name]).all() for name in arrays)


def assert_tight(folder: Path, precision: str, accuracy: str) -> None:
    """That ``net.onnx``, tuned in ``precision`` to this accuracy, keeps it, by layers that keep float32."""
    done = fusetune(folder, "tune", "net.onnx", "--precision", precision, "--trials", 0, "--no-baselines",
                    "--accuracy", accuracy, "--out", "tight", "--db", f"sqlite:///{folder}/db")  # fmt: skip
    assert done.code == 0, done.err
    report, limit = json.loads((folder / "tight" / "report.json").read_text()), float(accuracy)
    assert report["verification"]["limit"] == limit and report["verification"]["passed"]
    assert report["rounding"]["error_of_all"] > limit >= report["rounding"]["error"]
    assert report["rounding"]["kept_fp32"] and "keep float32" in done.out


def environment(home: Path) -> dict[str, str]:
    """The tests' environment with a home of its own, so that no user's database is touched."""
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return os.environ | {
        "PYTHONPATH": os.pathsep.join(paths),
        "HOME": str(home),
        "XDG_DATA_HOME": str(home / "data"),
        "COLUMNS": "200",
    }


def start(args: Sequence[object], folder: Path, stderr: int = subprocess.PIPE) -> subprocess.Popen[str]:
    """Start ``fusetune ARGS`` in a folder and a process group of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "service.cli", *map(str, args)],
        cwd=folder,
        env=environment(folder),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=stderr,
        text=True,
        start_new_session=True,
    )


def fusetune(folder: Path, *args: object) -> Done:
    """Run ``fusetune ARGS`` to its end."""
    process = start(args, folder)
    try:
        out, err = process.communicate(timeout=LIMIT)
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()
    return Done(process.returncode, out, err)


def here(folder: Path, *args: object) -> Done:
    """Run ``fusetune ARGS`` in this process: for commands that end before they measure anything."""
    from service.cli import main

    out, err = StringIO(), StringIO()
    with patch.dict(os.environ, environment(folder)), chdir(folder), redirect_stdout(out), redirect_stderr(err):
        try:
            code = main([str(a) for a in args])
        except SystemExit as end:
            code = int(end.code or 0)
    return Done(code, out.getvalue(), err.getvalue())


class Tuned(NamedTuple):
    """What ``fusetune tune`` left."""

    home: Path  # where it ran: model, database and artifact stand here
    model: Path
    db: str
    out: Path
    done: Done

    def again(self, *more: object, out: Path) -> Done:
        """Tune the same model into another folder, with the same database."""
        return fusetune(self.home, "tune", self.model, "--json", "--no-baselines", "--db", self.db, "--out", out, *more)


def conv_net(path: Path, *, batch: int | str = 1, seed: int = 0, size: int = 24) -> Path:
    """A convolution net of eight layers that tunes in seconds; two of its convolutions are equal workloads."""
    random = np.random.default_rng(seed)

    def weight(*shape: int) -> np.ndarray:
        fan = int(np.prod(shape[1:])) if len(shape) > 1 else 1
        return (random.standard_normal(shape) / np.sqrt(fan)).astype(np.float32)

    same = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}
    nodes = [
        helper.make_node("Conv", ["image", "w0", "b0"], ["a0"], name="first", **same),
        helper.make_node("Relu", ["a0"], ["r0"], name="relu0"),
        helper.make_node("Conv", ["r0", "w1", "b1"], ["a1"], name="second", **same),
        helper.make_node("Relu", ["a1"], ["r1"], name="relu1"),
        helper.make_node("Conv", ["r1", "w2", "b2"], ["a2"], name="third", **same),
        helper.make_node("Relu", ["a2"], ["r2"], name="relu2"),
        helper.make_node("GlobalAveragePool", ["r2"], ["pooled"], name="pool"),
        helper.make_node("Flatten", ["pooled"], ["flat"], name="flatten"),
        helper.make_node("Gemm", ["flat", "w3", "b3"], ["scores"], name="dense", transB=1),
    ]
    weights = {
        "w0": weight(32, 16, 3, 3), "w1": weight(32, 32, 3, 3), "w2": weight(32, 32, 3, 3), "w3": weight(10, 32),
        "b0": weight(32), "b1": weight(32), "b2": weight(32), "b3": weight(10),
    }  # fmt: skip
    return save(path, nodes, {"image": [batch, 16, size, size]}, {"scores": [batch, 10]}, weights)


def save(
    path: Path,
    nodes: Sequence[onnx.NodeProto],
    inputs: dict[str, list[int | str]],
    outputs: dict[str, list[int | str] | None],
    weights: dict[str, np.ndarray] | None = None,
) -> Path:
    """Write a float32 model of these nodes."""
    kind = onnx.TensorProto.FLOAT
    graph = helper.make_graph(
        list(nodes),
        "small",
        [helper.make_tensor_value_info(n, kind, s) for n, s in inputs.items()],
        [helper.make_tensor_value_info(n, kind, s) for n, s in outputs.items()],
        [numpy_helper.from_array(v, n) for n, v in (weights or {}).items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path.write_bytes(model.SerializeToString())
    return path


def lines(path: Path) -> list[Any]:
    """The values of a .jsonl file."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def living(home: Path) -> list[int]:
    """Processes, in whatever group, that were started with this home and are still there; zombies do not count."""
    mark = f"HOME={home}".encode()
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            state = (folder / "stat").read_text().rpartition(")")[2].split()[0]
            if state != "Z" and mark in (folder / "environ").read_bytes().split(b"\0"):
                found.append(int(folder.name))
        except OSError:
            continue
    return found


def left_behind(home: Path) -> list[int]:
    """Processes still living when those of an ended command had time to notice."""
    deadline = time.monotonic() + 30
    while (found := living(home)) and time.monotonic() < deadline:
        time.sleep(0.1)
    return found


def trials_in(database: Path) -> list[str]:
    """Keys of the trials in a SQLite database, in the order in which they were stored."""
    if not database.exists():
        return []
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
        try:
            return [key for (key,) in connection.execute("select candidate_key from trials order by id")]
        except sqlite3.OperationalError:  # the tables are not there yet
            return []


def reference(model: Path, image: np.ndarray) -> np.ndarray:
    """What ONNX Runtime makes of it."""
    session = onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    return session.run(["scores"], {"image": image})[0]


def complete(folder: Path) -> bool:
    """Whether an artifact stands there whole: every file, with the sums that its manifest says."""
    manifest = json.loads((folder / "manifest.json").read_text())
    sums = {n: hashlib.sha256((folder / n).read_bytes()).hexdigest() for n in manifest["sha256"]}
    return sums == manifest["sha256"] and {p.name for p in folder.iterdir()} == FILES
