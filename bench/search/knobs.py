"""Measurements needed to come near the best of a recorded knob space: ``python -m bench.search.knobs``.

Every search is asked on every recording with every seed; what it measures is answered from the recording. One JSON line
per (recording, search, seed) goes to OUT/knobs.jsonl as soon as it is known; what has one there, or in the repository,
is not run again (``--anew``: only OUT's count). ``--render`` makes knobs.json and knobs.svg beside this file from the
lines, if there are any, keeps the lines there, and writes the table of what knobs.json has into bench/RESULTS.md; what
is missing is marked.
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

from bench.lines import append, keep, read
from bench.search import pretrained
from bench.search.curves import curves
from bench.search.oracle import LEVELS, Exhausted, Oracle
from bench.search.record import RECORDINGS
from bench.search.searches import SEARCHES
from bench.sections import RESULTS, write_section
from tuner.measure.replay import Recording
from tuner.search.experience import Experience

HERE = Path(__file__).parent
RECORDED = HERE / "knobs.jsonl.gz"  # rows that the table in RESULTS.md is made of
SECTION = "search:knobs"  # of bench/RESULTS.md
LEVEL = 0.95  # of the best, that the table is about
Rows = Mapping[tuple[str, str, int], Mapping[str, Any]]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.search.knobs", description=__doc__)
    parser.add_argument("--seeds", type=int, default=20, help="of every search on every recording")
    parser.add_argument("--searches", default=",".join(SEARCHES), help="comma-separated; default: all")
    parser.add_argument("--recordings", default="", help="comma-separated names; default: all")
    parser.add_argument("--out", type=Path, default=Path("out/search"))
    parser.add_argument("--most", type=int, default=200, help="measurements, after which a run ends; 'never' beyond")
    parser.add_argument("--anew", action="store_true", help="run again what the repository has rows of")
    parser.add_argument("--render", action="store_true", help="run nothing; write the figures, picture and table")
    options = parser.parse_args(arguments)
    spaces = {r.name: r for r in map(Recording.load, sorted(RECORDINGS.glob("*.json.gz")))}
    experience = pretrained.load(next(iter(spaces.values())).device) if pretrained.TRIALS.exists() else None
    names = options.recordings.split(",") if options.recordings else list(spaces)
    lines = options.out / "knobs.jsonl"
    done = ({} if options.anew else recorded(list(spaces.values()))) | read_rows(lines)
    if options.render:
        render(done, list(spaces.values()), options.seeds)
        keep(RECORDED, (done[key] for key in sorted(done)))
        return 0
    options.out.mkdir(parents=True, exist_ok=True)
    for search in options.searches.split(","):
        for name in names:
            for seed in range(options.seeds):
                if (name, search, seed) not in done:
                    append(lines, run_one(spaces[name], search, seed, experience, options.out, options.most))
            print(f"{search} on {name}", file=sys.stderr, flush=True)
    return 0


def run_one(
    recording: Recording, search: str, seed: int, experience: Experience | None, out: Path, most: int | None = None
) -> dict[str, Any]:
    """One search on one recording: measurements to each level (None = never), and the best after each of them."""
    oracle = Oracle(recording, most)
    with suppress(Exhausted):
        SEARCHES[search](oracle, seed, experience, out)
    return {
        "recording": recording.name,
        "search": search,
        "seed": seed,
        "reached": [oracle.reached(level) for level in LEVELS],
        "curve": [round(share, 4) for share in oracle.curve],
    }


def read_rows(lines: Path) -> dict[tuple[str, str, int], dict[str, Any]]:
    """Lines by (recording, search, seed)."""
    return {(row["recording"], row["search"], row["seed"]): row for row in read(lines)}


def recorded(spaces: Sequence[Recording], folder: Path = HERE) -> dict[tuple[str, str, int], dict[str, Any]]:
    """The repository's rows, but those of recordings that were made anew since: the figures beside them tell."""
    facts = json.loads((folder / "knobs.json").read_text())["recordings"]
    same = {r.name for r in spaces if facts.get(r.name) == _facts(r)}
    return {key: row for key, row in read_rows(folder / RECORDED.name).items() if key[0] in same}


def _facts(recording: Recording) -> dict[str, Any]:
    return {"points": len(recording.points), "best_us": round(recording.best * 1e6, 2)}


def render(rows: Rows, spaces: Sequence[Recording], seeds: int, folder: Path = HERE, results: Path = RESULTS) -> None:
    """Write knobs.json and knobs.svg into ``folder`` unless there are no rows, and the table of what is there."""
    file = folder / "knobs.json"
    if rows:
        file.write_text(json.dumps(summary(rows, spaces, seeds), indent=1) + "\n")
        (folder / "knobs.svg").write_text(curves(rows, list(SEARCHES)))
    write_section(SECTION, table(json.loads(file.read_text())), results)


def summary(rows: Rows, spaces: Sequence[Recording], seeds: int) -> dict[str, Any]:
    """Quartiles of the measurements to each level, by search, of each recording and of all together."""
    return {
        "seeds": seeds,
        "levels": LEVELS,
        "recordings": {r.name: _facts(r) for r in spaces},
        "measurements": {s: {r.name: _figures(rows, r.name, s, seeds) for r in spaces} for s in SEARCHES},
        "all": {s: _figures(rows, None, s, seeds) for s in SEARCHES},
    }


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
    """The section of RESULTS.md: a row per search, a column per recording and one for all."""
    recordings, seeds = data["recordings"], data["seeds"]
    best = [f"{name} {facts['points']} points, best {facts['best_us']} us" for name, facts in recordings.items()]
    lines = [
        "## Knobs of one convolution, replayed",
        "",
        "Whole knob spaces, measured point by point on a real CPU (`python -m bench.search.record`), are replayed "
        f"(`python -m bench.search.knobs`, then `--render`): {'; '.join(best)}. Measurements until a point within "
        f"{LEVEL:.0%} of the best speed of the space is known: median and quartiles over {seeds} seeds (fewer where "
        "*n* says so); never = not within the measurements that a run was allowed. Figures over all compare searches "
        "only where they have equally many runs. [knobs.json](search/knobs.json) has other levels too.",
        "",
        "| | " + " | ".join([*recordings, "all"]) + " |",
        "|:--|" + "--:|" * (len(recordings) + 1),
    ]
    for search, by_name in data["measurements"].items():
        cells = [_cell(by_name[name], seeds) for name in recordings]
        cells.append(_cell(data["all"][search], seeds * len(recordings)))
        lines.append(f"| {search} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", "![share of the best speed against measurements](search/knobs.svg)"])


def _cell(figures: Mapping[str, Any], wanted: int) -> str:
    runs, found = figures["runs"], figures[str(LEVEL)]
    if found is None:
        return f"missing <sub>n={runs}</sub>" if runs else "missing"
    low, middle, high = ("never" if c is None else f"{c:g}" for c in found)
    return f"**{middle}** ({low}–{high})" + (f" <sub>n={runs}</sub>" if runs < wanted else "")


if __name__ == "__main__":
    sys.exit(main())
