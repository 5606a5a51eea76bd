"""How well cost models predicted, as report.json says it and as pages show it."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from cost_model.quality import judge
from service.exports import quality
from service.exports.report_html import report_html
from tests.service_seed import report
from tuner.report import cost_model
from tuner.search.examination import Figures

KNOBS = Figures(140, 5, 0.8123, 0.4, 0.8, 0.1571, 0.3333, 0.6667)
FEW = Figures(9, 2, reason="Only 9 evaluations to compare with; it takes 12.")


def judged(**models: Figures | None) -> dict[str, Any]:
    found = report()
    found["cost_model"] = cost_model([(-9.0, -9.1)] * 2, models.get("blocks"), models.get("knobs"))
    return json.loads(json.dumps(found))  # type: ignore[no-any-return]


def test_report_json_says_what_was_proposed_and_what_was_held_out() -> None:
    pairs = [(-9.0, -9.1), (-8.0, -8.1), (-7.0, -7.1)]
    found = cost_model(pairs, FEW, KNOBS)
    assert found is not None
    assert (found["predictions"], found["rank_correlation"]) == (3, 1.0)
    assert found["median_ratio_error"] == pytest.approx(np.exp(0.1) - 1, abs=1e-4)
    assert found["knobs"] == {
        "samples": 140, "workloads": 5, "rank_correlation": 0.8123, "top1": 0.4, "top8": 0.8, "median_error": 0.1571,
        "within_one": 0.3333, "within_two": 0.6667, "reason": None,
    }  # fmt: skip
    assert found["blocks"] == dict.fromkeys(found["knobs"]) | {"samples": 9, "workloads": 2, "reason": FEW.reason}


def test_what_took_no_part_is_null() -> None:
    assert cost_model([], None, None) is None
    assert cost_model([(-9.0, -9.0)] * 2, None, None) is None
    found = cost_model([], None, FEW)
    assert found is not None and found["blocks"] is None
    assert (found["predictions"], found["rank_correlation"], found["median_ratio_error"]) == (0, None, None)


def test_figures_are_shown_as_people_read_them() -> None:
    knobs, blocks = quality.of_report(judged(knobs=KNOBS, blocks=FEW))
    assert [value for _, value, _ in knobs.figures] == ["0.81", "40.0%", "80.0%", "15.7%", "33.3%", "66.7%"]
    assert "140 times of 5 workloads" in knobs.about
    assert blocks.reason == FEW.reason and blocks.figures == ()


def test_older_reports_and_searches_without_a_model_have_none() -> None:
    assert quality.of_report(report()) == []  # made before there were these figures
    assert quality.of_report({"cost_model": None}) == []


def test_a_calibrations_figures_are_shown_likewise() -> None:
    logs = np.log(np.linspace(1e-4, 2e-3, 40))
    found = quality.of_calibration(judge(logs + 0.05, np.full(40, 0.06), logs, np.arange(40) // 2).to_json())
    assert [value for _, value, _ in found.figures] == ["1.00", "100%", "100%", "5.1%", "100%", "100%"]
    assert "40 times of 20 workloads" in found.about
    assert quality.of_calibration(None).reason is not None


def test_the_report_page_shows_them_or_says_why_not() -> None:
    text = report_html(judged(knobs=KNOBS, blocks=FEW))
    assert "How well the cost model predicted" in text
    assert "15.7%" in text and "Blocks of a plan" in text and "Only 9 evaluations" in text
    alone = report_html(judged(blocks=FEW))
    assert "Only 9 evaluations" in alone and "Rank correlation" not in alone
    assert "Nothing was held out" in report_html(report())
    assert "Nothing was held out" in report_html(report() | {"cost_model": None})
