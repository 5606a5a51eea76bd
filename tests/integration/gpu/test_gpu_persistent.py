"""Kernels on some of a GPU's SMs: fewer blocks, which do the same."""

from __future__ import annotations

import numpy as np
import pytest
import tvm

from tests.unit.designs.design_functions import gpu, matmul
from tuner.errors import CandidateError
from tuner.gpu.checking import check_schedule, reference_of
from tuner.gpu.cuda import target_of
from tuner.gpu.explore import Explorer
from tuner.gpu.lower import Task
from tuner.gpu.persistent import limited
from tuner.gpu.spec import GPUS
from tuner.measure.device import devices

TASK = Task(("matmul",), matmul(256, 192, 64), 1)


def test_fewer_blocks_compute_the_same_and_are_another_candidate() -> None:
    spec = GPUS["rtx3090"]
    explorer = Explorer(TASK, gpu(), spec)
    drawn = explorer.draw(20, np.random.default_rng(0))
    whole = next(each for each in drawn if each.looked.counts.blocks >= 48 and each.looked.counts.blocks % 16 == 0)
    few = limited(whole.function, 16)
    reference = reference_of(TASK, 1)
    fewer = type(whole)(whole.candidate, whole.looked, few)
    error = check_schedule(fewer, TASK, reference)
    assert error is not None and error < 1e-5
    on_one = explorer.make(whole.candidate.knobs, cores=1)
    assert on_one.candidate.cores == 1 and on_one.key != whole.key
    assert on_one.looked.counts.blocks < whole.looked.counts.blocks
    assert on_one.looked.counts.operations == whole.looked.counts.operations
    assert on_one.looked.guess > 2 * whole.looked.guess


def test_threads_wait_for_one_another_between_turns() -> None:
    """A turn fills shared memory that others may still be reading for the turn before."""
    explorer = Explorer(TASK, gpu(), GPUS["rtx3090"])
    drawn = explorer.draw(20, np.random.default_rng(0))
    whole = next(each for each in drawn if each.looked.counts.blocks >= 48 and each.looked.counts.blocks % 16 == 0)
    few = tvm.IRModule({"main": limited(whole.function, 16)})
    source = tvm.compile(few, target=target_of(devices("rtx3090"))).mod.imports[0].inspect_source()
    body = source[source.rindex("__global__") :]
    before, turns = body.split("for (int turn", 1)
    assert "__syncthreads" not in before
    assert turns.index("__syncthreads") < turns.index("_shared_ptr")


def test_a_grid_that_does_not_divide_is_refused() -> None:
    explorer = Explorer(Task(("matmul",), matmul(13 * 32, 32, 32), 1), gpu(), GPUS["rtx3090"])
    drawn = explorer.draw(100, np.random.default_rng(0))
    function = next(each.function for each in drawn if each.looked.counts.blocks in {13, 26, 52})
    with pytest.raises(CandidateError, match="does not divide into about 12"):
        limited(function, 12)
