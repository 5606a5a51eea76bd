"""``python -m bench.peers``: fourteen models against the libraries that a user gets for free, in turns.

A row at a time is written to OUT/peers.jsonl; what has a row is not measured again unless asked. What was tuned stays
in OUT/built: ``--tune-only`` tunes beforehand, and ``--again`` times the same libraries in a calmer hour.

``--metaschedule`` measures TVM's own tuner with the same budget on three models, ``--bf16`` convolutional models in
bf16 against OpenVINO, ``--int8`` in int8 against what ONNX Runtime's tools quantise, and ``--ablation`` what each part
of ours is worth on four models. ``--render`` writes the section of its mode into RESULTS.md, from the rows with these
seconds, and the comparison's plot beside it; the rows are then kept in rows.jsonl.gz beside this file, so that those of
other days need not be at hand.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from bench.lines import keep
from bench.peers import ablation, models, tables
from bench.peers.measure import FLOAT32, bf16_row, build_for_peers, int8_row, metaschedule_row, peers_row
from bench.peers.plot import plot
from bench.peers.rows import Key, Row, Rows, fill, read_rows
from bench.sections import RESULTS, write_section

KEPT = Path(__file__).parent / "rows.jsonl.gz"
EVERY = [*FLOAT32]  # peers
METASCHEDULE = ("squeezenet", "resnet18", "mobilenetv2")


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; gives 1 if a row has an error."""
    options = _options(arguments)
    lines = options.out / "peers.jsonl"
    if options.render:
        rows = read_rows(KEPT) | read_rows(lines)
        render(options, rows, RESULTS)
        keep(KEPT, rows.values())
        return 0
    if options.tune_only:
        return int(not tune_only(options))
    fine = fill(lines, wanted(options), lambda key: measure(key, options), retry=options.retry, again=options.again)
    return int(not fine)


def tune_only(options: argparse.Namespace) -> bool:
    """Make what the comparison's rows will time, if it is not there; whether nothing failed."""
    fine = True
    for _, model, threads, seconds in wanted(options):
        _, made = build_for_peers(model, threads, seconds, options.out)
        print(f"{model}, {threads}, {seconds}: {'; '.join(made.problems) or 'tuned'}", flush=True)
        fine = fine and not made.problems
    return fine


def wanted(options: argparse.Namespace) -> list[Key]:
    """The rows of the asked mode: all models on all threads before any on one."""
    seconds = options.seconds
    if options.ablation:
        chosen = options.models or ablation.MODELS
        return [(f"{ablation.MODE}{v}", m, max(options.threads), seconds) for m in chosen for v in ablation.VARIANTS]
    if options.metaschedule:
        return [("metaschedule", m, max(options.threads), seconds) for m in options.models or METASCHEDULE]
    if options.bf16:
        return [("bf16", m, max(options.threads), seconds) for m in options.models or models.CONVOLUTIONAL]
    if options.int8:
        return [("int8", m, max(options.threads), seconds) for m in options.models or models.CONVOLUTIONAL]
    return [("peers", m, t, seconds) for t in options.threads for m in options.models or models.MODELS]


def measure(key: Key, options: argparse.Namespace) -> Row:
    """The row of this key."""
    mode, model, threads, seconds = key
    if mode.startswith(ablation.MODE):
        variant = mode.removeprefix(ablation.MODE)
        return ablation.ablation_row(variant, model, threads, seconds, options.rounds, options.out)
    if mode == "metaschedule":
        return metaschedule_row(model, threads, seconds, options.rounds, options.out)
    if mode == "bf16":
        return bf16_row(model, threads, seconds, options.rounds, options.out)
    if mode == "int8":
        return int8_row(model, threads, seconds, options.rounds, options.out)
    return peers_row(model, threads, seconds, options.rounds, options.out, options.peers)


def render(options: argparse.Namespace, rows: Rows, path: Path) -> None:
    """Write the asked mode's section into ``path``; the comparison has some for each number of threads, with a plot."""
    given = f"--seconds {options.seconds:g} --rounds {options.rounds}"
    options.models, most = None, max(options.threads)
    keys = wanted(options)
    if options.ablation:
        meanings = {name: v.meaning for name, v in ablation.VARIANTS.items()}
        asked = f"`python -m bench.peers --ablation {given}`"
        write_section(
            "peers:ablation", tables.ablation(meanings, ablation.MODELS, rows, most, options.seconds, asked), path
        )
        return
    if options.metaschedule:
        asked = f"`python -m bench.peers --metaschedule {given}`"
        write_section("peers:metaschedule", tables.metaschedule(keys, rows, asked), path)
        return
    if options.bf16:
        asked = f"`python -m bench.peers --bf16 {given}`"
        write_section("peers:bf16", tables.bf16(keys, rows, asked), path)
        return
    if options.int8:
        asked = f"`python -m bench.peers --int8 {given}`"
        write_section("peers:int8", tables.int8(keys, rows, asked), path)
        return
    among = "" if options.peers == EVERY else f" --peers {','.join(options.peers)}"
    for threads in options.threads:
        asked = f"`python -m bench.peers --threads {threads} {given}{among}`"
        mine = [key for key in keys if key[2] == threads]
        write_section(f"peers:{threads}", tables.comparison(mine, rows, threads, asked), path)
        write_section(f"peers:{threads}:bounds", tables.bounding(mine, rows, threads), path)
        if drawn := {key[1]: rows[key] for key in mine if rows.get(key, {}).get("ratios")}:
            picture = path.parent / tables.plot_of(threads)
            picture.parent.mkdir(exist_ok=True)
            picture.write_text(plot(drawn))


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    cores = len(os.sched_getaffinity(0))
    parser = argparse.ArgumentParser(prog="python -m bench.peers", description=__doc__.partition("\n")[0])
    parser.add_argument("--models", type=_words, help="comma-separated; default: all of the mode")
    parser.add_argument("--peers", type=_words, default=EVERY, help=f"of {','.join(EVERY)}")
    parser.add_argument("--threads", type=_numbers, default=sorted({1, cores}, reverse=True), help="default: all, 1")
    parser.add_argument("--seconds", type=float, default=900.0, help="tuning budget of a model")
    parser.add_argument("--rounds", type=int, default=15, help="turns of each contestant")
    parser.add_argument("--out", type=Path, default=Path("bench_out"))
    parser.add_argument("--tune-only", action="store_true", help="tune for the comparison's rows, time nothing yet")
    parser.add_argument("--retry", action="store_true", help="measure again what failed or was disturbed")
    parser.add_argument("--again", action="store_true", help="measure again what has a row")
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--metaschedule", action="store_true", help="TVM's own tuner with the same budget")
    mode.add_argument("--bf16", action="store_true", help="convolutional models in bf16, against OpenVINO")
    mode.add_argument("--int8", action="store_true", help="convolutional models in int8, against ONNX Runtime's")
    mode.add_argument("--ablation", action="store_true", help="what each part of the tuner is worth")
    parser.add_argument("--render", action="store_true", help="measure nothing; write the mode's rows into RESULTS.md")
    options = parser.parse_args(arguments)
    if options.tune_only and (
        options.ablation or options.metaschedule or options.bf16 or options.int8 or options.render
    ):
        parser.error("--tune-only is for the comparison alone")
    if unknown := [m for m in options.models or () if m not in models.MODELS]:
        parser.error(f"there is no model {unknown[0]!r}; known are: {', '.join(models.MODELS)}")
    if unknown := [p for p in options.peers if p not in EVERY]:
        parser.error(f"there is no peer {unknown[0]!r}; known are: {', '.join(EVERY)}")
    if not all(0 < t <= cores for t in options.threads):
        parser.error(f"--threads takes numbers from 1 to {cores}")
    return options


def _words(text: str) -> list[str]:
    return text.split(",")


def _numbers(text: str) -> list[int]:
    return [int(word) for word in text.split(",")]


if __name__ == "__main__":
    sys.exit(main())
