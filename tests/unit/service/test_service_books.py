"""What the command line writes down about its jobs, and which jobs it takes for answered."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from db.store import Store
from service.dispatch.jobstore import JobStore
from service.commands.tune import _keep_books, check_cores
from tuner.errors import InternalError, UserError
from tuner.types import Budget, Device, JobSpec, JobState

DEVICE = Device("cpu", "cpu", "Test CPU", "znver5", ("avx2",), 2, 16, 32, 2**15, 2**20, 2**25, 2**34)
SPEC = JobSpec(model="ab" * 32, budget=Budget(trials=8))


@pytest.fixture
def store(tmp_path) -> Iterator[Store]:  # type: ignore[no-untyped-def]
    with Store.open(f"sqlite:///{tmp_path}/books.db") as opened:
        yield opened


def jobs_of(store: Store, spec: JobSpec = SPEC) -> JobStore:
    return JobStore(store, spec, DEVICE, "tvm-test")


def session(result: object, stopped: bool = False) -> SimpleNamespace:
    def run() -> object:
        if isinstance(result, BaseException):
            raise result
        return result

    return SimpleNamespace(run=run, stopped=stopped)


REPORT = {"latency_ms": {"tuned": {"median": 2.0}}}


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
    job = jobs_of(store).job
    with pytest.raises(type(error)):
        _keep_books(store, job, session(error))
    kept = store.jobs.get(job)
    assert kept is not None
    assert kept.state is state
    assert kept.reason
    assert str(error) in kept.reason


@pytest.mark.parametrize(("stopped", "state"), [(False, JobState.SUCCEEDED), (True, JobState.CANCELLED)])
def test_a_result_is_kept(store: Store, stopped: bool, state: JobState) -> None:
    job = jobs_of(store).job
    assert _keep_books(store, job, session(REPORT, stopped)) == REPORT
    kept = store.jobs.get(job)
    assert kept is not None
    assert (kept.state, kept.best_seconds) == (state, 0.002)


def test_an_answer_is_found_behind_any_number_of_other_jobs(store: Store) -> None:
    _keep_books(store, jobs_of(store).job, session(REPORT))
    for seed in range(1, 103):  # more than one page of jobs
        _keep_books(store, jobs_of(store, JobSpec(model="ab" * 32, seed=seed)).job, session(REPORT))
    assert jobs_of(store).answered(SPEC)


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
    _keep_books(store, jobs_of(store).job, session(REPORT))
    assert jobs_of(store).answered(JobSpec(model="ab" * 32, budget=asked)) is known


def test_stopped_and_failed_jobs_are_no_answers(store: Store) -> None:
    _keep_books(store, jobs_of(store).job, session(REPORT, stopped=True))
    with pytest.raises(InternalError):
        _keep_books(store, jobs_of(store).job, session(InternalError("no")))
    assert not jobs_of(store).answered(SPEC)


def test_more_cores_than_there_are() -> None:
    check_cores(None, DEVICE)
    check_cores((1, 2), DEVICE)
    with pytest.raises(UserError, match=r"3 cores .* has 2"):
        check_cores((1, 3), DEVICE)
