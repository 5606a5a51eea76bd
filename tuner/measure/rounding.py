"""What computing with bfloat16, or with 8-bit integers, costs a model in accuracy, before any kernel is built.

Kernels in bf16 compute in float32 with rounded weights, those in bf16-dot round what they multiply these with as well,
and images may lie in memory rounded; kernels in int8 compute what float32 does with weights and images that integers
stand for. So does ONNX Runtime when it is given rounded weights and a model that rounds in
front of its layers: the error that a choice of layers makes is measured with it, in a process of its own, and layers
are taken out of the choice, those with the largest effect first, until the error keeps within the job's limit. What
the limit leaves after that goes to layers that read rounded images.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from math import hypot, isfinite, sqrt
from pathlib import Path
from typing import Any

import numpy as np

from tuner.build.verify import compare, softmax_outputs
from tuner.graph.ir import Graph
from tuner.measure.contest import Contestant, run_once
from tuner.measure.contestants import Engine
from tuner.measure.operands import rounding_operands
from tuner.measure.ranges import session_of
from tuner.plan.bf16 import dotted_layers, rounded, weights_of
from tuner.plan.int8 import grid, quantised, quantised_layers
from tuner.plan.layout import RANGE, derived
from tuner.plan.narrow import image_operands, narrow_tensors
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
    error: float  # the error with those rounded that are not ``exact``, and images stored as said below
    effects: Mapping[str, float]  # layer -> error when its computation's weights alone are rounded; empty if unneeded
    exact: frozenset[str]  # computations (tuner.search.lowering) whose weights stay float32
    kept: tuple[str, ...]  # the layers that compute them
    narrow: frozenset[str] = frozenset()  # images that are stored as bfloat16
    images: int = 0  # of all that layers make

    def to_json(self) -> dict[str, Any]:
        """For the report; an error that is no number is null."""

        def number(error: float) -> float | None:
            return error if isfinite(error) else None

        return {
            "allowed": self.allowed, "error_of_all": number(self.every), "error": number(self.error),
            "effects": {layer: number(effect) for layer, effect in self.effects.items()}, "kept_fp32": list(self.kept),
            "images": self.images, "stored_bf16": len(self.narrow),
        }  # fmt: skip


class RoundedModel(Engine):
    """ONNX Runtime on a model some of whose weights are rounded, anew for each set of inputs.

    ``options["weights"]`` names them; an input besides the model's own, ``_CHOICE``, holds numbers in that list. Layers
    in ``options["operands"]`` (see ``rounding_operands``) round what they read where the input ``_SWITCH`` says so.
    With ``options["grids"]`` all become what integers of 8 bits stand for, else bfloat16.
    """

    def load(self, inputs: Arrays) -> None:
        import onnx

        model = onnx.load(str(self.path))
        names, grids = list(self.options["weights"]), self.options["grids"]
        self._rounded = quantised if grids else rounded
        rounding_operands(model, self.options["operands"], _SWITCH, grids)
        self._weights = {i.name: onnx.numpy_helper.to_array(i) for i in model.graph.initializer if i.name in names}
        others = [i for i in model.graph.initializer if i.name not in names]
        del model.graph.initializer[:]
        model.graph.initializer.extend(others)
        for name in names:
            array = self._weights[name]
            kind = onnx.helper.np_dtype_to_tensor_dtype(array.dtype)
            model.graph.input.append(onnx.helper.make_tensor_value_info(name, kind, array.shape))
        self._session = session_of(model, self.threads)
        self._names = names
        self._used: tuple[frozenset[str], Arrays] = frozenset(), self._weights  # those rounded, all arrays

    def prepare(self, inputs: Arrays) -> Callable[[], Any]:
        chosen = frozenset(self._names[int(i)] for i in inputs[_CHOICE])
        if chosen != self._used[0]:
            self._used = chosen, {n: self._rounded(a) if n in chosen else a for n, a in self._weights.items()}
        fed = {n: a for n, a in inputs.items() if n != _CHOICE} | dict(self._used[1])
        return lambda: self._session.run(None, fed)

    def outputs(self, result: Any) -> dict[str, np.ndarray]:
        return {o.name: a for o, a in zip(self._session.get_outputs(), result, strict=True)}


def choose_layers(
    graph: Graph, weights: Arrays, inputs: Sequence[Arrays], limit: float, threads: int, folder: Path,
    *, operands: bool = False, ranges: Arrays | None = None,
) -> Rounding:  # fmt: skip
    """Which layers' weights may be rounded so that the model keeps ``limit``.

    Args:
        graph, weights: the cleaned model.
        inputs: sets of its inputs; effects of single computations are measured on the first.
        limit: on max|y-ref| / max|ref| of the whole model against float32.
        folder: for the model as a file.
        operands: convolutions round what they multiply with their weights, too, and images may be stored rounded.
        ranges: of images (see ``tuner.measure.ranges``): the model is to compute in int8, and no image is stored so.

    Raises CandidateError (``contestant-failed``) when ONNX Runtime cannot run the model.
    """
    lowering = _bf16(graph, operands=operands) if ranges is None else _int8(graph, ranges)
    if not lowering.layers:
        return Rounding(SHARE * limit, 0.0, 0.0, {}, frozenset(), ())
    with _Runs(graph, weights, threads, folder, lowering) as runs:
        found = _weights(runs, inputs, SHARE * limit)
        return _images(runs, inputs, found) if operands and ranges is None else found


def _weights(runs: _Runs, inputs: Sequence[Arrays], allowed: float) -> Rounding:
    """Which computations round their weights, and what they multiply these with."""
    groups = runs.weighty
    (every,) = runs.errors([(groups, ())], inputs)
    if every <= allowed:
        return Rounding(allowed, every, every, {}, frozenset(), ())
    effect = dict(zip(groups, runs.errors([([g], ()) for g in groups], inputs[:1]), strict=True))
    effects = {layer: effect[g] for g, layers in groups.items() for layer in layers}
    taken, error = _most(effect, 0.0, allowed, lambda some: runs.errors([(some, ())], inputs)[0])
    exact = frozenset(groups) - set(taken)
    return Rounding(allowed, every, error, effects, exact, tuple(i for g in groups if g in exact for i in groups[g]))


def _images(runs: _Runs, inputs: Sequence[Arrays], found: Rounding) -> Rounding:
    """Which images may be stored rounded besides: those that all of their readers may read so."""
    graph, taken = runs.graph, [g for g in runs.weighty if g not in found.exact]
    dotted = {x.id: (0,) for x in dotted_layers(graph) if computation(graph, x) not in found.exact}
    reading = {i: places for i, places in image_operands(graph).items() if i not in dotted}
    groups = grouped(graph, reading)
    chosen, error = list(groups), found.error
    if groups:
        (error,) = runs.errors([(taken, groups)], inputs)
        if not error <= found.allowed:
            effect = dict(zip(groups, runs.errors([((), [g]) for g in groups], inputs[:1]), strict=True))
            chosen, error = _most(
                effect, found.error, found.allowed, lambda some: runs.errors([(taken, some)], inputs)[0]
            )
    rounding = dotted | {i: reading[i] for g in chosen for i in groups[g]}
    images = [n for n, t in graph.tensors.items() if len(t.shape) == 4 and n in graph.producer]
    return replace(found, error=error, narrow=narrow_tensors(graph, rounding), images=len(images))


def _most(
    effect: Mapping[str, float], begun: float, allowed: float, error_of: Callable[[Sequence[str]], float]
) -> tuple[list[str], float]:
    """Computations, those of the smallest effects first, that together with what makes the error ``begun`` may round.

    Returns:
        Them, and the error measured then.
    """
    rising = sorted(effect, key=lambda g: effect[g] if effect[g] == effect[g] else np.inf)
    taken, expected = list(rising), sqrt(max(0.0, allowed**2 - begun**2))
    for _ in range(TRIES):
        fitting = _fitting([effect[g] for g in rising], expected)
        taken = rising[: min(fitting, len(taken) - 1)]
        if not taken:
            break
        error = error_of(taken)
        if error <= allowed:
            return taken, error
        expected *= _SAFER
    return [], begun


def _fitting(effects: Sequence[float], most: float) -> int:
    """How many of these (the smallest first) together make an error of at most ``most``, if they are independent."""
    total = 0.0
    for count, effect in enumerate(effects):
        total = hypot(total, effect)
        if not total <= most:
            return count
    return len(effects)


Choice = tuple[Collection[str], Collection[str]]  # computations that round their weights; others that read rounded


def grouped(graph: Graph, layers: Collection[str]) -> dict[str, list[str]]:
    """Computation -> those of the layers that compute it."""
    found: dict[str, list[str]] = {}
    for layer in graph.layers:
        if layer.id in layers:
            found.setdefault(computation(graph, layer), []).append(layer.id)
    return found


@dataclass(frozen=True)
class _Lowering:
    """What of a model may be rounded, and to what."""

    layers: frozenset[str]  # that round their weights
    dotted: Collection[str]  # those of them that round what they multiply these with, the first operand
    places: Mapping[str, Sequence[int]]  # layer -> operands that it may round
    grids: Mapping[str, Sequence[float]]  # in int8, of operands; else none


def _bf16(graph: Graph, *, operands: bool) -> _Lowering:
    layers = frozenset(x.id for x in graph.layers if weights_of(graph, x) is not None)
    dotted = {x.id: (0,) for x in dotted_layers(graph)} if operands else {}
    return _Lowering(layers, dotted, {**image_operands(graph), **dotted} if operands else {}, {})


def _int8(graph: Graph, ranges: Arrays) -> _Lowering:
    layers = quantised_layers(graph)
    grids = {x.inputs[0]: grid(ranges[derived(x.inputs[0], RANGE)]).tolist() for x in layers}
    found = {x.id: (0,) for x in layers}
    return _Lowering(frozenset(found), found, found, grids)


class _Runs:
    """The model as a file, and errors of choices of computations."""

    def __init__(
        self, graph: Graph, weights: Arrays, threads: int, folder: Path, lowering: _Lowering
    ) -> None:  # fmt: skip
        self.graph, self._weights, self._threads, self._path = graph, weights, threads, folder / "rounding.onnx"
        self.weighty = grouped(graph, lowering.layers)
        names = ((weights_of(graph, x), x.id) for x in graph.layers)
        self._names = list(dict.fromkeys(c.name for c, i in names if c is not None and i in lowering.layers))
        self._lowering, self._dotted, self._places = lowering, lowering.dotted, lowering.places
        self._computation = {i: computation(graph, graph.by_id[i]) for i in self._places}

    def __enter__(self) -> _Runs:
        from tuner.graph.onnx_io import save_onnx

        save_onnx(self.graph, self._weights, self._path)
        return self

    def __exit__(self, *_: object) -> None:
        for path in self._path.parent.glob(f"{self._path.name}*"):
            path.unlink()

    def errors(self, choices: Sequence[Choice], inputs: Sequence[Arrays]) -> list[float]:
        """The error of each choice, over all sets of inputs."""
        switches = [self._switches(choice) for choice in (((), ()), *choices)]
        fed = [{**one, **switch} for switch in switches for one in inputs]
        kind = f"{RoundedModel.__module__}:{RoundedModel.__name__}"
        operands = {self.graph.by_id[i].outputs[0]: list(places) for i, places in self._places.items()}
        options = {"weights": self._names, "operands": operands, "grids": dict(self._lowering.grids)}
        model = Contestant("ONNX Runtime with rounded weights", kind, self._path, options)
        found = run_once(model, fed, self._threads)
        each = len(inputs)
        sets = [found[at : at + each] for at in range(0, len(found), each)]
        softmax = softmax_outputs(self.graph)
        return [compare(s, sets[0], softmax, 0.0).max_rel_error for s in sets[1:]]

    def _switches(self, choice: Choice) -> dict[str, np.ndarray]:
        """The inputs that make the model round so."""
        rounding, reading = choice
        layers = {i for g in rounding for i in self.weighty[g]}
        weights = {c.name for i in layers if (c := weights_of(self.graph, self.graph.by_id[i])) is not None}
        numbers = [k for k, name in enumerate(self._names) if name in weights]
        found = {_CHOICE: np.asarray(numbers, np.int64)}
        if self._places:
            readers = {i for i in self._places if self._computation[i] in reading}
            found[_SWITCH] = np.asarray([i in readers or (i in layers and i in self._dotted) for i in self._places])
        return found
