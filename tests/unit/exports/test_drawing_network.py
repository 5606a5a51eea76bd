"""The network as SVG: what is in a box, what is escaped, what the legend's colours mean."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from service.exports.drawing.boxes import Network, network
from service.exports.drawing.lines import Mark, shares, steps
from service.exports.drawing.network import LEVELS, draw, level
from service.exports.drawing.scales import ticks

DATA = Path(__file__).parents[2] / "data"
SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def graph() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((DATA / "squeezenet_graph.json").read_text())
    return found


@pytest.fixture(scope="module")
def blocks() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((DATA / "squeezenet_report.json").read_text())["blocks"]
    return found


@pytest.fixture(scope="module")
def plan(graph: dict[str, Any], blocks: list[dict[str, Any]]) -> dict[str, Any]:
    order = {layer["id"]: i for i, layer in enumerate(graph["layers"])}
    ours = [
        {"layers": block["layers"], "cores": max(1, block["cores"]), "template": block["template"]}
        for block in sorted(blocks, key=lambda b: order[b["layers"][0]])
    ]
    return {"version": 1, "graph": "", "stages": [{"lanes": [{"blocks": ours}]}], "layouts": {}}


@pytest.fixture(scope="module")
def tuned(graph: dict[str, Any], plan: dict[str, Any], blocks: list[dict[str, Any]]) -> Network:
    return network(graph, plan, blocks)


def test_every_block_is_a_box_with_its_layers_and_times(tuned: Network, blocks: list[dict[str, Any]]) -> None:
    assert {box.ids for box in tuned.boxes} == {tuple(block["layers"]) for block in blocks}
    by_layers = {tuple(block["layers"]): block for block in blocks}
    assert all(box.ms == by_layers[box.ids]["ms"] for box in tuned.boxes)
    first = tuned.boxes[0]
    assert first.title == "Conv 3×3 /2 3→64"
    assert [op.op for op in first.layers] == ["Conv", "Relu"]


def test_boxes_count_operations_and_bytes_from_the_shapes(graph: dict[str, Any]) -> None:
    first = network(graph, None, []).boxes[0]
    (dtype, out) = graph["tensors"][graph["layers"][0]["outputs"][0]]
    weights = graph["constants"][graph["layers"][0]["inputs"][1]]["shape"]
    elements = out[0] * out[1] * out[2] * out[3]
    assert dtype == "float32"
    assert first.ops == 2 * elements * weights[1] * weights[2] * weights[3]
    image = graph["tensors"]["data_0"][1]
    moved = (
        elements + image[0] * image[1] * image[2] * image[3] + weights[0] * (weights[1] * weights[2] * weights[3] + 1)
    )
    assert first.bytes == 4 * moved


def test_links_join_boxes_the_input_and_the_output(tuned: Network, graph: dict[str, Any]) -> None:
    assert [link.tensor for link in tuned.links if link.source < 0] == graph["inputs"]
    assert [link.tensor for link in tuned.links if link.target < 0] == graph["outputs"]
    assert all(link.source < link.target for link in tuned.links if link.target >= 0), "boxes stand in running order"


def test_without_a_plan_every_layer_stands_alone_on_one_core(
    graph: dict[str, Any], blocks: list[dict[str, Any]]
) -> None:
    alone = network(graph, None, blocks)
    assert [box.ids for box in alone.boxes] == [(layer["id"],) for layer in graph["layers"]]
    assert {box.cores for box in alone.boxes} == {1}
    assert {box.ms for box in alone.boxes} == {None}, "the tuned model's times are not the baseline's"


def test_layers_that_a_plan_forgets_are_shown_all_the_same(graph: dict[str, Any], plan: dict[str, Any]) -> None:
    few = {**plan, "stages": [{"lanes": [{"blocks": plan["stages"][0]["lanes"][0]["blocks"][:3]}]}]}
    drawn = network(graph, few, [])
    assert sum(len(box.layers) for box in drawn.boxes) == len(graph["layers"])


def test_the_drawing_is_svg_with_one_group_a_block(tuned: Network) -> None:
    root = ElementTree.fromstring(draw(tuned).svg)
    groups = [g for g in root.iter(f"{SVG}g") if "data-block" in g.attrib]
    assert sorted(int(g.get("data-block", "")) for g in groups) == list(range(len(tuned.boxes)))
    assert all("aria-label" in g.attrib for g in groups)
    edges = [p for p in root.iter(f"{SVG}path") if "data-from" in p.attrib]
    assert len(edges) == len({(link.source, link.target) for link in tuned.links})
    assert not any(
        name in text for text in [draw(tuned).svg] for name in ("style=", "<script", "javascript:", "onclick")
    )


def test_blocks_side_by_side_show_the_time_of_their_call(
    graph: dict[str, Any], plan: dict[str, Any], blocks: list[dict[str, Any]]
) -> None:
    first = blocks[0] | {"ms": None, "share": None, "together": {"call": 0, "lane": 0, "ms": 0.5, "share": 0.1}}
    drawn = draw(network(graph, plan, [first, *blocks[1:]])).svg
    assert drawn.count("with others 0.50 ms") == 1
    assert "at the same time as others, all of them 0.5 ms" in drawn


def test_names_from_a_model_are_text_and_nothing_else(graph: dict[str, Any]) -> None:
    nasty = '"><script>alert(1)</script>&'
    text = json.dumps(graph).replace('"data_0"', json.dumps(nasty)).replace('"Conv_1"', json.dumps(nasty))
    svg = draw(network(json.loads(text), None, [])).svg
    assert "<script" not in svg
    assert nasty in "".join(ElementTree.fromstring(svg).itertext())


def test_more_cores_are_a_stronger_colour() -> None:
    assert [level(cores, 12) for cores in (1, 2, 4, 12)] == sorted(level(cores, 12) for cores in (1, 2, 4, 12))
    assert (level(1, 12), level(12, 12)) == (0, LEVELS)
    assert level(1, 1) == 0
    assert level(None, 4) == 0


def test_the_step_line_holds_each_best_until_the_next() -> None:
    svg = steps([(2.0, 8.0), (5.0, 4.0)], [Mark("onnxruntime", "ONNX <Runtime>", 6.0)], end=10.0)
    root = ElementTree.fromstring(svg)
    (best,) = [p for p in root.iter(f"{SVG}path") if p.get("class") == "best"]
    assert best.get("d", "").count("H") == 2 and best.get("d", "").count("V") == 1
    assert "ONNX <Runtime> 6 ms" in "".join(root.itertext())


def test_lines_without_points_and_shares_of_nothing_are_still_pictures() -> None:
    ElementTree.fromstring(steps([]))
    ElementTree.fromstring(shares([], "nothing"))


@pytest.mark.parametrize(("low", "high"), [(0, 1), (0, 0.0031), (0, 86400), (3, 3), (0, float("inf"))])
def test_ticks_are_few_and_within_the_axis(low: float, high: float) -> None:
    found = ticks(low, high)
    assert 1 <= len(found) <= 12
    assert all(low <= value <= high for value in found)
