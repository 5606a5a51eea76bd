"""What the cluster's runner makes of machines and connections that go away. The cluster is played by the test."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tuner.measure.cluster.cluster import Answer, Call, Member
from tuner.measure.cluster.runner import LOSSES, ClusterRunner
from tuner.measure.named import XEON_4214R as DEVICE
from tuner.types import Candidate, FailureKind, Trial

ONE = Member("one", DEVICE, 2, {})
TWO = Member("two", DEVICE, 2, {})
ANSWER = {"answer": {"samples": [1.0], "error": 0.0, "disturbed": 0, "calls": 1, "calibration": None}, "seconds": 0.1}


class Played:
    """A Cluster whose members do what ``play`` says of each call: an answer's header, or a reason why it is lost."""

    def __init__(self, play: Callable[[Call, int], dict[str, Any] | str], *members: Member) -> None:
        self._play = play
        self.comparable = members
        self.calls: list[Call] = []
        self.waiting: list[int] = []
        self.link = False  # whether losses are the connection's
        self.closed = False

    def having(self, device: object) -> list[Member]:
        return [m for m in self.comparable if m.device == device]

    def call(self, call: Call) -> int:
        self.calls.append(call)
        self.waiting.append(len(self.calls) - 1)
        return len(self.calls) - 1

    def exchange(self, seconds: float) -> list[Answer]:
        """All calls under way come to an end, as if a machine went away with all that it had."""
        answers = []
        for id in self.waiting:
            said = self._play(self.calls[id], id)
            lost = isinstance(said, str)
            answers.append(Answer(id, None if lost else said, said if lost else "", self.link))  # type: ignore[arg-type]
            if not lost and self.calls[id].keep is not None:
                self.calls[id].keep.write_bytes(b"library")  # type: ignore[union-attr]
        self.waiting = []
        return answers

    def forget(self) -> None:
        self.waiting = []

    def close(self) -> None:
        self.closed = True

    def dispose(self) -> None:
        pass


def candidate(number: int) -> Candidate:
    return Candidate({}, "w" * 64, {}, "template", 1, {"number": number}, 1)


def number(call: Call) -> int:
    """Of the candidate; a measurement knows it from the binary."""
    return int(
        call.header["candidate"]["knobs"]["number"] if call.method == "build" else call.header["binary"]["number"]
    )


def built(call: Call) -> dict[str, Any]:
    return {"answer": {"number": number(call)}, "seconds": 0.1}


def run(cluster: Played, count: int, **options: Any) -> list[Trial]:
    runner = ClusterRunner(cluster, DEVICE, **options)  # type: ignore[arg-type]
    try:
        return list(runner.run([candidate(n) for n in range(count)]))
    finally:
        runner.close()


def test_every_call_may_be_lost_once_and_nothing_is_lost_or_told_twice() -> None:
    tried: Counter[tuple[str, int]] = Counter()

    def play(call: Call, _: int) -> dict[str, Any] | str:
        tried[call.method, number(call)] += 1
        if tried[call.method, number(call)] == 1:
            return "its machine went away"
        return built(call) if call.method == "build" else ANSWER

    trials = run(Played(play, ONE, TWO), 20)
    assert sorted(t.candidate.knobs["number"] for t in trials) == list(range(20))
    assert all(t.samples for t in trials)


def test_a_candidate_that_takes_its_machines_down_is_marked_and_those_that_waited_there_are_not() -> None:
    """Number 3 ends every machine that measures it; what waits behind it goes down along and is measured later."""

    def play(call: Call, id: int) -> dict[str, Any] | str:
        if call.method == "build":
            return built(call)
        there = [i for i in cluster.waiting if cluster.calls[i].method == "measure"]
        first = next((n for n, i in enumerate(there) if number(cluster.calls[i]) == 3), None)
        return "it went down" if first is not None and there.index(id) >= first else ANSWER

    cluster = Played(play, ONE)
    trials = {t.candidate.knobs["number"]: t for t in run(cluster, 8)}
    assert sorted(trials) == list(range(8))
    failure = trials.pop(3).failure
    assert failure is not None and failure.kind is FailureKind.LOST
    assert "3 workers went away" in failure.message and "it went down" in failure.message
    assert all(t.samples for t in trials.values())
    assert sum(number(c) == 3 for c in cluster.calls if c.method == "measure") >= LOSSES + 1


def test_a_lost_connection_is_nobodys_fault() -> None:
    lost = iter([True] * 40)
    cluster = Played(
        lambda call, _: "gone" if next(lost, False) else built(call) if call.method == "build" else ANSWER, ONE
    )
    cluster.link = True
    trials = run(cluster, 4)
    assert len(trials) == 4 and all(t.samples for t in trials)


def test_what_a_machine_says_that_was_cut_off_and_came_back_is_not_told_twice() -> None:
    """Its measurements are lost with the connection, made again, and then its own answers come after all."""

    class Late(Played):
        def exchange(self, seconds: float) -> list[Answer]:
            answers = super().exchange(seconds)
            late = [Answer(a.id, ANSWER if self.calls[a.id].method == "measure" else built(self.calls[a.id]))
                    for a in self.lost]  # fmt: skip
            self.lost = [a for a in answers if a.header is None]
            return [*answers, *late, *late]

        lost: list[Answer] = []  # noqa: RUF012 - replaced, never changed

    tried: Counter[tuple[str, int]] = Counter()

    def play(call: Call, _: int) -> dict[str, Any] | str:
        tried[call.method, number(call)] += 1
        if tried[call.method, number(call)] == 1:
            return "cut off"
        return built(call) if call.method == "build" else ANSWER

    trials = run(Late(play, ONE, TWO), 12)
    assert sorted(t.candidate.knobs["number"] for t in trials) == list(range(12))
    assert all(t.samples for t in trials)


def test_a_kernel_is_not_built_again_because_its_measurement_was_lost() -> None:
    tried: Counter[int] = Counter()

    def play(call: Call, _: int) -> dict[str, Any] | str:
        if call.method == "build":
            return built(call)
        tried[number(call)] += 1
        return "gone" if tried[number(call)] == 1 else ANSWER

    cluster = Played(play, ONE)
    run(cluster, 5)
    builds = Counter(number(c) for c in cluster.calls if c.method == "build")
    assert set(builds.values()) == {1}


def test_machines_without_a_device_build_first_and_no_machine_has_more_than_it_can_do() -> None:
    builder = Member("builder", None, 3, {})
    most: Counter[tuple[str, str]] = Counter()

    def play(call: Call, _: int) -> dict[str, Any] | str:
        now = Counter((cluster.calls[id].member, cluster.calls[id].method) for id in cluster.waiting)
        most.update({key: max(0, n - most[key]) for key, n in now.items()})
        return built(call) if call.method == "build" else ANSWER

    cluster = Played(play, ONE, builder)
    assert len(run(cluster, 30)) == 30
    assert cluster.calls[0].member == "builder"
    assert most["builder", "build"] == 3 and most["one", "build"] <= 2 and most["one", "measure"] <= 2


def test_without_a_device_it_waits_and_says_so_and_counts_no_time_against_anybody(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("tuner.measure.cluster.runner.PATIENCE", 0.0)
    said: list[str] = []

    @contextmanager
    def waiting() -> Iterator[None]:
        said.append("began")
        cluster.comparable = (ONE,)
        yield
        said.append("ended")

    cluster = Played(lambda call, _: built(call) if call.method == "build" else ANSWER)
    trials = run(cluster, 3, waiting=waiting)
    assert len(trials) == 3 and all(t.samples for t in trials)
    assert said == ["began", "ended"]
    assert cluster.closed
