"""``python -m bench.service``: starts a server, gives it work, and measures it against what the service promises.

A real job alone first (its overhead), then pages of seeded trials and the job page in Chromium, then the load and the
watchers while another real job runs; that job is cancelled and its trials, disturbed by the load, are thrown away with
the server's folder. Figures go to OUT/service.json; ``--render`` puts them into bench/RESULTS.md.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import platform
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench.service import figures
from bench.service.browser import interactive_seconds
from bench.service.load import Latencies, Request, load, watchers
from bench.service.seed import add_trials, ended_job
from bench.service.server import Server, serving
from db.store import Store
from service.client import Client, RemoteJob
from tuner.errors import InternalError
from tuner.types import Budget, JobSpec

RATE = 100.0  # requests a second
WATCHERS = 200
BATCH = 100  # trials on a page


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; gives 1 if a promise was not kept."""
    parser = _parser()
    options = parser.parse_args(arguments)
    file = options.out / "service.json"
    if options.render:
        figures.render(json.loads(file.read_text()))
        return 0
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # as an interrupt does it: the server ends, too
    found = measure(options) | {"about": _about(parser, options)}
    options.out.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(found, indent=1) + "\n")
    print(figures.table(found))
    return int(bool(figures.missed(found)))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench.service", description=__doc__.partition("\n")[0])
    parser.add_argument("--model", default="squeezenet", help="of the zoo")
    parser.add_argument("--seconds", type=float, default=120.0, help="budget of the job whose overhead is measured")
    parser.add_argument("--load-seconds", type=float, default=30.0)
    parser.add_argument("--trials", type=int, default=100_000, help="of the job whose pages are read")
    parser.add_argument("--page-trials", type=int, default=10_000, help="of the job whose page is opened")
    parser.add_argument("--rounds", type=int, default=5, help="times the page is opened")
    parser.add_argument("--only", default="job,trials,page,load,watchers", help="which parts, comma-separated")
    parser.add_argument("--out", type=Path, default=Path("bench_out"))
    parser.add_argument("--render", action="store_true", help="measure nothing; write the figures into RESULTS.md")
    return parser


def command(parser: argparse.ArgumentParser, options: argparse.Namespace) -> str:
    """How to measure the same again: what differs from the defaults, less where the figures were put."""
    given = [
        f"--{name.replace('_', '-')} {value:g}" if isinstance(value, float) else f"--{name.replace('_', '-')} {value}"
        for name, value in vars(options).items()
        if name not in ("out", "render") and value != parser.get_default(name)
    ]
    return " ".join(["python -m bench.service", *given])


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """All figures asked for."""
    from tuner.graph import zoo

    parts, found = set(options.only.split(",")), dict[str, Any]()
    with tempfile.TemporaryDirectory(prefix="fusetune-bench-") as folder, serving(Path(folder) / "data") as server:
        with server.client() as client:
            model = client.upload(zoo.write(options.model, Path(folder) / f"{options.model}.onnx", 0))
            spec = JobSpec(model=model.id, strategy="greedy", budget=Budget(seconds=options.seconds))
            if "job" in parts:  # a device's peak is measured once, by its first job: not what a job costs
                _job(client, replace(spec, budget=Budget(trials=0)))
            done = _job(client, replace(spec, fresh=True)) if parts & {"job", "page"} else None
            if done is not None and "job" in parts:
                found |= _overhead(client, done)
            if "trials" in parts:
                found["trials_page_ms"] = _pages(server, spec, options.trials)
            if done is not None and "page" in parts:
                with Store.open(server.database) as store:
                    add_trials(store, done.id, options.page_trials)
                names = ("job_page_s", "job_page_worst_s", "job_page_chart_s")
                found |= zip(names, interactive_seconds(server, done.id, options.rounds), strict=True)
            if parts & {"load", "watchers"}:
                found |= _while_running(server, client, spec, parts, options.load_seconds)
        found["server_mb"] = server.peak / 1e6
    return found


def _job(client: Client, spec: JobSpec) -> RemoteJob:
    _say("a job alone")
    job = client.submit(spec)
    for _ in client.watch(job.id):
        pass
    done = client.job(job.id)
    if done.state != "SUCCEEDED":
        raise InternalError(f"The job ended as {done.state}: {done.reason}", code="bench-failed")
    return done


def _overhead(client: Client, job: RemoteJob) -> dict[str, Any]:
    """The share of the time from submission to end that the service adds to building and measuring.

    That is: waiting for a driver, its start, deciding what to measure, keeping the books, packing the downloads.
    """
    start, end = (datetime.fromisoformat(job.raw[name]) for name in ("created_at", "finished_at"))
    wall = (end - start).total_seconds()
    spent = client.report(job.id)["seconds"]
    return {
        "overhead_share": 100 * (wall - spent["total"] + spent["deciding"]) / wall,
        "job": {"wall": wall, "seconds": dict(spent), "trials": dict(job.trials)},
    }


def _pages(server: Server, spec: JobSpec, number: int) -> float:
    """The slowest p99 of reading one page, over orders and places in the list."""
    _say(f"pages of {number} trials")
    with Store.open(server.database) as store:
        device = store.devices.list()[0].device
        job = ended_job(store, spec, device.fingerprint, "bench", number)
        places = {
            (order, place): _cursor(store, job, order, number * place // 100)
            for order in ("id", "-id", "seconds", "-seconds") for place in (0, 50, 99)
        }  # fmt: skip

    requests = []
    for (order, place), cursor in places.items():
        path = f"/api/v1/jobs/{job}/trials?limit={BATCH}&order={order}" + (f"&cursor={cursor}" if cursor else "")
        requests.append(Request(f"{order} at {place}%", lambda path=path: ("GET", path, None)))  # type: ignore[misc]
    found = asyncio.run(load(server, requests, rate=10, seconds=len(requests) * 3))
    _refuse_errors(found)
    return max(1e3 * latencies.percentile(0.99) for latencies in found.values())


def _cursor(store: Store, job: str, order: str, skip: int) -> str | None:
    """The cursor of the page that begins after so many trials."""
    cursor, left, by = None, skip, order.removeprefix("-")
    while left > 0:
        page = store.trials.light_page(
            job, cursor=cursor, order="id" if by == "id" else "seconds", desc=order.startswith("-"),
            limit=min(left, 10_000),
        )  # fmt: skip
        left -= len(page.items)
        if page.next is None:
            break
        cursor = page.next
    return cursor


def _while_running(server: Server, client: Client, spec: JobSpec, parts: set[str], seconds: float) -> dict[str, Any]:
    job = client.submit(replace(spec, fresh=True, seed=1, budget=Budget(seconds=3600.0)))
    _say("waiting for a job that searches")
    for event in client.watch(job.id):
        if event.data.get("stage") == "search":
            break
    found: dict[str, Any] = {}
    if "load" in parts:
        _say(f"{RATE:g} requests a second for {seconds:g} s")
        seeds = itertools.count(2)
        new = spec.to_json() | {"budget": {"trials": 1}}
        requests = [
            Request("get", lambda: ("GET", f"/api/v1/jobs/{job.id}", None)),
            Request("post", lambda: ("POST", "/api/v1/jobs", new | {"seed": next(seeds), "priority": -100})),
        ]
        results = asyncio.run(load(server, requests, RATE, seconds))
        _refuse_errors(results)
        for name, latencies in results.items():
            found |= {f"{name}_p50_ms": 1e3 * latencies.percentile(0.5),
                      f"{name}_p99_ms": 1e3 * latencies.percentile(0.99)}  # fmt: skip
    if "watchers" in parts:
        _say(f"{WATCHERS} watchers")
        without, with_them = asyncio.run(watchers(server, job.id, WATCHERS, seconds))
        found |= {"watchers_core": 100 * max(0.0, with_them - without), "idle_core": 100 * without}
    if client.job(job.id).state != "RUNNING":
        raise InternalError("The job did not run all the time.", code="bench-failed")
    began = time.monotonic()
    client.act(job.id, "cancel")
    while not client.job(job.id).ended:
        time.sleep(0.05)
    return found | {"cancel_s": time.monotonic() - began}


def _refuse_errors(results: dict[str, Latencies]) -> None:
    if failed := {name: latencies.errors for name, latencies in results.items() if latencies.errors}:
        raise InternalError(f"Requests failed: {failed}", code="bench-failed")


def _about(parser: argparse.ArgumentParser, options: argparse.Namespace) -> dict[str, Any]:
    from tuner.measure.device import detect_cpu, toolchain

    device = detect_cpu()
    return {
        "command": command(parser, options),
        "date": datetime.now(UTC).date().isoformat(),
        "machine": f"{device.model}, {device.cores} cores, Linux {platform.release()}, {toolchain()}",
        "counts": {"trials": options.trials, "page_trials": options.page_trials},
        "load": f"Model {options.model}; {RATE:g} requests/s for {options.load_seconds:g} s, every second one a POST; "
                "server, generator and the running job share the cores. SQLite.",
    }  # fmt: skip


def _say(what: str) -> None:
    print(f"[{datetime.now():%H:%M:%S}] {what}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
