"""The section of RESULTS.md about GPUs: a line for each model, batch and precision, measured or not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bench.gpu.contest import CONTENDERS
from bench.gpu.kit import Setting
from bench.peers.rows import geometric_mean, line, number

SECTION = "gpu"
Row = Mapping[str, Any]
_COLUMNS = (
    "model", "batch", "precision", "GPU", *(f"{name} ms" for name in CONTENDERS), "x over tvm", "x over torch-compile",
    "x over sequential", "error",
)  # fmt: skip


def section(settings: Sequence[Setting], rows: Sequence[Row]) -> str:
    """The markdown. ``rows``: the last of each setting and GPU; settings without any are marked."""
    lines = [
        "## On NVIDIA GPUs",
        "",
        _circumstances(rows),
        "",
        "Milliseconds of one inference, launched and waited for, inputs on the GPU: medians over rounds of turns. "
        "*tuned* = the fastest measured kernel of each task, branches on disjoint SMs where that pays, as a CUDA "
        "graph; *sequential* = the same kernels one after the other, also as a CUDA graph; *tvm* = TVM's default "
        "schedules (dlight) in its virtual machine, in the same precision and layout; *torch* = PyTorch eager, "
        "*torch-channels-last* with cuDNN's benchmark mode, *torch-compile* = max-autotune. *x* = its latency over "
        "ours: above 1 we are faster. *error* = max|y - ref| / max|ref| of ours against PyTorch, or against *tvm* "
        "where the model's weights were too large to travel and were drawn instead.",
        "",
        line(_COLUMNS),
        line([":--", "--:", ":--", ":--", *["--:"] * (len(_COLUMNS) - 4)]),
    ]
    for setting in settings:
        found = [row for row in rows if _is(row, setting)]
        lines += [line(_cells(setting, row)) for row in found] or [line(_cells(setting, None))]
    lines += _means(rows)
    if problems := _problems(rows):
        lines += ["", "What has no time, and why:", "", *problems]
    return "\n".join(lines)


def milliseconds(row: Row, name: str) -> float | None:
    """Median of a contender."""
    found = next((e["median_ms"] for e in row["contenders"] if e["name"] == name), None)
    return None if found is None else float(found)


def ratio(row: Row, name: str) -> float | None:
    """A contender's latency over ours."""
    ours, theirs = milliseconds(row, "tuned"), milliseconds(row, name)
    return theirs / ours if ours and theirs else None


def _is(row: Row, setting: Setting) -> bool:
    return (row["model"], row["batch"], row["precision"]) == (setting.model, setting.batch, setting.precision)


def _circumstances(rows: Sequence[Row]) -> str:
    command = "`python -m bench.gpu MODEL --batch B --precision P` (docs/gpu.md says how), then `--render`"
    if not rows:
        return f"{command}. Nothing has been measured yet: no GPU was at hand."
    dates = sorted({row["date"] for row in rows})
    gpus = sorted({f"{r['gpu']['model']} ({r['gpu']['sms']} SMs, driver {r['gpu']['driver']})" for r in rows})
    return f"{command}; {dates[0] if len(dates) == 1 else f'{dates[0]} to {dates[-1]}'}, on {' and on '.join(gpus)}."


def _cells(setting: Setting, row: Row | None) -> list[str]:
    name = [setting.model, str(setting.batch), setting.precision]
    if row is None:
        return [f"{name[0]} (not measured)", *name[1:], *["–"] * (len(_COLUMNS) - 3)]
    error = next((e["error"] for e in row["contenders"] if e["name"] == "tuned"), None)
    return [
        *name, row["gpu"]["model"], *(number(milliseconds(row, c), 3) for c in CONTENDERS),
        *(number(ratio(row, c)) for c in ("tvm", "torch-compile", "sequential")),
        "–" if error is None else f"{error:.0e}",
    ]  # fmt: skip


def _means(rows: Sequence[Row]) -> list[str]:
    """Geometric means of each batch and precision."""
    found = []
    for batch, precision in sorted({(row["batch"], row["precision"]) for row in rows}):
        some = [row for row in rows if (row["batch"], row["precision"]) == (batch, precision)]
        parts = []
        for name in CONTENDERS[1:]:
            ratios = [value for row in some if (value := ratio(row, name)) is not None]
            if ratios:
                parts.append(f"{geometric_mean(ratios):.2f} over {name} ({len(ratios)} models)")
        if parts:
            found += ["", f"Geometric means, batch {batch}, {precision}: {', '.join(parts)}."]
    return found


def _problems(rows: Sequence[Row]) -> list[str]:
    return [
        f"- {row['model']}, batch {row['batch']}, {row['precision']}: {each['name']}: {each['failure']}"
        for row in rows for each in row["contenders"] if each["failure"]
    ]  # fmt: skip
