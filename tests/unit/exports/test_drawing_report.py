"""report.html and what it shares with the job page: sentences, rows, failures, differences."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from db.insight import Group
from service.exports import facts
from service.exports.difference import pairs
from service.exports.drawing.boxes import network
from service.exports.knobs import importances
from service.exports.report_html import Failures, report_html
from tuner.types import Purpose

DATA = Path(__file__).parents[2] / "data"


@pytest.fixture
def report() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((DATA / "squeezenet_report.json").read_text())
    return found


@pytest.fixture(scope="module")
def graph() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((DATA / "squeezenet_graph.json").read_text())
    return found


class Page(HTMLParser):
    """What a browser would make of the page, as far as it matters here."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def test_the_report_says_why_a_baseline_was_not_built(report: dict[str, Any]) -> None:
    assert "was not built" not in report_html(report)
    report["left_out"] = {"unoptimised": "It runs on 1 core, and the core counts allowed are <4>."}
    made = report_html(report)
    assert "Unoptimised was not built. It runs on 1 core, and the core counts allowed are &lt;4&gt;." in made
    del report["left_out"]  # as reports were before
    assert "was not built" not in report_html(report)


def test_the_report_is_one_file_without_scripts_or_requests(report: dict[str, Any], graph: dict[str, Any]) -> None:
    page = Page(report_html(report, graph=graph, curve=[[3.0, 5, 0.009], [20.0, 60, 0.0066]]))
    assert not {"script", "link", "img", "iframe", "object", "base"} & set(page.tags)
    assert not any(name.startswith("on") or name in {"src", "href"} for name, _ in page.attributes)
    assert page.tags.count("svg") > 2
    style = re.search(r"<style>(.*?)</style>", report_html(report), re.DOTALL)
    assert style and "url(" not in style[1] and "@import" not in style[1] and "--bg" in style[1]


def test_whatever_a_model_or_a_process_says_is_only_text(report: dict[str, Any], graph: dict[str, Any]) -> None:
    nasty = "</style><script>alert('x')</script>"
    report["model"]["name"] = report["device"]["model"] = report["toolchain"] = nasty
    report["blocks"][0]["layers"] = [nasty]
    report["blocks"][1]["knobs"] = {nasty: 1}
    text = report_html(report, graph=graph, failures=[Failures("crash", 2, nasty, nasty, 7)], about=[("Notes", nasty)])
    page = Page(text)
    assert "script" not in page.tags
    assert text.count("</style>") == 1
    assert sum(nasty in words for words in page.words) >= 6


def test_a_report_without_graph_curve_or_peers_is_still_a_page(report: dict[str, Any]) -> None:
    report["latency_ms"] |= dict.fromkeys(("onnxruntime", "unoptimised", "unfused"))
    report["speedup"] = dict.fromkeys(report["speedup"])
    report["cost_model"] = None
    for block in report["blocks"]:
        block |= {"ms": None, "share": None, "gflops": None}
    page = Page(report_html(report))
    assert "The network" not in " ".join(page.words)
    assert "No trial failed." in " ".join(words.strip() for words in page.words)


@pytest.mark.parametrize(
    ("factor", "interval", "rounds", "words"),
    [
        (1.42, (1.3, 1.5), 10, "1.42× faster than ONNX Runtime"),
        (0.5, (0.4, 0.6), 10, "2.00× slower than ONNX Runtime"),
        (1.02, (0.97, 1.05), 10, "as fast as ONNX Runtime (1.02×; 95%: 0.97 to 1.05, 10 rounds)"),
        (1.02, (0.97, 1.05), None, "as fast as ONNX Runtime (1.02×; 95%: 0.97 to 1.05)"),
        (1.0, (0.999, 1.001), 4, "as fast as ONNX Runtime (1.00×; only 4 rounds: 1.00 to 1.00)"),
    ],
)
def test_the_headline_claims_no_more_than_was_measured(
    report: dict[str, Any], factor: float, interval: tuple[float, float], rounds: int | None, words: str
) -> None:
    report["speedup"] |= {"over_onnxruntime": factor, "over_onnxruntime_interval": list(interval)}
    report["speedup"]["over_onnxruntime_rounds"] = rounds
    assert words in facts.headline(report)
    report["verification"]["passed"] = False
    assert "NOT verified" in facts.headline(report)


def test_rows_stand_heaviest_first_and_leave_out_views(report: dict[str, Any], graph: dict[str, Any]) -> None:
    report["blocks"].append({**report["blocks"][0], "layers": ["Reshape_9"], "template": "view", "ms": 0.0})
    report["blocks"].append({**report["blocks"][0], "layers": [], "template": "layout", "ms": 0.001})
    found = facts.rows(report, network(graph, None, []), {})
    assert [row.ms for row in found] == sorted((row.ms for row in found), reverse=True)
    assert "view" not in {row.template for row in found}
    assert found[-1].title == "layout change"


def test_kernels_side_by_side_have_the_time_of_their_call(report: dict[str, Any], graph: dict[str, Any]) -> None:
    first = report["blocks"][0]
    first |= {"ms": None, "share": None, "gflops": None, "together": {"call": 0, "lane": 1, "ms": 1e3, "share": 0.5}}
    row = facts.rows(report, network(graph, None, []), {})[0]
    assert (row.ms, row.together, row.layers) == (None, 1e3, tuple(first["layers"]))


def test_the_roofline_names_what_binds_and_is_silent_where_the_peak_is_unknown(
    report: dict[str, Any], graph: dict[str, Any]
) -> None:
    box = network(graph, None, []).boxes[0]
    compute = facts.roofline(box, 1.0, box.ops / 0.5e-3, box.bytes / 0.1e-3)
    memory = facts.roofline(box, 1.0, box.ops / 0.1e-3, box.bytes / 0.25e-3)
    assert compute == (pytest.approx(0.5), "compute")
    assert memory == (pytest.approx(0.25), "memory")
    assert facts.roofline(box, 1.0, None, 1e9) == (None, None)
    assert all(row.roof is None for row in facts.rows(report, network(graph, None, []), {}))


def group(id: int, template: str, best: float | None, first: float | None, **more: Any) -> Group:
    values = {"trials": 4, "failed": 1, "cores": 2, "first_purpose": Purpose.SEARCH, "workload": "w"} | more
    return Group(id=id, record_key=f"k{id}", summary="", template=template, best=best, first=first, **values)


def test_gain_is_over_the_planned_templates_default_and_over_nothing_else() -> None:
    groups = [group(9, "winograd", 2e-3, 5e-3), group(3, "conv2d", 3e-3, 8e-3)]
    tried = facts.tried_for(groups, fresh=True)["w"]
    assert (tried.trials, tried.failed, tried.default) == (8, 2, 8e-3)
    assert tried.best == {"conv2d": 3e-3, "winograd": 2e-3}
    # Where stored results took the default's place nobody knows what it takes.
    assert facts.tried_for(groups, fresh=False)["w"].default is None
    assert (
        facts.tried_for([group(1, "conv2d", 3e-3, 8e-3, first_purpose=Purpose.CORES)], fresh=True)["w"].default is None
    )


def test_the_knob_that_decides_is_found() -> None:
    measured = [({"rows": r, "order": o}, (1e-3 if o else 3e-3) * (1 + 0.01 * r)) for r in range(6) for o in (0, 1)]
    first, second = importances(measured)
    assert (first.knob, first.best, first.values) == ("order", 1, 2)
    assert first.explained > 0.9 > 0.1 > second.explained
    assert importances(measured[:5]) == []
    assert importances([({"rows": 1}, 1e-3)] * 20) == [], "a knob that never changed explains nothing"


def block(layers: list[str], ms: float | None, **more: Any) -> dict[str, Any]:
    return {"layers": layers, "ms": ms, "template": "conv2d", "cores": 2, "layouts": {}, "knobs": {"rows": 1}} | more


def test_blocks_that_share_layers_are_set_against_each_other() -> None:
    a = [block(["c1", "r1"], 2.0), block(["c2"], 1.0), block(["c3"], 1.0), block(["p"], 0.5)]
    b = [block(["c1", "r1"], 2.1), block(["c2", "c3"], 3.0), block(["p"], 0.5, cores=1), block([], 0.2)]
    found = pairs(a, b)
    assert [pair.layers for pair in found] == [("c2", "c3"), ("c1", "r1"), ("p",), ()]
    assert [pair.differs for pair in found] == ["fusion", "", "cores", "fusion"]
    assert found[0].delta == pytest.approx(1.0)
    assert found[-1].delta is None, "what one job does not have has no time there"
