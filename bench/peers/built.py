"""What a row's tunings made, kept in a folder: who measures the row again, in a calmer moment, tunes nothing anew."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.peers import models
from bench.tuning import summary, tune
from tuner.errors import FusetuneError
from tuner.versions import ENGINE

_MADE = "made.json"  # in an artifact's folder of tunings: how it was made


@dataclass(frozen=True)
class Built:
    """Of one model: folders and summaries of its tunings by name, and what went wrong."""

    artifacts: Mapping[str, Path]
    tunings: Mapping[str, dict[str, Any]]
    problems: Sequence[str]


def write_model(model: str, folder: Path) -> Path:
    """The model's file in ``folder``, which is made; one that is there is taken, for its weights are seeded."""
    path = folder / f"{model}.onnx"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        unfinished = folder / "unfinished.onnx"
        models.write(model, unfinished)
        unfinished.rename(path)
    return path


def build(path: Path, wanted: Mapping[str, Sequence[str]], seconds: float) -> Built:
    """Tune the model at ``path`` once per name, with the name's options and a database of its own, beside it.

    What was made there by the same options and versions of the tuner is taken as it is; a tuning that failed is not
    kept.
    """
    artifacts, tunings, problems = {}, {}, []
    for name, options in wanted.items():
        folder = path.parent / name
        how = {"options": list(options), "engine": ENGINE}
        try:
            tunings[name] = _made(folder, how) or _make(path, folder, how, options, seconds)
            artifacts[name] = folder / "artifact"
        except FusetuneError as error:
            problems.append(f"{name}: {error.message}")
    return Built(artifacts, tunings, problems)


def _made(folder: Path, how: Mapping[str, Any]) -> dict[str, Any] | None:
    made = folder / _MADE
    found: dict[str, Any] = json.loads(made.read_text()) if made.exists() else {}
    return found["tuning"] if found.get("how") == how else None


def _make(
    path: Path, folder: Path, how: Mapping[str, Any], options: Sequence[str], seconds: float
) -> dict[str, Any]:  # fmt: skip
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    tuning = summary(tune(path, folder / "artifact", folder / "records.db", options, seconds))
    unfinished = folder / f"{_MADE}.unfinished"
    unfinished.write_text(json.dumps({"how": how, "tuning": tuning}))
    unfinished.rename(folder / _MADE)
    return tuning
