"""``fusetune tune``: one job in this process, with live progress and a closing table."""

from __future__ import annotations

import argparse
import hashlib
import json
import signal
from collections.abc import Collection, Mapping
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from db.store import Store, default_url
from service.dispatch.jobstore import JobStore
from tuner import events
from tuner.errors import FusetuneError, UserError
from tuner.types import Budget, Device, JobSpec, JobState

STRATEGIES = ("greedy", "none")
DEFAULT_SECONDS = 300.0
HEAVIEST = 15  # blocks in the closing table


def tune(args: argparse.Namespace) -> int:
    """The command: build the JobSpec, run it, print what came out."""
    from tuner.measure.device import devices, toolchain

    device = devices(args.device)
    spec = job_spec(args, device)
    inputs = {name: read_array(name, path) for name, path in args.input}

    from tuner.session import Session, check_writable  # brings TVM: bad options are refused before

    out = args.out or Path(f"{args.model.stem}.fusetune")
    check_writable(out)
    console = Console(stderr=args.json)
    with Store.open(args.db or default_url()) as store:
        jobs = JobStore(store, spec, device, toolchain())
        known = not spec.fresh and jobs.answered(spec)
        with _Live(console, spec.budget) as live:
            session = Session(
                spec, args.model, device, out, jobs, live, inputs, baselines=not args.no_baselines, search=not known
            )
            _stop_on_interrupt(session, console)
            report = _keep_books(store, jobs.job, session)
    if args.json:
        print(json.dumps(report))
    else:
        show(console, report, out)
    return 0


def job_spec(args: argparse.Namespace, device: Device) -> JobSpec:
    """The job that the command line asks for. Raises UserError for what cannot be."""
    if args.strategy not in STRATEGIES:
        raise UserError(
            f"Unknown strategy {args.strategy!r}.", code="unknown-strategy", hint=f"Known: {', '.join(STRATEGIES)}."
        )
    if args.precision != "fp32":
        raise UserError(f"Precision {args.precision!r} is not supported.", code="bad-precision", hint="Known: fp32.")
    check_cores(args.cores, device)
    seconds = args.seconds if args.seconds or args.trials is not None else DEFAULT_SECONDS
    return JobSpec(
        model=model_digest(args.model),
        device=args.device,
        strategy=args.strategy,
        budget=Budget(args.trials, seconds),
        cores=args.cores,
        precision=args.precision,
        shapes=dict(args.shape),
        disabled_passes=tuple(args.disable_pass),
        plan=read_json(args.plan) if args.plan else None,
        memory_limit=args.memory_limit,
        seed=args.seed,
        fresh=args.fresh,
    )


def check_cores(cores: Collection[int] | None, device: Device) -> None:
    """Raise UserError when more cores are asked for than the device has."""
    if cores and max(cores) > device.cores:
        raise UserError(f"{max(cores)} cores are asked for, the device has {device.cores}.", code="bad-cores")


def model_digest(path: Path) -> str:
    """SHA-256 of a file. Raises UserError when it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"The model {path} cannot be read: {error.strerror}.", code="no-model") from error


def read_json(path: Path) -> Any:
    """A JSON file's value. Raises UserError when it is none."""
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read as JSON: {error}.", code="bad-plan") from error


def read_array(name: str, path: Path) -> np.ndarray:
    """The array of one ``--input``. Raises UserError; nothing is ever unpickled."""
    try:
        array = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"Input {name!r}: {path} is no readable .npy file: {error}.", code="bad-input") from error
    if not isinstance(array, np.ndarray):
        raise UserError(f"Input {name!r}: {path} holds several arrays; give one .npy file.", code="bad-input")
    return array


def _keep_books(store: Store, job: str, session: Any) -> dict[str, Any]:
    """Run the session and leave the job in the state it came to.

    A killed process leaves its job RUNNING: only a lease can tell it from one that works, and leases come with the
    server.
    """
    try:
        report: dict[str, Any] = session.run()
    except FusetuneError as error:
        store.jobs.update(job, state=JobState.FAILED, reason=str(error))
        raise
    except KeyboardInterrupt:
        store.jobs.update(job, state=JobState.CANCELLED, reason="interrupted")
        raise
    except Exception as error:  # a defect: the job must not stay RUNNING
        store.jobs.update(job, state=JobState.FAILED, reason=f"{type(error).__name__}: {error}")
        raise
    best = report["latency_ms"]["tuned"]["median"] / 1e3
    state = JobState.CANCELLED if session.stopped else JobState.SUCCEEDED
    reason = "interrupted; ended with the best found so far" if session.stopped else None
    store.jobs.update(job, state=state, reason=reason, best_seconds=best, report=report)
    return report


def _stop_on_interrupt(session: Any, console: Console) -> None:
    """Ctrl-C once: end with the best found so far. Twice: end at once."""

    def handle(_: int, __: FrameType | None) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        console.print("[yellow]Stopping with the best found so far; press Ctrl-C again to stop at once.[/]")
        session.stop()

    signal.signal(signal.SIGINT, handle)


class _Live:
    """A progress bar with best latency, trials and time left; plain lines where there is no terminal."""

    def __init__(self, console: Console, budget: Budget) -> None:
        self._console, self._budget = console, budget
        self._bar = Progress(
            TextColumn("{task.fields[stage]:<8}"),
            BarColumn(bar_width=24),
            TextColumn("{task.percentage:>3.0f}%"),
            TextColumn("best {task.fields[best]}"),
            TextColumn("{task.fields[trials]} trials"),
            TimeElapsedColumn(),
            TextColumn("left {task.fields[left]}"),
            TextColumn("[dim]{task.description}"),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task("", total=1.0, stage="", best="-", trials=0, left="-")
        self._last = ("", -1e9)

    def __enter__(self) -> _Live:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def __call__(self, progress: events.Progress) -> None:
        best = "-" if progress.best_latency is None else f"{progress.best_latency * 1e3:.2f} ms"
        left = "-"
        if self._budget.seconds:
            left = f"{max(0, round(self._budget.seconds - progress.elapsed))} s"
        self._bar.update(
            self._task, completed=progress.done, description=progress.message, stage=progress.stage.value, best=best,
            trials=progress.trials, left=left,
        )  # fmt: skip
        if self._console.is_terminal:
            return
        stage, when = self._last
        if progress.stage != stage or progress.elapsed - when >= 10 or progress.stage is not events.Stage.SEARCH:
            self._last = (progress.stage, progress.elapsed)
            self._console.print(
                f"[{progress.elapsed:6.1f} s] {progress.stage.value:<8} {progress.message}; best {best}, "
                f"{progress.trials} trials, left {left}",
                markup=False, highlight=False, soft_wrap=True,
            )  # fmt: skip


def show(console: Console, report: Mapping[str, Any], out: Path) -> None:
    """The closing tables."""
    latency, speedup = report["latency_ms"], report["speedup"]
    table = Table(title=f"{report['model']['name']} on {report['device']['name']} ({report['device']['model']}, "
                        f"{report['device']['cores']} cores, {report['precision']})")  # fmt: skip
    for column in ("", "median ms", "fastest ms", "speed-up of tuned"):
        table.add_column(column, justify="left" if not column else "right")
    over = {"unoptimised": "over_unoptimised", "unfused": "over_unfused", "default": "over_default",
            "onnxruntime": "over_onnxruntime"}  # fmt: skip
    for name in ("unoptimised", "unfused", "default", "onnxruntime", "tuned"):
        entry, factor = latency[name], speedup.get(over.get(name, ""))
        if entry is not None:
            times = f"{factor:.2f}x" if factor is not None else ""
            style = "bold" if name == "tuned" else None
            label = "ONNX Runtime" if name == "onnxruntime" else name
            table.add_row(label, f"{entry['median']:.3f}", f"{entry['min']:.3f}", times, style=style)
    console.print(table)
    console.print(_blocks(report))
    trials, checked = report["trials"], report["verification"]
    reused = f", {trials['reused']} known ones reused" if trials["reused"] else ""
    console.print(
        f"{trials['measured']} trials measured ({trials['failed']} failed){reused} in "
        f"{report['seconds']['total']:.0f} s; verified on {checked['inputs']} inputs, "
        f"largest relative error {checked['max_rel_error']:.1e} "
        f"(limit {checked['limit']:g}).",
        highlight=False, soft_wrap=True,
    )  # fmt: skip
    if report["reused"]:
        console.print("Everything was known already: nothing was measured but the whole models.", highlight=False)
    console.print(f"Artifact {out}/   report {out / 'report.json'}   log {out / 'tuning_log'}/", highlight=False,
                  soft_wrap=True)  # fmt: skip


def _blocks(report: Mapping[str, Any]) -> Table:
    rows = sorted((b for b in report["blocks"] if b["ms"]), key=lambda b: -b["ms"])
    shown = rows[:HEAVIEST]
    table = Table(title=f"Blocks ({len(shown)} heaviest of {len(rows)})")
    for column in ("layers", "cores", "layout", "template", "ms", "GFLOP/s", "share"):
        table.add_column(column, justify="right" if column in {"cores", "ms", "GFLOP/s", "share"} else "left")
    for b in shown:
        names = b["layers"] if len(b["layers"]) <= 3 else [b["layers"][0], f"+{len(b['layers']) - 1}"]
        table.add_row(
            " ".join(names) or "layout change", str(b["cores"]), _layout(b), b["template"], f"{b['ms']:.3f}",
            f"{b['gflops']:.0f}" if b["gflops"] else "", f"{100 * b['share']:.1f}%",
        )  # fmt: skip
    return table


def _layout(block: Mapping[str, Any]) -> str:
    sides: dict[str, set[str]] = {"in": set(), "out": set()}
    for name, layout in block["layouts"].items():
        sides["in" if name.startswith("i") else "out"].add(layout)
    into, out = "/".join(sorted(sides["in"])), "/".join(sorted(sides["out"]))
    return into if into == out else f"{into} -> {out}"
