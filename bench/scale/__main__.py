"""``python -m bench.scale``: how busy real dispatching keeps simulated devices, and what every part of it costs.

Three rows: each part alone (``parts``), 100 devices with a real search each and candidates of 1 s (``search``), and
1,000 devices with proposals made beforehand and candidates of 5 s (``prepared``). Devices are simulated: measuring a
candidate is sleeping. Dispatcher, queue, leases, turns, trial and event writes are the service's own. A row is written
at a time to OUT/scale.jsonl; what has a row is not run again. ``--render`` writes them into bench/RESULTS.md.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.lines import append, read

if TYPE_CHECKING:
    from bench.scale.fleet import Fleet
    from bench.scale.questions import Questions

ROWS = ("parts", "search", "prepared")
ONE_THREAD = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")  # drivers share the cores; and no thread may see a fork


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; gives 1 if a row could not be had."""
    parser = argparse.ArgumentParser(prog="python -m bench.scale", description=__doc__.partition("\n")[0])
    parser.add_argument("--only", default=",".join(ROWS), help="which rows, comma-separated")
    parser.add_argument("--window", type=float, default=60.0, help="seconds that a fleet is watched")
    parser.add_argument("--part-seconds", type=float, default=5.0, help="of each part alone")
    parser.add_argument("--model", default="bvlc_alexnet", help="of the zoo, whose plan space is searched")
    parser.add_argument("--spaces", type=Path, default=Path("out/search"), help="folder that keeps plan spaces")
    parser.add_argument("--db", help="URL of an empty PostgreSQL database, for one row; SQLite without it")
    parser.add_argument("--out", type=Path, default=Path("bench_out"))
    parser.add_argument("--again", action="store_true", help="measure also what has a row")
    parser.add_argument("--render", action="store_true", help="measure nothing; write the rows into RESULTS.md")
    options = parser.parse_args(arguments)
    lines = options.out / "scale.jsonl"
    if options.render:
        from bench.scale.figures import render

        render(read_rows(lines))
        return 0
    os.environ.update(dict.fromkeys(ONE_THREAD, "1"))  # before numpy and XGBoost are there
    asked: Questions | None = None
    failed = False
    for name in options.only.split(","):
        if name not in ROWS:
            parser.error(f"there is no row {name!r}")
        if name in read_rows(lines) and not options.again:
            continue
        if asked is None:
            from bench.scale.questions import questions

            _say(f"the plan space of {options.model}")
            asked = questions(options.model, options.spaces)
        row = measure(name, asked, options)
        failed = failed or "error" in row
        append(lines, row)
        print(json.dumps(row), flush=True)
    return int(failed)


def read_rows(lines: Path) -> dict[str, dict[str, Any]]:
    """The last good row of each kind."""
    return {row["row"]: row for row in read(lines) if "error" not in row}


def fleets(window: float) -> Mapping[str, Fleet]:
    """The fleets of the bench. Hosts are processes: 100 drivers have one each, as in a server; 1,000 share four."""
    from bench.scale.fleet import Fleet

    return {
        "search": Fleet("search", 100, 1.0, hosts=100, search=True, window=window),
        "prepared": Fleet("prepared", 1000, 5.0, hosts=4, search=False, window=window),
    }


def measure(name: str, asked: Questions, options: argparse.Namespace) -> dict[str, Any]:
    """One row; what failed says why."""
    from bench.scale import fleet, parts
    from tuner.errors import FusetuneError
    from tuner.measure.device import detect_cpu

    _say(name)
    cpu = detect_cpu()
    row: dict[str, Any] = {
        "row": name, "date": datetime.now(UTC).date().isoformat(), "command": command(options),
        "machine": f"{cpu.model}, {cpu.cores} cores", "database": "PostgreSQL" if options.db else "SQLite",
        "load_before": round(os.getloadavg()[0], 2),
    }  # fmt: skip
    with tempfile.TemporaryDirectory(prefix="fusetune-bench-") as folder:
        url = options.db or f"sqlite:///{folder}/scale.db"
        try:
            if name == "parts":
                return row | parts.run(asked, url, options.part_seconds)
            return row | fleet.run(fleets(options.window)[name], asked, url, Path(folder))
        except FusetuneError as error:
            return row | {"error": str(error)}


def command(options: argparse.Namespace) -> str:
    """How to measure the same again."""
    given = {"window": 60.0, "part_seconds": 5.0, "model": "bvlc_alexnet"}
    told = {name: getattr(options, name) for name in given}
    more = [f"--{name.replace('_', '-')} {value}" for name, value in told.items() if value != given[name]]
    return " ".join(["python -m bench.scale", *more])


def _say(what: str) -> None:
    print(f"[{datetime.now():%H:%M:%S}] {what}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
