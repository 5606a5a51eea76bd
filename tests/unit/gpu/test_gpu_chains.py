"""Which convolutions may become one kernel on a GPU, what that should save, and which chains a model gets."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tvm
from onnx import helper
from tvm import te, topi

from tests.unit.gpu.chain_models import CASES, INVERTED, SPEC, Case, Conv, longest, lowered_case
from tests.unit.gpu.test_gpu_siblings import model_of
from tuner.designs.chain import ChainSpace
from tuner.designs.chain_stages import stages_of
from tuner.designs.scalars import without_scalars
from tuner.errors import CandidateError, UserError
from tuner.gpu.chain_estimate import apart, counts_at, gain, seconds
from tuner.gpu.chains import Chain, find_chains, with_chains
from tuner.gpu.counts import Counts, counts_of
from tuner.gpu.covering import covered, saving
from tuner.gpu.cuda import target_of
from tuner.gpu.explore import CHAIN, Explorer, Seen
from tuner.gpu.lower import Task, lower
from tuner.gpu.ranking import Looked
from tuner.gpu.reading import read_program
from tuner.gpu.reporting import Chosen
from tuner.gpu.spec import SHARED, THREADS
from tuner.graph.passes.registry import check_names
from tuner.types import Candidate, Trial


def all_of(lowered: Any) -> tuple[Chain, ...]:
    return find_chains(lowered, SPEC, least=-1.0)


def test_an_inverted_residual_is_found_whole_and_in_pairs(tmp_path: Path) -> None:
    _, lowered = lowered_case(tmp_path, INVERTED)
    assert sorted(chain.places for chain in all_of(lowered)) == [((0, 1),), ((0, 1, 2),), ((1, 2),)]
    stages = stages_of(longest(lowered).task.module)
    assert stages is not None
    expand, depthwise, project = stages.convolutions
    assert [c.depthwise for c in stages.convolutions] == [False, True, False]
    assert expand.pointwise and project.pointwise and depthwise.kernel == (3, 3)
    assert depthwise.extent(4, 7) == (6, 9)
    assert stages.out is not None and stages.before is not None and len(stages.images) == 2


@pytest.mark.parametrize("extra", ["reader", "output"])
def test_an_image_that_something_else_needs_stays(extra: str, tmp_path: Path) -> None:
    _, lowered = lowered_case(tmp_path, INVERTED, extra=extra)
    assert [chain.places for chain in all_of(lowered)] == [((1, 2),)]


def test_three_convolutions_need_a_depthwise_one_in_the_middle(tmp_path: Path) -> None:
    case = Case("bottleneck", (14, 14), 16, (Conv(16), Conv(16, 3), Conv(16)))
    _, lowered = lowered_case(tmp_path, case)
    assert {len(chain.parts) for chain in all_of(lowered)} == {2}


def test_a_sum_of_two_convolutions_is_no_chain(tmp_path: Path) -> None:
    """The second adds what the first made; it does not convolve it."""
    random = np.random.default_rng(0)
    weights = {f"w{k}": random.standard_normal((8, 8, 3, 3), np.float32) for k in range(2)}
    nodes = [
        helper.make_node("Conv", ["x", "w0"], ["a"], pads=[1] * 4), helper.make_node("Relu", ["a"], ["r"]),
        helper.make_node("Conv", ["x", "w1"], ["b"], pads=[1] * 4), helper.make_node("Add", ["b", "r"], ["y"]),
    ]  # fmt: skip
    shape = (1, 8, 14, 14)
    model = model_of(tmp_path / "sum.onnx", nodes, [shape], shape, weights)
    lowered = lower(model.graph, model.weights, target_of(SPEC.device()))
    assert len(lowered.tasks) == 2 and all_of(lowered) == ()


def test_equal_layers_with_other_weights_are_one_task(tmp_path: Path) -> None:
    layer = (Conv(16, 3, 1, True), Conv(16))
    _, lowered = lowered_case(tmp_path, Case("twice", (14, 14), 16, (*layer, *layer)))
    pair = next(chain for chain in all_of(lowered) if chain.places[0] == (0, 1))
    assert pair.places == ((0, 1), (2, 3)) and pair.task.calls == 2


def test_a_chain_that_fits_into_no_block_is_none(tmp_path: Path) -> None:
    _, lowered = lowered_case(tmp_path, INVERTED)
    chain = longest(lowered)
    tasks = {task.hash: task for task in lowered.tasks}
    space = ChainSpace(chain.task.module, 64, THREADS)
    assert space.draw(8, np.random.default_rng(0)) == []
    assert gain(space, chain.task, [tasks[part] for part in chain.parts], SPEC) == -np.inf


def test_the_function_of_one_convolution_is_no_chain(tmp_path: Path) -> None:
    _, lowered = lowered_case(tmp_path, INVERTED)
    with pytest.raises(ValueError, match="no chain"):
        ChainSpace(lowered.tasks[0].module, SHARED, THREADS)


def test_points_say_what_they_come_to(tmp_path: Path) -> None:
    """Operations with the halo, as the loops of the schedule show them, and no more shared memory than a block has."""
    _, lowered = lowered_case(tmp_path, CASES[1])
    chain = longest(lowered)
    space = ChainSpace(chain.task.module, SHARED, THREADS)
    points = space.draw(3, np.random.default_rng(0))
    assert len(points) == 3
    for point in points:
        tile, counts = space.tile(point), counts_of(space.apply(point).schedule.mod["main"])
        assert (counts.blocks, counts.threads, counts.launches) == (tile.blocks, tile.threads, 1)
        assert tile.blocks * tile.operations > 0.9 * counts_of(chain.task.module["main"]).operations
        guessed = counts_at(tile)
        assert guessed.operations == pytest.approx(counts.operations, rel=0.3)
        assert guessed.shared_bytes == pytest.approx(counts.shared_bytes, rel=0.3)
        assert space.allows(point) and tile.held <= SHARED


def test_points_that_are_none_are_refused(tmp_path: Path) -> None:
    _, lowered = lowered_case(tmp_path, INVERTED)
    explorer = Explorer(longest(lowered).task, target_of(SPEC.device()), SPEC)
    made = next(explorer.draw(1, np.random.default_rng(0)))
    assert made.candidate.template == CHAIN
    again = explorer.remake(made.candidate)
    tvm.ir.assert_structural_equal(again.function, made.function)
    (space,) = explorer.spaces
    idle = dict.fromkeys(space.parameters, 0)  # one thread
    for knobs in ({"space": 1}, {"space": 0}, {"space": 0, **idle}, made.candidate.knobs | {"rows": 10**6}):
        with pytest.raises(CandidateError) as raised:
            explorer.make(knobs)
        assert raised.value.code == "rejected"


def test_the_estimate_weighs_halo_and_launches(tmp_path: Path) -> None:
    _, lowered = lowered_case(tmp_path, replace(INVERTED, size=(56, 56)))
    chain = longest(lowered)
    parts = [task for task in lowered.tasks if task.hash in chain.parts]
    space = ChainSpace(chain.task.module, SHARED, THREADS)
    saved = gain(space, chain.task, parts, SPEC)
    assert 6e-6 < saved < apart(parts, SPEC)
    tiles = sorted(
        (space.tile(p) for p in space.draw(200, np.random.default_rng(0))), key=lambda t: t.blocks * t.operations
    )
    slow, fast = (seconds(t, chain.task.compulsory, replace(SPEC, sms=1)) for t in (tiles[-1], tiles[0]))
    assert slow > fast


def test_numbers_that_stages_make_of_numbers_are_put_where_they_are_read() -> None:
    x, low = te.placeholder((1, 4, 5, 5), name="x"), te.placeholder((), name="low")
    twice = te.compute((), lambda: low() * 2.0, name="twice")
    function = te.create_prim_func([x, low, topi.maximum(x, twice)])
    plain = without_scalars(function)
    assert len(plain.body.block.alloc_buffers) == 0
    given, out = np.linspace(-1, 1, 100, dtype=np.float32).reshape(1, 4, 5, 5), np.zeros((1, 4, 5, 5), np.float32)
    library = tvm.compile(tvm.IRModule({"main": plain.with_attr("global_symbol", "main")}), target="llvm")
    made = tvm.runtime.tensor(out)
    library["main"](tvm.runtime.tensor(given), tvm.runtime.tensor(np.float32(0.2)), made)
    np.testing.assert_allclose(made.numpy(), np.maximum(given, np.float32(0.4)))


# which are taken ------------------------------------------------------------------------------------------------------


def chosen(name: str, predicted: float, measured: float | None = None, built: bool = True) -> Chosen:
    candidate = Candidate({}, name, {}, "t", 1, {}, 82)
    task = Task((name,), None, 1)
    object.__setattr__(task, "hash", name)
    trial = None if measured is None else Trial(candidate, samples=(measured,))
    seen = Seen(candidate, Looked(Counts(), predicted))
    return Chosen(task, seen, predicted, None, object() if built else None, trial)  # type: ignore[arg-type]


def chain(name: str, parts: tuple[str, ...], *places: tuple[int, ...]) -> Chain:
    task = Task((name,), None, len(places), parts)
    object.__setattr__(task, "hash", name)
    return Chain(task, parts, places, 1.0)


AB, BC, ABC = chain("ab", ("a", "b"), (0, 1)), chain("bc", ("b", "c"), (1, 2)), chain("abc", ("a", "b", "c"), (0, 1, 2))
PARTS = {name: chosen(name, 10e-6) for name in "abc"}


def test_the_set_that_saves_most_is_taken() -> None:
    known = PARTS | {"ab": chosen("ab", 15e-6), "bc": chosen("bc", 12e-6), "abc": chosen("abc", 21e-6)}
    assert covered([AB, BC, ABC], known) == [(ABC, (0, 1, 2))]
    assert covered([AB, BC], known) == [(BC, (1, 2))]
    known["abc"] = chosen("abc", 23e-6)
    assert covered([AB, BC, ABC], known) == [(BC, (1, 2))]
    assert covered([AB, BC, ABC], PARTS) == []  # none was built


def test_several_runs_of_a_model_are_covered_each() -> None:
    pair = chain("ab", ("a", "b"), (0, 1), (4, 7))
    longer = chain("cab", ("c", "a", "b"), (3, 4, 7))
    known = PARTS | {"ab": chosen("ab", 15e-6), "cab": chosen("cab", 26e-6)}
    assert covered([pair, longer], known) == [(pair, (0, 1)), (pair, (4, 7))]


def test_measured_times_decide_where_all_are_known() -> None:
    measured = {name: chosen(name, 10e-6, 4e-6) for name in "abc"}
    known = measured | {"ab": chosen("ab", 1e-6, 9e-6)}
    assert saving(AB, known) == pytest.approx(-1e-6) and covered([AB], known) == []
    known["ab"] = chosen("ab", 50e-6, 6e-6)
    assert covered([AB], known) == [(AB, (0, 1))]


def test_what_was_measured_is_not_compared_with_what_is_expected() -> None:
    measured = {name: chosen(name, 10e-6, 40e-6) for name in "abc"}
    assert saving(AB, measured | {"ab": chosen("ab", 1e-6)}) == 0.0
    assert saving(AB, PARTS | {"ab": chosen("ab", 1e-6, 1e-6)}) == 0.0
    assert saving(AB, PARTS | {"ab": chosen("ab", 1e-6, built=False)}) == 0.0


def test_a_model_calls_the_chain_in_place_of_its_parts(tmp_path: Path) -> None:
    _, lowered = lowered_case(tmp_path, INVERTED)
    whole = longest(lowered)
    after = with_chains(lowered, [(whole, whole.places[0])])
    assert [task.hash for task in after.tasks] == [whole.task.hash]
    program, _ = read_program(after)
    assert [call.task for call in program.calls] == [whole.task.hash]
    assert with_chains(lowered, []) is lowered


def test_chains_are_switched_off_by_name() -> None:
    check_names(["fuse-chains"])
    with pytest.raises(UserError) as raised:
        check_names(["fuse-chain"])
    assert raised.value.code == "unknown-pass" and "fuse-chains" in str(raised.value.hint)
