"""unroll-recurrence: layers become the layers of their steps, and results stay."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from graph_models import check, model, node, ops, rand

from tuner.graph.passes import recurrent

PASS = "unroll-recurrence"
STEPS, BATCH, WIDTH, HIDDEN = 5, 2, 6, 4
X = {"x": [STEPS, BATCH, WIDTH]}
GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}


def weights(op: str, ways: int = 1) -> dict[str, Any]:
    wide = GATES[op] * HIDDEN
    return {
        "w": rand(ways, wide, WIDTH), "r": rand(ways, wide, HIDDEN, seed=1), "b": rand(ways, 2 * wide, seed=2),
        "h": rand(ways, BATCH, HIDDEN, seed=3), "c": rand(ways, BATCH, HIDDEN, seed=4),
        "lengths": np.full(BATCH, STEPS, np.int32), "short": np.full(BATCH, STEPS - 1, np.int32),
        "p": rand(ways, 3 * HIDDEN, seed=5),
    }  # fmt: skip


def layer(op: str, *optional: str, outputs: tuple[str, ...] = ("y", "last"), **attrs: Any) -> Any:
    return node(op, ["x", "w", "r", *optional], list(outputs), hidden_size=HIDDEN, **attrs)


def unrolled(made: Any, ways: int = 1, inputs: dict[str, Any] = X, *passes: str) -> Any:
    constants = {n: v for n, v in weights(made.op_type, ways).items() if n in made.input and n not in inputs}
    return check(model([made], inputs, [name for name in made.output if name], constants), PASS, *passes)


@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize(
    ("op", "attrs"), [("LSTM", {}), ("GRU", {}), ("GRU", {"linear_before_reset": 1}), ("RNN", {})], ids=str
)
def test_a_layer(op: str, attrs: dict[str, Any], direction: str) -> None:
    ways = 2 if direction == "bidirectional" else 1
    memory = ("c", "memory") if op == "LSTM" else ()
    for optional in ((), ("b", "lengths", "h", *memory[:1])):
        made = layer(op, *optional, outputs=("y", "last", *memory[1:]), direction=direction, **attrs)
        found = ops(unrolled(made, ways))
        assert op not in found and found["Slice"] >= STEPS * ways
        products = found.get("Gemm", 0) + found.get("MatMul", 0)
        assert products == ways * (1 + STEPS * (2 if op == "GRU" and not attrs else 1))


def test_states_may_be_computed_and_results_left_out() -> None:
    made = layer("LSTM", "b", "", "h", "c", outputs=("", "", "memory"))
    found = unrolled(made, 1, {**X, "h": [1, BATCH, HIDDEN], "c": [1, BATCH, HIDDEN]}, "eliminate-dead")
    assert found.outputs == ("memory",) and "LSTM" not in ops(found)


def test_activations_are_those_that_are_named() -> None:
    named = ["relu", "Tanh", "Softsign", "Sigmoid", "Relu", "Tanh"]
    found = ops(unrolled(layer("LSTM", direction="bidirectional", activations=named), 2))
    assert (found["Relu"], found["Sigmoid"], found["Softsign"]) == (3 * STEPS + STEPS, 3 * STEPS, STEPS)


@pytest.mark.parametrize(
    "made",
    [
        layer("GRU", "b", "short"),
        layer("LSTM", clip=0.5),
        layer("LSTM", "b", "", "", "", "p"),
        layer("RNN", activations=["Affine"], activation_alpha=[1.0], activation_beta=[0.5]),
    ],
    ids=["a shorter sequence", "clipped", "peepholes", "an activation with numbers"],
)
def test_other_layers_stay(made: Any) -> None:
    assert ops(unrolled(made)) == {made.op_type: 1}


def test_long_sequences_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recurrent, "MOST_STEPS", STEPS - 1)
    assert ops(unrolled(layer("RNN"))) == {"RNN": 1}


def test_a_step_from_nothing_is_folded_and_views_are_all_that_is_left_besides() -> None:
    proto = model([layer("LSTM", "b", outputs=("y",))], {"x": [STEPS, 1, WIDTH]}, ["y"],
                  {n: v for n, v in weights("LSTM").items() if n in "wrb"})  # fmt: skip
    found = ops(check(proto, all_passes=True))
    assert found.get("MatMul", 0) + found.get("Gemm", 0) == STEPS, "one for all inputs, none for the first state"
