"""Rows of features: amounts worked out by hand on small blocks."""

from __future__ import annotations

import time

import numpy as np
import pytest

from cost_model.block_features import COLUMNS, INDEX
from cost_model.synthetic import KINDS, BlockDesign, design
from tuner.graph.costs import layer_cost
from tuner.graph.ir import Graph
from tuner.measure.device import devices
from tuner.plan.workload import workload_of
from tuner.search.blocks import block_rows, every_plain_rows, machine_of, stacked_rows
from tuner.search.synthetic import synthetic_graph, synthetic_workload
from tuner.types import Device

DEVICE = Device("toy", "cpu", "toy", "generic", (), 32, 16, 32, 64 << 10, 512 << 10, 8 << 20, 1 << 33)
CHAIN = BlockDesign("chain", 32, 64, 16, 3, 1, 2, 4)  # two 3x3 convolutions, each with its Relu, on 16x16 pixels


def columns(workload: Graph, cores: list[int]) -> dict[str, np.ndarray]:
    rows = block_rows(workload, cores, DEVICE)
    assert rows.shape == (len(cores), len(COLUMNS))
    return dict(zip(COLUMNS, rows.T, strict=True))


class TestAmounts:
    def test_what_the_block_is(self) -> None:
        found = columns(synthetic_workload(CHAIN), [1, 4])
        first, second, relu = 2 * 16 * 16 * 64 * 32 * 9, 2 * 16 * 16 * 64 * 64 * 9, 16 * 16 * 64
        assert found["ops"].tolist() == [first + second + 2 * relu] * 2
        assert found["mac_ops"][0] == first + second
        assert (found["layers"][0], found["mac_layers"][0], found["windows"][0]) == (4, 2, 2)
        assert (found["rows"][0], found["out_channels"][0]) == (16, 64)
        assert found["input_bytes"][0] == 32 * 256 * 4
        assert found["output_bytes"][0] == 64 * 256 * 4
        assert found["inner_bytes"][0] == 64 * 256 * 4  # what the second convolution reads
        assert found["weight_bytes"][0] == (64 * 32 * 9 + 64 + 64 * 64 * 9 + 64) * 4
        assert found["wide_out"][0] == pytest.approx(64)
        assert 32 < found["wide_in"][0] < 64

    def test_simulated_devices_hold_what_real_kernels_keep_in_registers(self) -> None:
        rows = block_rows(synthetic_workload(CHAIN), [1], devices("sim:mlu100"))
        assert rows[0, INDEX["inner_bytes"]] == 3 * 64 * 256 * 4

    def test_one_core_does_everything_once(self) -> None:
        found = columns(synthetic_workload(CHAIN), [1])
        assert found["core_ops"] == found["all_ops"] == found["ops"]
        assert found["even"] == 1.0
        assert found["read_bytes"] == found["input_bytes"]

    def test_bands_recompute_the_row_above_and_below(self) -> None:
        # Four bands of four rows: the inner two need six rows of the first convolution, the outer two need five.
        found = columns(synthetic_workload(CHAIN), [4])
        first, second, relu = 2 * 16 * 16 * 64 * 32 * 9, 2 * 16 * 16 * 64 * 64 * 9, 16 * 16 * 64
        assert found["all_ops"] == pytest.approx((first + relu) * 22 / 16 + second + relu)
        assert found["core_ops"] == pytest.approx((first + relu) * 6 / 16 + (second + relu) * 4 / 16)
        assert found["halo_ops"] == pytest.approx((first + relu) * 2 / 16)
        assert found["read_bytes"] == pytest.approx(found["input_bytes"] * (2 * 6 + 2 * 8) / 16)

    def test_more_cores_than_rows_divide_the_channels_where_that_is_less(self) -> None:
        dense = columns(synthetic_workload(BlockDesign("dense", 256, 128, 1, 1, 1, 1, 4)), [1, 4, 32])
        assert dense["parts"].tolist() == [1, 4, 32]
        assert dense["core_ops"][1] == pytest.approx(dense["ops"][1] / 4)
        two = columns(synthetic_workload(BlockDesign("dense", 256, 128, 1, 1, 1, 2, 4)), [1, 4])
        assert two["core_mac_ops"][1] == 2 * (256 * 128 + 128 * 128 / 4)  # the first layer is needed whole by each core

    def test_uneven_rows_leave_cores_waiting(self) -> None:
        found = columns(synthetic_workload(BlockDesign("conv", 64, 64, 7, 1, 1, 1, 4)), [1, 4])
        assert found["even"].tolist() == pytest.approx([1.0, 7 / 8])

    def test_a_grouped_convolution_needs_its_group_alone(self) -> None:
        workload = synthetic_workload(BlockDesign("depthwise", 64, 64, 7, 3, 1, 1, 1))
        assert block_rows(workload, [64], DEVICE)[0, INDEX["core_ops"]] <= 2 * 49 * 9 * 3 * 1.2

    def test_layouts_and_template_are_seen(self) -> None:
        workload = synthetic_workload(CHAIN)
        plain = block_rows(workload, [1], DEVICE)
        blocked = block_rows(
            workload, [1], DEVICE, layouts={workload.inputs[0]: "NCHW16c", workload.outputs[0]: "plain"},
            template="conv2d",
        )  # fmt: skip
        assert plain[0, INDEX["layout"]] == 0.0
        assert blocked[0, INDEX["layout"]] == pytest.approx(1 / 3)
        assert plain[0, INDEX["template"]] != blocked[0, INDEX["template"]]

    def test_odd_channels_waste_lanes(self) -> None:
        even, odd = (columns(synthetic_workload(BlockDesign("conv", 64, n, 14, 1, 1, 1, 1)), [1]) for n in (64, 65))
        assert even["core_ops_padded"] == 0.0
        assert odd["core_ops_padded"] == pytest.approx(odd["core_mac_ops"] * 15 / 65)

    def test_every_synthetic_block_has_rows(self) -> None:
        rows = stacked_rows([block_rows(synthetic_workload(b), [1, b.cores], DEVICE) for b in design(32, 120)])
        assert np.isfinite(rows).all()
        assert (rows[:, INDEX["all_ops"]] >= rows[:, INDEX["ops"]] * 0.999).all()
        assert (rows[:, INDEX["even"]] > 0).all()

    def test_blocks_that_are_done_together_have_the_rows_that_each_has_alone(self) -> None:
        workloads = [synthetic_workload(b) for b in design(32, 120)]
        together = every_plain_rows([(w, frozenset()) for w in workloads], range(1, 33), DEVICE)
        assert np.array_equal(together, [block_rows(w, range(1, 33), DEVICE) for w in workloads])

    def test_a_thousand_questions_take_no_longer_than_a_search_can_bear(self) -> None:
        workloads = [synthetic_workload(b) for b in design(32, 100)]
        began = time.process_time()
        for workload in workloads:
            block_rows(workload, range(1, 33), DEVICE)
        assert (time.process_time() - began) / len(workloads) < 0.005  # 0.3 ms on a quiet machine


class TestDesign:
    def test_all_kinds_and_cores_occur(self) -> None:
        blocks = design(32)
        assert {b.kind for b in blocks} == set(KINDS)
        assert {b.cores for b in blocks} >= {1, 2, 4, 8, 16, 32}
        assert len(set(blocks)) == len(blocks) > 240

    def test_every_prefix_covers_the_space(self) -> None:
        head = design(32)[:40]
        assert len({b.kind for b in head}) == len(KINDS)
        ops = np.log10([max(b.ops, 1.0) for b in head])
        assert ops.min() < 4.5
        assert ops.max() > 9
        assert max(b.cores for b in head) > 16 > 2 > min(b.cores for b in head)

    def test_only_what_a_device_can_run(self) -> None:
        assert {b.kind for b in design([1, 2], 50, ["conv", "dense"])} == {"conv", "dense"}
        assert {b.cores for b in design([1, 2], 50)} == {1, 2}

    @pytest.mark.parametrize("kind", KINDS)
    def test_a_design_becomes_the_block_that_it_describes(self, kind: str) -> None:
        for block in design(8, 60, [kind]):
            graph = synthetic_graph(block)
            assert len(graph.outputs) == 1
            workload = workload_of(graph, [x.id for x in graph.layers]).workload
            assert workload.outputs[0] == workload.layers[-1].outputs[0]
            ops = sum(layer_cost(graph, x).ops for x in graph.layers)
            assert block.ops * 0.5 <= ops <= block.ops * 3 + 1e5


def test_a_machine_is_described_by_what_is_known() -> None:
    guessed, measured = machine_of(DEVICE), machine_of(DEVICE, 64e12, 102.4e9)
    assert (measured.peak_flops, measured.bandwidth, measured.cores) == (64e12, 102.4e9, 32)
    assert guessed.peak_flops > 0
    assert guessed.core_memory == DEVICE.l2
