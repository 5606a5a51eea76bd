"""Bundles and artifacts for a GPU, measured on a machine of a cluster that has it; ``served`` is the other side."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tuner.errors import CandidateError, DeviceError
from tuner.measure.cluster.conversation import Conversation
from tuner.measure.contest import Contestant

AT_ONCE = 8  # candidates asked for at once: what a machine that goes away takes with it, and how often one hears of it


class ClusterGpu:
    """Does for ``tuner.gpu.rounds`` what this machine would do if the GPU were here. For one thread."""

    def __init__(self, conversation: Conversation) -> None:
        self._conversation = conversation

    def measure(
        self, bundle: Path, *, say: Callable[[str], None] = lambda _: None, until: float = float("inf")
    ) -> dict[str, Any]:  # fmt: skip
        """As ``tuner.gpu.bundle_run.measure``. Raises DeviceError: ``not-measurable``, ``device-lost``."""
        from tuner.gpu.bundle_run import read_bundle

        keys = [each["key"] for each in read_bundle(bundle)["candidates"]]
        found: dict[str, Any] = {}
        for start in range(0, max(len(keys), 1), AT_ONCE):  # of an empty one, too, what the device is
            seconds = until - time.monotonic()
            if found and seconds <= 0:
                break
            wanted = {"keys": keys[start : start + AT_ONCE], "seconds": min(max(seconds, 0.0), 1e9)}
            answer = self._ask("bundle", bundle, **wanted)["results"]
            found = answer | {"results": [*found.get("results", ()), *answer["results"]]}
            say(f"{len(found['results'])} of {len(keys)}")
        return found

    def time(self, folder: Path) -> dict[str, Any]:
        """As ``tuner.gpu.timing.time_artifact``. Raises DeviceError: ``not-measurable``, ``device-lost``."""
        timed: dict[str, Any] = self._ask("timed", folder)["timed"]
        return timed

    def _ask(self, what: str, folder: Path, **more: Any) -> dict[str, Any]:
        described = Conversation.describe(Contestant(what, "artifact", folder))
        try:
            return self._conversation.ask({"what": what, "contestants": [described], **more})[0]
        except CandidateError as error:
            raise DeviceError(error.message, code="not-measurable", hint=error.hint) from error
