"""Branches side by side: only where the sum of times gets less, never on more SMs than there are, in a legal order."""

from __future__ import annotations

import json

import numpy as np
import pytest

from tests.unit.gpu.gpu_programs import chain, fork
from tuner.gpu.program import Call, Program, Slot
from tuner.gpu.sidebyside import arranged, in_turn, of_plan, to_plan
from tuner.plan.arranging import Timed, check_order
from tuner.plan.plan import Plan

SMS = 80
SMALL = Timed({20: 50e-6})  # fills a quarter of the GPU
WHOLE = Timed({80: 50e-6, 40: 98e-6, 20: 195e-6})


def times(program: Program, timed: Timed) -> list[Timed]:
    return [timed for _ in program.calls]


def test_branches_that_fill_a_quarter_each_run_together() -> None:
    program = fork(4, length=2)
    best = arranged(program, times(program, SMALL), SMS)
    assert [len(stage) for stage in best.stages] == [1, 4, 1]
    assert {branch.cores for branch in best.stages[1]} == {20}
    assert best.seconds < 0.5 * in_turn(program, times(program, SMALL), SMS).seconds


def test_branches_that_fill_the_gpu_run_one_after_the_other() -> None:
    """Greedy parallelism loses here, as it does in IOS's table."""
    program = fork(4)
    best = arranged(program, times(program, WHOLE), SMS)
    assert best.forks == 0
    assert best.seconds == pytest.approx(6 * 50e-6)


def test_short_branches_are_not_worth_a_fork() -> None:
    program = fork(2)
    assert arranged(program, times(program, Timed({20: 2e-6})), SMS).forks == 0


def test_what_memory_bounds_gains_nothing_from_company() -> None:
    program = fork(3)
    assert arranged(program, times(program, Timed({20: 50e-6}, floor=48e-6)), SMS).forks == 0


def test_a_kernel_gives_up_sms_to_a_branch_beside_it() -> None:
    """One branch hardly needs them all, the other is small: together they fit only if the first is made smaller."""
    program = fork(2)
    large, small = Timed({80: 100e-6, 40: 104e-6}), Timed({40: 90e-6})
    best = arranged(program, [SMALL, large, small, SMALL], SMS)
    (stage,) = [stage for stage in best.stages if len(stage) == 2]
    assert [branch.cores for branch in stage] == [40, 40]


def test_a_chain_stays_one() -> None:
    program = chain(5)
    best = arranged(program, times(program, SMALL), SMS)
    assert [len(stage) for stage in best.stages] == [1] * 5


def test_random_graphs_keep_their_order_and_their_sms() -> None:
    random = np.random.default_rng(3)
    forks = 0
    for _ in range(25):
        program = drawn(random, int(random.integers(3, 18)))
        timed = [
            Timed({int(c): float(random.uniform(10, 60)) * 1e-6 for c in random.choice([10, 20, 40, 80], 2)})
            for _ in program.calls
        ]
        best = arranged(program, timed, SMS)
        check_order(program.needs, program.names, best.stages)
        assert all(sum(branch.cores for branch in stage) <= SMS for stage in best.stages if len(stage) > 1)
        assert best.seconds <= in_turn(program, timed, SMS).seconds * (1 + 1e-9)
        forks += best.forks
    assert forks > 5


def test_an_arrangement_is_a_plan_and_comes_back_from_json() -> None:
    program = fork(4)
    timed = times(program, SMALL)
    best = arranged(program, timed, SMS)
    plan = to_plan(program, best, timed)
    again = of_plan(program, Plan.from_json(json.loads(json.dumps(plan.to_json()))))
    assert [[branch.calls for branch in stage] for stage in again] == [
        [branch.calls for branch in stage] for stage in best.stages
    ]
    assert [block.cores for block in plan.blocks] == [20] * 6


@pytest.mark.parametrize("wrong", ["other program", "no such call", "twice", "early", "missing"])
def test_a_plan_that_does_not_fit_is_refused(wrong: str) -> None:
    program = chain(3)
    plan = to_plan(program, in_turn(program, times(program, SMALL), SMS), times(program, SMALL)).to_json()
    stages = plan["stages"]
    if wrong == "other program":
        plan["graph"] = "0" * 64
    elif wrong == "no such call":
        stages[0]["lanes"][0]["blocks"][0]["layers"] = ["g"]
    elif wrong == "twice":
        stages.append(stages[0])
    elif wrong == "early":
        stages.reverse()
    else:
        stages.pop()
    with pytest.raises(ValueError):
        of_plan(program, Plan.from_json(plan))


def drawn(random: np.random.Generator, count: int) -> Program:
    """Calls that each read one or two of the last few tensors."""
    slots, calls = [Slot((4,), "float32")], []
    for number in range(count):
        reads = {int(x) for x in random.integers(max(0, number - 4), number + 1, 2)}
        slots.append(Slot((4,), "float32"))
        calls.append(Call("f", tuple(sorted(reads)), (number + 1,), "t"))
    return Program(tuple(slots), (0,), (), (), (count,), tuple(calls))
