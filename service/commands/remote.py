"""Commands that talk to a server: submit, status, watch, cancel, pause, resume, retry, download."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn
from rich.table import Table

from service.client import Client, RemoteJob, What
from service.commands.live import Live, show
from service.commands.spec import job_spec
from tuner import events
from tuner.errors import UserError
from tuner.types import JobState

DEFAULT_SERVER = "http://127.0.0.1:8077"
FAILED, INTERRUPTED = 1, 130
_LEFT = "The job goes on. Watch it again: fusetune watch {0}   end it: fusetune cancel {0}"


def connect(args: argparse.Namespace) -> Client:
    """The client that the options and the environment describe. The token never stands on a command line."""
    token = os.environ.get("FUSETUNE_TOKEN", "")
    if args.token_file is not None:
        try:
            token = args.token_file.read_text()
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"The token file {args.token_file} cannot be read: {error}.", code="no-token") from error
    return Client(args.server or os.environ.get("FUSETUNE_SERVER") or DEFAULT_SERVER, token.strip() or None)


def submit(args: argparse.Namespace) -> int:
    """``fusetune submit``: upload the model unless the server has it, queue the job, and watch it if asked to."""
    spec = job_spec(args)
    console = Console(stderr=args.json)
    with connect(args) as client:
        bar = Progress(
            TextColumn("uploading"), BarColumn(), DownloadColumn(), TransferSpeedColumn(), console=console,
            transient=True, disable=not console.is_terminal,
        )  # fmt: skip
        with bar:
            task = bar.add_task("", total=None)
            model = client.upload(
                args.model, args.name, lambda sent, size: bar.update(task, completed=sent, total=size)
            )
        if model.id != spec.model:
            raise UserError(f"{args.model} changed while it was sent.", code="no-model", hint="Submit it again.")
        job = client.submit(spec, priority=args.priority, notes=args.notes)
        if args.wait:
            console.print(f"Job {job.id}", highlight=False)
            return _follow(client, job.id, console, args.json)
        if args.json:
            print(json.dumps(dict(job.raw)))
        elif job.reused:
            console.print(f"Job {job.id}: known already. Fetch it: fusetune download {job.id}", highlight=False)
        else:
            console.print(f"Job {job.id} {job.state}. Watch it: fusetune watch {job.id}", highlight=False)
    return 0


def status(args: argparse.Namespace) -> int:
    """``fusetune status``: the newest jobs, or all about one."""
    with connect(args) as client:
        if args.job is not None:
            job = client.job(args.job)
            if args.json:
                print(json.dumps(dict(job.raw)))
            else:
                _details(Console(), job)
            return 0
        page = client.jobs(limit=args.limit, state=args.state)
    if args.json:
        print(json.dumps({"items": [dict(j.raw) for j in page.items], "next": page.next}))
        return 0
    devices = {_name(job, "device") for job in page.items}
    one = f" on {_plain(devices.pop())}" if len(devices) == 1 else ""
    table = Table(title=f"Jobs{one} ({len(page.items)}{' newest' if page.next else ''})")
    for column in ("job", "model", *(["device"] if not one else []), "state", "best ms", "speed-up", "trials", "age"):
        right = column in {"best ms", "speed-up", "trials", "age"}
        table.add_column(column, justify="right" if right else "left", no_wrap=column in {"job", "state", "age"})
    for job in page.items:
        table.add_row(
            job.id, _plain(_name(job, "model")), *([_plain(_name(job, "device"))] if not one else []),
            job.state if job.ended or not job.stage else f"{job.state} {_plain(job.stage)}",
            _ms(job.latency_ms.get("best")), _times(job.speedup.get("over_unoptimised")),
            str(job.trials.get("measured", 0)), _age(job.raw.get("created_at")),
        )  # fmt: skip
    Console().print(table)
    return 0


def watch(args: argparse.Namespace) -> int:
    """``fusetune watch``: the live line of a job, then its closing table. Ctrl-C leaves the job alone."""
    with connect(args) as client:
        return _follow(client, args.job, Console(stderr=args.json), args.json)


def act(args: argparse.Namespace) -> int:
    """``fusetune cancel | pause | resume | retry``."""
    with connect(args) as client:
        job = client.act(args.job, args.command)
    if args.json:
        print(json.dumps(dict(job.raw)))
    else:
        wish = job.raw.get("wanted")
        pending = f" ({wish} is on its way)" if wish and job.state is JobState.RUNNING else ""
        Console().print(f"Job {job.id} {job.state}{pending}", highlight=False)
    return 0


def download(args: argparse.Namespace) -> int:
    """``fusetune download``: one file of a job."""
    what: What = args.what or ("log" if args.format else "artifact")
    if args.format and what != "log":
        raise UserError("--format chooses the format of a log.", code="bad-option", hint="Leave it out.")
    form = args.format or "metaschedule" if what == "log" else None
    with connect(args) as client:
        path = client.download(args.job, what, args.out, format=form)
    print(path)
    return 0


# helpers --------------------------------------------------------------------------------------------------------------


def _follow(client: Client, id: str, console: Console, as_json: bool) -> int:
    try:
        job = client.job(id)
        if not job.ended:
            known: dict[str, Any] = {}
            with Live(console, job.spec.budget) as live:
                for event in client.watch(id):
                    if event.kind == "progress":
                        _merge(known, event.data)
                        live(_progress(known))
                    elif event.kind == "state" and not console.is_terminal:
                        reason = f": {event.data['reason']}" if event.data.get("reason") else ""
                        console.print(_plain(f"{event.data.get('state')}{reason}"), highlight=False, markup=False)
            job = client.job(id)
        report = _report(client, job)
    except KeyboardInterrupt:
        print(_LEFT.format(id), file=sys.stderr)
        return INTERRUPTED
    if as_json:
        print(json.dumps(report if report is not None else dict(job.raw)))
    elif report is not None:
        show(console, report)
        console.print(f"Fetch the artifact: fusetune download {id}", highlight=False, soft_wrap=True)
    else:
        _details(console, job)
    return 0 if job.state is JobState.SUCCEEDED else FAILED


def _report(client: Client, job: RemoteJob) -> Mapping[str, Any] | None:
    try:
        return client.report(job.id)
    except UserError as error:
        if error.code in {"no-file", "not-finished"}:  # cancelled or failed before there was any
            return None
        raise


def _merge(known: dict[str, Any], news: Mapping[str, Any]) -> None:
    """Events leave out what did not change."""
    for name, value in news.items():
        known[name] = {**(known.get(name) or {}), **value} if isinstance(value, Mapping) else value


def _progress(data: Mapping[str, Any]) -> events.Progress:
    """A progress event of the server as the engine's own value."""
    trials, latency, progress = (data.get(n) or {} for n in ("trials", "latency_ms", "progress"))
    total = progress.get("total")
    try:
        stage = events.Stage(data.get("stage") or events.Stage.IMPORT)
    except ValueError:  # a newer server's
        stage = events.Stage.SEARCH
    best = latency.get("best")
    return events.Progress(
        stage, _plain(data.get("message") or ""), trials.get("measured", 0), trials.get("failed", 0),
        trials.get("reused", 0), None if best is None else best / 1e3,
        elapsed=data.get("elapsed_seconds") or 0.0, done=progress.get("done", 0.0) / total if total else 0.0,
    )  # fmt: skip


def _details(console: Console, job: RemoteJob) -> None:
    table = Table(title=f"Job {job.id}", show_header=False)
    rows = {
        "model": f"{_name(job, 'model')} {job.spec.model[:12]}",
        "device": _name(job, "device"),
        "state": f"{job.state}{f': {job.reason}' if job.reason else ''}",
        "doing": f"{job.stage} {job.message or ''}".strip() if not job.ended else "",
        "progress": _share(job) if not job.ended else "",
        "trials": ", ".join(f"{count} {name}" for name, count in job.trials.items()),
        "latency": ", ".join(f"{name} {_ms(ms)} ms" for name, ms in job.latency_ms.items() if ms is not None),
        "speed-up": ", ".join(
            f"{_times(x)} {name.replace('_', ' ')}" for name, x in job.speedup.items() if x is not None
        ),
        "worked for": f"{job.raw.get('elapsed_seconds') or 0:.0f} s",
        "notes": job.raw.get("notes") or "",
    }  # fmt: skip
    for name, text in rows.items():
        if text:
            table.add_row(name, _plain(text))
    console.print(table)


def _share(job: RemoteJob) -> str:
    done, total, unit = (job.progress.get(n) for n in ("done", "total", "unit"))
    if done is None or not total:
        return ""
    return f"{100 * done / total:.0f} %" if unit == "share" else f"{done:.0f} of {total:.0f} {unit}"


def _name(job: RemoteJob, what: str) -> str:
    return str((job.raw.get(what) or {}).get("name") or "")


def _age(moment: Any) -> str:
    """How long ago an ISO 8601 moment was, in the largest unit that fits."""
    try:
        seconds = (datetime.now(UTC) - datetime.fromisoformat(str(moment))).total_seconds()
    except (ValueError, TypeError):  # none, or one without a time zone
        return ""
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:.0f} {unit}"
    return f"{max(0.0, seconds):.0f} s"


def _ms(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _times(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}x"


def _plain(text: str) -> str:
    """Text of other people, safe to print: no control sequences, no markup."""
    return "".join(c if c.isprintable() else " " for c in text).replace("[", "\\[")
