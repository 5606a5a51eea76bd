"""What the acceptance tests share: small models, and the command ``fusetune`` as a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

ROOT = Path(__file__).resolve().parents[2]
LIMIT = 200.0  # seconds after which a command hangs


@dataclass(frozen=True)
class Done:
    """A command that ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


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


def living(group: int) -> list[int]:
    """Processes of a process group or session that are still there; zombies do not count."""
    found = []
    for folder in Path("/proc").iterdir():
        try:
            state, _, pgrp, session = (folder / "stat").read_text().rpartition(")")[2].split()[:4]
        except (OSError, ValueError):
            continue
        if group in (int(pgrp), int(session)) and state != "Z":
            found.append(int(folder.name))
    return found
