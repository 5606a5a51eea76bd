"""Every page with nothing, one thing and many things in it: it says what is there, escapes it, and leads on."""

from __future__ import annotations

import re
from html import unescape

import pytest
from fastapi.testclient import TestClient
from page_reader import read

from service.web.assets import FOLDER
from tests.api_server import REPORT, Service
from tests.service_seed import NASTY
from tests.unit.web.conftest import Dashboard
from tuner.measure.health import LEAST, RECENT, WINDOW, judge

LISTS = {"/jobs": "No jobs yet", "/models": "No models yet", "/records": "No records yet", "/tokens": "No tokens"}


def pages(dashboard: Dashboard) -> list[str]:
    """The address of every kind of page, with something in it."""
    seeded = dashboard.seeded
    record = dashboard.service.store.records.search(limit=1).items[0].trial
    return [
        "/jobs", "/jobs?state=RUNNING&state=PAUSED&device=cpu&since=7d", "/jobs?model=none-such", "/jobs/new",
        f"/jobs/new?model={seeded.models['resnet50']}", "/models", *(f"/models/{id}" for id in seeded.models.values()),
        f"/models/{seeded.models[NASTY]}/card", "/devices", f"/devices/{seeded.device}",
        f"/devices/{seeded.old_device}", "/records", "/records?q=conv&template=conv2d", f"/records/{record}",
        "/tokens", "/nothing/here",
        f"/jobs/rows?id={seeded.jobs['running']}",
    ]  # fmt: skip


@pytest.mark.parametrize("path", LISTS)
def test_empty_lists_say_what_to_do_next(browser: TestClient, path: str) -> None:
    answer = browser.get(path)
    assert answer.status_code == 200
    assert LISTS[path] in answer.text


def test_pages_without_anything_are_drawn(browser: TestClient) -> None:
    for path in ("/jobs/new", "/devices", "/devices/cpu", "/jobs?state=FAILED", "/records?q=conv"):
        answer = browser.get(path)
        assert answer.status_code == 200, path
        assert read(answer.text).unclosed == []


def test_one_of_each_is_shown(empty: Service, browser: TestClient) -> None:
    job = empty.finished()
    for path, words in {
        "/jobs": ["net", "Succeeded", "10.0 ms", f"{REPORT['speedup']['over_onnxruntime']:.2f}×"],
        "/models": ["net"],
        "/records": ["conv"],
    }.items():
        page = read(browser.get(path).text)
        assert all(word in page.text for word in words), path
    assert f"/jobs/{job.id}" in read(browser.get("/jobs").text).links


def test_nothing_in_any_page_is_refused_by_a_strict_policy(dashboard: Dashboard) -> None:
    for path in pages(dashboard):
        page = read(dashboard.client.get(path).text)
        assert page.refused == [], path
        assert page.unclosed == [], path
        assert len(page.ids) == len(set(page.ids)), path


def test_names_that_look_like_markup_stay_text(dashboard: Dashboard) -> None:
    seen = 0
    for path in pages(dashboard):
        text = dashboard.client.get(path).text
        assert "<script>alert" not in text, path
        assert "last words of <b>" not in text
        seen += NASTY in unescape(text)
    assert seen >= 4  # the list of jobs, of models, the model and its card


def test_all_links_lead_somewhere(dashboard: Dashboard) -> None:
    _crawl(dashboard)


def test_all_links_keep_a_proxys_prefix(behind_proxy: Dashboard) -> None:
    _crawl(behind_proxy)


def _crawl(dashboard: Dashboard) -> None:
    todo = [dashboard.prefix + path for path in pages(dashboard) if not path.startswith("/nothing")]
    done: set[str] = set()
    while todo:
        path = todo.pop().partition("#")[0]
        # That one download takes TVM, which has nothing to do with links.
        if not path or path in done or path.endswith("format=metaschedule"):
            continue
        assert path.startswith(f"{dashboard.prefix}/"), path
        done.add(path)
        answer = dashboard.client.get(path)
        assert answer.status_code < 400, path
        if answer.headers["content-type"].startswith("text/html"):
            todo += [link for link in read(answer.text).links if not link.startswith("#")]
    kinds = ("/jobs", "/models/", "/devices/", "/records/", "/static/", "/tokens")
    assert all(any(kind in path for path in done) for kind in kinds)


def test_every_page_has_a_heading_a_skip_link_and_its_place_in_the_menu(dashboard: Dashboard) -> None:
    for path in pages(dashboard):
        if "/card" in path or "/rows" in path:
            continue
        page = read(dashboard.client.get(path).text)
        assert page.tags.count("h1") == 1, path
        assert "#main" in page.links
        assert "main" in page.ids
    text = dashboard.client.get("/records").text
    assert re.search(r'<a href="/records" aria-current="page">', text)


def test_states_are_words_and_shapes_too(dashboard: Dashboard) -> None:
    text = dashboard.client.get("/jobs").text
    for word in ("Queued", "Running", "Paused", "Cancelling", "Succeeded", "Failed", "Cancelled"):
        state = word.upper()
        badge = rf'<span class="badge state-{state}"><svg [^>]*><use href="[^"]*#{state}"/></svg>{word}<'
        assert re.search(badge, text), word


def test_the_list_of_jobs_shows_what_matters(dashboard: Dashboard) -> None:
    text = dashboard.client.get("/jobs").text
    assert "1.42×" in text
    assert "38 reused" in text
    assert "6 failed" in text
    assert "known answer" in text
    assert "measuring block 14 of 56" in text
    assert 'class="spark"' in text
    assert "3 running, 2 waiting; 14 in all" in read(text).text


def test_rows_are_refreshed_with_what_came_since(dashboard: Dashboard) -> None:
    page = dashboard.client.get("/jobs").text
    newest = re.search(r'data-newest="([^"]+)"', page)
    assert newest
    rows = dashboard.client.get("/jobs/rows", params={"id": dashboard.seeded.jobs["running"], "after": newest[1]}).text
    assert 'data-newer="0"' in rows
    assert rows.count("<tr") == 1
    older = dashboard.client.get("/jobs/rows", params={"after": "2020-01-01T00:00:00+00:00"}).text
    assert 'data-newer="14"' in older
    assert dashboard.client.get("/jobs/rows?after=yesterday").status_code == 422


def test_a_model_shows_what_is_in_it_and_what_is_not_tuned(dashboard: Dashboard) -> None:
    text = read(dashboard.client.get(f"/models/{dashboard.seeded.models['inception_v1']}").text).text
    for words in ("142", "1.58 GMACs", "26.7 MiB", "1×3×224×224", "Resize_1", "Some layers are not tuned"):
        assert words in text
    assert "Some layers" not in dashboard.client.get(f"/models/{dashboard.seeded.models['vgg19']}").text


def test_open_input_shapes_can_be_edited_and_fixed_ones_not(dashboard: Dashboard) -> None:
    card = dashboard.client.get(f"/models/{dashboard.seeded.models['resnet50']}/card").text
    assert 'data-shape="data"' in card
    assert 'value="1,3,224,224"' in card
    assert "data-shape" not in dashboard.client.get(f"/models/{dashboard.seeded.models['vgg19']}/card").text


def test_a_deleted_model_says_so(empty: Service, browser: TestClient) -> None:
    model = empty.model()
    assert browser.delete(f"/api/v1/models/{model}").status_code == 204
    text = browser.get(f"/models/{model}").text
    assert "was deleted" in text
    assert "Tune this model" not in text


def test_devices_say_what_they_do_and_what_was_not_measured(dashboard: Dashboard) -> None:
    text = read(dashboard.client.get("/devices").text).text
    for words in (
        "Conv+Relu 3x3 256 -> 256 at 14x14, 6 cores",
        "412 GFLOP/s",
        "38.4 GB/s",
        "not measured",
        "Not driven",
    ):
        assert words in text
    assert "2 jobs waiting" in text
    one = dashboard.client.get("/devices/cpu").text
    assert 'class="roof"' in one
    assert "was not timed yet" in one


def test_a_device_that_drifts_is_marked_until_it_is_well_again(empty: Service, browser: TestClient) -> None:
    device = empty.store.devices.list()[0].device.fingerprint

    def page(path: str, factor: float, times: int) -> str:
        empty.store.health.note(device, "tvm-0.27.0", [factor * 1e-5] * times, judge, keep=WINDOW)
        return read(browser.get(path).text).text

    assert "not often enough yet" in page(f"/devices/{device}", 1.0, 3)
    assert "took 1.00 times its usual" in page(f"/devices/{device}", 1.0, LEAST)
    assert "Drifting" in page("/devices", 1.5, RECENT)
    assert "takes 1.50 times its usual, which was first seen" in page(f"/devices/{device}", 1.5, 1)
    assert "Drifting" not in page("/devices", 1.0, RECENT)


def test_devices_say_how_good_their_cost_model_is(empty: Service, browser: TestClient) -> None:
    def page(path: str) -> str:
        return read(browser.get(path).text).text

    calibrations, device = empty.store.calibrations, empty.store.devices.list()[0].device
    assert "not calibrated" in page("/devices")
    before = page(f"/devices/{device.fingerprint}")
    assert "Never calibrated" in before and f"fusetune calibrate --device {device.name}" in before
    calibrations.put(device.fingerprint, "tvm-0.27.0", [], seconds=12.0)
    assert "with too few blocks to say" in page("/devices")
    assert "Too few blocks were measured" in page(f"/devices/{device.fingerprint}")
    quality = {
        "samples": 252, "workloads": 240, "rank_correlation": 0.987, "recall": {"1": 1.0, "8": None},
        "median_error": 0.0421, "p90_error": 0.2, "within_1_std": 0.7, "within_2_std": 0.96, "median_std": 0.06,
    }  # fmt: skip
    calibrations.put(device.fingerprint, "tvm-0.27.0", [], seconds=300.0, quality=quality)
    text = page(f"/devices/{device.fingerprint}")
    for words in ("252 times of 240 workloads", "0.99", "4.2%", "5 min", "tvm-0.27.0"):
        assert words in text
    assert "typical error 4.2% on workloads not seen" in page("/devices")


def test_a_record_tells_how_it_was_found(dashboard: Dashboard) -> None:
    found = dashboard.service.store.records.search(words="gemm", device="cpu").items[0]
    text = read(dashboard.client.get(f"/records/{found.trial}").text).text
    for words in ("Gemm -> 1x1000", "Fastest candidates tried", "reg_n", "tvm-0.27.0", "largest relative error 4e-7"):
        assert words in text
    assert "xeon-4214r" in text  # the same workload elsewhere


@pytest.mark.parametrize("trial", ["0", "99999999", "9" * 40, "x", "1.5", "-1", "½"])
def test_no_such_record_is_not_found(dashboard: Dashboard, trial: str) -> None:
    answer = dashboard.client.get(f"/records/{trial}")
    assert answer.status_code == 404
    assert "There is no such trial" in answer.text


def test_modules_import_only_what_is_there() -> None:
    for module in FOLDER.rglob("*.js"):
        for name in re.findall(r'(?:from|import)\s+"([^"]+)"', module.read_text()):
            assert (module.parent / name).resolve().is_file(), f"{module.name} imports {name}"
