"""Filters live in the address, pages follow each other without gaps, records are found by what one knows of them."""

from __future__ import annotations

import re
from html import unescape

import pytest
from fastapi.testclient import TestClient
from hypothesis import given
from hypothesis import strategies as st
from page_reader import read

from service.web.joblist import ORDERS, PERIODS, JobFilters
from service.web.roofline import roofline
from service.web.views import sparkline
from tests.api_server import Service
from tests.unit.web.conftest import Dashboard
from tuner.types import JobState

WORDS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20).map(str.strip)


@given(
    st.lists(st.sampled_from(JobState), unique=True), WORDS, WORDS, st.sampled_from(["", *PERIODS]),
    st.sampled_from([order for order, _ in ORDERS]),
)  # fmt: skip
def test_filters_come_back_from_the_address_they_make(
    states: list[JobState], device: str, model: str, since: str, order: str
) -> None:
    filters = JobFilters(tuple(states), device, model, since, order)
    query = filters.query()
    assert JobFilters.read(query["state"], query["device"], query["model"], query["since"], query["order"]) == filters


def test_the_page_shows_the_filters_of_its_address(dashboard: Dashboard) -> None:
    page = dashboard.client.get(
        "/jobs?state=FAILED&device=xeon-4214r&model=%22%3E%3Cb%3E&since=7d&order=created_at"
    ).text
    assert '<option value="xeon-4214r" selected>' in page
    assert '<option value="7d" selected>' in page
    assert '<option value="created_at" selected>' in page
    assert 'value="&#34;&gt;&lt;b&gt;"' in page
    assert re.search(r'<a href="/jobs\?state=FAILED&amp;device=xeon-4214r[^"]*" aria-current="true">Failed', page)
    assert "No job fits these filters" in page


@pytest.mark.parametrize(
    ("query", "names"),
    [
        ("state=RUNNING", {"resnet50", "inception_v1"}),
        ("state=QUEUED&state=PAUSED", {"vgg19", "densenet121", "inception_v1"}),
        ("device=xeon-4214r", {"resnet50"}),
        ("model=shufflenet", {"shufflenet"}),
        ("since=1h&state=FAILED&model=vgg19", {"vgg19"}),
    ],
)
def test_filters_hold(dashboard: Dashboard, query: str, names: set[str]) -> None:
    page = dashboard.client.get(f"/jobs?{query}").text
    assert set(re.findall(r'data-name="([^"]+)"', page)) == names


@pytest.mark.parametrize("query", ["state=DONE", "since=1y", "order=model", "cursor=nonsense"])
def test_values_that_cannot_be_are_explained(dashboard: Dashboard, query: str) -> None:
    answer = dashboard.client.get(f"/jobs?{query}")
    assert 400 <= answer.status_code < 500
    assert answer.headers["content-type"].startswith("text/html")
    assert "Go to the jobs" in answer.text


def test_pages_of_many_jobs_follow_each_other_without_gaps(empty: Service, browser: TestClient) -> None:
    model = empty.model()
    made = {empty.job(model=model, seed=number).id for number in range(120)}
    seen: list[str] = []
    address = "/jobs?state=QUEUED"
    while address:
        page = browser.get(address).text
        seen += re.findall(r'data-job="([^"]+)"', page)
        link = re.search(r'rel="next" href="([^"]+)"', page)
        address = unescape(link[1]) if link else ""
        assert "state=QUEUED" in address or not address
    assert len(seen) == len(made)
    assert set(seen) == made


def test_many_records_and_models_have_pages_too(empty: Service, browser: TestClient) -> None:
    for number in range(60):
        empty.model(b"%d" % number, f"net {number}")
    first = browser.get("/models").text
    link = re.search(r'rel="next" href="([^"]+)"', first)
    assert link
    second = read(browser.get(unescape(link[1])).text)
    assert "10 models on this page" in second.text
    assert "First page" in second.text


@pytest.mark.parametrize(
    ("query", "count"),
    [
        ("q=conv", 8), ("q=GEMM", 2), ("q=14x14&device=cpu", 1), ("template=winograd", 2), ("template=none", 0),
        ("device=xeon-4214r", 6), ("q=conv%25relu", 0), ("q=_", 0),
    ],
)  # fmt: skip
def test_records_are_found_by_words_template_and_device(dashboard: Dashboard, query: str, count: int) -> None:
    page = dashboard.client.get(f"/records?{query}").text
    assert page.count('<tr class="goes">') == count
    assert ("No record fits" in page) == (count == 0)


def test_records_are_found_by_the_beginning_of_a_hash(dashboard: Dashboard) -> None:
    workload = dashboard.service.store.records.search(words="gemm").items[0].record.candidate.workload_hash
    page = dashboard.client.get(f"/records?q={workload[:10].upper()}").text
    assert page.count('<tr class="goes">') == 2
    assert f'value="{workload[:10].upper()}"' in page


def test_sparklines_go_down_as_latency_falls() -> None:
    drawn = sparkline([[1.0, 1, 0.03], [2.0, 5, 0.02], [10.0, 9, 0.01]], 0.02)
    assert drawn is not None
    heights = [float(y) for y in re.findall(r"(?:M\S+ |V)([\d.]+)", drawn.path)]
    assert heights == sorted(heights)  # the SVG's y axis points down
    assert drawn.reference is not None
    assert heights[0] < drawn.reference < heights[-1]
    assert "30.0 ms" in drawn.label
    assert "10.0 ms" in drawn.label


@pytest.mark.parametrize("curve", [[], [[1.0, 1, 0.01]], [[1.0, 1, 0.01], [1.0, 2, 0.01]]])
def test_there_is_no_sparkline_without_a_line(curve: list[list[float]]) -> None:
    assert sparkline(curve) is None


def test_a_flat_curve_and_a_far_reference_are_drawn_within_the_box() -> None:
    drawn = sparkline([[0.0, 0, 0.01], [5.0, 9, 0.01]], 10.0)
    assert drawn is not None
    assert drawn.reference is None
    assert all(0 <= float(number) <= 120 for number in re.findall(r"[\d.]+", drawn.path))


@given(st.floats(1e9, 1e14), st.floats(1e8, 1e13))
def test_rooflines_stay_within_their_box(peak: float, bandwidth: float) -> None:
    drawn = roofline(peak, bandwidth)
    assert drawn is not None
    numbers = [float(number) for number in re.findall(r"-?[\d.]+", drawn.path)]
    assert all(drawn.left <= x <= drawn.right for x in numbers[::2])
    assert all(drawn.top - 0.1 <= y <= drawn.bottom + 0.1 for y in numbers[1::2])


def test_there_is_no_roofline_of_what_was_not_measured() -> None:
    assert roofline(None, 1e9) is None
    assert roofline(1e12, None) is None
