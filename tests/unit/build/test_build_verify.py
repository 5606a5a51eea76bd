"""Verification: errors are relative to the largest value, a final softmax hides nothing, and NaN never passes."""

from __future__ import annotations

import json

import numpy as np
import pytest

from tuner.build.verify import Verification, compare, softmax_outputs
from tuner.graph.ir import Graph, Layer, Tensor

LIMIT = 1e-4


def one(ours: object, theirs: object, softmax: dict[str, int] | None = None) -> Verification:
    return compare([{"y": np.asarray(ours)}], [{"y": np.asarray(theirs)}], softmax or {}, LIMIT)


def softmax(logits: np.ndarray) -> np.ndarray:
    e = np.exp(logits - logits.max(-1, keepdims=True))
    return (e / e.sum(-1, keepdims=True)).astype(np.float32)


def test_equal_outputs_pass_with_no_error() -> None:
    found = one([1.0, -2.0], [1.0, -2.0])
    assert (found.max_abs_error, found.max_rel_error, found.passed, found.inputs) == (0.0, 0.0, True, 1)


def test_error_is_relative_to_the_largest_reference_value() -> None:
    found = one([100.0, 0.005], [100.0, 0.0])
    assert found.max_abs_error == pytest.approx(0.005)
    assert found.max_rel_error == pytest.approx(5e-5)
    assert found.passed
    assert not one([100.0, 0.02], [100.0, 0.0]).passed


def test_the_worst_output_of_the_worst_input_set_counts() -> None:
    good = {"a": np.ones(2), "b": np.ones(2)}
    bad = {"a": np.ones(2), "b": np.array([1.0, 1.5])}
    found = compare([good, bad, good], [good, good, good], {}, LIMIT)
    assert found.inputs == 3
    assert found.max_rel_error == pytest.approx(0.5)


def test_a_wrong_logit_hidden_by_saturation_is_caught() -> None:
    logits = np.array([[30.0, 1.0, -4.0, 2.0]])
    wrong = logits + np.array([[0.0, 3.0, 0.0, 0.0]])
    assert one(softmax(wrong), softmax(logits)).passed  # as plain numbers they differ by next to nothing
    assert not one(softmax(wrong), softmax(logits), {"y": -1}).passed


def test_a_right_softmax_passes_in_float32() -> None:
    logits = np.random.default_rng(0).standard_normal((3, 1000)) * 5
    assert one(softmax(logits + 1e-6), softmax(logits), {"y": -1}).passed


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [([np.nan, 1.0], [1.0, 1.0]), ([1.0, 1.0], [np.nan, 1.0]), ([np.inf, 1.0], [1.0, 1.0]), ([1.0, 1.0], [np.inf, 1.0]),
     ([np.inf, 1.0], [-np.inf, 1.0])],
)  # fmt: skip
def test_what_is_not_finite_on_one_side_only_does_not_pass(ours: list[float], theirs: list[float]) -> None:
    assert not one(ours, theirs).passed


def test_a_nan_in_one_set_is_not_hidden_by_larger_errors_in_another() -> None:
    sets = [{"y": np.array([np.nan])}, {"y": np.array([5.0])}]
    found = compare(sets, [{"y": np.ones(1)}] * 2, {}, LIMIT)
    assert np.isnan(found.max_rel_error)
    assert not found.passed


def test_nan_in_a_softmax_does_not_pass() -> None:
    assert not one([[np.nan, np.nan]], [[0.5, 0.5]], {"y": -1}).passed


def test_the_same_nan_and_infinity_on_both_sides_are_equal() -> None:
    assert one([np.nan, np.inf, 2.0], [np.nan, np.inf, 2.0]).passed


def test_another_shape_does_not_pass() -> None:
    found = one([[1.0, 2.0]], [1.0, 2.0])
    assert found.max_abs_error == float("inf")
    assert not found.passed


def test_integers_must_be_equal() -> None:
    assert one(np.array([1, 2]), np.array([1, 2])).passed
    assert not one(np.array([1, 3]), np.array([1, 2])).passed


def test_zeros_as_reference() -> None:
    assert one([0.0, 0.0], [0.0, 0.0]).passed
    assert not one([0.0, 1e-20], [0.0, 0.0]).passed


def test_empty_outputs_are_equal() -> None:
    assert one(np.zeros((0, 4)), np.zeros((0, 4))).passed


def test_json_has_the_verdict() -> None:
    data = json.loads(json.dumps(one([1.0], [2.0]).to_json()))
    assert data == {
        "inputs": 1,
        "max_abs_error": 1.0,
        "max_rel_error": 0.5,
        "limit": LIMIT,
        "passed": False,
        "top1": None,
    }


def graph(op: str, opset: int, **attrs: int) -> Graph:
    layer = Layer("l", op, ("x",), ("y",), tuple(attrs.items()))
    return Graph(("x",), ("y",), (layer,), {n: Tensor(n, (2, 3)) for n in "xy"}, {}, opset)


@pytest.mark.parametrize(
    ("found", "expected"),
    [(graph("Softmax", 13), {"y": -1}), (graph("Softmax", 11), {"y": 1}), (graph("Softmax", 13, axis=0), {"y": 0}),
     (graph("Sigmoid", 13), {})],
)  # fmt: skip
def test_which_outputs_come_from_a_softmax(found: Graph, expected: dict[str, int]) -> None:
    assert softmax_outputs(found) == expected


def test_top1_counts_rows_whose_largest_class_is_the_same() -> None:
    theirs = np.array([[0.1, 0.9, 0.0], [0.5, 0.2, 0.3], [0.0, 0.1, 0.2]])
    ours = theirs + np.array([[0.0, 0.0, 0.0], [0.0, 0.4, 0.0], [0.0, 0.0, 0.0]])
    assert one(ours, theirs).top1 == (2, 3)
    assert compare([{"y": ours}] * 2, [{"y": theirs}] * 2, {}, LIMIT).top1 == (4, 6)
    assert one(ours[:, :, None, None], theirs[:, :, None, None]).top1 == (2, 3)
    assert one(ours, theirs).to_json()["top1"] == {"agree": 2, "of": 3}


@pytest.mark.parametrize("shape", [(3,), (1, 1), (1, 3, 4), (2, 3, 4, 5)])
def test_a_model_that_scores_no_classes_has_no_top1(shape: tuple[int, ...]) -> None:
    found = one(np.ones(shape), np.ones(shape))
    assert found.top1 is None and found.to_json()["top1"] is None


def test_a_model_with_two_outputs_has_no_top1() -> None:
    both = {"a": np.ones((1, 3)), "b": np.ones((1, 3))}
    assert compare([both], [both], {}, LIMIT).top1 is None
