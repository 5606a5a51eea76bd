"""Tuning logs as users get them: the same trials in every format, whatever the trials' texts hold."""

from __future__ import annotations

import asyncio
import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from db.jobs import Job
from db.store import Store
from service.exports import logs, produce
from service.exports.logs import log_stream
from service.exports.produce import Production
from service.settings import Settings
from tuner.errors import InternalError, UserError
from tuner.types import Candidate, Device, Failure, FailureKind, JobSpec, JobState, Purpose, Trial, digest

DEVICE = Device("cpu", "cpu", "Test CPU", "znver5", ("avx2", "avx512f"), 2, 16, 32, 2**15, 2**20, 2**25, 2**34)
NASTY = '=cmd|"/c calc"!A1\n"quoted", \0 \udc80 \x1b[31mé'


def candidate(number: int, workload: int = 0, cores: int = 1, layout: str = "plain") -> Candidate:
    canonical = {"layers": [{"op": "Conv"}], "shape": [1, 64, 56, workload]}
    return Candidate(
        workload=canonical, workload_hash=digest(canonical), layouts={"i0": layout}, template="conv2d",
        template_version=1, knobs={"ob": 16, "reg_n": number}, cores=cores,
    )  # fmt: skip


def trials() -> list[Trial]:
    """Two workloads, two core counts, two layouts, successes and failures."""
    failed = [Failure(FailureKind.CRASH, NASTY, "last words \udc80"), Failure(FailureKind.TIMEOUT, "-too slow")]
    made = [Trial(candidate(n), samples=(1e-3 / (n + 1), 2e-3, 1.5e-3), max_rel_error=1e-7) for n in range(5)]
    made += [Trial(candidate(n, workload=1, cores=2), samples=(2e-3 + n / 1e3,), predicted=1e-3) for n in range(3)]
    made += [Trial(candidate(n, workload=1, cores=2, layout="NCHW16c"), samples=(1e-3,)) for n in range(2)]
    made += [Trial(candidate(20 + n), failure=f, build_seconds=0.12345678) for n, f in enumerate(failed)]
    return [*made, Trial(candidate(4), Purpose.FINAL, samples=(1e-4,), measure_seconds=3.0)]


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(db=f"sqlite:///{tmp_path}/logs.db", data=tmp_path / "data")


@pytest.fixture
def store(settings: Settings) -> Iterator[Store]:
    with Store.open(settings.db) as opened:
        opened.devices.put(DEVICE)
        yield opened


@pytest.fixture
def job(store: Store) -> Job:
    return new_job(store, trials())


def new_job(store: Store, made: list[Trial]) -> Job:
    id = store.jobs.submit(JobSpec(model="ab" * 32, seed=len(made)), DEVICE.fingerprint, "tvm-test")[0].id
    for trial in made:
        summary = f"=Conv {trial.candidate.cores}"
        store.trials.add(id, trial, device=DEVICE.fingerprint, toolchain="tvm-test", summary=summary)
    found = store.jobs.get(id)
    assert found is not None
    return found


def read(fmt: str, job: Job, store: Store, settings: Settings) -> bytes:
    async def whole() -> bytes:
        _, name, chunks = await log_stream(fmt, job, store, settings)
        assert job.id in name
        return b"".join([chunk async for chunk in chunks])

    return asyncio.run(whole())


@pytest.mark.parametrize("page", [1, 4, 500])
def test_json_lines_are_those_of_the_artifact(
    page: int, job: Job, store: Store, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs, "PAGE", page)
    expected = [json.dumps(t.to_json()) for t in trials()]
    assert read("jsonl", job, store, settings).decode("ascii").splitlines() == expected


def test_csv_reads_back(job: Job, store: Store, settings: Settings) -> None:
    text = read("csv", job, store, settings).decode("utf-8")
    rows = list(csv.DictReader(text.splitlines(keepends=True), strict=True))
    made = trials()
    assert len(rows) == len(made)
    for row, trial in zip(rows, made, strict=True):
        assert None not in row
        assert row["workload"] == trial.candidate.workload_hash
        assert json.loads(row["knobs"]) == trial.candidate.knobs
        assert json.loads(row["layouts"]) == trial.candidate.layouts
        assert (float(row["seconds"]) if row["seconds"] else None) == trial.seconds
        assert (float(row["min_seconds"]) if row["min_seconds"] else None) == min(trial.samples, default=None)
        assert int(row["samples"]) == len(trial.samples)
        assert row["failure"] == (trial.failure.kind if trial.failure else "")
    assert [int(r["id"]) for r in rows] == sorted(int(r["id"]) for r in rows)


def test_no_spreadsheet_runs_a_cell_of_the_csv(job: Job, store: Store, settings: Settings) -> None:
    text = read("csv", job, store, settings).decode("utf-8")
    rows = list(csv.reader(text.splitlines(keepends=True)))
    assert not [cell for row in rows for cell in row if cell.startswith(("=", "+", "-", "@", "\t", "\r"))]
    messages = [row[rows[0].index("message")] for row in rows[1:]]
    assert any(m.startswith("'=cmd") for m in messages)
    assert "'-too slow" in messages
    assert not [m for m in messages if "\0" in m or "\x1b" in m]


@pytest.mark.parametrize("fmt", ["jsonl", "csv", "optuna"])
def test_a_job_without_trials_has_an_empty_log(fmt: str, store: Store, settings: Settings) -> None:
    lines = read(fmt, new_job(store, []), store, settings).splitlines()
    assert len(lines) == (1 if fmt == "csv" else 0)


def test_an_unknown_format_is_refused(job: Job, store: Store, settings: Settings) -> None:
    with pytest.raises(UserError) as caught:
        read("xml", job, store, settings)
    assert caught.value.code == "unknown-format"
    assert "optuna" in caught.value.hint


def test_a_job_answered_from_the_store_has_the_log_of_its_answer(store: Store, settings: Settings) -> None:
    first = new_job(store, trials())
    store.queue.finish(store.queue.start(first.id, "somebody", 60.0), JobState.SUCCEEDED)
    done = store.jobs.get(first.id)
    again, _ = store.jobs.submit(first.spec, DEVICE.fingerprint, "tvm-test", answer=done)
    assert again.reused

    async def lines() -> bytes:
        _, _, chunks = await log_stream("jsonl", again, store, settings)
        return b"".join([chunk async for chunk in chunks])

    assert asyncio.run(lines()) == read("jsonl", first, store, settings)


def test_the_optuna_journal_opens_in_optuna(job: Job, store: Store, settings: Settings, tmp_path: Path) -> None:
    import optuna
    from optuna.storages.journal import JournalFileBackend
    from optuna.trial import TrialState

    file = tmp_path / "journal.log"
    file.write_bytes(read("optuna", job, store, settings))
    storage = optuna.storages.JournalStorage(JournalFileBackend(str(file)))
    names = optuna.get_all_study_names(storage)
    studies = [optuna.load_study(study_name=name, storage=storage) for name in names]
    made = trials()
    by_key = {(s.user_attrs["workload"], s.user_attrs["template"], s.user_attrs["cores"]): s for s in studies}
    assert len(by_key) == len(studies) == 2
    for (workload, _, cores), study in by_key.items():
        mine = [t for t in made if (t.candidate.workload_hash, t.candidate.cores) == (workload, cores)]
        assert study.best_value == min(t.seconds for t in mine if t.seconds is not None)
        assert len(study.trials) == len(mine)
        for there, here in zip(study.trials, mine, strict=True):
            assert there.state is (TrialState.COMPLETE if here.failure is None else TrialState.FAIL)
            assert there.value == here.seconds
            assert {k: v for k, v in there.params.items() if k != "layouts"} == dict(here.candidate.knobs)
            assert there.user_attrs.get("failure") == (here.failure.kind.value if here.failure else None)
    spaces = {key[2]: set(study.best_trial.distributions) for key, study in by_key.items()}
    assert spaces == {1: {"ob", "reg_n"}, 2: {"ob", "reg_n", "layouts"}}
    next(iter(by_key.values())).ask({"reg_n": optuna.distributions.IntDistribution(0, 100)})  # it can go on


def test_the_journal_says_what_a_person_wants_to_read(job: Job, store: Store, settings: Settings) -> None:
    names = [
        json.loads(x)["study_name"] for x in read("optuna", job, store, settings).splitlines() if b"study_name" in x
    ]
    assert [n.partition(" ")[0] for n in names] == ["=Conv", "=Conv"]
    assert {n.rpartition(", ")[2] for n in names} == {"1 core", "2 cores"}


# children -------------------------------------------------------------------------------------------------------------


def exports(settings: Settings) -> list[str]:
    return sorted(p.name for p in (settings.data / "exports").iterdir() if p.name != ".turn")


def test_a_log_is_made_once_until_the_job_goes_on(
    job: Job, store: Store, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = []
    run = produce._run

    async def counted(*args: object) -> None:
        runs.append(args)
        await run(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(produce, "_run", counted)

    async def three() -> list[bytes]:
        async def one() -> bytes:
            _, _, chunks = await log_stream("optuna", job, store, settings)
            return b"".join([chunk async for chunk in chunks])

        return await asyncio.gather(one(), one(), one())

    first, second, third = asyncio.run(three())
    assert first == second == third
    assert len(runs) == 1
    store.trials.add(job.id, Trial(candidate(30), samples=(1.0,)), device=DEVICE.fingerprint, toolchain="tvm-test")
    assert len(read("optuna", job, store, settings).splitlines()) == len(first.splitlines()) + 1
    assert len(exports(settings)) == 1  # the earlier one was cleared away


def writer(body: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Production:
    """A program that does what ``body`` says, in the place of one of ours."""
    (folder / "fake_writer.py").write_text(
        f"import os, sys, time\nout = sys.argv[sys.argv.index('--out') + 1]\n{body}\n"
    )
    monkeypatch.syspath_prepend(str(folder))
    return Production("fake_writer", "job", "1", ".bin")


async def pid_of(file: Path) -> int:
    while not file.exists() or not file.read_text().endswith("\n"):
        await asyncio.sleep(0.02)
    return int(file.read_text())


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"


ENDLESS = "open(os.path.dirname(out) + '/../pid', 'w').write(f'{os.getpid()}\\n')\ntime.sleep(600)"


@pytest.mark.parametrize("how", ["leaves", "cancelled", "late"])
def test_a_child_does_not_outlive_the_wish_for_it(how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    what = writer(ENDLESS, tmp_path, monkeypatch)

    async def scene() -> int:
        left = asyncio.Event()

        async def gone() -> bool:
            return left.is_set()

        limit = 3.0 if how == "late" else 60.0
        task = asyncio.create_task(produce.produce(tmp_path / "exports", what, "sqlite:///x", gone, limit))
        pid = await pid_of(tmp_path / "pid")
        if how == "cancelled":
            task.cancel()
        elif how == "leaves":
            left.set()
        expected = {"cancelled": asyncio.CancelledError, "leaves": UserError, "late": InternalError}[how]
        with pytest.raises(expected):
            await task
        return pid

    assert not alive(asyncio.run(scene()))
    assert [p.name for p in (tmp_path / "exports").iterdir()] == [".turn"]


def test_a_failing_child_is_an_error_that_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    what = writer("print('some library talks')\nsys.exit('the disk fell off')", tmp_path, monkeypatch)
    with pytest.raises(InternalError, match="the disk fell off") as caught:
        asyncio.run(produce.produce(tmp_path / "exports", what, "sqlite:///x"))
    assert caught.value.code == "log-failed"


def test_a_child_says_what_is_wrong_with_the_job(store: Store, settings: Settings) -> None:
    what = Production("service.exports.optuna_journal", "0" * 16, "0", ".log")
    with pytest.raises(UserError) as caught:
        asyncio.run(produce.produce(settings.data / "exports", what, settings.db))
    assert caught.value.code == "unknown-job"


def test_only_one_child_works_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = "log = open(os.path.dirname(out) + '/../log', 'a')"
    work = "print('in', file=log, flush=True)\ntime.sleep(0.3)\nprint('out', file=log, flush=True)"
    what = writer(f"{log}\n{work}\nopen(out, 'w').write('x')", tmp_path, monkeypatch)

    async def several() -> None:
        jobs = [replace(what, job=str(n)) for n in range(3)]
        await asyncio.gather(*[produce.produce(tmp_path / "exports", w, "sqlite:///x") for w in jobs])

    asyncio.run(several())
    assert (tmp_path / "log").read_text().split() == ["in", "out"] * 3


def test_the_folder_stays_within_its_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    what = writer("open(out, 'w').write('x')", tmp_path, monkeypatch)
    folder = tmp_path / "exports"
    folder.mkdir()
    for n in range(produce.KEPT_FILES + 5):
        file = folder / f"{n}-fake_writer-1.bin"
        file.write_text("old")
        os.utime(file, (1e9 + n, 1e9 + n))
    stale, fresh = folder / ".part-dead", folder / ".part-working"
    stale.write_text("")
    os.utime(stale, (1e9, 1e9))
    fresh.write_text("")
    asyncio.run(produce.produce(folder, what, "sqlite:///x"))
    left = {p.name for p in folder.iterdir()}
    assert len(left - {".turn", ".part-working"}) == produce.KEPT_FILES
    assert {what.name, ".part-working", f"{produce.KEPT_FILES + 4}-fake_writer-1.bin"} <= left
    assert not {stale.name, "0-fake_writer-1.bin"} & left


def test_a_child_ends_with_its_server(tmp_path: Path, store: Store, settings: Settings, job: Job) -> None:
    """The server is killed while a child works: the child must not go on."""
    out = tmp_path / "fifo"
    os.mkfifo(out)  # opening it for writing waits for a reader: the child is caught in the middle of its work
    command = [sys.executable, "-m", "service.exports.optuna_journal", "--job", job.id, "--out", str(out)]
    child = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)
    try:
        assert child.stdin is not None
        child.stdin.write(f"{settings.db}\n".encode())
        child.stdin.flush()
        time.sleep(1.0)
        assert child.poll() is None
        child.stdin.close()
        assert child.wait(30) == -signal.SIGKILL
    finally:
        child.kill()
