"""The dashboard in a real headless Chromium, against a real server: what a person does, by mouse and by keyboard.

Every test ends with the same question: did a page complain, did a request fail, did one leave the server?
"""

from __future__ import annotations

import csv
import json
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

sync_api = pytest.importorskip("playwright.sync_api")

from browser_tools import PATIENCE, Watch, chromium, drop, prefix_proxy, profile, sign_in  # noqa: E402
from cli_tools import conv_net  # noqa: E402
from page_tools import brightness, downloaded, flaws, in_order, settled, walk, width  # noqa: E402
from playwright.sync_api import Browser, BrowserContext, Page, expect  # noqa: E402
from server_tools import ServerProcess, serving  # noqa: E402

from db.store import Store  # noqa: E402

pytestmark = pytest.mark.alone

TRIALS = 6
JOB = 240_000  # ms that a job of a few trials may take on a busy machine
STATES = ("All", "Running", "Queued", "Paused", "Succeeded", "Failed", "Cancelled")
# The main thing of each page, and its address; {job}, {other}, {model}, {device}, {record} are filled in.
PAGES = {
    "jobs": "/jobs",
    "new job": "/jobs/new?model={model}",
    "job": "/jobs/{job}",
    "reused job": "/jobs/{other}",
    "compare": "/compare?a={job}&b={other}",
    "models": "/models",
    "model": "/models/{model}",
    "devices": "/devices",
    "device": "/devices/{device}",
    "records": "/records",
    "record": "/records/{record}",
    "tokens": "/tokens",
}


class Site(NamedTuple):
    """A server, a browser profile signed in to it, and the watch over both."""

    server: ServerProcess
    browser: Browser
    context: BrowserContext
    watch: Watch

    def url(self, path: str) -> str:
        return f"{self.server.url}{path}"


class Journey(NamedTuple):
    """What a person saw between dropping a file and the end of its job."""

    job: str
    model: str  # SHA-256
    card: str  # the text that showed what is in the file
    estimate: str
    doing: list[str]  # what the job page said, one after the other
    stayed: bool  # the page was never loaded again


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("served")
    with chromium() as browser, serving(folder) as server, profile(browser, server.url) as (context, watch):
        page = context.new_page()
        sign_in(page, server.link)
        page.close()
        watch.check()
        yield Site(server, browser, context, watch)


@pytest.fixture
def page(site: Site) -> Iterator[Page]:
    page = site.context.new_page()
    yield page
    page.close()
    site.watch.check()


@pytest.fixture(scope="module")
def running(site: Site, tmp_path_factory: pytest.TempPathFactory) -> tuple[Page, Journey]:
    """A model dropped on the page of a new job, and its job page, left open while it is tuned."""
    page = site.context.new_page()
    page.goto(site.url("/jobs"))
    page.get_by_role("link", name="Tune a model").click()
    page.wait_for_url("**/jobs/new")
    expect(page.get_by_role("button", name="Start tuning")).to_be_disabled()
    drop(page, "#drop", conv_net(tmp_path_factory.mktemp("models") / "small.onnx"))
    card = page.locator("#model-card [data-model]")
    expect(card).to_be_visible(timeout=PATIENCE)
    card.get_by_text("kinds of operators").click()
    expect(page.locator("#estimate-text")).to_contain_text("About", timeout=PATIENCE)
    seen = (card.inner_text(), page.locator("#estimate-text").inner_text())
    page.get_by_label("Trials at most").fill(str(TRIALS))
    page.get_by_role("button", name="Start tuning").click()
    page.wait_for_url(re.compile(r"/jobs/[0-9a-f]{16}$"))
    page.evaluate("""() => {
        window.firstLoad = true;
        window.said = [];
        const doing = document.getElementById("doing");
        new MutationObserver(() => said.push(doing.textContent)).observe(doing, {childList: true});
    }""")
    model = str(card.get_attribute("data-model")) if card.count() else ""
    return page, Journey(page.url.rpartition("/")[2], model, *seen, [], False)


@pytest.fixture(scope="module")
def finished(site: Site, running: tuple[Page, Journey]) -> Iterator[Journey]:
    """The job after its end, which the open page has shown by itself."""
    page, journey = running
    expect(page.locator("#job-head .badge")).to_have_text("Succeeded", timeout=JOB)
    expect(page.get_by_role("heading", name="Take it home")).to_be_visible(timeout=PATIENCE)
    said, stayed = page.evaluate("() => [window.said || [], window.firstLoad === true]")
    model = page.get_by_role("link", name="Tune again").get_attribute("href") or ""
    yield journey._replace(doing=said, stayed=stayed, model=model.partition("model=")[2])
    page.close()


@pytest.fixture(scope="module")
def other(site: Site, finished: Journey) -> str:
    """A second job that asks the same, which is answered at once."""
    page = site.context.new_page()
    page.goto(site.url(f"/jobs/new?model={finished.model}"))
    page.get_by_label("Trials at most").fill(str(TRIALS))
    expect(page.locator("#estimate-text")).to_contain_text("already known here", timeout=PATIENCE)
    page.get_by_role("button", name="Start tuning").click()
    page.wait_for_url(re.compile(r"/jobs/[0-9a-f]{16}$"))
    expect(page.locator("#job-head .badge")).to_have_text("Succeeded", timeout=PATIENCE)
    expect(page.get_by_text("known answer")).to_be_visible()
    job = page.url.rpartition("/")[2]
    page.close()
    return job


@pytest.fixture(scope="module")
def addresses(site: Site, finished: Journey, other: str) -> dict[str, str]:
    """Where each page is."""
    with Store.open(site.server.db) as store:
        device = store.devices.list()[0].device.fingerprint
        record = store.records.search(limit=1).items[0].trial
    names = {"job": finished.job, "other": other, "model": finished.model, "device": device, "record": record}
    return {name: site.url(path.format(**names)) for name, path in PAGES.items()}


def test_the_watch_sees_what_it_is_for(site: Site) -> None:
    with profile(site.browser, site.server.url) as (context, watch):
        page = context.new_page()
        page.set_content(
            '<img src="http://elsewhere.example/x.png"><script>console.warn("hm"); throw Error("no")</script>'
        )
        page.request.get(site.url("/healthz"))
        page.close()
        seen = "\n".join(watch.complaints)
        for part in ("leaves the server: http://elsewhere.example/x.png", "console warning: hm", "page error: "):
            assert part in seen


# While the job runs ----------------------------------------------------------------------------------------------


def test_nobody_gets_in_without_the_link(site: Site) -> None:
    with profile(site.browser, site.server.url) as (context, watch):
        page = context.new_page()
        for path in ("/", "/jobs", "/jobs/new", "/models", "/devices", "/records", "/tokens", "/compare"):
            page.goto(site.url(path))
            assert page.url == site.url("/login")
        watch.allow("403")
        page.goto(site.server.link)  # used already
        page.get_by_role("button", name="Sign in").click()
        expect(page.get_by_role("alert")).to_contain_text("not valid")
        watch.check()


def test_empty_pages_say_what_to_do_next(site: Site, page: Page) -> None:
    for path in ("/models", "/records", "/tokens", "/compare"):
        page.goto(site.url(path))
        expect(page.locator(".empty h2")).to_be_visible()
    for path, words in (("/jobs/0123456789abcdef", "job"), ("/models/" + "0" * 64, "model"), ("/nowhere", "")):
        site.watch.allow("404")
        page.goto(site.url(path))
        expect(page.get_by_role("heading", level=1)).to_contain_text(words)
        expect(page.get_by_role("link", name="Go to the jobs")).to_be_visible()


def test_a_file_that_is_no_model_is_refused_where_it_was_chosen(site: Site, page: Page, tmp_path: Path) -> None:
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"this is no model")
    page.goto(site.url("/jobs/new"))
    site.watch.allow("422", "400")
    page.locator("#file").set_input_files(broken)
    expect(page.locator("#file-error [role=alert]")).to_be_visible(timeout=PATIENCE)
    expect(page.get_by_role("button", name="Start tuning")).to_be_disabled()
    expect(page.locator("#upload")).to_be_hidden()


def test_a_running_job_shows_what_it_does(site: Site, running: tuple[Page, Journey], page: Page) -> None:
    shown, journey = running
    expect(shown.locator("#link-state")).to_have_text("Live", timeout=PATIENCE)
    expect(shown.get_by_role("button", name="Cancel")).to_be_visible()
    page.goto(site.url("/jobs"))
    row = page.locator(f'tr[data-job="{journey.job}"]')
    expect(row.get_by_role("progressbar")).to_be_visible()
    expect(row.locator(".state")).to_have_text("Running")
    # Brought up to date in place: the same row goes on to say something else.
    first = row.locator(".doing").inner_text()
    expect(row.locator(".doing")).not_to_have_text(first, timeout=PATIENCE)
    page.goto(site.url("/devices"))
    expect(page.locator("main")).to_contain_text("small")


def test_tokens_are_made_shown_once_and_revoked(site: Site, page: Page) -> None:
    page.goto(site.url("/tokens"))
    page.get_by_label("Name").fill("nightly")
    page.get_by_text("do everything").first.click()
    page.get_by_role("button", name="Make the token").click()
    secret = page.locator(".notice .copy code").inner_text()
    sent = page.request.get(site.url("/api/v1/jobs"), headers={"Authorization": f"Bearer {secret}"})
    assert sent.status == 200
    page.goto(site.url("/tokens"))
    assert secret not in page.content()
    page.get_by_role("button", name="Revoke").click()
    page.get_by_role("dialog").get_by_role("button", name="Keep it as it is").click()
    expect(page.get_by_role("button", name="Revoke")).to_have_count(1)
    page.get_by_role("button", name="Revoke").click()
    page.get_by_role("dialog").get_by_role("button", name="Revoke").click()
    expect(page.get_by_text("No tokens")).to_be_visible()
    assert page.request.get(site.url("/api/v1/jobs"), headers={"Authorization": f"Bearer {secret}"}).status == 401


# Once it has ended -----------------------------------------------------------------------------------------------


def test_a_dropped_model_is_tuned_before_the_readers_eyes(site: Site, finished: Journey) -> None:
    figures = dict(re.findall(r"^(Layers|Fused blocks)\n(\S+)$", finished.card, re.MULTILINE))
    assert figures == {"Layers": "9", "Fused blocks": "6"}
    operators = dict(re.findall(r"^(Conv|Relu|Gemm)\t(\d+)", finished.card, re.MULTILINE))
    assert operators == {"Conv": "3", "Relu": "3", "Gemm": "1"}
    assert "1×16×24×24" in finished.card
    assert "none of its 4 workloads is known" in finished.estimate
    assert finished.stayed
    assert any("measuring block" in words for words in finished.doing), finished.doing
    assert not any("/" in words and str(site.server.folder) in words for words in finished.doing), finished.doing
    site.watch.check()


@pytest.mark.parametrize("name", PAGES)
def test_every_page_opens_at_every_size_in_light_and_dark(
    site: Site, page: Page, addresses: dict[str, str], name: str
) -> None:
    answer = page.goto(addresses[name])
    assert answer is not None
    assert answer.status == 200
    settled(page)
    expect(page.get_by_role("heading", level=1)).to_be_visible()
    assert page.locator("h1").count() == 1
    light = brightness(page)
    page.emulate_media(color_scheme="dark")
    dark = brightness(page)
    assert light["ground"] > 200 > 90 > light["text"], light
    assert dark["ground"] < 60 < 180 < dark["text"], dark
    page.emulate_media(color_scheme="light")
    for window in (375, 768, 1920):
        page.set_viewport_size({"width": window, "height": 800})
        assert width(page) <= window
        assert flaws(page) == []


def test_the_list_of_jobs_filters_and_leads_on(site: Site, page: Page, finished: Journey, other: str) -> None:
    page.goto(site.url("/jobs"))
    for state in STATES:
        page.get_by_label("Filter by state").get_by_role("link", name=state).click()
        expect(page.get_by_label("Filter by state").locator("[aria-current]")).to_contain_text(state)
        shown = page.locator("tr[data-job]").count()
        assert shown == (2 if state in {"All", "Succeeded"} else 0)
        assert (page.locator(".empty").count() == 1) == (shown == 0)
    page.goto(site.url("/jobs"))
    page.get_by_label("Device").select_option(index=1)
    page.wait_for_url(re.compile("device="))
    page.get_by_label("Submitted").select_option(label="In the last hour")
    page.wait_for_url(re.compile("since="))
    page.get_by_label("Order").select_option(label="Oldest first")
    page.wait_for_url(re.compile("order="))
    page.get_by_label("Model").fill("small")
    page.get_by_role("button", name="Apply").click()
    page.wait_for_url(re.compile("model=small"))
    rows = page.locator("tr[data-job]")
    assert [row.get_attribute("data-job") for row in rows.all()] == [finished.job, other]
    page.get_by_label("Model").fill("no such model")
    page.get_by_role("button", name="Apply").click()
    page.get_by_role("link", name="Show all jobs").click()
    for box in page.get_by_role("checkbox").all():
        box.check()
    page.get_by_role("button", name="Compare two jobs").click()
    page.wait_for_url(re.compile("/compare"))
    expect(page.get_by_role("heading", name="Block by block")).to_be_visible()


def test_the_job_page_answers_on_click(site: Site, page: Page, finished: Journey) -> None:
    page.goto(site.url(f"/jobs/{finished.job}"))
    settled(page)
    expect(page.locator("#headline")).to_contain_text("faster than unoptimised")
    expect(page.locator("#curve svg.main-svg").first).to_be_visible()
    expect(page.locator("#curve")).to_contain_text("ONNX Runtime")
    assert page.get_by_role("button", name="Share").count() == 0  # which would send the chart elsewhere
    page.get_by_label("Horizontal axis").get_by_text("Trials").click()
    expect(page.locator("#curve .xtitle")).to_have_text("trials")
    expect(page.locator("#block")).to_contain_text("Choose a block")
    page.locator("#network .block").first.click()
    expect(page.locator("#block dl").first).to_be_visible()
    page.locator("[data-choose]").last.click()
    expect(page.locator("tr.chosen")).to_have_count(1)
    page.get_by_role("radio", name="Unoptimised").check(force=True)
    expect(page.locator("#network-note")).to_contain_text("baseline")
    expect(page.locator("#network .block").first).to_be_visible()
    page.get_by_role("group", name="Zoom").get_by_role("button", name="Zoom in").click()
    expect(page.locator("#zoom-level")).not_to_have_text("100%")
    trials = page.locator("#trials-rows tr")
    whole = trials.count()
    assert whole >= TRIALS - 2
    page.locator("#trial-order").select_option("seconds")
    expect(trials).to_have_count(whole)
    page.get_by_label("Which trials").get_by_text("Failed").click()
    expect(page.locator("#trials-foot")).to_have_text(re.compile("No trial of this kind|shown"))
    page.get_by_label("Which trials").get_by_text("All").click()
    page.get_by_label("Go to trial").fill("2")
    page.get_by_label("Go to trial").press("Enter")
    expect(trials.first.locator("td").first).to_have_text("2")


def test_every_file_can_be_taken_home(site: Site, page: Page, finished: Journey, tmp_path: Path) -> None:
    page.goto(site.url(f"/jobs/{finished.job}"))
    files = {}
    for link in page.locator(".downloads a").all():
        got = downloaded(page, link)
        files[link.inner_text()] = tmp_path / got.suggested_filename
        got.save_as(files[link.inner_text()])
    assert set(files) == {"Artifact", "Report as one page", "Report", "Plan", "MetaSchedule database", "JSON lines",
                          "CSV", "Optuna journal"}  # fmt: skip
    with zipfile.ZipFile(files["Artifact"]) as artifact:
        assert artifact.testzip() is None
        assert {Path(name).name for name in artifact.namelist()} >= {"model.so", "params.bin", "manifest.json"}
    with zipfile.ZipFile(files["MetaSchedule database"]) as database:
        assert {Path(name).name for name in database.namelist()} >= {"database_workload.json"}
    assert json.loads(files["Report"].read_text())["measured"]
    assert json.loads(files["Plan"].read_text())
    trials = [json.loads(line) for line in files["JSON lines"].read_text().splitlines()]
    with files["CSV"].open(newline="") as opened:
        assert len(list(csv.DictReader(opened))) == len(trials) >= TRIALS - 2
    assert all(json.loads(line) for line in files["Optuna journal"].read_text().splitlines())
    alone(site, files["Report as one page"])


def alone(site: Site, file: Path) -> None:
    """A page that needs nothing but itself: opened from a folder it asks for nothing, and says the same."""
    with profile(site.browser, file.as_uri()) as (context, watch):
        page = context.new_page()
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        page.goto(file.as_uri())
        expect(page.get_by_role("heading", level=1)).to_contain_text("small")
        expect(page.locator("svg").first).to_be_visible()
        assert page.locator("script, link[href], iframe, img:not([src^='data:'])").count() == 0
        assert [url for url in asked if not url.startswith("data:")] == [file.as_uri()]
        watch.check()


# By keyboard -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("jobs", ("Skip", "fusetune", "Jobs", "New job", "Sign out", "All", "Device", "Apply", "Compare small",
                  "small")),
        ("new job", ("Skip", "Drop an ONNX", "Or one that is here", "Device", "Trials at most", "Further",
                     "Start tuning")),
        ("job", ("Skip", "Compare", "Tune again", "Delete", "Seconds", "Zoom out", "The network", "Artifact", "Copy",
                 "All", "Go to trial", "Order", "Trials")),
        ("tokens", ("Skip", "Name", "read", "Make the token", "Copy")),
    ],
)  # fmt: skip
def test_tab_reaches_everything_and_shows_where_it_is(
    page: Page, addresses: dict[str, str], name: str, wanted: tuple[str, ...]
) -> None:
    page.goto(addresses[name])
    settled(page)
    in_order(walk(page), *wanted)


def test_the_keyboard_alone_is_enough(site: Site, page: Page, finished: Journey) -> None:
    page.goto(site.url(f"/jobs/{finished.job}"))
    settled(page)
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")  # past the navigation
    expect(page.locator("main")).to_be_focused()
    page.locator("#network .block").first.focus()
    page.keyboard.press("ArrowDown")
    expect(page.locator("#network .block.chosen")).to_be_focused()
    expect(page.locator("#block dl").first).to_be_visible()
    delete = page.get_by_role("button", name="Delete")
    delete.focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("dialog").get_by_role("button", name="Keep it as it is")).to_be_focused()
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_have_count(0)
    expect(delete).to_be_focused()


# What changes or ends things -------------------------------------------------------------------------------------


def test_a_job_is_paused_gone_on_with_cancelled_retried_and_deleted(site: Site, page: Page, finished: Journey) -> None:
    page.goto(site.url(f"/jobs/new?model={finished.model}"))
    page.get_by_text("Further settings").click()
    page.get_by_label("Search afresh").check()
    page.get_by_label("Notes").fill("to be stopped")
    expect(page.get_by_role("button", name="Start tuning")).to_be_enabled()
    page.get_by_role("button", name="Start tuning").click()
    page.wait_for_url(re.compile(r"/jobs/[0-9a-f]{16}$"))
    job = page.url
    state = page.locator("#job-head .badge")

    def press(name: str) -> None:
        page.locator("#actions").get_by_role("button", name=name, exact=True).click()

    def confirm(name: str) -> None:
        page.get_by_role("dialog").get_by_role("button", name=name).click()

    expect(page.get_by_text("“to be stopped”")).to_be_visible()
    expect(state).to_have_text("Running", timeout=PATIENCE)
    press("Pause")
    expect(state).to_have_text("Paused", timeout=PATIENCE)
    press("Resume")
    expect(state).to_have_text("Running", timeout=PATIENCE)
    press("Cancel")
    confirm("Cancel the job")
    expect(state).to_have_text("Cancelled", timeout=PATIENCE)
    press("Go on")
    expect(state).to_have_text("Running", timeout=PATIENCE)
    expect(page.locator("#now")).to_be_visible()
    press("Cancel")
    confirm("Keep it as it is")
    expect(state).to_have_text("Running")
    press("Cancel")
    confirm("Cancel the job")
    expect(state).to_have_text("Cancelled", timeout=PATIENCE)
    press("Delete")
    confirm("Delete")
    page.wait_for_url(site.url("/jobs"))
    assert page.locator("tr[data-job]").count() == 2
    site.watch.allow("404")
    page.goto(job)
    expect(page.get_by_role("heading", level=1)).to_contain_text("job")


def test_all_of_it_works_under_a_path_prefix(site: Site, finished: Journey) -> None:
    # Another server on the same data, as behind a proxy that knows it under /tune.
    options = ("--root-path", "/tune", "--no-dispatch")
    with serving(site.server.folder, *options) as server:
        backend, _, login = server.link.partition("/tune")
        with prefix_proxy(backend, "/tune") as origin, profile(site.browser, f"{origin}/tune") as (context, watch):
            page = context.new_page()
            sign_in(page, f"{origin}/tune{login}")
            page.get_by_label("Filter by state").get_by_role("link", name="Succeeded").click()
            page.locator(f'tr[data-job="{finished.job}"] a').click()
            settled(page)
            expect(page.locator("#curve svg.main-svg").first).to_be_visible()
            expect(page.locator("#trials-rows tr").first).to_be_visible()
            for name in ("Artifact", "CSV"):
                assert downloaded(page, page.get_by_role("link", name=name, exact=True)).path().stat().st_size > 0
            for name in ("Models", "Devices", "Records", "API tokens", "New job"):
                page.get_by_role("link", name=name, exact=True).click()
                expect(page.get_by_role("heading", level=1)).to_be_visible()
            page.get_by_role("button", name="Sign out").click()
            page.wait_for_url(f"{origin}/tune/login")
            watch.check()


def test_a_model_is_deleted_and_signing_out_ends_the_session(site: Site, page: Page, addresses: dict[str, str]) -> None:
    page.goto(addresses["model"])
    page.get_by_role("button", name="Delete").click()
    page.get_by_role("dialog").get_by_role("button", name="Delete the model").click()
    page.wait_for_url(site.url("/models"))
    expect(page.get_by_text("No models yet")).to_be_visible()
    page.goto(addresses["job"])  # which keeps its picture
    expect(page.locator("#network .block").first).to_be_visible()
    kept = site.context.cookies()
    page.get_by_role("button", name="Sign out").click()
    page.wait_for_url(site.url("/login"))
    for address in addresses.values():
        page.goto(address)
        assert page.url == site.url("/login")
    site.context.add_cookies(kept)  # a stolen cookie is worth nothing after that
    page.goto(addresses["jobs"])
    assert page.url == site.url("/login")
