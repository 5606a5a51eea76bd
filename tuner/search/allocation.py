"""Which block gets the next measurements: those where the cost model, optimistically, sees most to win."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from cost_model.boosted import BoostedTrees
from tuner.search.experience import Experience
from tuner.search.knobs import KnobSearch
from tuner.types import Candidate, Trial

BATCH = 24  # candidates per round
SHARES = 6  # questions that share a round
SETTLED = 0.004  # of the model's time: less than this to win means the search is done
RETRAIN = 1.3  # growth of the samples at which the model learns anew, ...
SHARE = 50  # ... and by one in so many of those known before: fitting to many takes longer


@dataclass
class Allocation:
    """Spreads trials over the searches of one job; rebuilt from stored trials at any moment."""

    searches: dict[str, KnobSearch]  # record key -> search; those of weight 0 only teach the model
    model: BoostedTrees
    experience: Experience | None = None  # what the model knows before anything is measured
    learned: int = 0  # samples of these searches that the model knows
    predictions: list[tuple[float, float]] = field(default_factory=list)  # (predicted, measured) log-seconds
    _predicted: dict[str, float] = field(default_factory=dict)

    def propose(self, count: int) -> list[Candidate]:
        """The next round's candidates, at most ``count``; none when nothing is left to win."""
        unknown = [s for s in self.searches.values() if s.weight and s.lost]
        if unknown:
            found = [c for s in unknown for c in s.propose(4 if s.results else 1, self.model)]
            return found[:count]
        self.learn()
        self._foresee()
        gains = sorted(((s.gain(self.model), k) for k, s in self.searches.items() if s.left), reverse=True)
        if not gains or sum(g for g, _ in gains) < SETTLED * self.total:
            return []
        chosen: list[Candidate] = []
        rich = [(g, k) for g, k in gains[:SHARES] if g > 0]
        whole = sum(g for g, _ in rich) or 1.0
        for gain, key in rich:
            share = max(2, round(count * gain / whole))
            chosen += self.searches[key].propose(min(share, count - len(chosen)), self.model)
            if len(chosen) >= count:
                break
        self._remember(chosen)
        return chosen

    def predicted(self, candidate: Candidate) -> float | None:
        """Seconds per call that the model expected of a proposed candidate, if it was asked."""
        found = self._predicted.get(candidate.key)
        return None if found is None else float(np.exp(found))

    def tell(self, trial: Trial) -> None:
        key = trial.candidate.record_key
        if key in self.searches:
            self.searches[key].tell(trial)
        predicted = self._predicted.pop(trial.candidate.key, None)
        if predicted is not None and trial.seconds is not None:
            self.predictions.append((predicted, float(np.log(trial.seconds))))

    def tell_all(self, trials: Iterable[Trial]) -> int:
        """Take in stored trials; returns how many belonged to this job's questions."""
        mine = [t for t in trials if t.candidate.record_key in self.searches]
        for trial in mine:
            self.searches[trial.candidate.record_key].tell(trial)
        return len(mine)

    @property
    def total(self) -> float:
        """Seconds per inference if every block ran as fast as its best so far."""
        leaders = (s for s in self.searches.values() if s.best and (s.rival is None or s.best[1] <= s.rival))
        return sum(s.weight * s.best[1] for s in leaders if s.best)

    def learn(self) -> None:
        """Teach the model anew if enough was told since it last learned."""
        known = sum(len(s.results) for s in self.searches.values())
        more = 0 if self.experience is None else len(self.experience) // SHARE
        if self.model.trained and known < self.learned * RETRAIN + more:
            return
        before = [] if self.experience is None else [self.experience.besides(self.searches)]
        pairs = [p for p in (*before, *(s.samples() for s in self.searches.values())) if len(p[1])]
        if not pairs:
            return
        self.model.update(np.concatenate([f for f, _ in pairs]), np.concatenate([t for _, t in pairs]))
        self.learned = known

    def _foresee(self) -> None:
        """Ask the model about all searches' points at once: it takes longer to be asked than to answer."""
        if not self.model.trained:
            return
        asked = [(s, points) for s in self.searches.values() if (points := s.outdated(self.model)) is not None]
        if not asked:
            return
        mean, std = self.model.predict(np.concatenate([points.rows for _, points in asked]))
        ends = np.cumsum([len(points) for _, points in asked])[:-1]
        for (search, _), *said in zip(asked, np.split(mean, ends), np.split(std, ends), strict=True):
            search.foresee(self.model, *said)

    def _remember(self, candidates: list[Candidate]) -> None:
        """Note what the model expects of these, to report later how good it was."""
        if not self.model.trained:
            return
        by_search: dict[str, list[Candidate]] = {}
        for candidate in candidates:
            by_search.setdefault(candidate.record_key, []).append(candidate)
        for key, asked in by_search.items():
            expected = self.searches[key].scores([dict(c.knobs) for c in asked], self.model, optimism=0.0)
            self._predicted |= {c.key: float(seconds) for c, seconds in zip(asked, expected, strict=True)}
