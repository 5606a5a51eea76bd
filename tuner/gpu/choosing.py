"""The crew's second desk: candidates are checked and compiled, the best of each task first; one of each is chosen."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tuner.errors import InternalError
from tuner.gpu.bundle import Bundle
from tuner.gpu.checking import MOST_OPERATIONS
from tuner.gpu.crew import Order
from tuner.gpu.cubins import SUFFIX
from tuner.gpu.cuda import Built
from tuner.gpu.estimate import occupied
from tuner.gpu.explore import DEFAULT, Seen
from tuner.gpu.exploring import Exploring, Line, Say
from tuner.gpu.nvcc import Cubin
from tuner.gpu.reporting import Chosen
from tuner.gpu.spec import GpuSpec
from tuner.measure.process import Outcome
from tuner.types import Failure, FailureKind, Trial

_KINDS = {"build-failed": FailureKind.BUILD, "rejected": FailureKind.REJECTED, "wrong": FailureKind.WRONG}
_BEFORE_FEWER = 2  # candidates of a task that come before its chosen one is compiled for fewer SMs
_CHECKED_A_SECOND = 5e8  # operations that are emulated in a second, at least: what is left of the time limits checks


@dataclass(frozen=True)
class Terms:
    """What choosing keeps to."""

    keep: int  # candidates of one task that go into a bundle
    most: int | None  # in the whole bundle
    spills: int  # B that a thread may spill
    spec: GpuSpec
    fewer: Sequence[int]  # other numbers of SMs for which the chosen candidates are bundled too
    seconds_left: Callable[[Sequence[float]], float]  # of each kernel's build -> before that of the whole model begins
    stopped: Callable[[], bool]  # somebody asked for an early end


@dataclass
class _State:
    """How far one task has come. ``order``: candidates with the seconds expected of them, the first choice first."""

    line: Line
    order: list[tuple[float, Seen]]
    place: int = 0  # of the candidate that comes next
    bundled: int = 0  # or on their way into the bundle
    choosing: bool = False  # a candidate that may be chosen is being compiled
    chosen: Chosen | None = None
    seconds: float = 0.3  # to compile what is chosen, expected at first
    fewer: list[int] = field(default_factory=list)


class Choosing:
    """Desk. After the crew's work ``chosen`` is complete: where time was out, defaults neither compiled nor checked.

    ``chosen`` raises InternalError (``build-failed``) for a task of which nothing is right.
    """

    def __init__(
        self, lines: Sequence[Line], found: Sequence[Sequence[tuple[float, Seen]]], measured: Mapping[str, Trial],
        bundle: Bundle, terms: Terms, folder: Path, say: Say,
    ) -> None:  # fmt: skip
        self._measured, self._bundle, self._terms, self._folder, self._say = measured, bundle, terms, folder, say
        self._states = [
            _State(line, _measured_first(order, measured), fewer=list(terms.fewer))
            for line, order in zip(lines, found, strict=True)
        ]
        self._promised = 0  # candidates on their way into the bundle
        self._number = 0
        self._orders: dict[int, tuple[_State, Seen, float, bool, bool]] = {}
        self.trials: list[Trial] = []  # failures
        for name in ("cubins", "functions"):
            (folder / name).mkdir()

    @property
    def chosen(self) -> list[Chosen]:
        """Of each task one, and of each chain of which one was built."""
        return [
            state.chosen or self._unbuilt(state)
            for state in self._states
            if state.chosen is not None or not state.line.task.parts
        ]

    def function(self, chosen: Chosen) -> str:
        """The scheduled function of what was chosen, as JSON."""
        line = next(state.line for state in self._states if state.line.task.hash == chosen.task.hash)
        return (self._function(chosen.seen) if chosen.built else line.default).read_text()

    def next(self) -> Order | None:
        left = self._terms.seconds_left(
            [s.seconds for s in self._states if not s.line.task.parts for _ in s.line.task.symbols]
        )
        if left <= 0:
            return None
        for state, seen, expected, check in self._candidates():
            fewer = seen.candidate.cores < self._terms.spec.sms
            wanted = seen.key not in self._measured and (fewer or state.bundled < self._terms.keep) and self._room
            if not (check or (wanted and not self._terms.stopped())):
                continue
            return self._order(state, seen, expected, check, wanted, left)
        return None

    def take(self, order: Order, outcome: Outcome) -> None:
        state, seen, expected, check, wanted = self._orders.pop(order.request["number"])
        self._promised -= wanted
        state.choosing = state.choosing and not check
        built = self._built(seen, outcome)
        if built is None:
            state.bundled -= wanted
            self._bundle.library(seen).unlink(missing_ok=True)
            return
        if wanted:
            filled = occupied(seen.looked.counts, self._terms.spec)
            self._bundle.add(seen, built, expected, min(filled, seen.candidate.cores))
        else:
            built.library.unlink(missing_ok=True)
        if check and state.chosen is None:
            error = outcome.answer["error"] if outcome.answer else None
            trial = self._measured.get(seen.key)
            state.chosen = Chosen(state.line.task, seen, expected, error, built, trial, self._fewer_measured(seen))
            state.seconds = outcome.answer["seconds"] if outcome.answer else state.seconds

    # ----------------------------------------------------------------------------------------------------------------

    @property
    def _room(self) -> bool:
        most = self._terms.most
        return most is None or len(self._bundle) + self._promised < most

    def _candidates(self) -> Iterator[tuple[_State, Seen, float, bool]]:
        """What could be compiled next, the most urgent first; the last says that it is to be checked and chosen."""
        for state in self._states:
            while state.chosen is None and not state.choosing and state.place < len(state.order):
                expected, seen = state.order[state.place]
                state.place += 1
                if not self._failed(seen):
                    yield state, seen, expected, True
        while waiting := [s for s in self._states if s.chosen is not None and (s.place < len(s.order) or s.fewer)]:
            state = min(waiting, key=lambda s: s.bundled + (s.place - s.bundled) * 1e-3)
            if state.fewer and state.place >= min(_BEFORE_FEWER, len(state.order)):
                assert state.chosen is not None
                cores, seen = state.fewer.pop(0), state.chosen.seen
                counts = seen.looked.counts
                if counts.launches < 2 and cores < occupied(counts, self._terms.spec):
                    expected = state.chosen.predicted * self._terms.spec.sms / cores
                    yield state, Seen(replace(seen.candidate, cores=cores), seen.looked), expected, False
                continue
            expected, seen = state.order[state.place]
            state.place += 1
            if not self._failed(seen):
                yield state, seen, expected, False

    def _failed(self, seen: Seen) -> bool:
        trial = self._measured.get(seen.key)
        return trial is not None and trial.failure is not None

    def _order(
        self, state: _State, seen: Seen, expected: float, check: bool, wanted: bool, left: float
    ) -> Order:  # fmt: skip
        self._number += 1
        state.choosing = state.choosing or check
        state.bundled += wanted
        self._promised += wanted
        self._orders[self._number] = state, seen, expected, check, wanted
        self._say(f"compiling for {state.line.task.name}")
        unchosen = sum(s.chosen is None for s in self._states)
        request: dict[str, Any] = {
            "order": "compile", "number": self._number, "task": str(state.line.path),
            "candidate": seen.candidate.to_json(), "library": str(self._bundle.library(seen)),
            "cubins": str(self._folder / "cubins"), "function": str(self._function(seen)),
            "check": str(state.line.expected) if check else None,
            "operations": min(MOST_OPERATIONS, _CHECKED_A_SECOND * left / max(1, unchosen)),
        }  # fmt: skip
        return Order(request, time.monotonic() + left)

    def _function(self, seen: Seen) -> Path:
        return self._folder / "functions" / f"{seen.key}.json"

    def _built(self, seen: Seen, outcome: Outcome) -> Built | None:
        """The library that came of an order; None, and a trial unless time was merely out, if none did."""
        answer, failure = outcome.answer, outcome.failure
        if answer is None:
            if failure is not None and failure.kind is not FailureKind.TIMEOUT:
                self.trials.append(Trial(seen.candidate, failure=failure))
            return None
        if "failed" in answer:
            self._fail(seen, _KINDS.get(answer["failed"], FailureKind.BUILD), answer["message"])
            return None
        cubins = {
            digest: Cubin(**facts | {"code": (self._folder / "cubins" / f"{digest}{SUFFIX}").read_bytes()})
            for digest, facts in answer["cubins"].items()
        }
        built = Built(self._bundle.library(seen), cubins, answer["way"])
        if built.spills > self._terms.spills and seen.candidate.template != DEFAULT:
            self._fail(seen, FailureKind.REJECTED, f"A thread spills {built.spills} bytes of registers.")
            return None
        return built

    def _fail(self, seen: Seen, kind: FailureKind, message: str) -> None:
        self.trials.append(Trial(seen.candidate, failure=Failure(kind, message)))

    def _fewer_measured(self, seen: Seen) -> dict[int, float]:
        """Seconds measured of the same candidate on fewer SMs."""
        found = {}
        for cores in self._terms.fewer:
            trial = self._measured.get(replace(seen.candidate, cores=cores).key)
            if trial is not None and trial.seconds is not None:
                found[cores] = trial.seconds
        return found

    def _unbuilt(self, state: _State) -> Chosen:
        """The default, which the whole model's build compiles. Raises InternalError where it is known to fail."""
        expected, seen = next((e, s) for e, s in state.order if s.candidate.template == DEFAULT)
        if self._failed(seen) or any(trial.candidate.key == seen.key for trial in self.trials):
            raise InternalError(f"No candidate of {state.line.task.name} compiles and is right.", code="build-failed",
                                hint="With more seconds others are tried.")  # fmt: skip
        return Chosen(state.line.task, seen, expected, None, None, self._measured.get(seen.key))


def _measured_first(
    candidates: Sequence[tuple[float, Seen]], measured: Mapping[str, Trial]
) -> list[tuple[float, Seen]]:  # fmt: skip
    """Those with a time by it, the fastest first; then the others as they were ranked."""
    timed = [(t.seconds, c) for _, c in candidates if (t := measured.get(c.key)) is not None and t.seconds is not None]
    rest = [(s, c) for s, c in candidates if (t := measured.get(c.key)) is None or t.seconds is None]
    return [*sorted(timed, key=lambda pair: pair[0]), *rest]


class Relay:
    """Desk: exploring, then, as soon as every task has its candidates, choosing among them."""

    def __init__(self, exploring: Exploring, then: Callable[[], Choosing]) -> None:
        self._exploring, self._then = exploring, then
        self._choosing: Choosing | None = None

    @property
    def choosing(self) -> Choosing:
        """The second desk."""
        if self._choosing is None:
            self._choosing = self._then()
        return self._choosing

    def next(self) -> Order | None:
        order = self._exploring.next()
        return order if order is not None or not self._exploring.explored else self.choosing.next()

    def take(self, order: Order, outcome: Outcome) -> None:
        desk = self.choosing if order.request["order"] == "compile" else self._exploring
        desk.take(order, outcome)
