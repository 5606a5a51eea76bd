"""The local runner: every way in which a candidate can fail, completeness, closing. Kernels are real (C)."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from conftest import OPTIONS, alive, children_of
from measure_fakes import candidate
from runner_conformance import RunnerConformance

from tuner.errors import DeviceError, FusetuneError, InternalError
from tuner.measure.device import detect_cpu
from tuner.measure.local import LocalRunner
from tuner.types import Candidate, FailureKind, Purpose

pytestmark = pytest.mark.alone

FAILURES = {
    "build_error": (FailureKind.BUILD, "ValueError: no such schedule"),
    "build_rejected": (FailureKind.REJECTED, "It spills"),
    "build_segfault": (FailureKind.CRASH, "SIGSEGV"),
    "build_hang": (FailureKind.TIMEOUT, "3 s"),
    "build_littering_hang": (FailureKind.TIMEOUT, "3 s"),
    "build_hang_with_child": (FailureKind.TIMEOUT, "3 s"),
    "build_eat": (FailureKind.MEMORY, "256 MiB"),
    "build_memory_error": (FailureKind.MEMORY, "MemoryError"),
    "build_misshapen": (FailureKind.ERROR, "Kernel argument i0"),
    "wrong": (FailureKind.WRONG, "t0 differs"),
    "unwritten": (FailureKind.WRONG, "inf"),
    "segfault": (FailureKind.CRASH, "SIGSEGV"),
    "hang": (FailureKind.TIMEOUT, "3 s"),
    "hang_with_child": (FailureKind.TIMEOUT, "3 s"),
    "eat": (FailureKind.MEMORY, "256 MiB"),
    "exit": (FailureKind.CRASH, "exit code 3"),
    "bad_alloc": (FailureKind.MEMORY, "SIGABRT"),
}


class TestLocalRunner(RunnerConformance):
    taken_ahead = 2 * OPTIONS.chunk * detect_cpu().cores  # one chunk measured, the next one built

    def candidate(self, number: int) -> Candidate:
        return candidate("good", number)

    def failing(self) -> Candidate:
        return candidate("wrong")


def test_every_failure_has_its_kind_and_none_touches_its_neighbours(runner: LocalRunner) -> None:
    def mixed() -> Iterator[Candidate]:
        for number, what in enumerate(FAILURES):
            yield candidate(what, number)
            yield candidate("good", number)

    trials = list(runner.run(mixed()))
    by_key = {t.candidate.key: t for t in trials}
    assert len(by_key) == len(trials) == 2 * len(FAILURES)
    for number, (what, (kind, message)) in enumerate(FAILURES.items()):
        failure = by_key[candidate(what, number).key].failure
        assert failure is not None and failure.kind is kind, f"{what}: {failure}"
        assert message in failure.message, what
        good = by_key[candidate("good", number).key]
        assert good.failure is None and good.samples and good.max_rel_error is not None and good.max_rel_error < 1e-6
    assert "about to crash" in by_key[candidate("segfault", [*FAILURES].index("segfault")).key].failure.stderr
    assert list(runner._scratch.path.glob("*.so")) == list(runner._scratch.path.glob("*.o")) == []


def test_every_candidate_is_measured_exactly_once(runner: LocalRunner) -> None:
    kinds = itertools.cycle(["good", "good", "build_error", "good", "segfault", "chatty", "good", "build_segfault"])
    wanted = [candidate(what, number) for number, what in zip(range(48), kinds, strict=False)]
    trials = list(runner.run(wanted))
    assert Counter(t.candidate.key for t in trials) == Counter(c.key for c in wanted)
    assert sum(t.failure is None for t in trials) == 30
    assert all(t.build_seconds > 0 for t in trials)


def test_libraries_are_given_back_after_their_measurement(runner: LocalRunner) -> None:
    for trial in runner.run(candidate("good", number) for number in range(5)):
        assert trial.failure is None
    assert runner._measurer.child is not None
    maps = Path(f"/proc/{runner._measurer.child.pid}/maps").read_text()
    assert "libtvm_runtime.so" in maps and f"{runner._scratch.path}/1.so" not in maps
    assert ".so" not in "".join(line for line in maps.splitlines() if str(runner._scratch.path) in line)


def test_memory_that_a_fork_shares_counts_once(runner: LocalRunner) -> None:
    assert [t.failure for t in runner.run([candidate("build_slow_fork")])] == [None]


def test_a_kernel_that_writes_to_its_inputs_does_not_harm_the_next(runner: LocalRunner) -> None:
    trials = list(runner.run(candidate(what, i) for i, what in enumerate(["good", "clobbers", "good", "good"])))
    assert [t.failure is None for t in trials if t.candidate.template == "good"] == [True] * 3
    (bad,) = (t.failure for t in trials if t.candidate.template == "clobbers")
    assert bad is not None and bad.kind is FailureKind.WRONG and "writes to its input i0" in bad.message


def test_a_hint_stops_hopeless_candidates_but_never_finalists(make_runner: Callable[..., LocalRunner]) -> None:
    runner = make_runner(replace(OPTIONS, foreign_load=100.0, retake_factor=0.0))
    c = candidate("good", n=200_000)
    (alone,) = runner.run([c])
    (hinted,) = runner.run([c], best_seconds={c.record_key: 1e-9})
    (final,) = runner.run([c], Purpose.FINAL, best_seconds={c.record_key: 1e-9})
    # samples disturbed by other processes are dropped, so that on a busy machine each count may be a little lower
    assert len(hinted.samples) <= 3 < len(alone.samples)
    assert len(final.samples) > 7 and final.purpose is Purpose.FINAL


def test_each_run_of_finalists_gets_a_process_of_its_own(runner: LocalRunner) -> None:
    pids = []
    for numbers in ((1, 2), (3, 4)):
        for _ in runner.run([candidate("good", n) for n in numbers], Purpose.FINAL):
            assert runner._measurer.child is not None
            pids.append(runner._measurer.child.pid)
    assert pids[0] == pids[1] != pids[2] == pids[3]


def test_a_build_function_that_is_not_there_is_the_services_failure(make_runner: Callable[..., LocalRunner]) -> None:
    runner = make_runner(replace(OPTIONS, build_function="no_such_module:build"))
    with pytest.raises(InternalError, match="no_such_module") as raised:
        list(runner.run([candidate("good")]))
    assert raised.value.code == "measuring-broken"


def test_a_workload_without_a_reference_fails_its_candidates_only(runner: LocalRunner) -> None:
    bad = candidate("good")
    layers = [bad.workload["layers"][0] | {"op": "NoSuchOperator"}]
    bad = replace(bad, workload={**bad.workload, "layers": layers}, workload_hash="0" * 64)
    trials = {t.candidate.workload_hash: t for t in runner.run([bad, candidate("good", 1), replace(bad, cores=2)])}
    failure = trials["0" * 64].failure
    assert failure is not None and failure.kind is FailureKind.ERROR and "reference" in failure.message
    assert trials[candidate("good").workload_hash].failure is None


@pytest.mark.parametrize("what", ["hang_with_child", "build_hang_with_child"])
def test_close_from_another_thread_ends_a_run_and_leaves_nothing(runner: LocalRunner, what: str) -> None:
    trials: list[object] = []
    thread = threading.Thread(target=lambda: trials.extend(runner.run([candidate(what)])))
    thread.start()
    wait_for(lambda: grandchildren(os.getpid(), what))
    family = children_of(os.getpid())
    runner.close()
    wait_for(lambda: not any(map(alive, family)))  # a killed process may take a moment to be gone from the table
    thread.join(30)
    assert not thread.is_alive() and trials == []
    runner.close()
    with pytest.raises(DeviceError) as raised:
        runner.run([])
    assert raised.value.code == "runner-closed"


def test_an_error_of_the_service_is_of_the_one_tree() -> None:
    assert issubclass(InternalError, FusetuneError) and issubclass(DeviceError, FusetuneError)


SCRIPT = """
from measure_fakes import candidate
from conftest import OPTIONS
from tuner.measure.device import detect_cpu
from tuner.measure.local import LocalRunner
print("started", flush=True)
for trial in LocalRunner(detect_cpu(), OPTIONS).run([candidate("good"), candidate({what!r})]): print(trial, flush=True)
"""


@pytest.mark.parametrize("what", ["hang_with_child", "build_hang_with_grandchild"])
def test_nothing_survives_a_parent_that_is_killed(what: str) -> None:
    paths = [str(Path(__file__).parent), *(p or os.getcwd() for p in sys.path)]
    env = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
    parent = subprocess.Popen([sys.executable, "-c", SCRIPT.format(what=what)], env=env, stdout=subprocess.PIPE)
    assert parent.stdout is not None
    parent.stdout.readline()
    wait_for(lambda: grandchildren(parent.pid, what))
    family = children_of(parent.pid)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    wait_for(lambda: not any(map(alive, family)))


def grandchildren(pid: int, what: str) -> list[psutil.Process]:
    """What the candidate started: a fork of the measuring child, or a sleep of a builder."""
    word = "sleep" if what.startswith("build") else "run"
    with suppress(psutil.NoSuchProcess):
        return [p for p in children_of(pid) if p.ppid() != pid and word in p.cmdline()]
    return []


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)
