"""Is the tuned model right? Its outputs against a reference's, a final softmax looked through."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tuner.graph.ir import Graph


@dataclass(frozen=True)
class Verification:
    """``max_rel_error`` is max|y - ref| / max|ref|, worst output and worst input set; NaN where one has NaNs alone."""

    inputs: int  # how many input sets were tried
    max_abs_error: float
    max_rel_error: float
    limit: float
    top1: tuple[int, int] | None = None  # rows whose largest number is the reference's, of so many; see ``_classes``

    @property
    def passed(self) -> bool:
        return bool(self.max_rel_error <= self.limit)  # False for NaN

    def to_json(self) -> dict[str, Any]:
        return {
            "inputs": self.inputs,
            "max_abs_error": self.max_abs_error,
            "max_rel_error": self.max_rel_error,
            "limit": self.limit,
            "passed": self.passed,
            "top1": None if self.top1 is None else {"agree": self.top1[0], "of": self.top1[1]},
        }


def softmax_outputs(graph: Graph) -> dict[str, int]:
    """Outputs that come straight from a Softmax -> its axis. Before opset 13 that axis starts a flattened row."""
    found = {}
    for name in graph.outputs:
        layer = graph.producer.get(name)
        if layer is not None and layer.op == "Softmax":
            found[name] = layer.attr("axis", 1 if graph.opset < 13 else -1)
    return found


def compare(
    got: Sequence[Mapping[str, np.ndarray]],
    reference: Sequence[Mapping[str, np.ndarray]],
    softmax: Mapping[str, int],
    limit: float,
) -> Verification:
    """Compare outputs of several input sets, each a mapping from output name to array."""
    worst = [(0.0, 0.0)]
    for ours, theirs in zip(got, reference, strict=True):
        worst += [_errors(ours[name], theirs[name], softmax.get(name)) for name in theirs]
    return Verification(
        len(got), _worst(a for a, _ in worst), _worst(r for _, r in worst), limit, _top1(got, reference)
    )


def _top1(
    got: Sequence[Mapping[str, np.ndarray]], reference: Sequence[Mapping[str, np.ndarray]]
) -> tuple[int, int] | None:  # fmt: skip
    """(rows that agree, rows) of a classifier: a model with one output, of a score per class for each row."""
    agree = rows = 0
    for ours, theirs in zip(got, reference, strict=True):
        pair = [_classes(arrays) for arrays in (ours, theirs)]
        if pair[0] is None or pair[1] is None or pair[0].shape != pair[1].shape:
            return None
        agree += int(np.sum(pair[0].argmax(1) == pair[1].argmax(1)))
        rows += len(pair[0])
    return (agree, rows) if rows else None


def _classes(outputs: Mapping[str, np.ndarray]) -> np.ndarray | None:
    """``[rows, classes]`` of a model's outputs; None if they are not scores of classes."""
    if len(outputs) != 1:
        return None
    (scores,) = outputs.values()
    shape = scores.shape
    if not np.issubdtype(scores.dtype, np.floating) or len(shape) < 2 or shape[1] < 2 or any(d != 1 for d in shape[2:]):
        return None
    return scores.reshape(shape[0], shape[1])


def _errors(ours: np.ndarray, theirs: np.ndarray, axis: int | None) -> tuple[float, float]:
    """(largest absolute error, the same over the largest reference value)."""
    if ours.shape != theirs.shape:
        return float("inf"), float("inf")
    if not np.issubdtype(theirs.dtype, np.floating):
        differs = not np.array_equal(ours, theirs)
        return float(differs), float(differs)
    a, b = ours.astype(np.float64), theirs.astype(np.float64)
    if axis is not None:
        a, b = _logits(a, axis), _logits(b, axis)
    both = np.isnan(a) & np.isnan(b) | (a == b)
    difference = np.where(both, 0.0, np.abs(np.where(both, 0.0, a) - np.where(both, 0.0, b)))
    scale = float(np.max(np.abs(b[np.isfinite(b)]), initial=0.0))
    error = float(np.max(difference, initial=0.0))
    return error, error / scale if scale else (0.0 if error == 0.0 else float("inf"))


def _logits(probabilities: np.ndarray, axis: int) -> np.ndarray:
    """What went into a softmax, up to a constant per row: errors cannot hide in its saturation."""
    logs = np.log(np.maximum(probabilities, 1e-30))
    return logs - logs.mean(axis=axis, keepdims=True)


def _worst(values: Iterable[float]) -> float:
    numbers = list(values)
    return float("nan") if any(np.isnan(v) for v in numbers) else max(numbers)
