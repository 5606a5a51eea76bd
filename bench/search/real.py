"""``python -m bench.search.real``: what the strategy joint gains on this machine's CPU, model by model.

Each model is tuned with ``--strategy joint`` from an empty database. That run times the plan found and the greedy plan
it began with, both with their best kernels, in turns as whole models, and the default plan and ONNX Runtime beside
them; and it fixes what it predicts for the plan found before that plan is built as a whole. All models come with the
first seed before some are repeated with others. A row is written at a time to OUT/real.jsonl; what has a row is not
measured again, nor what ``bench.peers`` tuned with the same budget (OUT/peers.jsonl), which is the same job.
``--render`` writes them into RESULTS.md.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench import tuning
from bench.lines import append, read
from bench.sections import write_section
from tuner.errors import UserError
from tuner.graph import zoo

SECTION = "search:real"  # of bench/RESULTS.md
MODELS = ("bvlc_alexnet", "densenet121", "inception_v1", "inception_v2", "resnet50", "shufflenet", "squeezenet",
          "vgg19", "zfnet512")  # fmt: skip
REPEATED = ("squeezenet", "inception_v1")  # with further seeds
CLOSE = 0.1  # error of a prediction that is to be kept

Key = tuple[str, int, float]  # model, seed, seconds of budget
Rows = Mapping[Key, Mapping[str, Any]]


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; gives 1 if a model could not be tuned."""
    parser = argparse.ArgumentParser(prog="python -m bench.search.real", description=__doc__.partition("\n")[0])
    parser.add_argument("--models", default=",".join(MODELS), help="of the zoo, comma-separated")
    parser.add_argument("--repeated", default=",".join(REPEATED), help="those that are measured with every seed")
    parser.add_argument("--seeds", type=int, default=3, help="of the repeated models; the others have one")
    parser.add_argument("--seconds", type=float, default=180.0, help="budget of each job")
    parser.add_argument("--out", type=Path, default=Path("bench_out"))
    parser.add_argument("--retry", action="store_true", help="measure again what failed")
    parser.add_argument("--render", action="store_true", help="measure nothing; write the rows into RESULTS.md")
    options = parser.parse_args(arguments)
    lines = options.out / "real.jsonl"
    keys = list(wanted(options.models.split(","), options.repeated.split(","), options.seeds, options.seconds))
    if options.render:
        write_section(SECTION, table(keys, read_rows(lines)))
        return 0
    for key in keys:
        known = read_rows(lines).get(key)
        if known is None or (options.retry and "error" in known):
            row = measure(*key)
            append(lines, row)
            print(json.dumps(row), flush=True)
    rows = read_rows(lines)
    return int(any("error" in rows[key] for key in keys))


def wanted(models: Sequence[str], repeated: Sequence[str], seeds: int, seconds: float) -> Iterator[Key]:
    """The rows of the bench: every model with seed 0, then the repeated ones seed by seed."""
    for seed in range(seeds):
        for model in models:
            if seed == 0 or model in repeated:
                yield model, seed, seconds


def read_rows(lines: Path) -> dict[Key, dict[str, Any]]:
    """The last row of each key; where there is none, the job of ``bench.peers``, from the file beside it."""
    return tuned_for_peers(lines.with_name("peers.jsonl")) | {
        (row["model"], row["seed"], row["budget"]): row for row in read(lines)
    }


def tuned_for_peers(lines: Path) -> dict[Key, dict[str, Any]]:
    """The same of the tunings that were made to be compared with other libraries: on the most threads, with seed 0."""
    rows = [r for r in read(lines) if r.get("mode") == "peers" and ((r.get("tuning") or {}).get("search"))]
    most = max((r["threads"] for r in rows), default=0)
    return {
        (r["model"], 0, r["budget"]): {"model": r["model"], "seed": 0, "budget": r["budget"], "date": r["date"]}
        | r["tuning"]["search"] | {"source": "bench.peers"}
        for r in rows
        if r["threads"] == most
    }  # fmt: skip


def measure(model: str, seed: int, seconds: float) -> dict[str, Any]:
    """One run; a failed one says why. The seed is the search's: the model's weights are the same for all."""
    today = datetime.now(UTC).date().isoformat()
    row: dict[str, Any] = {"model": model, "seed": seed, "budget": seconds, "date": today}
    with tempfile.TemporaryDirectory(prefix="fusetune-bench-") as folder:
        out = Path(folder)
        path = zoo.write(model, out / f"{model}.onnx")
        options = ["--strategy", "joint", "--seconds", f"{seconds:g}", "--seed", str(seed)]
        try:
            report = tuning.tune(path, out / "out", out / "fusetune.db", options, seconds)
        except UserError as error:
            return row | {"error": error.message}
    return row | tuning.search_figures(report)


def table(keys: Sequence[Key], rows: Rows) -> str:
    """The section of RESULTS.md: a line per key, those without a row marked; and what it adds up to."""
    found = [rows[key] for key in keys if key in rows and "error" not in rows[key]]
    lines = [
        "## Joint on a real CPU",
        "",
        _circumstances(keys, found),
        "",
        "*joint over greedy*: latency of the greedy plan over that of the plan that joint chose, both as whole models "
        "with the best kernels found in the same run, paired in turns: above 1 joint's is faster. *no pair*: the two "
        "were not both timed, because they are the same plan, or one is the default plan, or one was not exact enough. "
        "*predicted*: milliseconds of the chosen plan as a whole, fixed before it was built or timed as a whole: the "
        "sum of its blocks' times, times what the default plan, timed before the search, takes as a whole over the sum "
        "of its blocks' times; *measured*: the median of that whole, timed afterwards; *error*: predicted over "
        "measured, less 1; *fastest*: its fastest call, and how far the bare sum of its blocks is from that, because "
        "blocks are timed in calm moments of the machine and, where others load it, the whole meets few. *times "
        "default*: how many times faster than the default plan (greedy, no searched knobs) it should be by their "
        "blocks' times, how many times it was, both wholes timed in turns, and by how much its time was predicted "
        "wrongly in that. *over ORT*: ONNX Runtime's latency over that of the plan exported, in turns. *stolen*: "
        "the share of processor time that other guests of the host took during the run.",
        "",
        "| model | seed | joint over greedy | 95% interval, rounds | predicted ms | measured ms | error "
        "| fastest ms | error | times default: predicted | measured | error | over ORT | trials | stolen |",
        "|:--|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
        *(_line(key, rows.get(key)) for key in keys),
        "",
        _sum(keys, found),
    ]
    if problems := [f"- {k[0]}, seed {k[1]}: {_plain(rows[k]['error'])}" for k in keys if "error" in rows.get(k, ())]:
        lines += ["", "What went wrong:", "", *problems]
    return "\n".join(lines)


def _circumstances(keys: Sequence[Key], found: Sequence[Mapping[str, Any]]) -> str:
    budgets = sorted({seconds for _, _, seconds in keys})
    commands = [f"`python -m bench.search.real --seconds {s:g}`" for s in budgets]
    if any("source" in row for row in found):
        commands = [*(f"`python -m bench.peers --seconds {s:g}`" for s in budgets), *commands]
    command = "; ".join(commands)
    if not found:
        return f"{command}. Nothing has been measured yet."
    dates, machines = sorted({row["date"] for row in found}), sorted({row["machine"] for row in found})
    when = dates[0] if len(dates) == 1 else f"{dates[0]} to {dates[-1]}"
    return f"{command}, then `--render`; {when}, on {' and on '.join(machines)}."


def _line(key: Key, row: Mapping[str, Any] | None) -> str:
    if row is None or "error" in row:
        return f"| {key[0]} | {key[1]} | {'not measured' if row is None else 'failed'} |{' |' * 12}"
    pair = ["no pair", ""]
    if row["over_greedy"] is not None:
        low, high = row["interval"]
        pair = [f"{row['over_greedy']:.2f}x", f"{low:.2f} to {high:.2f}, {row['rounds']}"]
    foreseen, times, gains = row["prediction"], ["none", "", "", "", ""], ["none", "", ""]
    if foreseen is not None:
        times = [f"{foreseen['predicted_ms']:.2f}", f"{foreseen['measured_ms']:.2f}", f"{foreseen['error']:+.1%}"]
        fastest = foreseen.get("fastest_ms")  # older rows have none
        times += ["–", "–"] if fastest is None else [f"{fastest:.2f}", f"{foreseen['fastest_error']:+.1%}"]
        if gain := foreseen.get("over_default"):
            gains = [f"{gain['predicted']:.2f}x", f"{gain['measured']:.2f}x", f"{gain['error']:+.1%}"]
    over = row["over_onnxruntime"]
    stolen = row["load"]["steal"]
    others = ["–" if over is None else f"{over:.2f}x", row["trials"], "–" if stolen is None else f"{stolen:.1%}"]
    cells = [*key[:2], *pair, *times, *gains, *others]
    return f"| {' | '.join(map(str, cells))} |"


def _sum(keys: Sequence[Key], found: Sequence[Mapping[str, Any]]) -> str:
    pairs = [row["interval"] for row in found if row["over_greedy"] is not None]
    foreseen = [row["prediction"] for row in found if row["prediction"] is not None]
    errors = [abs(one["error"]) for one in foreseen]
    fastest = [abs(one["fastest_error"]) for one in foreseen if "fastest_error" in one]
    gains = [abs(one["over_default"]["error"]) for one in foreseen if one.get("over_default")]
    return (
        f"{len(found)} of {len(keys)} runs measured. Of {len(pairs)} pairs joint's plan is faster in "
        f"{sum(low > 1.0 for low, _ in pairs)} and slower in {sum(high < 1.0 for _, high in pairs)}, the interval "
        f"being all on that side of 1. Of {len(errors)} predictions {sum(e <= CLOSE for e in errors)} are within "
        f"{CLOSE:.0%} of the median; of {len(fastest)} bare sums {sum(e <= CLOSE for e in fastest)} are of the fastest "
        f"call; "
        f"of {len(gains)} of the gain over the default plan {sum(e <= CLOSE for e in gains)}."
    )


def _plain(message: str) -> str:
    """The last line of what a failed run wrote."""
    return message.strip().splitlines()[-1]


if __name__ == "__main__":
    sys.exit(main())
