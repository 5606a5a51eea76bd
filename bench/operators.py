"""Layers beside the usual ones, a model each: ``python -m bench.operators``.

Ours without a search against ONNX Runtime, in turns, and against ours with the passes switched off that make other
operators of them: what a model with such a layer gains, or would lose, at once. ``--render`` writes the table into
RESULTS.md.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from bench.peers.rows import line, number
from bench.peers.sidebyside import BenchReport, bench
from bench.sections import RESULTS, write_section
from bench.tuning import tune
from tuner.errors import UserError


@dataclass(frozen=True)
class Operator:
    """A layer, what it reads and what it owes to which passes."""

    node: onnx.NodeProto  # from "x" to "y"
    image: tuple[int, ...]  # shape of "x"
    constants: Mapping[str, np.ndarray]
    passes: tuple[str, ...] = ()


def _weights(*shape: int) -> np.ndarray:
    scale = np.float32(1 / np.sqrt(np.prod(shape[1:])))
    return np.random.default_rng(0).standard_normal(shape, dtype=np.float32) * scale


def _scales(*numbers: float) -> np.ndarray:
    return np.array([1, 1, *numbers], np.float32)


_TRANSPOSED, _SEQUENCE = ("conv-transpose-to-conv",), ("sequences-to-images", "conv-transpose-to-conv")
_VOLUME = ("volumes-to-images",)
OPERATORS: Mapping[str, Operator] = {
    "transposed convolution, 2x2, stride 2": Operator(
        helper.make_node("ConvTranspose", ["x", "w"], ["y"], strides=[2, 2]), (1, 256, 32, 32),
        {"w": _weights(256, 128, 2, 2)}, _TRANSPOSED,
    ),
    "transposed convolution, 4x4, stride 2": Operator(
        helper.make_node("ConvTranspose", ["x", "w"], ["y"], strides=[2, 2], pads=[1] * 4), (1, 128, 32, 32),
        {"w": _weights(128, 64, 4, 4)}, _TRANSPOSED,
    ),
    "transposed convolution, 3x3, stride 2": Operator(
        helper.make_node("ConvTranspose", ["x", "w"], ["y"], strides=[2, 2], pads=[1] * 4, output_padding=[1, 1]),
        (1, 128, 32, 32), {"w": _weights(128, 64, 3, 3)}, _TRANSPOSED,
    ),
    "convolution of a sequence": Operator(
        helper.make_node("Conv", ["x", "w"], ["y"], pads=[1, 1]), (1, 128, 1000), {"w": _weights(128, 128, 3)},
        _SEQUENCE,
    ),
    "transposed convolution of a sequence": Operator(
        helper.make_node("ConvTranspose", ["x", "w"], ["y"], strides=[4], pads=[2, 2]), (1, 128, 250),
        {"w": _weights(128, 64, 8)}, _SEQUENCE,
    ),
    "convolution of a volume": Operator(
        helper.make_node("Conv", ["x", "w"], ["y"], pads=[1] * 6), (1, 64, 16, 28, 28),
        {"w": _weights(64, 64, 3, 3, 3)},
        _VOLUME,
    ),
    "convolution along the depth of a volume": Operator(
        helper.make_node("Conv", ["x", "w"], ["y"], pads=[1, 0, 0, 1, 0, 0]), (1, 64, 16, 28, 28),
        {"w": _weights(64, 64, 3, 1, 1)}, _VOLUME,
    ),
    "padded convolution": Operator(
        helper.make_node("Conv", ["p", "w"], ["y"]), (1, 64, 56, 56), {"w": _weights(64, 64, 3, 3)}, ("fold-padding",)
    ),
    "instance normalisation": Operator(
        helper.make_node("InstanceNormalization", ["x", "s", "s"], ["y"]), (1, 64, 56, 56), {"s": _weights(64)},
        ("instance-norm-to-layer-norm",),
    ),
    "nearest pixel, twice as large": Operator(
        helper.make_node("Resize", ["x", "", "s"], ["y"], mode="nearest", coordinate_transformation_mode="asymmetric",
                         nearest_mode="floor"), (1, 64, 56, 56), {"s": _scales(2, 2)}, ("scales-to-sizes",),
    ),
    "linear, twice as large": Operator(
        helper.make_node("Resize", ["x", "", "s"], ["y"], mode="linear"), (1, 64, 56, 56), {"s": _scales(2, 2)},
        ("scales-to-sizes",),
    ),
    "pixels to channels": Operator(
        helper.make_node("SpaceToDepth", ["x"], ["y"], blocksize=2), (1, 64, 56, 56), {}, ("space-to-depth-to-slices",)
    ),
    "LSTM, 256 numbers of state": Operator(
        helper.make_node("LSTM", ["x", "w", "r", "b"], ["y"], hidden_size=256), (40, 1, 128),
        {"w": _weights(1, 1024, 128), "r": _weights(1, 1024, 256), "b": _weights(1, 2048)}, ("unroll-recurrence",),
    ),
    "GRU, both directions, 64 numbers of state": Operator(
        helper.make_node("GRU", ["x", "w", "r", "b"], ["y"], hidden_size=64, direction="bidirectional",
                         linear_before_reset=1), (40, 1, 64),
        {"w": _weights(2, 192, 64), "r": _weights(2, 192, 64), "b": _weights(2, 384)}, ("unroll-recurrence",),
    ),
    "product of Einsum": Operator(
        helper.make_node("Einsum", ["x", "w"], ["y"], equation="bij,jk->bik"), (8, 64, 256), {"w": _weights(256, 256)},
        ("einsum-to-matmul",),
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Row:
    """What one operator took."""

    name: str
    report: BenchReport
    unbuilt: str | None = None  # why it cannot be built without its passes

    def ms(self, name: str) -> float | None:
        return next((r.min_ms for r in self.report.rows if r.name == name), None)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; gives 1 if something could not be measured."""
    cores = len(os.sched_getaffinity(0))
    parser = argparse.ArgumentParser(prog="python -m bench.operators", description=__doc__.partition("\n")[0])
    parser.add_argument("--only", default="", help="a part of the names")
    parser.add_argument("--threads", type=int, default=cores)
    parser.add_argument("--rounds", type=int, default=11, help="turns of each contestant")
    parser.add_argument("--render", action="store_true", help="write the table into RESULTS.md")
    options = parser.parse_args(arguments)
    rows, fine = [], True
    for name, operator in OPERATORS.items():
        if options.only not in name:
            continue
        try:
            rows.append(Row(name, *measure(operator, options.threads, options.rounds)))
            print(_line(rows[-1]), *_reasons(rows[-1:]), sep="\n", flush=True)
        except UserError as error:
            print(f"{name}: {error.message}", flush=True)
            fine = False
    if options.render and rows:
        command = f"`python -m bench.operators --threads {options.threads} --rounds {options.rounds} --render`"
        write_section("operators", table(rows, command), RESULTS)
    return int(not fine)


def measure(operator: Operator, threads: int, rounds: int) -> tuple[BenchReport, str | None]:
    """Ours as it is ("default"), with the operator's passes off ("without") or why that cannot be, and ONNX Runtime."""
    with tempfile.TemporaryDirectory(prefix="fusetune-bench-") as scratch:
        folder = Path(scratch)
        path = write(operator, folder / "layer.onnx")
        artifacts: dict[str, Path] = {}
        unbuilt: str | None = None
        for name, passes in (("default", ()), ("without", operator.passes)):
            off = [word for each in passes for word in ("--disable-pass", each)]
            try:
                tune(path, folder / name, folder / "records.db", ["--trials", "0", "--cores", str(threads), *off], 60.0)
                artifacts[name] = folder / name
            except UserError as error:
                if name == "default":
                    raise
                unbuilt = error.message
        return bench(path, artifacts, ["onnxruntime"], threads=threads, rounds=rounds), unbuilt


def write(operator: Operator, path: Path) -> Path:
    """The operator as a model; one that reads "p" has a border of zeros around "x"."""
    nodes, constants = [operator.node], dict(operator.constants)
    if "p" in operator.node.input:
        nodes.insert(0, helper.make_node("Pad", ["x", "n"], ["p"]))
        constants["n"] = np.array([0, 0, 1, 1] * 2)
    graph = helper.make_graph(
        nodes, "layer", [helper.make_tensor_value_info("x", TensorProto.FLOAT, operator.image)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )  # fmt: skip
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(path))
    return path


def table(rows: Sequence[Row], command: str) -> str:
    """A line per operator."""
    machine = rows[0].report.machine
    date = datetime.now(UTC).date().isoformat()
    return "\n".join([
        "## Layers beside the usual ones",
        "",
        f"{command}; {date}, on {machine['cpu']}, {machine['toolchain']}, {rows[0].report.threads} threads.",
        "",
        "Milliseconds of the fastest calls, in turns; ours without a search (`--trials 0`). *without* = the passes "
        "switched off that make other operators of the layer, a dash where it cannot be built then (why: below). "
        "*x* = ONNX Runtime's over ours, medians paired within "
        "rounds with the paired 95% interval.",
        "",
        line(["layer", "x", "ours ms", "without ms", "onnxruntime ms", "without over ours", "x over onnxruntime"]),
        line([":--", ":--", *["--:"] * 5]),
        *map(_line, rows),
        *(["", *reasons] if (reasons := _reasons(rows)) else []),
    ])  # fmt: skip


def _reasons(rows: Sequence[Row]) -> list[str]:
    return [f"- {row.name}, without: {row.unbuilt}" for row in rows if row.unbuilt]


def _line(row: Row) -> str:
    ours, without, theirs = (row.ms(name) for name in ("default", "without", "onnxruntime"))
    ratio: Any = row.report["onnxruntime"].ratio
    shape = "x".join(map(str, OPERATORS[row.name].image))
    gain = without / ours if ours and without else None
    paired = "–" if ratio is None else f"{ratio.median:.2f} ({ratio.low:.2f}–{ratio.high:.2f})"
    return line([row.name, shape, *(number(ms, 3) for ms in (ours, without, theirs)), number(gain, 1), paired])


if __name__ == "__main__":
    sys.exit(main())
