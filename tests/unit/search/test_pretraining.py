"""Which knobs of which synthetic kernels a calibration tries."""

from __future__ import annotations

from collections import Counter

from search_fakes import DEVICE

from tuner.graph.ir import Graph
from tuner.kernels.registry import template
from tuner.search.calibration import served
from tuner.search.examination import Figures
from tuner.search.experience import Experience
from tuner.search.pretraining import FEWEST_OPS, MOST_OPS, candidates, examine, layers
from tuner.types import Trial


def test_layers_are_single_of_a_fair_size_and_on_all_cores() -> None:
    found = layers(DEVICE)
    assert len(found) == 64 == len({*found})
    assert {b.depth for b in found} == {1}
    assert {b.cores for b in found} == {DEVICE.cores}
    assert all(FEWEST_OPS <= b.ops <= MOST_OPS for b in found)
    kinds = Counter(b.kind for b in found)
    assert set(kinds) == {"conv", "depthwise", "dense"}
    assert all(served(b, DEVICE) for b in found)
    assert kinds["conv"] > len(found) / 2


def test_none_are_none() -> None:
    assert layers(DEVICE, 0) == []
    assert list(candidates(DEVICE, 0)) == []


def test_each_template_is_tried_with_its_default_and_others_once_each() -> None:
    found = list(candidates(DEVICE, 16, 6))
    assert len({c.key for c in found}) == len(found)
    assert [c.key for c in candidates(DEVICE, 16, 6)] == [c.key for c in found]
    by_question: dict[str, list[dict[str, int]]] = {}
    for c in found:
        space = template(c.template).space(Graph.from_json(c.workload), c.layouts, DEVICE)
        assert c.knobs in space
        assert c.cores == DEVICE.cores
        assert not c.template.endswith("bf16")
        by_question.setdefault(c.record_key, []).append(dict(c.knobs))
        assert (dict(c.knobs) == space.default) == (len(by_question[c.record_key]) == 1)
    assert {len(points) for points in by_question.values()} <= set(range(2, 7))
    assert max(map(len, by_question.values())) == 6


def test_the_knob_model_is_judged_on_kernels_it_has_not_seen_and_learns_from_them_all() -> None:
    found = list(candidates(DEVICE, 8, 6))
    trials = [Trial(c, samples=(1e-4 * (1 + i % 5),) * 3) for i, c in enumerate(found)]
    figures = examine(trials, DEVICE)
    assert isinstance(figures, Figures)
    assert figures.reason is None
    assert figures.samples == len(trials)
    assert figures.workloads == len({t.candidate.workload_hash for t in trials})
    experience = Experience.of(trials, DEVICE)
    assert experience is not None
    assert len(experience) == len(trials)
