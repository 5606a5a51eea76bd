"""Equal computations are one workload; layouts and packing steps move numbers and lose none."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from plan_graphs import conv, graph_of, layer, residual

from tuner.errors import UserError
from tuner.graph.ir import Graph
from tuner.plan.layout import Pack, block_of, blocked, physical_shape, to_logical, to_physical
from tuner.plan.workload import workload_of


def two(second: dict[str, object] | None = None) -> Graph:
    """Two convolutions of one shape, with weights of their own."""
    b = replace(conv("a", "b", "w2"), attrs=tuple(sorted((dict(conv("a", "b").attrs) | (second or {})).items())))
    return graph_of([conv("x", "a", "w1"), b], ["b"], constants={"w1": (32, 32, 3, 3), "w2": (32, 32, 3, 3)})


def test_equal_convolutions_with_different_weights_are_one_workload() -> None:
    graph = two()
    first, second = workload_of(graph, ["A"]), workload_of(graph, ["B"])
    assert first.workload == second.workload
    assert first.workload.hash == second.workload.hash
    assert (first.names["c0"], second.names["c0"]) == ("w1", "w2")


def test_another_attribute_is_another_workload() -> None:
    graph = two({"dilations": (1, 1)})
    assert workload_of(graph, ["A"]).workload.hash != workload_of(graph, ["B"]).workload.hash


def test_the_order_in_which_layers_are_named_does_not_matter() -> None:
    graph = residual()
    assert workload_of(graph, ["OUT", "C2", "SUM"]) == workload_of(graph, ["C2", "SUM", "OUT"])


def test_names_are_canonical_and_bound_both_ways() -> None:
    bound = workload_of(residual(), ["C2", "SUM", "OUT"])
    assert (bound.workload.inputs, bound.workload.outputs) == (("i0", "i1"), ("t2",))
    assert bound.names == {"i0": "r1", "i1": "start", "c0": "w", "t0": "c2", "t1": "sum", "t2": "out"}
    assert bound.canonical["start"] == "i1"


def test_a_tensor_read_outside_is_an_output_of_the_block() -> None:
    bound = workload_of(residual(), ["START", "C1"])
    assert [bound.names[n] for n in bound.workload.outputs] == ["start", "c1"]


def test_absent_inputs_stay_absent() -> None:
    graph = graph_of([layer("Clip", ["x", "", "m"], "a")], ["a"], constants={"m": ()})
    assert workload_of(graph, ["A"]).workload.layers[0].inputs == ("i0", "", "c0")


def test_a_workload_survives_json() -> None:
    workload = workload_of(residual(), ["C2", "SUM", "OUT"]).workload
    assert Graph.from_json(workload.to_json()).hash == workload.hash


@pytest.mark.parametrize("block", [1, 4, 8, 16])
@pytest.mark.parametrize("channels", [1, 3, 16, 17, 40])
def test_blocked_layout_round_trip(block: int, channels: int) -> None:
    array = np.random.default_rng(0).standard_normal((2, channels, 3, 5), np.float32)
    layout = blocked(block)
    held = to_physical(array, layout)
    assert held.shape == physical_shape(array.shape, layout)
    assert held.flags.c_contiguous
    assert held[1, (channels - 1) // block, 2, 4, (channels - 1) % block] == array[1, channels - 1, 2, 4]
    assert np.count_nonzero(held) == np.count_nonzero(array)  # padded lanes are zero
    np.testing.assert_array_equal(to_logical(held, layout, array.shape), array)


def test_plain_layout_is_row_major() -> None:
    array = np.arange(24.0).reshape(2, 3, 4).transpose(2, 0, 1)
    held = to_physical(array, "plain")
    assert held.flags.c_contiguous
    assert physical_shape(array.shape, "plain") == array.shape
    np.testing.assert_array_equal(to_logical(held, "plain", array.shape), array)


@pytest.mark.parametrize("name", ["NCHW", "NCHWc", "NCHW0c", "NCHW-4c", "NCHW16c ", "nchw16c", "", "NCHW16c\n"])
def test_unknown_layouts_are_refused(name: str) -> None:
    with pytest.raises(UserError) as caught:
        block_of(name)
    assert caught.value.code == "bad-layout"


def test_pack_steps() -> None:
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    pack = Pack((("pad", [[0, 0], [0, 1]]), ("reshape", [2, 2, 2]), ("transpose", [1, 0, 2]), ("take", 0, [1, 0])))
    expected = [[[2, 0], [5, 0]], [[0, 1], [3, 4]]]
    np.testing.assert_array_equal(pack(array), expected)
    assert pack(array).flags.c_contiguous
    np.testing.assert_array_equal(Pack.from_json(pack.to_json())(array), expected)


def test_gather_writes_zero_where_there_is_no_source_and_keeps_the_dtype() -> None:
    array = np.array([[5, 6], [7, 8]], np.float32)
    packed = Pack((("gather", [3, -1, 0], [3, 1]),))(array)
    np.testing.assert_array_equal(packed, [[8], [0], [5]])
    assert packed.dtype == np.float32


def test_no_steps_leave_the_array_and_unknown_steps_are_refused() -> None:
    np.testing.assert_array_equal(Pack()(np.eye(3)), np.eye(3))
    with pytest.raises(UserError) as caught:
        Pack((("fold", 3),))(np.eye(3))
    assert caught.value.code == "bad-pack"
