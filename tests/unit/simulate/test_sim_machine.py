"""The simulated machine against arithmetic by hand, and the facts that must follow from its mechanism."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from math import ceil

import numpy as np
import pytest
from sim_blocks import MLU, ROOMY, WIDE, XEON, convs, convs_then_dense, dense, relu, shapes

from tuner.errors import UserError
from tuner.graph.ir import Graph
from tuner.plan.halo import band_rows
from tuner.simulate.machine import noisy, times
from tuner.simulate.spec import SimSpec

ALL = tuple(range(1, MLU.cores + 1))
BLOCKS = [pytest.param(graph, id=name) for name, graph in shapes()]
RATE = MLU.core_peak * MLU.peak_share
FILL = MLU.half_work / RATE


def seconds(graph: Graph, cores: int, spec: SimSpec = MLU) -> float:
    return float(times(spec, graph, [cores])[0])


# By hand ------------------------------------------------------------------------------------------------------------


def test_one_convolution_on_one_core() -> None:
    ops = 2 * 56 * 56 * 64 * 64 * 9
    moved = 2 * (2 * 64 * 56 * 56 + 64 * 64 * 9)
    assert seconds(convs(), 1, ROOMY) == pytest.approx(MLU.launch + ops / RATE + FILL)
    assert seconds(convs(), 1, replace(ROOMY, core_peak=1e18)) == pytest.approx(MLU.launch + moved / MLU.core_bandwidth)


def test_two_fused_convolutions_on_four_cores_compute_the_halo_twice() -> None:
    ops = 2 * 56 * 56 * 64 * 64 * 9
    rows = 14 + 16  # of an inner band: what the second layer makes, and what it needs of the first
    expected = MLU.launch + 3 * MLU.sync + rows / 56 * ops / RATE + 2 * FILL
    assert seconds(convs(2), 4, WIDE) == pytest.approx(expected)


def test_moving_counts_inputs_with_their_halo_weights_once_and_outputs() -> None:
    graph = convs(out=1)  # one channel cannot be split
    moved = 2 * (64 * 56 * 56 * float(band_rows(graph, 8).read[0, 0]) + 56 * 56 + 64 * 9)
    starved = replace(ROOMY, core_peak=1e18, core_vector_peak=1e18, bandwidth=1e9, core_bandwidth=2.5e8)
    assert seconds(graph, 8, starved) == pytest.approx(MLU.launch + 7 * MLU.sync + moved / 1e9)


def test_channels_are_split_where_there_are_no_rows() -> None:
    matrix = 2 * 4096 * 4096
    busy = (matrix + 2 * 4096 + 2 * 4096) / MLU.bandwidth
    assert seconds(dense(), 8, ROOMY) == pytest.approx(MLU.launch + 7 * MLU.sync + busy)
    alone = (matrix + 2 * 4096 + 2 * 4096) / MLU.core_bandwidth
    assert seconds(dense(), 1, ROOMY) == pytest.approx(MLU.launch + alone)


def test_tiles_that_do_not_fit_beside_the_weights_cost_halo_or_fetch_weights_again() -> None:
    small = replace(WIDE, core_memory=600e3)  # ten rows of three tensors of 64 x 224 halfs fit beside 147 kB of weights
    graph = convs(2, 64, 224)
    assert seconds(graph, 1, small) > 1.05 * seconds(graph, 1, WIDE)
    layer = 2 * 224 * 224 * 64 * 64 * 9 / RATE
    for rows in range(1, 225):
        bands = band_rows(graph, ceil(224 / rows))
        if (work := float(bands.ratio[:, 0].sum()) * layer + 2 * FILL * float(bands.bands[0])) <= seconds(
            graph, 1, small
        ):
            assert int(bands.tallest[0, 0]) * 2 * 64 * 224 * 2 <= 600e3  # at most two tensors of such height at once
            assert work > 0
            break
    else:
        pytest.fail("it takes longer than with tiles of one row")


def test_weights_too_large_for_the_chip_do_not_hide_behind_other_layers() -> None:
    graph = convs_then_dense(4096)
    fused = seconds(graph, 1, replace(MLU, core_memory=2e6))
    streamed = 2 * 64 * 14 * 14 * 4096 / MLU.core_bandwidth  # of which the first 2 MB may be there in time
    computed = 2 * 14 * 14 * 64 * 64 * 9 / RATE + FILL
    late = streamed - 2e6 / MLU.core_bandwidth
    assert fused > MLU.launch + max(streamed, late + computed)


# What follows -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("graph", BLOCKS)
@pytest.mark.parametrize("spec", [MLU, XEON], ids=["mlu100", "xeon"])
def test_no_block_beats_the_roof(graph: Graph, spec: SimSpec) -> None:
    found = times(spec, graph, range(1, spec.cores + 1))
    assert np.isfinite(found).all()
    edge = (
        sum(graph.type_of(n).elements for n in (*graph.inputs, *graph.outputs, *graph.constants)) * spec.element_bytes
    )
    for cores, each in enumerate(found, 1):
        assert each >= spec.launch + edge / min(spec.bandwidth, cores * spec.core_bandwidth) * 0.999


@pytest.mark.parametrize("graph", BLOCKS)
def test_counts_asked_together_are_answered_as_if_alone(graph: Graph) -> None:
    for spec in (MLU, XEON):
        together = times(spec, graph, range(1, spec.cores + 1))
        assert together.tolist() == pytest.approx(
            [seconds(graph, c, spec) for c in range(1, spec.cores + 1)], rel=1e-12
        )
        some = times(spec, graph, [5, 2, 9])
        assert some.tolist() == pytest.approx([together[4], together[1], together[8]], rel=1e-12)


@pytest.mark.parametrize("graph", BLOCKS)
@pytest.mark.parametrize(
    "field",
    ["core_peak", "core_vector_peak", "peak_share", "bandwidth", "core_bandwidth"],
)  # fmt: skip
def test_a_better_machine_is_never_slower(graph: Graph, field: str) -> None:
    better = replace(MLU, **{field: 1.2 * getattr(MLU, field)})
    assert (times(better, graph, ALL) <= times(MLU, graph, ALL) * (1 + 1e-12)).all()


@pytest.mark.parametrize("graph", BLOCKS)
@pytest.mark.parametrize("field", ["launch", "sync", "half_work", "element_bytes"])
def test_what_costs_more_is_never_faster(graph: Graph, field: str) -> None:
    worse = replace(MLU, **{field: 2 * getattr(MLU, field)})
    assert (times(worse, graph, ALL) >= times(MLU, graph, ALL) * (1 - 1e-12)).all()


@pytest.mark.parametrize("graph", BLOCKS)
def test_ample_memory_on_chip_is_never_slower(graph: Graph) -> None:
    assert (times(ROOMY, graph, ALL) <= times(MLU, graph, ALL) * (1 + 1e-12)).all()


def test_an_elementwise_layer_rides_along() -> None:
    together = times(MLU, convs(relu=True), ALL)
    apart = times(MLU, convs(), ALL) + times(MLU, relu(), ALL)
    assert (together < apart - 0.9 * MLU.launch).all()


def test_fusion_pays_because_of_launches_and_bandwidth_alone() -> None:
    free = replace(WIDE, launch=0.0, sync=0.0)
    for cores in (1, 4, 16, 32):
        assert 2 * seconds(convs(), cores, free) <= seconds(convs(2), cores, free) * (1 + 1e-12)
    assert seconds(convs(2), 8) < 2 * seconds(convs(), 8)


def test_the_longest_fusion_on_most_cores_is_not_best() -> None:
    def best(depth: int) -> tuple[float, int]:
        """Seconds for eight layers in blocks of this depth, on the best number of cores."""
        found = times(MLU, convs(depth, relu=True), ALL) * 8 / depth
        return float(found.min()), ALL[int(found.argmin())]

    fused = {depth: best(depth) for depth in (1, 2, 4, 8)}
    assert min(fused, key=lambda d: fused[d]) in (2, 4)
    assert seconds(convs(8, relu=True), 32) > fused[8][0] > min(fused.values())[0]


def test_small_layers_do_not_profit_from_many_cores() -> None:
    tiny = times(MLU, convs(1, 16, 7, 1), ALL)
    assert tiny.argmin() == 0
    small, large = times(MLU, convs(1, 32, 28), ALL), times(MLU, convs(1, 256, 56), ALL)
    assert small.argmin() < large.argmin()


def test_rates_saturate_with_the_work_of_a_core() -> None:
    rates = [1 / (seconds(convs(1, 64, s), 1, WIDE) - MLU.launch) * s * s for s in (4, 8, 16, 32, 64, 128)]
    assert all(b > a for a, b in pairwise(rates))
    assert rates[1] / rates[0] > 1.5 and rates[-1] / rates[-2] < 1.05


def test_channels_that_fill_the_array_run_fastest() -> None:
    def rate(channels: int) -> float:
        return channels**2 / (seconds(convs(1, channels, 112), 1, WIDE) - MLU.launch)

    assert rate(33) < 0.4 * rate(32) and rate(64) == pytest.approx(rate(32), rel=0.02) and rate(16) < 0.3 * rate(32)


def test_a_machine_without_those_cores_refuses() -> None:
    for cores in ([33], [0], [4, -1]):
        with pytest.raises(UserError) as raised:
            times(MLU, convs(), cores)
        assert raised.value.code == "bad-cores"


# Noise --------------------------------------------------------------------------------------------------------------


def test_noise_is_a_function_of_spec_key_and_seed() -> None:
    assert noisy(1e-3, MLU, "a", 0) == noisy(1e-3, MLU, "a", 0)
    others = [noisy(1e-3, MLU, "b", 0), noisy(1e-3, MLU, "a", 1), noisy(1e-3, replace(MLU, launch=1e-6), "a", 0)]
    assert len({noisy(1e-3, MLU, "a", 0), *others}) == 4


def test_noise_is_as_wide_as_the_spec_says() -> None:
    logs = np.log([noisy(1e-3, MLU, str(k), 0)[0] / 1e-3 for k in range(4000)])
    assert abs(logs.mean()) < 0.002 and logs.std() == pytest.approx(MLU.noise, rel=0.1)
    assert set(noisy(1e-3, replace(MLU, noise=0.0), "a", 0)) == {1e-3}
