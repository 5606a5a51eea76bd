"""References: what is drawn, what ONNX Runtime answers, how they are stored; the error that is compared."""

from __future__ import annotations

import math
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tuner.errors import CandidateError
from tuner.graph.ir import Constant, Graph, Layer, Tensor, freeze_attrs
from tuner.graph.onnx_io import to_onnx
from tuner.measure.reference import (
    evict,
    load_reference,
    make_reference,
    max_rel_error,
    reference_name,
    unrounded_error,
)
from tuner.plan import int8
from tuner.plan.bf16 import OPSET, rounded
from tuner.plan.layout import RANGE, derived

pytestmark = pytest.mark.alone

Shape = tuple[int, ...]


def graph(op: str, shapes: dict[str, Shape], constants: dict[str, Constant], out: Shape, **attrs: object) -> Graph:
    tensors = {n: Tensor(n, s) for n, s in shapes.items()} | {"t0": Tensor("t0", out)}
    layer = Layer("l0", op, (*shapes, *constants), ("t0",), freeze_attrs(attrs))
    return Graph(tuple(shapes), ("t0",), (layer,), tensors, constants)


def conv(channels: int) -> Graph:
    weight = Constant("c0", (channels, channels, 3, 3))
    return graph("Conv", {"i0": (1, channels, 8, 8)}, {"c0": weight}, (1, channels, 6, 6), kernel_shape=(3, 3))


@pytest.mark.parametrize("channels", [4, 192])  # 192: its weights are large enough to be fed in place
def test_a_convolution_is_what_its_definition_says(tmp_path: Path, channels: int) -> None:
    found = make_reference(conv(channels), 0, tmp_path / "r", to_onnx)
    x, w = found.inputs["i0"][0].astype(np.float64), found.constants["c0"].astype(np.float64)
    windows = np.lib.stride_tricks.sliding_window_view(x, (3, 3), axis=(1, 2))
    truth = np.einsum("chwij,ocij->ohw", windows, w, optimize=True)[None]
    assert max_rel_error(found.outputs["t0"], truth) < 1e-5
    assert 0.5 < found.outputs["t0"].std() < 2  # N(0, 1/fan_in) keeps the scale


def test_a_stored_reference_is_read_back_and_the_seed_decides(tmp_path: Path) -> None:
    first = make_reference(conv(4), 0, tmp_path / "a", to_onnx)
    again = make_reference(conv(4), 0, tmp_path / "b", to_onnx)
    other = make_reference(conv(4), 1, tmp_path / "c", to_onnx)
    stored = load_reference(tmp_path / "a")
    for name, array in stored.constants.items():
        assert np.array_equal(array, first.constants[name]) and np.array_equal(array, again.constants[name])
        assert not np.array_equal(array, other.constants[name])
    assert np.array_equal(stored.outputs["t0"], first.outputs["t0"])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "b", "c"]


@pytest.mark.parametrize("channels", [4, 192])
def test_in_bf16_the_reference_is_of_rounded_weights(tmp_path: Path, channels: int) -> None:
    exact = make_reference(conv(channels), 0, tmp_path / "a", to_onnx)
    lowered = make_reference(conv(channels), 0, tmp_path / "b", to_onnx, precision="bf16")
    assert np.array_equal(lowered.inputs["i0"], exact.inputs["i0"])
    assert np.array_equal(lowered.constants["c0"], rounded(exact.constants["c0"]))
    assert 1e-4 < max_rel_error(lowered.outputs["t0"], exact.outputs["t0"]) < 2e-2


@pytest.mark.parametrize("channels", [4, 192])
def test_in_int8_the_reference_is_of_what_integers_stand_for(tmp_path: Path, channels: int) -> None:
    made = replace(conv(channels), opset=OPSET)
    exact = make_reference(made, 0, tmp_path / "a", to_onnx)
    found = make_reference(made, 0, tmp_path / "b", to_onnx, precision="int8")
    image, weights = exact.inputs["i0"], exact.constants["c0"]
    assert np.array_equal(found.inputs["i0"], image) and np.array_equal(found.constants["c0"], weights)
    limits = found.constants[derived("i0", RANGE)]
    assert limits.tolist() == [image.min(), image.max()] and derived("i0", RANGE) not in found.inputs
    windows = np.lib.stride_tricks.sliding_window_view(
        int8.on_grid(image, int8.grid(limits))[0].astype(np.float64), (3, 3), axis=(1, 2)
    )
    truth = np.einsum("chwij,ocij->ohw", windows, int8.quantised(weights).astype(np.float64), optimize=True)[None]
    assert max_rel_error(found.outputs["t0"], truth) < 1e-5
    assert 1e-3 < max_rel_error(found.outputs["t0"], exact.outputs["t0"]) < 5e-2


def test_inputs_that_kernels_get_rounded_are_rounded(tmp_path: Path) -> None:
    made = graph("Add", {"i0": (1, 4, 2, 2), "i1": (1, 4, 2, 2)}, {}, (1, 4, 2, 2))
    exact = make_reference(made, 0, tmp_path / "exact", to_onnx)
    found = make_reference(made, 0, tmp_path / "narrow", to_onnx, narrow=["i1"])
    assert np.array_equal(found.inputs["i0"], exact.inputs["i0"])
    assert np.array_equal(found.inputs["i1"], rounded(exact.inputs["i1"]))
    assert np.array_equal(found.outputs["t0"], found.inputs["i0"] + found.inputs["i1"])
    assert len({reference_name("h", p, n) for p in ("fp32", "bf16") for n in ((), ("i0",), ("i0", "i1"))}) == 6
    assert reference_name("h", "fp32", ["i1", "i0"]) == reference_name("h", "fp32", ["i0", "i1"])


def test_of_rounded_outputs_only_what_rounding_does_not_explain_is_an_error() -> None:
    truth = np.random.default_rng(0).standard_normal(10_000).astype(np.float32)
    assert max_rel_error(rounded(truth), truth) > 1e-3 and unrounded_error(rounded(truth), truth) == 0.0
    scale = np.abs(truth).max()
    for off in (1e-3, -1e-3):
        assert 3e-4 < unrounded_error(rounded(truth + np.float32(off * scale)), truth) < 1.1e-3
    assert unrounded_error(np.zeros(3, np.float32), np.array([0, 2, 1], np.float32)) > 0.99
    assert unrounded_error(np.array([np.nan, 1], np.float32), np.ones(2, np.float32)) == np.inf


def test_large_weights_do_not_repeat_row_by_row(tmp_path: Path) -> None:
    made = graph("MatMul", {"i0": (1, 2048)}, {"c0": Constant("c0", (2048, 2048))}, (1, 2048))
    weight = make_reference(made, 0, tmp_path / "r", to_onnx).constants["c0"]
    assert len(np.unique(weight[:, 0])) > 1900
    assert abs(weight.std() * math.sqrt(2048) - 1) < 0.01


def test_literals_keep_their_value(tmp_path: Path) -> None:
    made = graph("Reshape", {"i0": (2, 3)}, {"c0": Constant("c0", (2,), "int64", value=(3, 2))}, (3, 2))
    found = make_reference(made, 0, tmp_path / "r", to_onnx)
    assert found.constants["c0"].tolist() == [3, 2]
    assert np.array_equal(found.outputs["t0"], found.inputs["i0"].reshape(3, 2))


def test_variances_and_divisors_stay_away_from_zero(tmp_path: Path) -> None:
    norms = {f"c{k}": Constant(f"c{k}", (4,)) for k in range(4)}
    made = graph("BatchNormalization", {"i0": (1, 4, 2, 2)}, norms, (1, 4, 2, 2))
    norm = make_reference(made, 0, tmp_path / "n", to_onnx)
    assert (norm.constants["c3"] >= 0.5).all()
    divide = make_reference(graph("Div", {"i0": (100,), "i1": (100,)}, {}, (100,)), 0, tmp_path / "d", to_onnx)
    assert (divide.inputs["i1"] >= 0.5).all() and (divide.inputs["i0"] < 0).any()


def test_what_onnx_runtime_refuses_is_the_candidates_failure_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(CandidateError) as raised:
        make_reference(graph("NoSuchOperator", {"i0": (1,)}, {}, (1,)), 0, tmp_path / "r", to_onnx)
    assert raised.value.code == "no-reference"
    assert list(tmp_path.iterdir()) == []


def test_the_references_used_longest_ago_go_first(tmp_path: Path) -> None:
    for age, name in enumerate(["new", "kept", "old", "oldest"]):
        (tmp_path / name).mkdir()
        (tmp_path / name / "given.bin").write_bytes(bytes(100))
        os.utime(tmp_path / name, (1000 - age, 1000 - age))
    assert evict(tmp_path, 250, {"kept", "oldest"}) == ["old", "new"]
    assert evict(tmp_path, 250, set()) == []


@pytest.mark.parametrize(
    ("got", "truth", "error"),
    [
        ([1.0, 2.0], [1.0, 4.0], 0.5),
        ([0.5], [0.0], 0.5),
        ([1.0, math.nan], [1.0, 2.0], math.inf),
        ([1.0, 2.0], [1.0, math.nan], math.inf),
        ([3.0, math.nan], [2.0, math.nan], 0.5),
        ([3.0, math.inf], [2.0, math.inf], 0.5),
        ([3.0, -math.inf], [2.0, math.inf], math.inf),
        ([math.inf], [1.0], math.inf),
        ([], [], 0.0),
    ],
)
def test_the_relative_error(got: list[float], truth: list[float], error: float) -> None:
    assert max_rel_error(np.array(got, np.float32), np.array(truth, np.float32)) == error


def test_integers_and_booleans_are_compared_as_numbers() -> None:
    assert max_rel_error(np.array([3, 255], np.uint8), np.array([4, 0], np.uint8)) == 255 / 4
    assert max_rel_error(np.array([True]), np.array([False])) == 1.0
