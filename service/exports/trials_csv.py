"""Trials as CSV: one flat line each. Pure functions; knows no database and no HTTP."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

from tuner.types import Trial

COLUMNS = (
    "id", "time", "workload", "summary", "template", "template_version", "cores", "knobs", "layouts", "precision",
    "residency", "purpose", "seconds", "min_seconds", "samples", "max_rel_error", "predicted_seconds", "failure",
    "message", "build_seconds", "measure_seconds",
)  # fmt: skip
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "|", "%")  # what spreadsheets take for the beginning of a formula


def header() -> bytes:
    """The first line."""
    return _lines([COLUMNS])


def row(number: int, at: datetime, trial: Trial, summary: str) -> list[str]:
    """The cells of one trial. ``at`` is UTC; numbers are written so that they read back exactly; None is empty."""
    c, failure = trial.candidate, trial.failure
    cells = {
        "id": number,
        "time": at.astimezone(UTC).isoformat(timespec="milliseconds"),
        "workload": c.workload_hash,
        "summary": _text(summary),
        "template": _text(c.template),
        "template_version": c.template_version,
        "cores": c.cores,
        "knobs": json.dumps(dict(c.knobs)),
        "layouts": json.dumps(dict(c.layouts)),
        "precision": _text(c.precision),
        "residency": _text(c.residency),
        "purpose": trial.purpose.value,
        "seconds": trial.seconds,
        "min_seconds": min(trial.samples, default=None),
        "samples": len(trial.samples),
        "max_rel_error": trial.max_rel_error,
        "predicted_seconds": trial.predicted,
        "failure": failure and failure.kind.value,
        "message": failure and _text(failure.message),
        "build_seconds": round(trial.build_seconds, 4),
        "measure_seconds": round(trial.measure_seconds, 4),
    }
    return ["" if (cell := cells[name]) is None else str(cell) for name in COLUMNS]


def encode(rows: Iterable[Sequence[str]]) -> bytes:
    """Rows as UTF-8 lines, quoted where needed."""
    return _lines(rows)


def _text(value: str) -> str:
    """A cell that no spreadsheet runs as a formula: an apostrophe goes before it. Control characters are shown.

    A candidate's messages may hold anything, for they come from processes that crashed.
    """
    clean = "".join(c if c.isprintable() or c in "\n\t" else f"\\x{ord(c):02x}" for c in value)
    return f"'{clean}" if clean.lstrip(" \n").startswith(_FORMULA) else clean


def _lines(rows: Iterable[Sequence[str]]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\r\n").writerows(rows)  # line ends as RFC 4180 has them
    return text.getvalue().encode("utf-8", "backslashreplace")
