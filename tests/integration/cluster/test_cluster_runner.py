"""The cluster's runner on a real Ray cluster on loopback: the contract, failures of candidates, machines that go."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import ClassVar

import pytest
from cluster_tools import HASTY, MISSING, OPTIONS, Head, Machine, processes, until
from measure_fakes import candidate
from runner_conformance import RunnerConformance

from tuner.errors import DeviceError
from tuner.measure.cluster.cluster import Cluster
from tuner.measure.cluster.runner import AHEAD, ClusterRunner
from tuner.measure.device import detect_cpu
from tuner.types import Candidate, FailureKind, Trial

pytest.importorskip("ray", reason=MISSING)
pytestmark = [pytest.mark.alone, pytest.mark.timeout(900)]

FAILURES = {
    "build_error": (FailureKind.BUILD, "ValueError: no such schedule"),
    "build_segfault": (FailureKind.CRASH, "SIGSEGV"),
    "wrong": (FailureKind.WRONG, "t0 differs"),
    "segfault": (FailureKind.CRASH, "SIGSEGV"),
    "hang": (FailureKind.TIMEOUT, f"{HASTY.run_limit:g} s"),
}


class TestClusterRunner(RunnerConformance):
    taken_ahead: ClassVar[int] = 2 + AHEAD

    def candidate(self, number: int) -> Candidate:
        return candidate("good", number)

    def failing(self) -> Candidate:
        return candidate("wrong")


def test_every_failure_has_its_kind_and_none_touches_its_neighbours(
    machine: Machine, make_runner: Callable[..., ClusterRunner]
) -> None:
    runner = make_runner(HASTY)
    wanted = [candidate(what, n) for n, failing in enumerate(FAILURES) for what in (failing, "good")]
    trials = {t.candidate.key: t for t in runner.run(wanted)}
    assert len(trials) == len(wanted)
    for n, (what, (kind, message)) in enumerate(FAILURES.items()):
        failure = trials[candidate(what, n).key].failure
        assert failure is not None and failure.kind is kind, f"{what}: {failure}"
        assert message in failure.message, what
        assert trials[candidate("good", n).key].samples
    assert "about to crash" in (trials[candidate("segfault", 3).key].failure or FAILURES).stderr  # type: ignore[union-attr]


@pytest.mark.slow
def test_two_tuners_share_a_device_and_each_gets_its_own_answers(
    machine: Machine, make_runner: Callable[..., ClusterRunner]
) -> None:
    found: dict[int, list[Trial]] = {}

    def measure(which: int) -> None:
        found[which] = list(make_runner().run([candidate("good", 100 * which + n) for n in range(5)]))

    threads = [threading.Thread(target=measure, args=(which,)) for which in (1, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for which in (1, 2):
        assert {t.candidate.knobs["number"] for t in found[which]} == {100 * which + n for n in range(5)}
        assert all(t.samples for t in found[which])


@pytest.mark.slow
def test_waiting_for_another_tuners_candidates_is_no_time_out(
    machine: Machine, make_runner: Callable[..., ClusterRunner]
) -> None:
    """Three hanging candidates hold the device up to their limit each; that is also the limit of the others."""
    other = threading.Thread(target=lambda: list(make_runner(HASTY).run([candidate("hang", n) for n in range(3)])))
    other.start()
    trials = list(make_runner(HASTY).run([candidate("good", n) for n in range(4)]))
    other.join()
    assert [t.failure for t in trials] == [None] * 4


def test_a_killed_worker_costs_nothing_but_time(machine: Machine, make_runner: Callable[..., ClusterRunner]) -> None:
    waits: list[str] = []

    @contextmanager
    def waiting() -> Iterator[None]:
        waits.append("began")
        yield
        waits.append("ended")

    runner, joins = make_runner(waiting=waiting), machine.joins
    trials = []
    for trial in runner.run([candidate("good", n) for n in range(12)]):
        trials.append(trial)
        if len(trials) == 3:
            (node,) = processes("tuner.measure.cluster.node")
            node.kill()
    assert machine.joins == joins + 1, machine.said  # it came back by itself
    assert Counter(t.candidate.key for t in trials) == Counter(candidate("good", n).key for n in range(12))
    assert all(t.samples for t in trials)
    assert waits in ([], ["began", "ended"])  # whether it was back before anybody noticed


@pytest.mark.slow
def test_a_killed_link_costs_nothing_but_time(runner: ClusterRunner) -> None:
    trials = []
    for trial in runner.run([candidate("good", n) for n in range(8)]):
        trials.append(trial)
        if len(trials) == 2:
            (link,) = processes("tuner.measure.child cluster")
            link.kill()
    assert Counter(t.candidate.key for t in trials) == Counter(candidate("good", n).key for n in range(8))
    assert all(t.samples for t in trials)


@pytest.mark.slow
def test_a_cluster_that_is_not_there_is_said_so() -> None:
    cluster = Cluster("127.0.0.1:9")
    try:
        with pytest.raises(DeviceError) as raised:
            cluster.devices(seconds=4.0)
        assert raised.value.code in {"cluster-unreachable", "no-device"}
    finally:
        cluster.close()
        cluster.dispose()


@pytest.mark.slow
def test_closing_ends_a_wait_for_a_device(head: Head) -> None:
    """A runner for a device that nobody has waits, until somebody closes it."""
    absent = detect_cpu().__class__(**{**vars(detect_cpu()), "model": "another"})
    waits = threading.Event()

    @contextmanager
    def waiting() -> Iterator[None]:
        waits.set()
        yield

    runner = ClusterRunner(Cluster(head.address), absent, OPTIONS, waiting)
    found: list[Trial] = []
    thread = threading.Thread(target=lambda: found.extend(runner.run([candidate("good")])))
    thread.start()
    until(waits.is_set)
    runner.close()
    thread.join(5)
    assert not thread.is_alive() and found == []


@pytest.mark.slow
def test_a_killed_head_costs_nothing_but_time() -> None:
    """The head is gone with all that it knew; workers join the next one, and what was under way is done again."""
    with Head() as head, Machine(head.address) as machine:
        runner = ClusterRunner(Cluster(head.address), detect_cpu(), OPTIONS)
        trials = []
        for trial in runner.run([candidate("good", n) for n in range(10)]):
            trials.append(trial)
            if len(trials) == 3:
                head.kill()
                head.start()
        runner.close()
        assert machine.joins == 2, machine.said
    assert Counter(t.candidate.key for t in trials) == Counter(candidate("good", n).key for n in range(10))
    assert all(t.samples for t in trials)
