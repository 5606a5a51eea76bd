"""Lines of bench/first_light.py as a markdown table in bench/RESULTS.md."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.sections import write_section

SECTION = "first light"
_MISSING = "–"
_COLUMNS = (
    "model", "ONNX Runtime ms", "OpenVINO f32 ms", "default ms", "tuned ms", "tuned x over ORT (95%)",
    "default x over ORT", "tuning s", "trials", "trials/s", "error", "again s", "again trials",
)  # fmt: skip


def render(rows: Mapping[str, Mapping[str, Any]], path: Path, models: Sequence[str]) -> None:
    """Write the table into ``path``. ``models`` gives the order; those without a line are marked, not left out."""
    write_section(SECTION, section(rows, models), path)


def section(rows: Mapping[str, Mapping[str, Any]], models: Sequence[str]) -> str:
    """The markdown: circumstances, the table, and what went wrong."""
    order = [*models, *(name for name in rows if name not in models)]
    lines = [*_circumstances(list(rows.values())), ""]
    lines += [_line(_COLUMNS), _line([":--", *["--:"] * (len(_COLUMNS) - 1)])]
    lines += [_line(_cells(name, rows.get(name))) for name in order]
    lines += [
        "",
        "Milliseconds are medians over rounds of interleaved turns, float32, batch 1. x = ONNX Runtime's latency over "
        "ours, pair by pair, with the paired 95% interval: above 1 we are faster. *default* = greedy fusion, no "
        "search; where *trials* is 0, *tuned* is that same plan. trials/s = over the whole run, building and comparing "
        "included. error = max|y - ref| / max|ref| against ONNX Runtime, the final softmax looked through. *again* = "
        "the same tuning a second time, from the records of the first.",
    ]
    if any(disturbed(row) for row in rows.values()):
        lines += ["", "\\* Other processes used the cores in most rounds: measure again on a quiet machine (--retry)."]
    if problems := [f"- {name}: {rows[name]['error']}" for name in order if name in rows and rows[name]["error"]]:
        lines += ["", "What went wrong:", "", *problems]
    return "\n".join(lines)


def _circumstances(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Command, machine and date of every group of rows that share them: figures of two machines never mix unseen."""
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for row in rows:
        if row.get("bench"):
            groups.setdefault((row["command"], _machine(row["bench"])), []).append(row)
    found = []
    for (command, machine), members in groups.items():
        dates = sorted(row["bench"]["date"][:10] for row in members)
        when = dates[0] if dates[0] == dates[-1] else f"{dates[0]} to {dates[-1]}"
        which = "" if len(groups) == 1 else f" ({', '.join(row['model'] for row in members)})"
        found.append(f"`{command}`, {when}, on {machine}.{which}")
    return found or ["Nothing has been measured yet: `python -m bench.first_light`."]


def _machine(bench: Mapping[str, Any]) -> str:
    m = bench["machine"]
    caches = f"L1d {m['l1'] >> 10} KiB, L2 {m['l2'] >> 10} KiB, L3 {m['l3'] >> 20} MiB"
    return (
        f"{m['cpu']}, {m['cores']} cores, {bench['threads']} threads, {caches}, Linux {m['kernel']}, {m['toolchain']}"
    )


def _cells(name: str, row: Mapping[str, Any] | None) -> list[str]:
    if row is None:
        return [f"{name} (not measured)", *[_MISSING] * (len(_COLUMNS) - 1)]
    contestants = {r["name"]: r for r in (row.get("bench") or {}).get("rows", ())}
    times = [_number(contestants.get(n, {}).get("median_ms")) for n in ("onnxruntime", "openvino", "default", "tuned")]
    tuning, again = row.get("tuning") or {}, row.get("again") or {}
    over = contestants.get("onnxruntime", {}).get("ratio") if "tuned" in contestants else None
    default = row.get("default_ratio")
    error = tuning.get("max_rel_error")
    return [
        name + " \\*" * disturbed(row) + " (see below)" * bool(row["error"]),
        *times,
        _MISSING if over is None else f"{over['median']:.2f} ({over['low']:.2f}–{over['high']:.2f})",
        _MISSING if default is None else f"{default['median']:.2f}",
        _number(tuning.get("seconds"), 0),
        _number(tuning.get("measured"), 0),
        _number(tuning.get("trials_per_second"), 1),
        _MISSING if error is None else f"{error:.0e}",
        _number(again.get("seconds"), 0),
        _number(again.get("measured"), 0),
    ]


def disturbed(row: Mapping[str, Any]) -> bool:
    """Whether somebody in this row's contest had foreign load in most rounds."""
    bench = row.get("bench") or {}
    return any(2 * r["disturbed"] > bench["rounds"] for r in bench.get("rows", ()))


def _number(value: float | None, digits: int = 2) -> str:
    return _MISSING if value is None else f"{value:.{digits}f}"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
