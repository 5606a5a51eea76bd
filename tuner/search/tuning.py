"""Measures kernels until the budget is spent or nothing is left to win: knobs first, then cores, then finalists."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from cost_model.boosted import BoostedTrees
from tuner.clock import Clock
from tuner.measure.runner import Runner
from tuner.plan.describe import describe
from tuner.search.allocation import BATCH, Allocation
from tuner.search.experience import Experience
from tuner.search.knobs import KnobSearch
from tuner.search.questions import Question
from tuner.store import TrialStore
from tuner.turns import Turn, alone
from tuner.types import Candidate, Device, Purpose, Trial

CORE_FINALISTS = 2  # best knobs that are also tried at other core counts
FINAL_MARGIN = 1.06  # the best and runners-up within this factor of it are measured again, in another process ...
FINAL_ROUNDS = (False, False, True)  # ... first the best alone, and those that are then; in the end runners-up, too
CONTROLLED = 0.8  # share of the model's time whose default kernels are measured again beside the finalists
LAST_SHARE = 0.3  # of the search time kept for cores and finalists ...
CORES_SHARE = 0.4  # ... and of that, at most, for cores


@dataclass(frozen=True)
class Heard:
    """What is known of questions before they are asked."""

    theirs: Sequence[Trial]  # measured by other jobs, or by an earlier run of this one
    mine: Sequence[Trial]  # known to this job already

    @property
    def record_keys(self) -> set[str]:
        """Of the searches that are known."""
        return {trial.candidate.record_key for trial in (*self.theirs, *self.mine)}


@dataclass
class Tuning:
    """The kernel search of one job. State lives in the searches, rebuilt from stored trials by ``recall``."""

    questions: list[Question]
    device: Device
    store: TrialStore
    seed: int = 0
    fresh: bool = False  # what other jobs measured does not count
    retry: bool = False  # measure again what failed in this job for a reason that may be gone
    experience: Experience | None = None  # what other kernels of the device taught about knobs
    clock: Clock = field(default_factory=Clock)
    turn: Turn = alone
    trials: list[Trial] = field(default_factory=list)  # known ones first, then this job's
    measured: int = 0
    failed: int = 0
    reused: int = 0
    build_seconds: float = 0.0
    measure_seconds: float = 0.0
    message: str = "starting"

    def __post_init__(self) -> None:
        self._stopped = False
        self._busy = 0.0  # seconds in the runner, waiting for the device, storing, and with whoever watches
        self.run_seconds = 0.0
        self._best: dict[str, float] = {}
        self._again: list[Candidate] = []  # what ``retry`` is about
        self._begun = {id(q) for q in self.questions}  # those of the plan that the job begins with
        self._names = {id(s): q for q in self.questions for s in q.searches.values()}
        searches = {}
        for question in self.questions:
            for search in question.searches.values():
                searches[search.candidate.record_key] = search
        self._every = searches
        self.allocation = Allocation(self._mains(), BoostedTrees(seed=self.seed), self.experience)

    def heard(self, record_keys: Collection[str]) -> Heard:
        """What this job or the store knows of these questions."""
        keys = frozenset(record_keys)
        mine = [t for t in self.trials if t.candidate.record_key in keys]
        ours = {t.candidate.key for t in mine}
        stored = () if self.fresh else self.store.known(keys)
        return Heard([t for t in stored if t.candidate.key not in ours and not t.passing], mine)

    def add(self, *questions: Question, heard: Heard | None = None) -> None:
        """Ask more questions, and take in what is known of them; their knobs are not searched.

        ``heard``: that, if it was asked for before; it is about these questions alone.
        """
        by_key = {s.candidate.record_key: s for q in questions for s in q.searches.values()}
        heard = self.heard(by_key) if heard is None else heard
        self.questions += questions
        self._names |= {id(s): question for question in questions for s in question.searches.values()}
        self._every |= by_key
        self.reused += len({t.candidate.key for t in heard.theirs})
        self.trials += heard.theirs
        for trial in (*heard.theirs, *heard.mine):
            self._tell(trial)

    def focus(self, asked: Mapping[tuple[str, ...], Question]) -> None:
        """Search the knobs of these questions from now on, each as important as it has blocks; all were added."""
        for question in self.questions:
            question.uses, question.layers = 0, []
        for layers, question in asked.items():
            question.uses += 1
            question.layers.append(layers)
        for question in self.questions:
            for search in question.searches.values():
                search.weight = question.uses
        self.allocation.searches |= self._mains()

    def _mains(self) -> dict[str, KnobSearch]:
        return {s.candidate.record_key: s for q in self.questions if q.uses for s in q.mains}

    @contextmanager
    def deciding(self) -> Iterator[None]:
        """Time in here was spent on choosing what to measure, as far as nothing was measured meanwhile."""
        began = time.monotonic()
        try:
            yield
        finally:
            self.run_seconds += time.monotonic() - began

    @contextmanager
    def _busily(self) -> Iterator[None]:
        """Time in here is none of deciding's."""
        began = time.monotonic()
        try:
            yield
        finally:
            self._busy += time.monotonic() - began

    @property
    def stopped(self) -> bool:
        """Whether it was asked to end."""
        return self._stopped

    def stop(self) -> None:
        """End after the trial in flight."""
        self._stopped = True

    @property
    def latency(self) -> float | None:
        """Seconds of the whole model if every block ran at its best known time; None until all are known."""
        planned = [q for q in self.questions if q.uses]  # not those that were added
        times = [q.answer().seconds for q in planned]
        if not times or any(t is None for t in times):
            return None
        return sum(q.uses * (t or 0.0) for q, t in zip(planned, times, strict=True))

    @property
    def deciding_seconds(self) -> float:
        """Time spent choosing what to measure."""
        return max(0.0, self.run_seconds - self._busy)

    def recall(self) -> None:
        """Take in what this job measured before it was interrupted, and what the store knows about its questions."""
        mine = list(self.store.mine())
        known = () if self.fresh else self.store.known(list(self._every))
        ours = {t.candidate.key for t in mine}
        # Another job's failure says nothing when its reason may be gone; our own counts until a retry is asked for.
        theirs = [t for t in known if t.candidate.key not in ours and not t.passing]
        done = {t.candidate.key for t in mine if not t.passing}
        again = {t.candidate.key: t.candidate for t in mine if t.passing and t.candidate.key not in done}
        self._again = list(again.values()) if self.retry else []
        for trial in [*theirs, *mine]:
            self.trials.append(trial)
            if not (self.retry and trial.passing):
                self._tell(trial)
        self.reused = len({t.candidate.key for t in theirs})
        self.measured = len(mine)
        self.failed = sum(t.failure is not None for t in mine)
        self.build_seconds = sum(t.build_seconds for t in mine)
        self.measure_seconds = sum(t.measure_seconds for t in mine)

    def run(
        self, runner: Runner, trials: int | None, deadline: float | None, last_share: float = LAST_SHARE
    ) -> Iterator[Trial]:
        """Measure; yields each trial after it was stored. ``deadline`` is in the clock's seconds.

        ``last_share`` of the time is kept for core counts and finalists.
        """
        kept = 0.0 if deadline is None else last_share * max(0.0, deadline - self.clock.seconds)
        last = None if deadline is None else deadline - kept
        cored = None if deadline is None else deadline - kept * (1 - CORES_SHARE)
        left = 0 if trials is None else max(0, trials - self.measured)
        reserve = min(left // 4, 3 * sum(1 for q in self.questions if q.uses))
        with self.deciding():
            yield from self.measure(runner, self._again, Purpose.SEARCH, None, None)  # asked for, whatever is spent
            while self._goes_on(trials, last, reserve):
                room = BATCH if trials is None else min(BATCH, trials - reserve - self.measured)
                batch = self.allocation.propose(room)
                if not batch:
                    break
                yield from self.measure(runner, batch, Purpose.SEARCH, trials, last)
            yield from self.measure(runner, self._core_candidates(), Purpose.CORES, trials, cored)
            for runners_up in FINAL_ROUNDS:
                yield from self.measure(runner, self._finalists(runners_up), Purpose.FINAL, trials, deadline)

    def _goes_on(self, trials: int | None, deadline: float | None, reserve: int = 0) -> bool:
        in_time = deadline is None or self.clock.seconds < deadline
        return not self._stopped and in_time and (trials is None or self.measured < trials - reserve)

    def measure(
        self, runner: Runner, batch: Sequence[Candidate], purpose: Purpose, trials: int | None, deadline: float | None
    ) -> Iterator[Trial]:
        """Measure these within the budget; yields each trial after it was stored."""
        if trials is not None:
            batch = batch[: max(0, trials - self.measured)]
        if not batch or not self._goes_on(None, deadline):
            return
        waited = time.monotonic()
        with self.turn(self.message):
            self._busy += time.monotonic() - waited
            results = runner.run(batch, purpose, self._best)
            while True:
                with self._busily():
                    trial = next(results, None)
                if trial is None:
                    return
                taken = self._take(trial, purpose)
                with self._busily():
                    yield taken
                if not self._goes_on(None, deadline):
                    results.close()  # type: ignore[attr-defined]
                    return

    def _take(self, trial: Trial, purpose: Purpose) -> Trial:
        """Store a fresh trial and learn from it."""
        trial = replace(trial, predicted=self.allocation.predicted(trial.candidate))
        with self._busily():
            self.store.add(trial)
        self.trials.append(trial)
        self.measured += 1
        self.failed += trial.failure is not None
        self.build_seconds += trial.build_seconds
        self.measure_seconds += trial.measure_seconds
        self._tell(trial)
        self.message = self._describe(trial, purpose)
        return trial

    def _tell(self, trial: Trial) -> None:
        key = trial.candidate.record_key
        if key not in self._every:
            return
        if key in self.allocation.searches:
            self.allocation.tell(trial)
        else:
            self._every[key].tell(trial)
        self._names[id(self._every[key])].compare()
        if trial.seconds is not None:
            self._best[key] = min(trial.seconds, self._best.get(key, float("inf")))

    def _core_candidates(self) -> list[Candidate]:
        """The best knobs of each question at its other core counts, heaviest question first, known ones left out."""
        found = []
        for question in self._heaviest():
            known = [(s.best[1], i, s) for i, s in enumerate(question.mains) if s.best]
            if not known:
                continue
            main = min(known)[2]
            for knobs, _ in main.ranked(CORE_FINALISTS):
                found += [s.with_knobs(knobs) for s in question.family(main) if not s.knows(knobs)]
        return found

    def _finalists(self, runners_up: bool) -> list[Candidate]:
        """The best and, if asked for, close runners-up, as far as they were not: lucky samples do not decide.

        Beside those of heavy blocks their default kernels, so that what was gained is not told from other moments.
        """
        found: list[Candidate] = []
        controlled = CONTROLLED * (self.latency or 0.0)
        for question in self._heaviest():
            best = question.answer()
            search = question.searches.get((best.template, best.cores))
            if search is None or best.seconds is None:
                continue
            near = (knobs for knobs, s in search.ranked(3 if runners_up else 1) if s <= best.seconds * FINAL_MARGIN)
            found += [search.with_knobs(k) for k in near if not search.finals(k)]
            if controlled > 0 and id(question) in self._begun:
                found += self._control(question, found)
            controlled -= question.uses * best.seconds
        return found

    def _control(self, question: Question, besides: Sequence[Candidate]) -> list[Candidate]:
        """A question's default kernel, unless it was measured again or is about to be."""
        first = question.unmeasured()
        search = question.searches.get((first.template, question.planned))
        if search is None or search.seconds(first.knobs) is None or search.finals(first.knobs):
            return []
        default = search.with_knobs(first.knobs)
        return [] if default.key in {candidate.key for candidate in besides} else [default]

    def _heaviest(self) -> list[Question]:
        """The plan's questions, the one that takes most of its time first."""
        return sorted((q for q in self.questions if q.uses), key=lambda q: -q.uses * (q.answer().seconds or 0.0))

    def _describe(self, trial: Trial, purpose: Purpose) -> str:
        search = self._every.get(trial.candidate.record_key)
        question = self._names.get(id(search))
        if question is None:
            return "measuring"
        number = next(i for i, each in enumerate(self.questions, start=1) if each is question)
        verb = {Purpose.CORES: "trying cores for", Purpose.FINAL: "measuring again"}.get(purpose, "measuring")
        cores = f"{trial.candidate.cores} core{'s' if trial.candidate.cores > 1 else ''}"
        return f"{verb} block {number} of {len(self.questions)}: {describe(question.workload)}, {cores}"
