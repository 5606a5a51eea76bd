"""What the command line writes down about its jobs, and which jobs it takes for answered."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from db.jobs import Job
from db.queue import Claim, StaleDriver
from db.store import Store
from service.dispatch import drive as drive_module
from service.dispatch import inline
from service.dispatch.drive import Drive
from service.dispatch.inline import run_here
from service.dispatch.jobstore import JobStore
from service.jobs import answer
from service.rules import check_cores
from tuner.errors import InternalError, UserError
from tuner.types import Budget, Device, JobSpec, JobState

DEVICE = Device("cpu", "cpu", "Test CPU", "znver5", ("avx2",), 2, 16, 32, 2**15, 2**20, 2**25, 2**34)
SPEC = JobSpec(model="ab" * 32, budget=Budget(trials=8))
REPORT = {"latency_ms": {"tuned": {"median": 2.0}}}


@pytest.fixture
def store(tmp_path) -> Iterator[Store]:  # type: ignore[no-untyped-def]
    with Store.open(f"sqlite:///{tmp_path}/books.db") as opened:
        yield opened


def run(
    store: Store, result: object, spec: JobSpec = SPEC, stopped: bool = False, during: Callable[[], None] = lambda: None
) -> dict[str, Any]:
    """A job whose work ends with ``result``."""

    def work() -> object:
        during()
        if isinstance(result, BaseException):
            raise result
        return result

    def make(_: JobStore, drive: Drive) -> Any:
        session = SimpleNamespace(run=work, stopped=stopped)
        session.stop = lambda: setattr(session, "stopped", True)
        return session

    return run_here(store, spec, DEVICE, "tvm-test", "toy", make, lambda: 1.0)


def newest(store: Store) -> Job:
    job = store.jobs.get(store.jobs.list(limit=1).items[0].id)
    assert job is not None
    return job


@pytest.mark.parametrize(
    ("error", "state"),
    [
        (UserError("The model is no model."), JobState.FAILED),
        (InternalError("The result is wrong."), JobState.FAILED),
        (ValueError("a defect"), JobState.FAILED),
        (MemoryError(), JobState.FAILED),
        (KeyboardInterrupt(), JobState.CANCELLED),
    ],
)
def test_no_error_leaves_a_job_running(store: Store, error: BaseException, state: JobState) -> None:
    with pytest.raises(type(error)):
        run(store, error)
    kept = newest(store)
    assert kept.state is state
    assert kept.reason
    assert str(error) in kept.reason
    assert kept.driver is None


@pytest.mark.parametrize(("stopped", "state"), [(False, JobState.SUCCEEDED), (True, JobState.CANCELLED)])
def test_a_result_is_kept(store: Store, stopped: bool, state: JobState) -> None:
    assert run(store, REPORT, stopped=stopped) == REPORT
    kept = newest(store)
    assert (kept.state, kept.best_seconds, kept.model_name) == (state, 0.002, "toy")


def test_no_server_can_take_the_job_and_its_lease_is_renewed(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inline, "LEASE", 0.4)

    def during() -> None:
        store.devices.put(DEVICE)
        time.sleep(1.0)
        assert store.queue.claim("a server", devices=[DEVICE.fingerprint], per_device=9, seconds=9) is None
        assert store.queue.reclaim() == []
        assert newest(store).state is JobState.RUNNING

    run(store, REPORT, during=during)
    assert newest(store).state is JobState.SUCCEEDED


def test_a_beat_while_its_end_is_written_down_interrupts_nobody(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    monkeypatch.setattr(inline, "LEASE", 0.4)  # a beat each 0.08 s
    finish = store.queue.finish
    monkeypatch.setattr(store.queue, "finish", lambda *a, **k: (finish(*a, **k), time.sleep(0.3)))
    assert run(store, REPORT) == REPORT
    assert newest(store).state is JobState.SUCCEEDED


def test_a_job_that_another_driver_took_is_given_up(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inline, "LEASE", 0.4)
    monkeypatch.setattr(drive_module, "ENDING", 0.1)

    def taken(claim: Claim, *_: Any, **__: Any) -> None:
        raise StaleDriver(claim)

    def working() -> None:
        for _ in range(500):
            time.sleep(0.01)

    monkeypatch.setattr(store.queue, "beat", taken)
    with pytest.raises(KeyboardInterrupt):
        run(store, REPORT, during=working)


def test_a_cancel_from_elsewhere_ends_it_with_the_best_so_far(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inline, "LEASE", 0.4)
    run(store, REPORT, during=lambda: (store.jobs.request(newest(store).id, "cancel"), time.sleep(0.5)))  # type: ignore[func-returns-value]
    assert newest(store).state is JobState.CANCELLED
    assert newest(store).best_seconds == 0.002


def test_one_batch_on_a_device_at_a_time(store: Store) -> None:
    """Two jobs that measure all the time: their turns never overlap, and neither starves."""
    store.devices.put(DEVICE)
    inside: list[str] = []
    order: list[str] = []

    def work(name: str) -> None:
        job, _ = store.jobs.submit(SPEC, DEVICE.fingerprint, "tvm-test", paused=True)
        claim = store.queue.start(job.id, name, 9.0)
        with Drive(store, job, claim, lease=9.0, elapsed=lambda: 0.0, lost=lambda: None) as drive:
            for _ in range(6):
                with drive.turn("a batch"):
                    inside.append(name)
                    order.append(name)
                    assert inside == [name]
                    time.sleep(0.15)
                    inside.remove(name)

    threads = [threading.Thread(target=work, args=(name,)) for name in ("one", "two")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(order) == ["one"] * 6 + ["two"] * 6
    assert len(set(order[:6])) == 2


def test_an_answer_is_found_behind_any_number_of_other_jobs(store: Store) -> None:
    run(store, REPORT)
    for seed in range(1, 103):  # more than one page of jobs
        run(store, REPORT, JobSpec(model="ab" * 32, seed=seed))
    assert answer(store, SPEC, DEVICE, "tvm-test") is not None
    assert answer(store, SPEC, DEVICE, "tvm-test", files=True) is None  # the command line keeps its artifact to itself
    assert answer(store, SPEC, DEVICE, "another") is None


@pytest.mark.parametrize(
    ("asked", "known"),
    [
        (Budget(trials=8), True),
        (Budget(trials=3), True),
        (Budget(trials=9), False),
        (Budget(seconds=10), False),
    ],
)
def test_answers_cover_smaller_budgets_only(store: Store, asked: Budget, known: bool) -> None:
    run(store, REPORT)
    found = answer(store, JobSpec(model="ab" * 32, budget=asked), DEVICE, "tvm-test")
    assert (found is not None) is known


def test_stopped_and_failed_jobs_are_no_answers(store: Store) -> None:
    run(store, REPORT, stopped=True)
    with pytest.raises(InternalError):
        run(store, InternalError("no"))
    assert answer(store, SPEC, DEVICE, "tvm-test") is None


def test_more_cores_than_there_are() -> None:
    check_cores(None, DEVICE)
    check_cores((1, 2), DEVICE)
    with pytest.raises(UserError, match=r"3 cores .* has 2"):
        check_cores((1, 3), DEVICE)
