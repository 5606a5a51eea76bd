"""Measurements needed to come near the best of a recorded knob space: ``python -m bench.search.knobs``.

Every search is asked on every recording with every seed; what it measures is answered from the recording. One JSON line
per (recording, search, seed) goes to OUT/knobs.jsonl as soon as it is known, and an interrupted run goes on where it
was. Lines become knobs.json, knobs.md and knobs.svg beside this file; what is missing there is marked.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from statistics import quantiles
from typing import Any

from bench.search.curves import curves
from bench.search.oracle import LEVELS, Exhausted, Oracle
from bench.search.record import RECORDINGS
from bench.search.searches import SEARCHES
from tuner.measure.replay import Recording

HERE = Path(__file__).parent
Rows = Mapping[tuple[str, str, int], Mapping[str, Any]]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.search.knobs", description=__doc__)
    parser.add_argument("--seeds", type=int, default=20, help="of every search on every recording")
    parser.add_argument("--searches", default=",".join(SEARCHES), help="comma-separated; default: all")
    parser.add_argument("--recordings", default="", help="comma-separated names; default: all")
    parser.add_argument("--out", type=Path, default=Path("out/search"))
    parser.add_argument("--most", type=int, default=200, help="measurements, after which a run ends; 'never' beyond")
    parser.add_argument("--render", action="store_true", help="run nothing; write tables and the picture")
    options = parser.parse_args(arguments)
    spaces = {r.name: r for r in map(Recording.load, sorted(RECORDINGS.glob("*.json.gz")))}
    names = options.recordings.split(",") if options.recordings else list(spaces)
    options.out.mkdir(parents=True, exist_ok=True)
    lines = options.out / "knobs.jsonl"
    if not options.render:
        done = read_rows(lines)
        for search in options.searches.split(","):
            for name in names:
                for seed in range(options.seeds):
                    if (name, search, seed) not in done:
                        row = run_one(spaces[name], search, seed, list(spaces.values()), options.out, options.most)
                        with lines.open("a") as file:
                            file.write(json.dumps(row) + "\n")
                print(f"{search} on {name}", file=sys.stderr, flush=True)
    render(read_rows(lines), list(spaces.values()), options.seeds)
    return 0


def run_one(
    recording: Recording, search: str, seed: int, every: Sequence[Recording], out: Path, most: int | None = None
) -> dict[str, Any]:
    """One search on one recording: measurements to each level (None = never), and the best after each of them."""
    oracle = Oracle(recording, most)
    with suppress(Exhausted):
        SEARCHES[search](oracle, seed, [r for r in every if r.name != recording.name], out)
    return {
        "recording": recording.name,
        "search": search,
        "seed": seed,
        "reached": [oracle.reached(level) for level in LEVELS],
        "curve": [round(share, 4) for share in oracle.curve],
    }


def read_rows(lines: Path) -> dict[tuple[str, str, int], dict[str, Any]]:
    """Lines by (recording, search, seed). A half-written last line, left by a kill, does not count."""
    found = {}
    for line in lines.read_text().splitlines() if lines.exists() else ():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        found[row["recording"], row["search"], row["seed"]] = row
    return found


def render(rows: Rows, spaces: Sequence[Recording], seeds: int, folder: Path = HERE) -> None:
    """Write knobs.json, knobs.md and knobs.svg into ``folder``."""
    data = {
        "seeds": seeds,
        "levels": LEVELS,
        "recordings": {r.name: {"points": len(r.points), "best_us": round(r.best * 1e6, 2)} for r in spaces},
        "measurements": {s: {r.name: _figures(rows, r.name, s, seeds) for r in spaces} for s in SEARCHES},
        "all": {s: _figures(rows, None, s, seeds) for s in SEARCHES},
    }
    (folder / "knobs.json").write_text(json.dumps(data, indent=1) + "\n")
    (folder / "knobs.md").write_text(table(data))
    (folder / "knobs.svg").write_text(curves(rows, list(SEARCHES)))


def _figures(rows: Rows, recording: str | None, search: str, seeds: int) -> dict[str, Any]:
    """Per level [first quartile, median, third quartile]; a run that never came there counts as endless (None)."""
    found = [r for (name, s, seed), r in rows.items() if s == search and seed < seeds and recording in (None, name)]
    figures: dict[str, Any] = {"runs": len(found)}
    for position, level in enumerate(LEVELS):
        counts = [row["reached"][position] for row in found]
        figures[str(level)] = _quartiles([float("inf") if c is None else c for c in counts])
    return figures


def _quartiles(counts: list[float]) -> list[float | None] | None:
    if len(counts) < 2:
        return None
    ordered = sorted(counts)
    if ordered[-1] == float("inf"):  # no interpolation with what has no end
        found = [ordered[(len(ordered) - 1) * k // 4] for k in (1, 2, 3)]
    else:
        found = quantiles(ordered, n=4, method="inclusive")
    return [None if c == float("inf") else c for c in found]


def table(data: Mapping[str, Any]) -> str:
    """Markdown: median (quartiles) of measurements to each level, one block per recording and one over all."""
    head = " | ".join(f"to {level:.0%}" for level in data["levels"])
    lines = [f"Measurements until a point within 90, 95 or 99% of the best speed of the space is known: median and "
             f"quartiles over {data['seeds']} seeds; never = not within the measurements that a run was allowed. "
             "Figures over all recordings compare searches only where they have equally many runs.", ""]  # fmt: skip
    blocks = [("all recordings", data["all"])]
    for name, facts in data["recordings"].items():
        of = {s: by_name[name] for s, by_name in data["measurements"].items()}
        blocks.append((f"{name}: {facts['points']} points, best {facts['best_us']} us", of))
    for title, searches in blocks:
        lines += [f"| {title} | {head} | runs |", "|:--|--:|--:|--:|--:|"]
        for search, figures in searches.items():
            cells = [_cell(figures[str(level)]) for level in data["levels"]]
            lines.append(f"| {search} | {' | '.join(cells)} | {figures['runs'] or 'missing'} |")
        lines.append("")
    return "\n".join(lines)


def _cell(figure: Sequence[float | None] | None) -> str:
    if figure is None:
        return "–"
    low, middle, high = ("never" if c is None else f"{c:g}" for c in figure)
    return f"**{middle}** ({low}–{high})"


if __name__ == "__main__":
    sys.exit(main())
