"""``python -m bench.gpu.child CONFIG``: one contender in a process of its own, which answers JSON lines.

First {"ready": ...} or {"failed": why}; then, for {"time": seconds}, {"samples": [seconds of one inference, ...]} and,
for {"outputs": FILE.npz}, what it computes of the inputs of the contest.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np

from bench.gpu.contest import OURS

WARM = 10  # runs before anything is timed
MOST_SAMPLES = 5000  # of one turn
_WORDS = 300  # letters of a failure


class Model(Protocol):
    """A model on the GPU with its inputs."""

    note: Mapping[str, Any]  # how it runs: what a reader of the row should know

    def run(self) -> None:
        """One inference, waited for."""

    def outputs(self) -> dict[str, np.ndarray]:
        """Of the last run."""


def main() -> int:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print must not get between the answers

    def answer(value: Mapping[str, Any]) -> None:
        print(json.dumps(value), file=answers, flush=True)

    try:
        config = json.loads(sys.argv[1])
        model = open_model(config)
        for _ in range(WARM):
            model.run()
    except Exception as error:  # whatever a library raises is why it has no time
        answer({"failed": said(error)})
        return 0
    answer({"ready": dict(model.note)})
    for line in sys.stdin:
        asked = json.loads(line)
        try:
            if "outputs" in asked:
                outputs: dict[str, Any] = model.outputs()
                np.savez(asked["outputs"], **outputs)
                answer({"saved": asked["outputs"]})
            else:
                answer({"samples": timed(model, asked["time"])})
        except Exception as error:
            answer({"failed": said(error)})
            return 0
    return 0


def open_model(config: Mapping[str, Any]) -> Model:
    """The contender that the config names, on the GPU."""
    if config["contender"] in OURS:
        from bench.gpu.ours import open_ours

        return open_ours(config)
    if config["model"] is None:
        raise RuntimeError(config["no_model"])
    if config["contender"] == "tensorrt":
        from bench.gpu.trt import open_tensorrt

        return open_tensorrt(config)
    from bench.gpu.torch_side import open_torch

    return open_torch(config)


def timed(model: Model, seconds: float) -> list[float]:
    """Seconds of single inferences, for about so long; the first, which finds the GPU idle, is left out."""
    model.run()
    samples: list[float] = []
    end = time.perf_counter() + seconds
    while len(samples) < 3 or (time.perf_counter() < end and len(samples) < MOST_SAMPLES):
        began = time.perf_counter()
        model.run()
        samples.append(time.perf_counter() - began)
    return samples


def said(error: BaseException) -> str:
    """An error in one line."""
    if isinstance(error, ModuleNotFoundError):
        return f"{error.name} is not installed here"
    text = " ".join(str(error).split()) or type(error).__name__
    return f"{type(error).__name__}: {text}"[:_WORDS]


if __name__ == "__main__":
    code = main()
    sys.stderr.flush()
    os._exit(code)  # libraries that take seconds to end, or crash when they do, have nothing left to say
