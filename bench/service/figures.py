"""The figures of the service bench against what was promised, as markdown."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.sections import RESULTS, write_section

SECTION = "service"  # of bench/RESULTS.md
# key -> (what it is, promised, unit); all are to be below.
GOALS = {
    "post_p99_ms": ("`POST /jobs`, p99 at the load, a job running", 50.0, "ms"),
    "get_p99_ms": ("`GET /jobs/{{id}}`, p99 at the load, a job running", 50.0, "ms"),
    "trials_page_ms": ("a page of 100 out of {trials:,} trials, slowest order and place, p99", 100.0, "ms"),
    "job_page_s": ("job page with {page_trials:,} trials interactive in Chromium, median", 1.5, "s"),
    "cancel_s": ("from `:cancel` of the running job until its work is dead", 2.0, "s"),
    "watchers_core": ("200 event watchers on one running job, of a core", 5.0, "%"),
    "server_mb": ("server memory, the most at any time of all this", 200.0, "MB"),
    "overhead_share": (
        "service overhead: share of a job, from submission to end, that neither builds nor measures",
        10.0,
        "%",
    ),
}


def table(figures: Mapping[str, Any]) -> str:
    """The figures that there are, one line each, and how they came about."""
    lines = ["| what | promised | measured |", "|:--|--:|--:|"]
    for key, (what, promised, unit) in GOALS.items():
        if (value := figures.get(key)) is not None:
            mark = "" if value < promised else " (missed)"
            what = what.format(**figures["about"]["counts"])
            lines.append(f"| {what} | < {promised:g} {unit} | {value:.3g} {unit}{mark} |")
    about = figures["about"]
    lines += ["", f"`{about['command']}`, {about['date']}, on {about['machine']}. {about['load']}"]
    if (chart := figures.get("job_page_chart_s")) is not None:
        lines[-1] += f" The job page's chart is a picture at first and answers to the mouse after {chart:.3g} s."
    return "\n".join(lines)


def missed(figures: Mapping[str, Any]) -> list[str]:
    """Keys of the promises that were not kept."""
    return [key for key, (_, promised, _) in GOALS.items() if figures.get(key, 0.0) >= promised]


def render(figures: Mapping[str, Any], path: Path = RESULTS) -> None:
    """Write the table into the results."""
    write_section(SECTION, f"## The service\n\n{table(figures)}", path)
