"""What the search makes of design spaces: features of decisions, and proposals that mean something."""

from __future__ import annotations

from math import isnan, log2

import numpy as np

from cost_model.boosted import BoostedTrees
from tests.unit.search.search_fakes import DEVICE
from tuner.graph.ir import Constant, Graph, Layer, Tensor, freeze_attrs
from tuner.kernels.design import SPACE, designed
from tuner.kernels.registry import template
from tuner.search.designed import DesignFacts
from tuner.search.features import KNOBS, Features
from tuner.search.knobs import KnobSearch
from tuner.types import Candidate


def conv3d() -> Graph:
    shapes = {"i0": (1, 8, 4, 12, 12), "t0": (1, 16, 4, 12, 12)}
    layer = Layer("l0", "Conv", ("i0", "c0"), ("t0",), freeze_attrs({"pads": [1] * 6}))
    tensors = {n: Tensor(n, shape) for n, shape in shapes.items()}
    return Graph(("i0",), ("t0",), (layer,), tensors, {"c0": Constant("c0", (16, 8, 3, 3, 3))})


def search() -> KnobSearch:
    workload = conv3d()
    layouts = {"i0": "plain", "t0": "plain"}
    candidate = Candidate(workload.to_json(), workload.hash, layouts, "design", 1, {}, 2)
    return KnobSearch(candidate, workload, template("design").space(workload, layouts, DEVICE), DEVICE)


def test_features_say_what_numbers_of_decisions_stand_for() -> None:
    found = designed(conv3d(), DEVICE)
    assert found is not None
    knobs = dict(found.knobs.fold({n: len(v) - 1 for n, v in found.knobs.knobs.items()} | {SPACE: 1}))
    decided = found.spelled(knobs)
    tiles = [v for v in decided.values() if isinstance(v, list) and len(v) == 4]
    facts = DesignFacts.of(conv3d(), DEVICE)
    assert facts is not None
    row = facts.derived(knobs, 2)
    assert row[0] == log2(tiles[-1][3])
    assert row[1] == sum(log2(t[3]) for t in tiles) and row[4] == sum(log2(t[0]) for t in tiles)
    assert row[6] == decided["choice0"]
    assert all(isnan(v) for v in facts.derived(found.knobs.default, 2))


def test_rows_tell_design_spaces_apart() -> None:
    features, knobs = Features(conv3d(), "design", 2, DEVICE), search().space.default
    rows = features.rows([knobs, {**knobs, SPACE: 1}])
    assert rows.shape[0] == 2 and not np.array_equal(rows[0], rows[1], equal_nan=True)
    assert KNOBS[-1] == SPACE and len(set(np.isfinite(features.expected([knobs, {**knobs, SPACE: 1}])))) == 1


def test_the_default_is_first_and_all_others_are_points_of_the_space() -> None:
    asked = search()
    proposed = asked.propose(12, BoostedTrees())
    assert proposed[0].knobs == asked.space.default
    assert len({tuple(c.knobs.items()) for c in proposed}) == len(proposed) == 12
    assert all(c.knobs in asked.space for c in proposed)
    assert all(c.knobs[SPACE] for c in proposed[1:])
