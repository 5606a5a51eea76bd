"""The rows of bench.search.sim as markdown tables in bench/RESULTS.md, and as plots in docs/."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from bench.search.plots import bars, multiples
from bench.search.progress import LEVELS
from bench.sections import write_section

DOCS = Path(__file__).parents[2] / "docs"
SECTION = "search:sim"  # of bench/RESULTS.md
PAPER = (3.6, 7.9)  # DLFusion's speed-ups over no optimisation, least and most
SEEDLESS = ("none", "fixed-layers", "fixed-greedy", "fixed-all")  # their plan follows from the space alone: one seed
GOAL = 99.0  # percent of the oracle that joint is to reach

Key = tuple[str, str, int]  # model, strategy, seed
Rows = Mapping[Key, Mapping[str, Any]]
MISSING = "missing"


def of(rows: Rows, model: str, strategy: str, seeds: int) -> list[Mapping[str, Any]]:
    """The rows of one search on one model, by seed."""
    return [rows[key] for key in ((model, strategy, seed) for seed in range(seeds)) if key in rows]


def middle(values: Sequence[float | None]) -> float | None:
    """The median, where None counts as endless; None if that is endless."""
    found = float(median([float("inf") if v is None else v for v in values]))
    return None if found == float("inf") else found


def document(rows: Rows, models: Sequence[str], strategies: Sequence[str], seeds: int) -> str:
    """All tables."""
    return "\n\n".join(
        [
            "## Search on a simulated accelerator",
            "Every time in this section is **simulated**: `sim:mlu100`, whose parameters and their sources stand in "
            "`tuner/simulate/specs/mlu100.json`. `python -m bench.search.sim`, then `--render`.",
            "How to read it: the cost model is told the spec's peak, bandwidth and sizes, as a data sheet would, and "
            "computes halos with the same geometry as the simulator, so it is better informed here than about a real "
            "machine. `joint`'s constants (how alike errors of one block are on other core counts, its optimism, the "
            "order in which it measures) were settled while looking at these models with some of these seeds; nothing "
            "here is a test on models or a machine that it had not seen.",
            spaces(rows, models),
            "Speed-up over `none` (every layer alone on one core), simulated, without noise; median over seeds. "
            f"DLFusion reports {PAPER[0]} to {PAPER[1]} for its five models on the real machine.",
            grid(rows, models, strategies, seeds, lambda found: f"{median([r['speedup'] for r in found]):.2f}"),
            f"Percent of the oracle's speed: median over {seeds} seeds (fewer where *n* says so), and the worst seed. "
            f"{', '.join(SEEDLESS)} measure what cannot change their plan, so one seed is all there is.",
            grid(rows, models, strategies, seeds, _percents),
            f"Measurements until the plan is and stays within {', '.join(map(str, LEVELS))} percent of the oracle's "
            "speed (median over seeds; – = never), calibration not counted; and evaluations measured in all.",
            grid(rows, models, strategies, seeds, _reached),
            "What it costs `joint`: medians over seeds.",
            cost(rows, models, seeds),
            "![percent of the oracle against measurements](../docs/search-progress.svg)\n\n"
            "![speed-up over none](../docs/search-speedup.svg)",
        ]
    )


def spaces(rows: Rows, models: Sequence[str]) -> str:
    lines = ["| model | depth of blocks | evaluations of the oracle | none ms | oracle ms | oracle over none |",
             "|:--|--:|--:|--:|--:|--:|"]  # fmt: skip
    for model in models:
        found = next((row for (name, _, _), row in rows.items() if name == model), None)
        if found is None:
            lines.append(f"| {model} | {MISSING} | | | | |")
            continue
        none, oracle = found["none_seconds"], found["oracle_seconds"]
        depth = "any" if found["depth"] is None else f"at most {found['depth']} layers that are not elementwise"
        lines.append(f"| {model} | {depth} | {found['evaluations']:,} | {none * 1e3:.3f} | {oracle * 1e3:.3f} | "
                     f"{none / oracle:.2f} |")  # fmt: skip
    return "\n".join(lines)


def grid(rows: Rows, models: Sequence[str], strategies: Sequence[str], seeds: int, cell: Any) -> str:
    """A row per strategy, a column per model; the number of seeds beside where not all are there."""
    lines = ["| | " + " | ".join(models) + " |", "|:--|" + "--:|" * len(models)]
    for strategy in strategies:
        cells = []
        for model in models:
            found = of(rows, model, strategy, seeds)
            few = f" <sub>n={len(found)}</sub>" if strategy not in SEEDLESS and len(found) < seeds else ""
            cells.append(cell(found) + few if found else MISSING)
        lines.append(f"| {strategy} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _percents(found: Sequence[Mapping[str, Any]]) -> str:
    shares = [row["percent"] for row in found]
    return f"{median(shares):.1f}" if len(shares) == 1 else f"{median(shares):.1f} ({min(shares):.1f})"


def _reached(found: Sequence[Mapping[str, Any]]) -> str:
    counts = [middle([row["reached"][str(level)] for row in found]) for level in LEVELS]
    shown = " / ".join("–" if c is None else f"{c:.0f}" for c in counts)
    return f"{shown} of {median([row['measured'] for row in found]):.0f}"


def cost(rows: Rows, models: Sequence[str], seeds: int) -> str:
    lines = ["| model | measured | share of the evaluations | calibration, once per device | deciding, CPU s | "
             "slowest round, CPU s | at least 99%, in the median | at least as good as dlfusion |",
             "|:--|--:|--:|--:|--:|--:|:--|:--|"]  # fmt: skip
    for model in models:
        found, other = of(rows, model, "joint", seeds), of(rows, model, "dlfusion", seeds)
        if not found:
            lines.append(f"| {model} | {MISSING} | | | | | | |")
            continue
        mid = {
            k: median([row[k] for row in found]) for k in ("measured", "share", "deciding", "percent", "calibration")
        }
        beaten = MISSING
        if other:  # every seed against the heuristic's best seed
            beaten = _yes(min(row["percent"] for row in found) >= max(row["percent"] for row in other))
        lines.append(
            f"| {model} | {mid['measured']:.0f} | {mid['share']:.2%} | {mid['calibration']:.0f} | "
            f"{mid['deciding']:.1f} | {max(row['slowest_round'] for row in found):.2f} | "
            f"{_yes(mid['percent'] >= GOAL)} | {beaten} |"
        )
    return "\n".join(lines)


def _yes(kept: bool) -> str:
    return "yes" if kept else "**no**"


def render(rows: Rows, models: Sequence[str], strategies: Sequence[str], seeds: int) -> None:
    """Write the tables and the plots from what there is."""
    write_section(SECTION, document(rows, models, strategies, seeds))
    curves = {
        model: {name: [row["curve"] for row in of(rows, model, name, seeds)] for name in strategies}
        for model in models
    }  # fmt: skip
    (DOCS / "search-progress.svg").write_text(multiples(curves))
    speeds = {
        model: {name: median([r["speedup"] for r in found])
                for name in strategies if name != "none" and (found := of(rows, model, name, seeds))}
        for model in models
    }  # fmt: skip
    oracles = {row["model"]: row["none_seconds"] / row["oracle_seconds"] for row in rows.values()}
    for model, ratio in oracles.items():
        if model in speeds:
            speeds[model]["oracle"] = ratio
    (DOCS / "search-speedup.svg").write_text(bars(speeds, PAPER))
