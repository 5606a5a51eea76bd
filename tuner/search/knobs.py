"""Search inside one block: which knobs to build next.

Spaces up to WHOLE points are ranked whole by the cost model; in larger ones Optuna proposes and the cost model ranks
its proposals. Either way a share of each batch is Optuna's own, because a ranking that is wrong does not notice it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from math import log
from statistics import median

import numpy as np
import optuna

from cost_model.boosted import BoostedTrees
from cost_model.residuals import Residuals
from tuner.graph.ir import Graph
from tuner.kernels.base import Space
from tuner.search.features import Features
from tuner.search.posterior import Belief, Points, Posterior
from tuner.types import Candidate, Device, Purpose, Trial

WHOLE = 4096  # points of a space that is ranked whole
LISTED = 1 << 16  # combinations up to which a space is listed, to see how many its rule leaves
ASKED = 64  # proposals asked of Optuna per batch in larger spaces
GIVE_UP = 24  # failures without a success after which a question keeps its default
RANKING, STOPPING = 0.5, 1.0  # standard deviations of optimism: when ordering points, and before giving up
FAILED_PENALTY = 2.0  # log-seconds that a failed candidate counts as worse than the worst measured ...
FAILED_NEARBY = 0.5  # ... and to its neighbours
OWN = 4  # one in so many of a batch is Optuna's own

optuna.logging.set_verbosity(optuna.logging.WARNING)


@dataclass
class KnobSearch:
    """The search for one question: (workload, layouts, template, cores) on one device.

    Trials may come from this run or from stored records; the order in which they are told does not matter.
    """

    candidate: Candidate  # any candidate of this question; its knobs do not matter
    workload: Graph
    space: Space
    device: Device
    seed: int = 0
    weight: int = 1  # how often the model uses the kernel
    rival: float | None = None  # seconds of another template's best for the same block
    results: dict[str, float | None] = field(default_factory=dict)  # knob key -> median seconds; None = failed

    def __post_init__(self) -> None:
        self._knobs: dict[str, dict[str, int]] = {}
        self._samples: dict[str, list[float]] = {}
        self._best: tuple[float, str] | None = None  # seconds, key: asked for far more often than told
        self._finals: Counter[str] = Counter()  # knob key -> how often it was measured again
        self._told = 0  # trials so far
        self._untold: list[optuna.trial.FrozenTrial] = []  # that Optuna is told before it is asked: it is asked seldom
        self._every: Points | None = None  # arrays of all points of a listed space, made when first needed
        self._belief: tuple[tuple[int, int], Belief] | None = None  # about these, for (model version, trials told)
        self._residuals: tuple[tuple[int, int], Residuals] | None = None  # what own results say beyond the model
        self._asked: tuple[int, Points] | None = None  # model version, what Optuna proposed then; large spaces only

    # Made when first used: of many questions nothing is ever known.

    @cached_property
    def _points(self) -> list[dict[str, int]]:
        """All points of a space that is ranked whole; of larger ones none."""
        points = self.space.points if self.space.bound <= LISTED else ()
        return list(points) if len(points) <= WHOLE else []

    @cached_property
    def _index(self) -> dict[str, int]:
        return {_key(p): i for i, p in enumerate(self._points)}

    @cached_property
    def _open(self) -> np.ndarray:
        """Which of the points were never tried; ``tell`` keeps it up to date."""
        return np.asarray([key not in self.results for key in self._index], dtype=bool)

    @cached_property
    def _features(self) -> Features:
        candidate = self.candidate
        return Features(self.workload, candidate.template, candidate.cores, self.device, candidate.layouts)

    @cached_property
    def _posterior(self) -> Posterior:
        return Posterior(self._features, self.space)

    @cached_property
    def _study(self) -> optuna.Study:
        return optuna.create_study(sampler=optuna.samplers.TPESampler(seed=self.seed, n_startup_trials=8))

    # what is known ------------------------------------------------------------------------------------------------

    def tell(self, trial: Trial) -> None:
        """Take in a trial of this question, measured now or earlier."""
        knobs = dict(trial.candidate.knobs)
        if knobs not in self.space:
            return  # a record of an older space
        key = _key(knobs)
        self._told += 1
        if key not in self.results:
            self._untold.append(self._as_optuna(knobs, trial.seconds))
        if trial.purpose is Purpose.FINAL and trial.samples:
            self._finals[key] += 1
        self._samples.setdefault(key, []).extend(trial.samples)
        samples = self._samples[key]
        self.results[key] = median(samples) if samples else None
        self._knobs[key] = knobs
        found = [(s, k) for k, s in self.results.items() if s is not None]
        self._best = min(found, default=None)
        if "_open" in self.__dict__ and key in self._index:
            self._open[self._index[key]] = False

    @property
    def best(self) -> tuple[dict[str, int], float] | None:
        """(knobs, median seconds) of the fastest so far."""
        return None if self._best is None else (self._knobs[self._best[1]], self._best[0])

    @property
    def _mark(self) -> float:
        """Seconds to beat: the best so far, here or by a rival."""
        known = [s for s in (self.best[1] if self.best else None, self.rival) if s is not None]
        return min(known, default=0.0)

    @property
    def lost(self) -> bool:
        """Whether it goes on without a single success, and has not failed so often that it is given up."""
        return self.best is None and len(self.results) < GIVE_UP and self.left > 0

    @property
    def left(self) -> int:
        """Points never tried."""
        size = len(self._points) if self._points else self.space.bound
        return max(0, size - len(self.results))

    def finals(self, knobs: Mapping[str, int]) -> int:
        """How often these knobs were measured again as a finalist."""
        return self._finals[_key(knobs)]

    def confirmed(self, times: int) -> list[float]:
        """Median seconds of the knobs that were measured again at least so often."""
        found = (self.results[k] for k, count in self._finals.items() if count >= times)
        return [s for s in found if s is not None]

    def knows(self, knobs: Mapping[str, int]) -> bool:
        """Whether these knobs were tried."""
        return _key(knobs) in self.results

    def seconds(self, knobs: Mapping[str, int]) -> float | None:
        """Median seconds of these knobs; None if they were not tried, or failed."""
        return self.results.get(_key(knobs))

    def ranked(self, count: int) -> list[tuple[dict[str, int], float]]:
        """The ``count`` fastest, best first."""
        found = sorted((s, k) for k, s in self.results.items() if s is not None)
        return [(self._knobs[k], s) for s, k in found[:count]]

    # what to try --------------------------------------------------------------------------------------------------

    def propose(self, count: int, model: BoostedTrees) -> list[Candidate]:
        """Up to ``count`` new candidates, most promising first; the template's default comes first of all."""
        chosen: list[dict[str, int]] = []
        if not self.results:
            chosen.append(dict(self.space.default))
        chosen += self._ask(min(count // OWN, count - len(chosen)), chosen)
        if len(chosen) < count:
            chosen += self._best_first(model, chosen, count - len(chosen))
        return [self.with_knobs(k) for k in chosen[:count]]

    def _best_first(self, model: BoostedTrees, besides: list[dict[str, int]], limit: int) -> list[dict[str, int]]:
        """Untried points in the order in which they promise most, at most ``limit``."""
        if self._points:
            found = [int(i) for i in np.flatnonzero(self._open) if self._points[int(i)] not in besides]
            belief = self._listed(model).of(found)
            points = [self._points[i] for i in found]
        else:
            points = self._ask(ASKED, besides)
            belief = self._believe(self._posterior.points(points), model)
        return [points[i] for i in belief.choose(limit, RANKING)]

    def with_knobs(self, knobs: Mapping[str, int]) -> Candidate:
        return replace(self.candidate, knobs=dict(knobs))

    def scores(self, points: list[dict[str, int]], model: BoostedTrees, optimism: float = RANKING) -> np.ndarray:
        """Log-seconds of points: the model's mean minus ``optimism`` standard deviations."""
        if not points:
            return np.zeros(0)
        if self._points:
            mean, std = (of_each[[self._index[_key(p)] for p in points]] for of_each in self._listed(model).mean_std)
        else:
            mean, std = self._believe(self._posterior.points(points), model).mean_std
        return mean - optimism * std

    def _state(self, model: BoostedTrees) -> tuple[int, int]:
        """Changes when the model or what is known does."""
        return model.version, self._told

    def _listed(self, model: BoostedTrees) -> Belief:
        """What is believed of all points of a listed space; thought over only when something was learned."""
        every = self._listing
        if self._belief is None or self._belief[0] != self._state(model):
            self._belief = (self._state(model), self._believe(every, model))
        return self._belief[1]

    @property
    def _listing(self) -> Points:
        """Arrays of all points of a listed space."""
        if self._every is None:
            self._every = self._posterior.points(self._points)
        return self._every

    def _believe(self, points: Points, model: BoostedTrees) -> Belief:
        if self._residuals is None or self._residuals[0] != self._state(model):
            if self._points:
                at = [self._index[k] for k in self.results]
                known, mean = self._listing.pick(at), self._posterior.kept(self._listing, model)[0][at]
            else:
                known = self._posterior.points([self._knobs[k] for k in self.results])
                mean = self._posterior.shared(known, model)[0]
            own = self._posterior.learn(known, mean, self._log_seconds(FAILED_NEARBY))
            self._residuals = (self._state(model), own)
        return self._posterior.belief(points, self._residuals[1], model)

    @property
    def _promising(self) -> bool:
        """Whether the model has something to say about what is left to win."""
        return self.best is not None and self.left > 0

    def outdated(self, model: BoostedTrees) -> Points | None:
        """Points that a trained model has to be asked about before ``gain`` can tell; None if there are none."""
        if not self._promising or not self._points or not self._posterior.outdated(self._listing, model):
            return None
        return self._listing

    def foresee(self, model: BoostedTrees, mean: np.ndarray, std: np.ndarray) -> None:
        """Take in what the model says of the points that were ``outdated``."""
        self._posterior.keep(self._listing, model, mean, std)

    def gain(self, model: BoostedTrees) -> float:
        """Seconds per inference that the model believes, optimistically, are left to win here."""
        if not self._promising:
            return 0.0  # unknown (see ``lost``), or nothing left
        if not model.trained:
            return self.weight * self._mark * 0.3 / (1 + len(self.results))
        promise = float(np.exp(self._least(model)))
        return self.weight * max(0.0, self._mark - promise)

    def _least(self, model: BoostedTrees) -> float:
        """The lowest log-seconds held possible among untried points (in a large space: among some of them)."""
        if self._points:
            mean, std = self._listed(model).mean_std
            return float(np.min((mean - STOPPING * std)[self._open]))
        if self._asked is None or self._asked[0] != model.version:
            self._asked = (model.version, self._posterior.points(self._ask(ASKED, [])))
        mean, std = self._believe(self._asked[1], model).mean_std
        return float(np.min(mean - STOPPING * std, initial=np.inf))

    def samples(self) -> tuple[np.ndarray, np.ndarray]:
        """(features, targets) of everything tried; failures count as clearly worse than the worst measured.

        Targets are those of ``Features.targets``: how points of one question compare.
        """
        if self.best is None:
            return self._features.rows([]).reshape(0, 0), np.zeros(0)
        points = [self._knobs[k] for k in self.results]
        return self._features.rows(points), self._features.targets(points, self._log_seconds(FAILED_PENALTY))

    def _log_seconds(self, penalty: float) -> np.ndarray:
        """Of everything tried; failures count as ``penalty`` worse than the worst measured."""
        times = [s for s in self.results.values() if s is not None]
        worst = log(max(times, default=1.0)) + penalty
        return np.asarray([worst if s is None else log(s) for s in self.results.values()])

    def _ask(self, count: int, besides: list[dict[str, int]]) -> list[dict[str, int]]:
        """New points as Optuna's TPE proposes them (11% of its proposals repeat: those are dropped)."""
        found: list[dict[str, int]] = []
        if count:
            self._study.add_trials(self._untold)
            self._untold = []
        for _ in range(count * 3):
            if len(found) >= count:
                break
            trial = self._study.ask()
            drawn = {
                name: values[trial.suggest_int(name, 0, len(values) - 1)] for name, values in self.space.knobs.items()
            }
            knobs = dict(self.space.fold(drawn))
            self._study.tell(trial, state=optuna.trial.TrialState.FAIL)  # only told once it was measured
            if knobs in self.space and _key(knobs) not in self.results and knobs not in besides and knobs not in found:
                found.append(knobs)
        return found

    def _as_optuna(self, knobs: Mapping[str, int], seconds: float | None) -> optuna.trial.FrozenTrial:
        distributions: dict[str, optuna.distributions.BaseDistribution] = {
            n: optuna.distributions.IntDistribution(0, len(v) - 1) for n, v in self.space.knobs.items()
        }
        params = {n: list(v).index(knobs[n]) for n, v in self.space.knobs.items()}
        times = [s for s in self.results.values() if s is not None]
        value = log(seconds) if seconds is not None else log(max(times, default=1.0)) + FAILED_PENALTY
        return optuna.trial.create_trial(params=params, distributions=distributions, value=value)


def _key(knobs: Mapping[str, int]) -> str:
    return ",".join(f"{k}={v}" for k, v in sorted(knobs.items()))
