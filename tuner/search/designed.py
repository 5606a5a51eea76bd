"""What the decisions of a design space come to, in numbers that can be compared between kernels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil, log2, prod
from typing import TYPE_CHECKING

from tuner.graph.ir import Graph
from tuner.types import Device

if TYPE_CHECKING:
    from tuner.kernels.design import Designed

_LEVELS = 4  # factors of a loop over results in MetaSchedule's multi-level tiling on CPUs; loops over sums have two
_NAN = float("nan")


@dataclass(frozen=True)
class DesignFacts:
    """A function's design spaces as the cost model sees them."""

    designed: Designed

    @staticmethod
    def of(workload: Graph, device: Device) -> DesignFacts | None:
        from tuner.kernels.design import designed  # brings TVM

        found = designed(workload, device)
        return None if found is None else DesignFacts(found)

    def derived(self, knobs: Mapping[str, int], cores: int) -> list[float]:
        """Logarithms to base 2 of: vector, register tile, tile around it, sum inside it, tasks; then how evenly tasks
        go into cores, which unrolling, and how deep stages lie in others' loops on average.

        NaN where nothing is decided.
        """
        decided = self.designed.spelled(knobs)
        tiles = [v for v in decided.values() if isinstance(v, list)]
        results = [v for v in tiles if len(v) == _LEVELS]
        sums = [v for v in tiles if len(v) != _LEVELS]
        tasks = prod(v[0] for v in results)
        places = [v for n, v in decided.items() if n.startswith("place")]
        return [
            log2(results[-1][-1]) if results else _NAN,
            _log([v[-1:] for v in results]),
            _log([v[-2:] for v in results]),
            _log([v[-1:] for v in sums]),
            log2(tasks) if results else _NAN,
            ceil(tasks / cores) * cores / tasks if results else _NAN,
            float(decided.get("choice0", _NAN)),
            sum(places) / len(places) if places else _NAN,
        ]


def _log(factors: Sequence[Sequence[int]]) -> float:
    return log2(prod(prod(f) for f in factors)) if factors else _NAN
