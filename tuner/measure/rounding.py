"""What computing with bfloat16 costs a model in accuracy, before any kernel is built.

Kernels in bf16 compute in float32 with rounded weights, those in bf16-dot round what they multiply these with as well.
So does ONNX Runtime when it is given rounded weights and a model that rounds in front of its convolutions: the error
that a choice of layers makes is measured with it, in a process of its own, and layers are taken out of the choice,
those with the largest effect first, until the error keeps within the job's limit.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from math import hypot, isfinite
from pathlib import Path
from typing import Any

import numpy as np

from tuner.build.verify import compare, softmax_outputs
from tuner.graph.ir import Graph
from tuner.measure.contest import Contestant, run_once
from tuner.measure.contestants import Engine
from tuner.measure.operands import rounding_operands
from tuner.plan.bf16 import dotted_names, rounded, weight_names, weights_of
from tuner.search.lowering import computation

SHARE = 0.9  # of the limit that rounding may use; the rest is for what float32 itself rounds
TRIES = 5  # choices measured before all weights stay float32
_SAFER = 0.8  # how much smaller the expected error must be at each further try
_CHOICE = "fusetune.rounded"  # the input that says which weights to round, by number
_SWITCH = "fusetune.operands"  # the input of the model that says which layers round what they multiply

Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Rounding:
    """Errors are max|y-ref| / max|ref|, worst output and input set, of ONNX Runtime with rounded weights."""

    allowed: float  # the error that rounding may make
    every: float  # the error with all weights rounded that may be
    error: float  # the error with those rounded that are not ``exact``
    effects: Mapping[str, float]  # layer -> error when its computation's weights alone are rounded; empty if unneeded
    exact: frozenset[str]  # computations (tuner.search.lowering) whose weights stay float32
    kept: tuple[str, ...]  # the layers that compute them

    def to_json(self) -> dict[str, Any]:
        """For the report; an error that is no number is null."""

        def number(error: float) -> float | None:
            return error if isfinite(error) else None

        return {
            "allowed": self.allowed, "error_of_all": number(self.every), "error": number(self.error),
            "effects": {layer: number(effect) for layer, effect in self.effects.items()}, "kept_fp32": list(self.kept),
        }  # fmt: skip


class RoundedModel(Engine):
    """ONNX Runtime on a model some of whose weights are rounded, anew for each set of inputs.

    ``options["weights"]`` names them; an input besides the model's own, ``_CHOICE``, holds numbers in that list. Layers
    whose weights are in ``options["operands"]`` round what they multiply those with, too.
    """

    def load(self, inputs: Arrays) -> None:
        import onnx
        import onnxruntime

        model = onnx.load(str(self.path))
        names = list(self.options["weights"])
        self._operands = list(self.options["operands"])
        if self._operands:
            rounding_operands(model, self._operands, _SWITCH)
        self._weights = {i.name: onnx.numpy_helper.to_array(i) for i in model.graph.initializer if i.name in names}
        others = [i for i in model.graph.initializer if i.name not in names]
        del model.graph.initializer[:]
        model.graph.initializer.extend(others)
        for name in names:
            array = self._weights[name]
            kind = onnx.helper.np_dtype_to_tensor_dtype(array.dtype)
            model.graph.input.append(onnx.helper.make_tensor_value_info(name, kind, array.shape))
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])
        self._names = names
        self._used: tuple[frozenset[str], Arrays] = frozenset(), self._weights  # those rounded, all arrays

    def prepare(self, inputs: Arrays) -> Callable[[], Any]:
        chosen = frozenset(self._names[int(i)] for i in inputs[_CHOICE])
        if chosen != self._used[0]:
            self._used = chosen, {n: rounded(a) if n in chosen else a for n, a in self._weights.items()}
        fed = {n: a for n, a in inputs.items() if n != _CHOICE} | dict(self._used[1])
        if self._operands:
            fed[_SWITCH] = np.asarray([name in chosen for name in self._operands])
        return lambda: self._session.run(None, fed)

    def outputs(self, result: Any) -> dict[str, np.ndarray]:
        return {o.name: a for o, a in zip(self._session.get_outputs(), result, strict=True)}


def choose_layers(
    graph: Graph, weights: Arrays, inputs: Sequence[Arrays], limit: float, threads: int, folder: Path,
    *, operands: bool = False,
) -> Rounding:  # fmt: skip
    """Which layers' weights may be rounded so that the model keeps ``limit``.

    Args:
        graph, weights: the cleaned model.
        inputs: sets of its inputs; effects of single computations are measured on the first.
        limit: on max|y-ref| / max|ref| of the whole model against float32.
        folder: for the model as a file.
        operands: convolutions round what they multiply with their weights, too.

    Raises CandidateError (``contestant-failed``) when ONNX Runtime cannot run the model.
    """
    groups: dict[str, list[str]] = {}  # computation -> layers
    for layer in graph.layers:
        if weights_of(graph, layer) is not None:
            groups.setdefault(computation(graph, layer), []).append(layer.id)
    allowed = SHARE * limit
    if not groups:
        return Rounding(allowed, 0.0, 0.0, {}, frozenset(), ())
    with _Runs(graph, weights, groups, threads, folder, dotted_names(graph) if operands else []) as runs:
        return _chosen(runs, inputs, allowed)


def _chosen(runs: _Runs, inputs: Sequence[Arrays], allowed: float) -> Rounding:
    groups = runs.groups
    (every,) = runs.errors([groups], inputs)
    if every <= allowed:
        return Rounding(allowed, every, every, {}, frozenset(), ())
    effect = dict(zip(groups, runs.errors([[g] for g in groups], inputs[:1]), strict=True))
    effects = {layer: effect[g] for g, layers in groups.items() for layer in layers}
    rising = sorted(groups, key=lambda g: effect[g] if effect[g] == effect[g] else np.inf)
    error, expected = every, allowed
    taken = list(rising)
    for _ in range(TRIES):
        fitting = _fitting([effect[g] for g in rising], expected)
        taken = rising[: min(fitting, len(taken) - 1)]
        if not taken:
            break
        (error,) = runs.errors([taken], inputs)
        if error <= allowed:
            break
        expected *= _SAFER
    if not taken or not error <= allowed:
        taken, error = [], 0.0
    exact = frozenset(groups) - set(taken)
    return Rounding(allowed, every, error, effects, exact, tuple(i for g in groups if g in exact for i in groups[g]))


def _fitting(effects: Sequence[float], most: float) -> int:
    """How many of these (the smallest first) together make an error of at most ``most``, if they are independent."""
    total = 0.0
    for count, effect in enumerate(effects):
        total = hypot(total, effect)
        if not total <= most:
            return count
    return len(effects)


class _Runs:
    """The model as a file, and errors of choices of computations."""

    def __init__(
        self, graph: Graph, weights: Arrays, groups: Mapping[str, Sequence[str]], threads: int, folder: Path,
        operands: Sequence[str],
    ) -> None:  # fmt: skip
        self.groups = groups
        self._operands = list(operands)
        self._graph, self._weights, self._threads, self._path = graph, weights, threads, folder / "rounding.onnx"
        self._names = weight_names(graph)
        number = {name: i for i, name in enumerate(self._names)}
        self._numbers = {
            g: [number[c.name] for i in layers if (c := weights_of(graph, graph.by_id[i])) is not None]
            for g, layers in groups.items()
        }

    def __enter__(self) -> _Runs:
        from tuner.graph.onnx_io import save_onnx

        save_onnx(self._graph, self._weights, self._path)
        return self

    def __exit__(self, *_: object) -> None:
        for path in self._path.parent.glob(f"{self._path.name}*"):
            path.unlink()

    def errors(self, choices: Sequence[Collection[str]], inputs: Sequence[Arrays]) -> list[float]:
        """The error of each choice of computations, over all sets of inputs."""
        numbers = [sorted({i for g in choice for i in self._numbers[g]}) for choice in ([], *choices)]
        fed = [{**one, _CHOICE: np.asarray(chosen, np.int64)} for chosen in numbers for one in inputs]
        kind = f"{RoundedModel.__module__}:{RoundedModel.__name__}"
        model = Contestant(
            "ONNX Runtime with rounded weights", kind, self._path, {"weights": self._names, "operands": self._operands}
        )
        found = run_once(model, fed, self._threads)
        each = len(inputs)
        sets = [found[at : at + each] for at in range(0, len(found), each)]
        softmax = softmax_outputs(self._graph)
        return [compare(s, sets[0], softmax, 0.0).max_rel_error for s in sets[1:]]
