"""The analytic model of a convolution: it knows what every engineer knows, on devices it was not made on too."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from search_fakes import DEVICE, SMALL, conv

from cost_model.boosted import BoostedTrees
from tuner.search.expectation import ConvFacts, conv_seconds
from tuner.search.features import Features
from tuner.search.posterior import Posterior

FACTS = ConvFacts(ic=256, oc=256, oh=28, ow=28, kh=3, kw=3, stride=1, h=28, w=28)
GOOD = {"oc_t": 2, "reg_n": 7, "rows": 2, "order": 0}
AVX2 = replace(DEVICE, lanes=8, registers=16, l2=512 << 10, cores=2)


def seconds(cores: int = 4, device: object = DEVICE, **knobs: int) -> float:
    return conv_seconds(FACTS, GOOD | knobs, cores, device)  # type: ignore[arg-type]


def test_it_is_of_the_right_magnitude() -> None:
    peak = 2 * 2 * 16 * 3e9 * 4  # two multiply-adds of 16 lanes a cycle on four cores of 3 GHz
    ideal = 2 * 256 * 256 * 9 * 28 * 28 / peak
    assert ideal < seconds() < 2 * ideal


@pytest.mark.parametrize(
    ("worse", "why"),
    [
        ({"oc_t": 1, "reg_n": 1}, "one accumulator waits for itself"),
        ({"oc_t": 4, "reg_n": 14}, "56 accumulators do not fit 32 registers"),
        ({"reg_n": 9}, "28 columns in tiles of 9 waste a fifth"),
        (
            {"oc_t": 4, "reg_n": 7, "rows": 28},
            "bands of 28 rows leave too few tasks",
        ),
    ],
)
def test_what_everybody_knows(worse: dict[str, int], why: str) -> None:
    assert seconds(**worse) > seconds(), why


def test_tiles_follow_the_registers() -> None:
    assert seconds(device=AVX2, oc_t=2, reg_n=4) < seconds(device=AVX2, oc_t=2, reg_n=14)
    assert seconds(oc_t=2, reg_n=14) < 1.3 * seconds(oc_t=2, reg_n=7)


def test_work_that_does_not_divide_waits_for_the_last_core() -> None:
    even = conv_seconds(replace(FACTS, oc=128), GOOD | {"rows": 28}, 4, DEVICE)
    uneven = conv_seconds(replace(FACTS, oc=160), GOOD | {"rows": 28}, 4, DEVICE)  # five tasks on four cores
    assert uneven > 1.4 * even


STRIDED = ConvFacts(ic=512, h=28, w=28, oc=1024, oh=14, ow=14, kh=1, kw=1, stride=2)


def test_a_tile_that_reads_past_the_row_makes_every_task_copy_its_part_of_the_image() -> None:
    assert STRIDED.copied(16, rows=2, reg_n=7) == 0.0  # 27 columns of 28
    assert STRIDED.copied(16, rows=2, reg_n=5) == 4 * 512 * 3 * 29  # three tiles of 5 read up to column 28
    assert replace(STRIDED, bordered=True).copied(16, rows=2, reg_n=7) == 4 * 512 * 3 * 27
    wide = replace(STRIDED, w=29)  # room enough for the last tile
    copies, fits = (conv_seconds(s, GOOD | {"reg_n": 5}, 2, AVX2) for s in (STRIDED, wide))
    assert copies > 1.3 * fits


def test_a_long_row_is_never_copied() -> None:
    flat = ConvFacts(ic=64, h=13, w=13, oc=64, oh=13, ow=13, kh=1, kw=1, stride=1, flat=True)
    assert flat.copied(8, rows=2, reg_n=13) == flat.copied(8, rows=2, reg_n=10) == 0.0
    assert replace(flat, stride=2, oh=7, ow=7, flat=False).copied(8, rows=2, reg_n=5) > 0.0


def test_what_is_copied_before_all_tasks_costs_the_same_whatever_the_tasks() -> None:
    bare = ConvFacts(ic=64, h=14, w=14, oc=64, oh=14, ow=14, kh=3, kw=3, stride=1, flat=True)
    ready = replace(bare, bordered=True, prepared=4.0 * 64 * 16 * 16)
    few, many = (
        conv_seconds(ready, GOOD | {"rows": r}, 1, AVX2) - conv_seconds(bare, GOOD | {"rows": r}, 1, AVX2)
        for r in (1, 16)
    )
    assert few == pytest.approx(many) and few > 0


def test_of_groups_only_what_a_task_needs_is_copied() -> None:
    whole = ConvFacts(ic=64, h=14, w=14, oc=64, oh=14, ow=14, kh=3, kw=3, stride=1, bordered=True)
    grouped = replace(whole, ic=16, groups=4)
    assert grouped.image == whole.image
    assert grouped.copied(16, rows=1, reg_n=7) * 4 == whole.copied(16, rows=1, reg_n=7)
    assert grouped.copied(32, rows=1, reg_n=7) * 2 == whole.copied(32, rows=1, reg_n=7)


def test_features_expect_the_same_and_grow_with_work() -> None:
    small, large = (Features(conv(channels), "conv2d", 4, DEVICE) for channels in (64, 128))
    points = list(SMALL.points)[:50]
    assert (large.expected(points) > small.expected(points) + 0.7).all()
    assert np.isfinite(small.expected(points)).all()


def test_where_there_is_no_model_all_points_are_alike() -> None:
    features = Features(conv(), "winograd", 4, DEVICE)
    points = [{"m": m, "bh": 1, "bw": 7, "scheme": 0, "oc_t": 1, "reg_n": 7} for m in (2, 4)]
    assert np.ptp(features.expected(points)) == 0


def test_a_batch_spreads_but_begins_with_the_best() -> None:
    features = Features(conv(), "conv2d", 4, DEVICE)
    posterior = Posterior(features, SMALL)
    points = posterior.points(list(SMALL.points))
    nothing = posterior.points([])
    own = posterior.learn(nothing, np.zeros(0), np.zeros(0))
    belief = posterior.belief(points, own, BoostedTrees())
    chosen = belief.choose(8, 0.5)
    mean, std = belief.mean_std
    assert chosen[0] == int(np.argmin(mean - 0.5 * std))
    assert len(set(chosen)) == 8
    ranked = np.argsort(mean - 0.5 * std, kind="stable")[:8]
    assert _spread(points.places[chosen]) >= _spread(points.places[ranked])


def _spread(places: np.ndarray) -> float:
    return float(np.linalg.norm(places[:, None] - places[None], axis=2).mean())
