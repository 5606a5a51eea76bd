"""Whole models against each other: every contestant in its own process, taking turns that never overlap.

Contestants are loaded one after the other, once. Then come rounds; in each, every contestant has one turn, in an order
drawn anew: it is continued, warmed up, timed over a number of calls, and stopped, because idle thread pools spin. What
is compared are latencies of the same round (see ``contest_result.ratio``), so that slow drifts of the machine cancel.
A contestant that cannot start, crashes or hangs is a result; the others go on.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from tuner.errors import CandidateError, UserError
from tuner.measure.contest_gauge import TurnGauge
from tuner.measure.contest_process import Contender, environment
from tuner.measure.contest_result import Contestant, ContestResult, Ratio, Standing, Turn, ratio
from tuner.measure.contest_turns import read_arrays, write_arrays
from tuner.measure.gauging import CALM
from tuner.measure.process import Outcome
from tuner.measure.timing import Load, LoadMeter
from tuner.scratch import Scratch
from tuner.types import Failure

__all__ = [
    "ContestResult", "Contestant", "Ratio", "Standing", "Turn", "TurnOptions", "contest", "ratio", "run_once",
]  # fmt: skip


@dataclass(frozen=True)
class TurnOptions:
    """How a turn is taken, and the limits on what a contestant may take for it. Seconds throughout."""

    warm_calls: int = 3  # at least, before the timing; one for those that need a second per call
    warm_seconds: float = 0.05  # at least
    turn_seconds: float = 0.2  # of timed calls, as far as the next two allow
    min_calls: int = 3  # timed calls; one for those that need a second per call
    max_calls: int = 50
    foreign_load: float = 0.15  # share of our cores that others may use before a turn is retaken (once)
    patience: float = 0.5  # a turn waits so long for calm cores (see tuner.measure.contention); 0 = never gauged
    start_limit: float = 120.0  # for a contestant to import what it needs
    load_limit: float = 600.0  # to load and compile the model and run it once
    turn_limit: float = 120.0


def contest(
    contestants: Sequence[Contestant],
    inputs: Mapping[str, np.ndarray],
    *,
    threads: int,
    rounds: int = 15,
    seconds: float | None = None,
    options: TurnOptions = TurnOptions(),
    affinity: Collection[int] | None = None,
    seed: int = 0,
    cancelled: Callable[[], bool] = lambda: False,
) -> ContestResult:
    """Time contestants on the same inputs.

    Args:
        contestants: what to time; their names are unique.
        inputs: arrays by the model's input names.
        threads: threads that each of them may use.
        rounds: turns of each contestant; below 6 there is no 95% interval.
        seconds: no round is begun after so many, counted from when all are loaded; the first one always is.
        options: how a turn is taken.
        affinity: CPUs that contestants are confined to; None = those of this process.
        seed: of the order of turns.
        cancelled: asked before each turn; once it says True, what was measured so far is the result.

    Raises:
        UserError: no contestants, two of the same name, or no threads.
    """
    names = [c.name for c in contestants]
    if not contestants or len(set(names)) < len(names):
        raise UserError("A contest needs contestants with names of their own.", code="bad-contest")
    if threads < 1 or rounds < 1:
        raise UserError("A contest needs at least one thread and one round.", code="bad-contest")
    shuffle = random.Random(seed).shuffle
    scratch = Scratch()
    lanes: list[_Lane] = []
    gauge = None
    try:
        bundle = write_arrays(inputs, scratch.path / "inputs.npz")
        gauge = TurnGauge(scratch, threads, affinity, options.patience, options.start_limit, options.turn_limit)
        lanes += [_Lane(contestant, scratch, threads, options, affinity, gauge) for contestant in contestants]
        for step in (_Lane.start, _Lane.ready, lambda lane: lane.load(bundle)):
            for lane in lanes:
                if not cancelled():
                    step(lane)
        done, started = 0, time.monotonic()
        while done < rounds and not (done and seconds is not None and time.monotonic() - started >= seconds):
            order = [lane for lane in lanes if lane.takes_part(done)]
            shuffle(order)
            for lane in order:
                if cancelled():
                    break
                lane.turn(done)
            if cancelled() or not order:
                break
            done += 1
        return ContestResult(tuple(lane.standing for lane in lanes), threads, done)
    finally:
        for lane in lanes:
            lane.close()
        if gauge is not None:
            gauge.close()
        scratch.remove()


def run_once(
    contestant: Contestant,
    inputs: Sequence[Mapping[str, np.ndarray]],
    threads: int,
    *,
    options: TurnOptions = TurnOptions(),
    cancelled: Callable[[], bool] = lambda: False,
) -> list[dict[str, np.ndarray]]:
    """Outputs by name for each set of inputs, computed in a process of its own.

    Raises:
        CandidateError(code="contestant-failed"): it could not start, crashed, hung or refused; also when cancelled.
    """
    scratch = Scratch()
    lane = _Lane(contestant, scratch, threads, options, None)
    try:
        lane.start()
        lane.ready()
        found: list[dict[str, np.ndarray]] = []
        for arrays in inputs:
            if cancelled():
                raise CandidateError(f"{contestant.name} was cancelled.", code="contestant-failed")
            bundle = write_arrays(arrays, scratch.path / "inputs.npz")
            lane.load(bundle) if not found else lane.run(bundle)
            failure = lane.standing.failure
            if failure is not None:
                raise CandidateError(
                    f"{contestant.name} failed ({failure.kind}): {failure.message}",
                    code="contestant-failed",
                    hint=failure.stderr[-2000:],
                )
            found.append(dict(lane.standing.outputs))
        return found
    finally:
        lane.close()
        scratch.remove()


class _Lane:
    """One contestant's process and its standing so far. After a failure the process is gone; requests do nothing."""

    def __init__(
        self,
        contestant: Contestant,
        scratch: Scratch,
        threads: int,
        options: TurnOptions,
        affinity: Collection[int] | None,
        gauge: TurnGauge | None = None,
    ) -> None:
        self.standing = Standing(contestant)
        self._gauge = gauge
        self._options = options
        self._last_round = contestant.options.get("rounds")
        self._affinity = sorted(affinity) if affinity else []
        self._cores = len(self._affinity) or len(os.sched_getaffinity(0))
        self._threads = threads
        self._outputs = scratch.path / f"outputs-{id(self)}.npz"
        self._stderr = scratch.path / f"contestant-{id(self)}.err"
        self._process: Contender | None = None

    def start(self) -> None:
        """Start the process: it imports its engine, beside the others."""
        who = self.standing.contestant
        config = {
            "kind": who.kind, "path": str(who.path.absolute()), "options": dict(who.options), "threads": self._threads,
            "affinity": self._affinity,
        }  # fmt: skip
        env = environment(self._threads)
        self._process = Contender(config, self._stderr, env, self._options.start_limit)

    def ready(self) -> None:
        """Wait until it has; then it is stopped."""
        if self._process is not None:
            self._answer(self._process.finish())

    def load(self, inputs: Mapping[str, Any]) -> None:
        """Load the model, run it once; then it is stopped."""
        self._request("load", inputs)

    def run(self, inputs: Mapping[str, Any]) -> None:
        """Outputs for other inputs of the same shapes."""
        self._request("run", inputs)

    def takes_part(self, number: int) -> bool:
        return self._process is not None and (self._last_round is None or number < self._last_round)

    def turn(self, number: int) -> None:
        """Take a turn, and again at once if others disturbed it; the less disturbed of the two counts.

        Where cores were contended already before it, in spite of waiting, they stay so: it is not retaken for that.
        """
        limit = self._options.foreign_load
        takes: list[tuple[bool, float, float, tuple[float, ...]]] = []  # disturbed, by how much, samples
        again = True
        while self._process is not None and again:
            before = self._gauge.wait() if self._gauge is not None else 1.0
            meter = _Meter(self._process)
            request = {"op": "turn", **asdict(self._options)}
            answer = self._answer(self._process.ask(request, self._options.turn_limit))
            if answer is not None:
                foreign = meter.foreign(self._cores)
                contention = max(before, self._gauge.read() if self._gauge is not None else 1.0)
                disturbed = foreign > limit or contention > CALM
                takes.append((disturbed, foreign, contention, tuple(answer["samples"])))
                again = len(takes) < 2 and (foreign > limit or before <= CALM < contention)
                self.standing = replace(self.standing, peak_memory=answer["peak_memory"])
        if takes:
            disturbed, _, _, samples = min(takes)
            turn = Turn(number, samples, disturbed)
            self.standing = replace(self.standing, turns=(*self.standing.turns, turn))

    def close(self) -> None:
        """End the process. Idempotent."""
        if self._process is not None:
            self._process.dispose()
            self._process = None

    def _request(self, op: str, inputs: Mapping[str, Any]) -> None:
        if self._process is None:
            return
        request = {"op": op, "inputs": dict(inputs), "outputs": str(self._outputs)}
        answer = self._answer(self._process.ask(request, self._options.load_limit))
        if answer is None:
            return
        self.standing = replace(
            self.standing,
            outputs=read_arrays(answer["outputs"]),
            load_seconds=answer["seconds"] if op == "load" else self.standing.load_seconds,
            peak_memory=answer["peak_memory"],
        )

    def _answer(self, outcome: Outcome) -> Mapping[str, Any] | None:
        if outcome.answer is None:
            self._fail(outcome.failure)
        return outcome.answer

    def _fail(self, failure: Failure | None) -> None:
        self.standing = replace(self.standing, failure=failure)
        self.close()


class _Meter:
    """Foreign load during a turn, seen from outside: engines pin their threads, and then see one CPU only."""

    def __init__(self, process: Contender) -> None:
        self._process = process
        self._before = process.cpu_seconds
        self._meter = LoadMeter()

    def foreign(self, cores: int) -> float:
        load = self._meter.read()
        own = load.own + self._process.cpu_seconds - self._before
        return Load(load.busy, own, load.wall).foreign(cores)
