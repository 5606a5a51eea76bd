"""Which blocks of a plan that was found should run at the same time, told from what their kernels take on fewer cores.

Only what was measured counts: the search times the best kernels of a plan's blocks at other core counts as well (see
``Tuning``). Whether it pays is seen when both wholes are timed in turns.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from tuner.graph.ir import Graph
from tuner.plan.arranging import Arrangement, Branch, Sharing, Timed, arranged, in_turn
from tuner.plan.joins import free_blocks
from tuner.plan.plan import IMPORTED, VIEW, Block, Lane, Plan, Stage
from tuner.search.blocks import machine_of
from tuner.search.questions import Asked
from tuner.types import Candidate, Device

FORK = 1e-6  # s: kernels on one core were timed without the launch that they now need (0.8 us, measured)
OVERRUN = 1.02  # what is gained on paper and not more than this is hardly seen in the whole
WORTH = 0.003  # of the plan's time that must be saved for another whole to be built

Sharable = Callable[[Candidate], bool]  # whether a kernel for several cores can run on them beside others


@dataclass(frozen=True)
class SideBySide:
    """A plan with lanes, and seconds that its blocks should take, and those of the plan that it was made of."""

    plan: Plan
    seconds: float
    in_turn: float


def side_by_side(
    plan: Plan, graph: Graph, asked: Asked, device: Device, residency: str, sharable: Sharable
) -> SideBySide | None:
    """The plan, whose templates, knobs and cores are given, with blocks side by side; None where that does not pay.

    Args:
        asked: what is known of its blocks.
        residency: where the model's weights are at each call (see ``tuner.residency``).
    """
    return _Search(plan, graph, asked, device, residency, sharable).run()


class _Search:
    def __init__(
        self, plan: Plan, graph: Graph, asked: Asked, device: Device, residency: str, sharable: Sharable
    ) -> None:  # fmt: skip
        self.plan, self.graph, self.asked, self.device, self.sharable = plan, graph, asked, device, sharable
        self.bandwidth = machine_of(device).bandwidth if residency == "dram" else float("inf")
        blocks = list(plan.blocks)
        free = {b.layers for b in free_blocks(graph, plan)} | {b.layers for b in blocks if b.template == VIEW}
        self.free = [b for b in blocks if b.layers in free]  # run nothing
        self.blocks = [b for b in blocks if b.layers not in free]
        self.needs = _needs(graph, blocks, free)

    def run(self) -> SideBySide | None:
        times = [self._timed(block) for block in self.blocks]
        turns = in_turn(times, self.device.cores)
        while (best := arranged(self.needs, times, Sharing(self.device.cores, FORK, OVERRUN))).forks:
            apart = self._apart(best)
            if not apart:
                break
            for call, cores in apart:  # kernels that cannot be beside others on so many cores
                seconds = {c: s for c, s in times[call].seconds.items() if c != cores}
                times[call] = replace(times[call], seconds=seconds)
        if not best.forks or best.seconds > (1 - WORTH) * turns.seconds:
            return None
        return SideBySide(self._planned(best, times), best.seconds, turns.seconds)

    def _timed(self, block: Block) -> Timed:
        question, most = self.asked.get(block.layers), self.device.cores
        if question is None or block.template == IMPORTED:
            return Timed({most: 0.0})  # alone, whatever it takes
        known = {c: s.best[1] for (name, c), s in question.searches.items() if name == block.template and s.best}
        own = question.searches.get((block.template, block.cores))
        seconds = own.seconds(block.knobs) if own is not None and block.knobs is not None else None
        if seconds is None:
            return Timed({most: known.get(block.cores, 0.0)})
        known[block.cores] = seconds
        if block.reads:  # what changes its layouts would come between
            return Timed({most: seconds})
        weights = sum(constant.bytes for constant in question.workload.constants.values())
        return Timed(known, weights / self.bandwidth)

    def _apart(self, best: Arrangement) -> list[tuple[int, int]]:
        """(block, cores) of an arrangement's lanes on several cores whose kernels cannot run beside others."""
        lanes = [branch for stage in best.stages if len(stage) > 1 for branch in stage if branch.cores > 1]
        found = []
        for branch in lanes:
            for call in branch.calls:
                block = self._on(self.blocks[call], branch.cores)
                candidate = replace(
                    self.asked[block.layers].searches[block.template, branch.cores].candidate, knobs=block.knobs or {}
                )
                if not self.sharable(candidate):
                    found.append((call, branch.cores))
        return found

    def _on(self, block: Block, cores: int) -> Block:
        """The block with the best knobs known for so many cores."""
        if cores == block.cores:
            return block
        search = self.asked[block.layers].searches[block.template, cores]
        assert search.best is not None  # or it would have no time there
        return replace(block, cores=cores, knobs=dict(search.best[0]))

    def _planned(self, best: Arrangement, times: Sequence[Timed]) -> Plan:
        stages: list[Stage] = []
        made: set[str] = set(self.graph.inputs)
        waiting = list(self.free)
        for branches in best.stages:
            lanes = tuple(self._lane(branch, times, alone=len(branches) == 1) for branch in branches)
            stages += self._ready(waiting, made)
            stages.append(Stage(lanes))
            made |= {o for lane in lanes for b in lane.blocks for i in b.layers for o in self.graph.by_id[i].outputs}
        return replace(self.plan, stages=(*stages, *self._ready(waiting, made)))

    def _lane(self, branch: Branch, times: Sequence[Timed], *, alone: bool) -> Lane:
        if alone:
            return Lane(tuple(self.blocks[call] for call in branch.calls))
        ways = ((call, times[call].within(branch.cores)) for call in branch.calls)
        return Lane(tuple(self._on(self.blocks[call], way[0]) for call, way in ways if way is not None))

    def _ready(self, waiting: list[Block], made: set[str]) -> list[Stage]:
        """The blocks without kernels whose inputs are there by now, in stages of their own; they wait no more."""
        found = []
        for block in list(waiting):
            layers = [self.graph.by_id[i] for i in block.layers]
            outputs = {o for layer in layers for o in layer.outputs}
            if {n for x in layers for n in x.inputs if n in self.graph.tensors} - outputs <= made:
                found.append(Stage((Lane((block,)),)))
                waiting.remove(block)
                made |= outputs
        return found


def _needs(graph: Graph, blocks: Sequence[Block], free: set[tuple[str, ...]]) -> list[frozenset[int]]:
    """By block that runs a kernel, those of the others that it needs, through blocks without one as well."""
    sources: dict[str, frozenset[int]] = {}  # tensor -> kernels that must have run
    found: list[frozenset[int]] = []
    for block in blocks:
        layers = [graph.by_id[i] for i in block.layers]
        own = {o for layer in layers for o in layer.outputs}
        read = (n for layer in layers for n in layer.inputs if n not in own)
        needs = frozenset(k for name in read for k in sources.get(name, ()))
        if block.layers not in free:
            found.append(needs)
            needs = frozenset({len(found) - 1})
        sources |= dict.fromkeys(own, needs)
    return found
