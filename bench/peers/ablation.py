"""What each part of the tuner is worth: the same tuning without one thing at a time, against the full one in turns.

A model is tuned once to fill a database. From a copy of that each, the full tuner and every variant then tune with the
same budget, so that none has more records or more time than another. What a graph pass is worth is less than what two
tunings differ by: untuned plans tell it, which differ in nothing else. A pass without which the model's graph is the
same makes no difference to that model, and nothing is measured.
"""

from __future__ import annotations

import shutil
import sqlite3
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench.peers.built import write_model
from bench.peers.measure import confined, ratios_over
from bench.peers.sidebyside import bench
from bench.tuning import summary, tune
from tuner.graph.load import import_model
from tuner.graph.passes.registry import NAMES

MODELS = ("squeezenet", "resnet18", "mobilenetv2", "inception_v1")
MODE = "ablation:"


@dataclass(frozen=True)
class Variant:
    """A tuning that does without something."""

    meaning: str  # for the table
    options: tuple[str, ...] = ()  # of ``fusetune tune``; ALL in one stands for the number of threads
    without: tuple[str, ...] = ()  # parts: see bench.peers.without
    graph_pass: str | None = None  # switched off
    searching: bool = True  # False: no budget
    longer: float = 1.0  # times the budget, for one that asks more questions before it has an answer


ALL, UNTUNED = "ALL", ("--trials", "0")
VARIANTS: Mapping[str, Variant] = {
    "nothing": Variant("the full tuning again, with another seed", ("--seed", "2")),
    "winograd": Variant("all convolutions are direct ones", without=("winograd",)),
    "conv2d_pool": Variant("no convolution and its pooling in one kernel", without=("conv2d_pool",)),
    "conv2d_prologue": Variant(
        "elementwise layers in front of a 1x1 convolution by themselves", without=("conv2d_prologue",)
    ),
    "chains": Variant("each convolution in a kernel of its own", without=("conv_chain", "inverted_residual")),
    "joins": Variant("concatenations are copied", without=("joins",)),
    "lanes": Variant("no blocks side by side", without=("lanes",)),
    "fusion": Variant(
        "each layer its own block, on all cores; three times the budget", ("--strategy", "fixed-layers"), longer=3.0
    ),
    "joint": Variant("greedy fusion, kernels searched", ("--strategy", "greedy")),
    "core choice": Variant("every block on all cores", ("--cores", ALL)),
    "search": Variant("greedy fusion, default knobs", UNTUNED, searching=False),
    **{
        f"pass {name}": Variant(
            "graph pass; untuned plans", (*UNTUNED, "--disable-pass", name), graph_pass=name, searching=False
        )
        for name in NAMES
    },
}


def ablation_row(name: str, model: str, threads: int, seconds: float, rounds: int, out: Path) -> dict[str, Any]:
    """Tune without ``name`` and time it beside the full tuning, whose artifact stays in ``out`` for the next variant.

    Raises:
        UserError: the full tuning or the variant's failed.
    """
    variant = VARIANTS[name]
    row: dict[str, Any] = {
        "mode": f"{MODE}{name}", "model": model, "threads": threads, "budget": seconds, "rounds": rounds,
        "date": datetime.now(UTC).date().isoformat(),
    }  # fmt: skip
    folder = out / "ablation" / f"{model}-{threads}-{seconds:g}"
    with confined(threads), tempfile.TemporaryDirectory(prefix="fusetune-bench-") as scratch:
        path = write_model(model, folder)
        if variant.graph_pass is not None and makes_no_difference(path, variant.graph_pass):
            return row | {"same": True, "tuning": None, "bench": None, "ratios": {}, "error": None}
        database, artifact = Path(scratch) / "records.db", Path(scratch) / "artifact"
        if variant.graph_pass is not None:
            whole = {"untuned": _untuned(path, seconds)}
        else:
            whole = {"tuned": _tune_fully(path, seconds)}
            _copy(folder / "records.db", database)
        given = [str(threads) if option == ALL else option for option in variant.options]
        command = (sys.executable, "-m", "bench.peers.without", ",".join(variant.without)) if variant.without else ()
        budget = _budget(variant.longer * seconds, variant.searching)
        report = tune(path, artifact, database, [*budget, *given], variant.longer * seconds, command)
        result = bench(path, {**whole, name: artifact}, [], threads=threads, rounds=rounds)
    return row | {
        "tuning": summary(report), "bench": result.to_json(),
        "ratios": {reference: ratios_over(result, reference) for reference in whole}, "error": None,
    }  # fmt: skip


def makes_no_difference(path: Path, graph_pass: str) -> bool:
    """Whether a model's graph is the same without this pass, weights included."""
    return import_model(path).graph.hash == import_model(path, disabled=(graph_pass,)).graph.hash


def _untuned(path: Path, seconds: float) -> Path:
    """The artifact of the model's default plan, made beside it if it is not there."""
    made, unfinished = path.parent / "untuned", path.parent / "unfinished"
    if not made.exists():
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir()
        budget = [*_budget(seconds, searching=False), *UNTUNED]
        tune(path, unfinished / "untuned", unfinished / "records.db", budget, seconds)
        (unfinished / "untuned").rename(made)
        shutil.rmtree(unfinished)
    return made


def _tune_fully(path: Path, seconds: float) -> Path:
    """Make, beside the model, the records that all begin with, and the full tuning's artifact, if it is not there."""
    folder, unfinished = path.parent, path.parent / "unfinished"
    if (folder / "full").exists():
        return folder / "full"
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir()
    first, records = unfinished / "first.db", unfinished / "records.db"
    tune(path, unfinished / "first", first, ["--seconds", f"{seconds:g}"], seconds)
    _copy(first, records)
    tune(path, unfinished / "full", records, _budget(seconds), seconds)
    (folder / "records.db").unlink(missing_ok=True)
    _copy(first, folder / "records.db")
    (unfinished / "full").rename(folder / "full")
    shutil.rmtree(unfinished)
    return folder / "full"


def _budget(seconds: float, searching: bool = True) -> Sequence[str]:
    """Another seed than that of the first tuning: its answer, which is in the records, would be this one's.

    A variant's own options come behind and win.
    """
    return ["--seed", "1", *(["--seconds", f"{seconds:g}"] if searching else [])]


def _copy(database: Path, to: Path) -> None:
    """Whole, also what is still in its log."""
    with closing(sqlite3.connect(database)) as one, closing(sqlite3.connect(to)) as other:
        one.backup(other)
