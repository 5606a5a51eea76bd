"""Arrays that a model is run on when it is timed and verified: the user's, and random ones for what is not given."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from tuner.errors import UserError
from tuner.graph.ir import Graph

RANDOM_SETS = 3  # input sets that a result is verified on, unless the user gave every input


@dataclass(frozen=True)
class Inputs:
    """Input sets of one Graph. Raises UserError (``bad-input``) for a given array that does not fit it."""

    graph: Graph
    given: Mapping[str, np.ndarray]  # by input name
    seed: int = 0

    def __post_init__(self) -> None:
        for name, array in self.given.items():
            if name not in self.graph.inputs:
                raise UserError(
                    f"The model has no input {name!r}.", code="bad-input", hint=f"It has {list(self.graph.inputs)}."
                )
            tensor = self.graph.tensors[name]
            if array.shape != tensor.shape or str(array.dtype) != tensor.dtype:
                raise UserError(
                    f"Input {name!r} is {array.dtype} {list(array.shape)}, the model wants {tensor.dtype} "
                    f"{list(tensor.shape)}.",
                    code="bad-input",
                )

    @property
    def sets(self) -> list[dict[str, np.ndarray]]:
        """Arrays by input name; equal seeds give equal sets."""
        found = []
        for number in range(1 if len(self.given) == len(self.graph.inputs) else RANDOM_SETS):
            random = np.random.default_rng([self.seed, number])
            found.append({n: self.given.get(n, _random(random, self.graph.tensors[n])) for n in self.graph.inputs})
        return found


def _random(random: np.random.Generator, tensor: Any) -> np.ndarray:
    if np.issubdtype(np.dtype(tensor.dtype), np.floating):
        return random.standard_normal(tensor.shape).astype(tensor.dtype)
    if tensor.dtype == "bool":
        return random.integers(0, 2, tensor.shape).astype(bool)
    return random.integers(0, 2, tensor.shape).astype(tensor.dtype)
