"""Bytes -> cleaned Work, in this process. Untrusted models go through load.import_model instead."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from tuner.graph.infer import infer
from tuner.graph.open_shapes import Dims
from tuner.graph.parse import parse, to_work
from tuner.graph.passes import pipeline
from tuner.graph.passes.report import PassReport
from tuner.graph.upgrade import upgrade_opset
from tuner.graph.work import Sizes, Work


@dataclass(frozen=True)
class Cleaned:
    """A model after cleaning, and what each pass did."""

    work: Work
    sha256: str  # of the file's bytes
    reports: tuple[PassReport, ...]
    declared: Mapping[str, Dims | None]  # shapes of the inputs as the file has them
    beside: tuple[str, ...]  # files with weights, as the model names them


def clean(
    data: bytes,
    folder: Path | None,
    shapes: Mapping[str, tuple[int, ...]],
    disabled: Collection[str],
    sizes: Sizes,
) -> Cleaned:
    """Parse and clean a model; arguments as in parse() and pipeline.run(). Raises UserError."""
    parsed = parse(data, folder, shapes, sizes)
    del data  # it may be large
    work = to_work(parsed, sizes)
    infer(work)
    layers = len(work.nodes)
    began = time.perf_counter()
    enabled = "upgrade-opset" not in disabled
    if enabled:
        work = upgrade_opset(parsed, work)
    seconds = time.perf_counter() - began
    sha256, declared, beside = parsed.sha256, parsed.declared, parsed.beside
    del parsed
    upgrade = PassReport("upgrade-opset", seconds, layers, len(work.nodes), enabled)
    return Cleaned(work, sha256, (upgrade, *pipeline.run(work, disabled)), declared, beside)
