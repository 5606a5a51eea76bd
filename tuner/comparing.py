"""Whole models of one job: timed in turns, the fastest told, and held against ONNX Runtime."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from tuner.build.verify import Verification, compare, softmax_outputs
from tuner.errors import CandidateError, InternalError
from tuner.graph.load import ImportedModel
from tuner.measure.contest import Contestant, ContestResult, TurnOptions
from tuner.measure.contest_result import fastest
from tuner.measure.models import WholeModels
from tuner.types import JobSpec

LOOK_SECONDS = 2.0  # for timing the default plan and ONNX Runtime before the search
ROUNDS, LOOK_ROUNDS = 10, 5
SLOWEST_ROUNDS = 4  # of the unoptimised plan
OURS = ("tuned", "lanes", "greedy", "default")  # of which one is exported


@dataclass
class Comparing:
    """Has the artifacts below ``scratch`` and ONNX Runtime run by ``models``, on ``cores`` threads.

    ``inputs`` are the sets on which they are verified, and timed on the first of them.
    """

    spec: JobSpec
    path: Path  # the ONNX file
    model: ImportedModel
    inputs: Sequence[Mapping[str, np.ndarray]]
    models: WholeModels
    cores: int
    scratch: Path
    seconds: float = field(default=0.0, init=False)  # spent on timing
    look_seconds: float = field(default=0.0, init=False)  # of these by ``first_look``
    known: dict[str, float] = field(default_factory=dict, init=False)  # median latency by name, of what was timed
    _reference: list[dict[str, np.ndarray]] | None = field(default=None, init=False)  # ONNX Runtime's outputs

    def first_look(self) -> None:
        """Time the default plan and ONNX Runtime shortly, so that a watcher knows early what is to be beaten.

        What the plan found should take as a whole is told from the default plan's time, too.
        """
        entries = [self._artifact("default"), self._onnxruntime]
        options = TurnOptions(turn_seconds=0.12)
        before = self.seconds
        self._contest(entries, LOOK_ROUNDS, LOOK_SECONDS, options)
        self.look_seconds = self.seconds - before

    def compare(self, names: Collection[str], seconds: float) -> ContestResult:
        """Time the artifacts of these names, and ONNX Runtime, for so long."""
        entries = [*map(self._artifact, names), self._onnxruntime]
        return self._contest(entries, ROUNDS, seconds, TurnOptions(turn_seconds=0.12))

    def verify(self, name: str) -> Verification:
        """Compare an artifact's outputs with ONNX Runtime's. Raises InternalError(code="not-verified")."""
        try:
            if self._reference is None:
                self._reference = self.models.outputs(self._onnxruntime, self.inputs, self.cores)
            ours = self.models.outputs(self._artifact(name), self.inputs, self.cores)
        except CandidateError as error:
            raise InternalError(f"The result could not be checked: {error}", code="not-verified") from error
        return compare(ours, self._reference, softmax_outputs(self.model.graph), self.spec.accuracy)

    def _contest(
        self, entries: Sequence[Contestant], rounds: int, seconds: float, options: TurnOptions
    ) -> ContestResult:  # fmt: skip
        began = time.monotonic()
        result = self.models.contest(
            entries, self.inputs[0], threads=self.cores, rounds=rounds, seconds=seconds, options=options,
            seed=self.spec.seed,
        )  # fmt: skip
        self.known |= {s.contestant.name: s.median for s in result.standings if s.median is not None}
        self.seconds += time.monotonic() - began
        return result

    def _artifact(self, name: str) -> Contestant:
        return Contestant(
            name, "artifact", self.scratch / name, {"rounds": SLOWEST_ROUNDS} if name == "unoptimised" else {}
        )  # fmt: skip

    @property
    def _onnxruntime(self) -> Contestant:
        return Contestant("onnxruntime", "onnxruntime", self.path, beside=self.model.beside)


def winner(result: ContestResult, built: Collection[str]) -> str:
    """The fastest of ours as measured whole, in turns; a whole that failed cannot win.

    Raises InternalError(code="no-result") when all did.
    """
    found = fastest(result, [name for name in OURS if name in built])
    if found is None:
        failure = result["default"].failure
        raise InternalError(
            f"The built model does not run: {failure.message if failure else 'it was not timed'}", code="no-result"
        )
    return found
