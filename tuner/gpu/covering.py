"""Which chains a model gets: of those whose kernel is faster than its parts', a set without overlaps that saves most.

Like is compared with like: measured times where all of them are known, expected ones where none is. A chain that was
measured against parts that were not, or the other way round, has to wait for the next round.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

from tuner.gpu.chains import Chain, with_chains
from tuner.gpu.lower import Lowered
from tuner.gpu.reporting import Chosen


@dataclass(frozen=True)
class Settled:
    """A model with the chains that it gets, and the kernel of each of its tasks, in their order."""

    lowered: Lowered
    chosen: tuple[Chosen, ...]
    proposed: int  # different chains
    built: int  # of these
    places: int  # in which one was taken
    saved: int  # calls of kernels

    def to_json(self) -> dict[str, Any]:
        """The report's entry ``chains``."""
        return {"proposed": self.proposed, "built": self.built, "taken": self.places, "calls_saved": self.saved}


def settled(lowered: Lowered, chains: Sequence[Chain], chosen: Sequence[Chosen]) -> Settled:
    """Decide about the chains. ``chosen``: of each task of the model, and of the chains that were built."""
    by_hash = {each.task.hash: each for each in chosen}
    taken = covered(chains, by_hash)
    names = {
        chain.task.hash: tuple(by_hash[part].task.name for part in chain.parts) for chain in chains
    }  # fmt: skip
    model = with_chains(lowered, taken)
    final = tuple(
        replace(by_hash[task.hash], task=replace(task, parts=by_hash[task.hash].task.parts),
                names=names.get(task.hash, ()))
        for task in model.tasks
    )  # fmt: skip
    built = sum(chain.task.hash in by_hash for chain in chains)
    saved = sum(len(place) - 1 for _, place in taken)
    return Settled(model, final, len(chains), built, len(taken), saved)


def saving(chain: Chain, chosen: Mapping[str, Chosen]) -> float:
    """Seconds that the chain saves where it takes the place of its parts; 0.0 where that is not known.

    ``chosen``: the kernel of each task, by its hash.
    """
    together = chosen.get(chain.task.hash)
    parts = [chosen[part] for part in chain.parts]
    if together is None or together.built is None:
        return 0.0
    known = [each.trial.seconds if each.trial else None for each in (together, *parts)]
    if all(seconds is not None for seconds in known):
        first, *rest = (seconds for seconds in known if seconds is not None)
        return sum(rest) - first
    if any(seconds is not None for seconds in known):
        return 0.0
    return sum(part.predicted for part in parts) - together.predicted


def covered(
    chains: Sequence[Chain], chosen: Mapping[str, Chosen]
) -> list[tuple[Chain, tuple[int, ...]]]:  # fmt: skip
    """The chains to take, each with its place, in the order of calls.

    Chains overlap only along a run of calls in which each has one reader, so that a dynamic programme over the last
    call of each finds the best set.
    """
    ending: dict[int, list[tuple[float, Chain, tuple[int, ...]]]] = {}
    after: dict[int, int] = {}
    for chain in chains:
        saved = saving(chain, chosen)
        for place in chain.places if saved > 0 else ():
            ending.setdefault(place[-1], []).append((saved, chain, place))
            after |= dict(pairwise(place))
    before = {later: earlier for earlier, later in after.items()}
    best: dict[int, tuple[float, list[tuple[Chain, tuple[int, ...]]]]] = {}

    def until(call: int | None) -> tuple[float, list[tuple[Chain, tuple[int, ...]]]]:
        return (0.0, []) if call is None else best[call]

    calls = {call for pair in after.items() for call in pair}
    for call in sorted(calls):  # calls stand behind what they read
        options = [until(before.get(call))]
        for saved, chain, place in ending.get(call, ()):
            earlier, taken = until(before.get(place[0]))
            options.append((earlier + saved, [*taken, (chain, place)]))
        best[call] = max(options, key=lambda option: option[0])
    ends = [call for call in calls if call not in after]
    return sorted((each for call in ends for each in best[call][1]), key=lambda each: each[1])
