"""Which calls of a program run at the same time, each on how many SMs: the Plan of a GPU. Needs no TVM.

How lanes are chosen is ``tuner.plan.arranging``'s, with whole branches as units and SMs as cores.
"""

from __future__ import annotations

from collections.abc import Sequence

from tuner.gpu.program import Program
from tuner.plan import arranging
from tuner.plan.arranging import Arrangement, Branch, Sharing, Timed, check_order
from tuner.plan.plan import Block, Lane, Plan, Stage

FORK = 4e-6  # s that it takes to let streams wait for one another, both ways, assumed
OVERRUN = 1.05
TEMPLATE = "tvm"  # of the blocks: fused by TVM's rules


def in_turn(program: Program, times: Sequence[Timed], sms: int) -> Arrangement:
    """One call after the other, each on all SMs that help it."""
    return arranging.in_turn(times, sms)


def arranged(program: Program, times: Sequence[Timed], sms: int) -> Arrangement:
    """The arrangement with the least expected time, as far as this looks."""
    return arranging.arranged(program.needs, times, Sharing(sms, FORK, OVERRUN, chains=True))


def to_plan(program: Program, arrangement: Arrangement, times: Sequence[Timed]) -> Plan:
    """The arrangement as a Plan, whose layers are the program's calls."""
    return Plan(
        program.hash,
        tuple(
            Stage(tuple(
                Lane(tuple(Block((program.names[call],), _cores(times[call], branch.cores), TEMPLATE)
                           for call in branch.calls))
                for branch in stage
            ))
            for stage in arrangement.stages
        ),
    )  # fmt: skip


def of_plan(program: Program, plan: Plan) -> tuple[tuple[Branch, ...], ...]:
    """The stages of a Plan in terms of the program. Raises ValueError if it is not a plan of this program."""
    if plan.graph != program.hash:
        raise ValueError("the plan is of another program")
    number = {name: at for at, name in enumerate(program.names)}
    try:
        stages = tuple(
            tuple(Branch(tuple(number[name] for b in lane.blocks for name in b.layers), lane.cores)
                  for lane in stage.lanes)
            for stage in plan.stages
        )  # fmt: skip
    except KeyError as error:
        raise ValueError(f"the plan names {error}, which is no call of the program") from None
    check_order(program.needs, program.names, stages)
    return stages


def _cores(timed: Timed, limit: int) -> int:
    fitting = timed.within(limit)
    return fitting[0] if fitting else timed.alone[0]
