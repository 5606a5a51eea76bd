"""Whole models on a cluster's device, as a tuner has them run; ``served`` is the other side of the conversation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from tuner.measure.cluster.arrays import arrays_from_bytes, arrays_to_bytes
from tuner.measure.cluster.conversation import Conversation
from tuner.measure.contest import Contestant, ContestResult, Standing, Turn, TurnOptions
from tuner.measure.models import Inputs, WholeModels
from tuner.types import Failure, FailureKind


class ClusterModels(WholeModels):
    """Has whole models run on any machine of a cluster that has the device. For one thread."""

    def __init__(self, conversation: Conversation) -> None:
        self._conversation = conversation

    def contest(
        self, contestants: Sequence[Contestant], inputs: Inputs, *, threads: int, rounds: int, seconds: float,
        options: TurnOptions, seed: int,
    ) -> ContestResult:  # fmt: skip
        names, blob = arrays_to_bytes([inputs])
        said, _ = self._conversation.ask({
            "what": "contest", "contestants": [Conversation.describe(c) for c in contestants], "inputs": names,
            "threads": threads, "rounds": rounds, "seconds": seconds, "options": asdict(options), "seed": seed,
        }, blob)  # fmt: skip
        standings = (_standing(c, s) for c, s in zip(contestants, said["standings"], strict=True))
        return ContestResult(tuple(standings), said["threads"], said["rounds"])

    def outputs(
        self, contestant: Contestant, inputs: Sequence[Inputs], threads: int
    ) -> list[dict[str, np.ndarray]]:  # fmt: skip
        names, blob = arrays_to_bytes(inputs)
        described = [Conversation.describe(contestant)]
        header = {"what": "outputs", "contestants": described, "inputs": names, "threads": threads}
        said, answer = self._conversation.ask(header, blob)
        return arrays_from_bytes(said["outputs"], answer)

    def profile(self, folder: Path) -> list[tuple[str, float]] | None:
        artifact = Contestant("artifact", "artifact", folder)
        said, _ = self._conversation.ask({"what": "profile", "contestants": [Conversation.describe(artifact)]})
        kernels = said["kernels"]
        return None if kernels is None else [(symbol, seconds) for symbol, seconds in kernels]


def _standing(contestant: Contestant, said: Mapping[str, Any]) -> Standing:
    turns = tuple(Turn(number, tuple(samples), disturbed) for number, samples, disturbed in said["turns"])
    failure = said["failure"] and Failure(FailureKind(said["failure"][0]), *said["failure"][1:])
    return Standing(contestant, turns, {}, said["load_seconds"], said["peak_memory"], failure)
