"""The job page and the compare page on a seeded store: what they say, what they leave unsaid, what they embed."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from db.blobs import Blobs
from db.store import Store
from service.app import create_app
from service.jobs import Jobs, Known
from service.models import ModelLibrary
from service.settings import Settings
from tests.service_seed import DEVICE, NASTY, TOOLCHAIN, Seeded, graph, report, seed, trials_of
from tuner.types import Budget, JobSpec, JobState

BASE = "http://127.0.0.1:8077"
HTML = {"accept": "text/html"}


@dataclass
class Site:
    client: TestClient
    store: Store
    blobs: Blobs
    seeded: Seeded

    def page(self, path: str, status: int = 200) -> str:
        answer = self.client.get(path, headers=HTML)
        assert answer.status_code == status, answer.text[:500]
        return answer.text

    def job(self, key: str, part: str = "") -> str:
        return f"/jobs/{self.seeded.jobs[key]}{part}"

    def finished(self, **changes: Any) -> str:
        """A further finished job of squeezenet, with its graph and plan stored; its id."""
        found = report()
        order = {layer["id"]: i for i, layer in enumerate(graph()["layers"])}
        blocks = sorted(found["blocks"], key=lambda b: order[b["layers"][0]])
        ours = [{"layers": b["layers"], "cores": max(1, b["cores"]), "template": b["template"]} for b in blocks]
        plan = {"version": 1, "graph": "", "stages": [{"lanes": [{"blocks": ours}]}], "layouts": {}}
        spec = JobSpec(found["model"]["sha256"], "cpu", "greedy", Budget(50), **changes.pop("spec", {}))
        job, _ = self.store.jobs.submit(spec, DEVICE.fingerprint, TOOLCHAIN, model_name="squeezenet", device_name="cpu")
        claim = self.store.queue.start(job.id, "test", 600.0)
        for trial in trials_of(24, failing=True):
            self.store.trials.add(job.id, trial, device=DEVICE.fingerprint, toolchain=TOOLCHAIN, claim=claim)
        self.store.queue.progress(claim, measured=24, failed=6, best_seconds=0.0065, curve=[[2.0, 5, 0.0065]])
        files = {}
        for name, value in (("graph.json", graph()), ("plan.json", plan)):
            blob = self.blobs.put([json.dumps(value).encode()])
            files[name] = (blob.sha256, blob.size, "application/json")
        changed = changes.pop("report", lambda r: r)(found)
        self.store.queue.finish(claim, JobState.SUCCEEDED, report=changed, best_seconds=0.0065, files=files)
        return job.id


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder: Path = tmp_path_factory.mktemp("site")
    url = f"sqlite:///{folder}/store.db"
    settings = Settings(db=url, data=folder, auth=False, rate=10**9, root_path="/tune")
    with Store.open(url) as store:
        blobs = Blobs(settings.blobs, store.database, None)
        models = ModelLibrary(store, blobs, DEVICE, TOOLCHAIN)
        jobs = Jobs(store, models, Known({"cpu": DEVICE}, TOOLCHAIN))
        app = create_app(settings, store, blobs, jobs=jobs, models=models)
        client = TestClient(app, base_url=BASE, client=("127.0.0.1", 5000), follow_redirects=False)
        yield Site(client, store, blobs, seed(store))


def test_every_state_has_a_page_that_says_it(site: Site) -> None:
    for key, id in site.seeded.jobs.items():
        job = site.store.jobs.get(id)
        assert job is not None
        text = site.page(f"/jobs/{id}")
        assert f"state-{job.state.value}" in text, key


def test_pages_carry_no_inline_script_style_or_handler(site: Site) -> None:
    pages = [site.page(site.job(key)) for key in site.seeded.jobs] + [site.page(f"/jobs/{site.finished()}")]
    for text in pages:
        assert all("src=" in script for script in re.findall(r"<script[^>]*>", text))
        assert not re.search(r"<[^>]+\s(style|on\w+)=", text)
        assert "<style" not in text


def test_what_a_client_or_a_model_says_is_only_text(site: Site) -> None:
    text = site.page(site.job("nasty"))
    assert NASTY not in text
    assert "&lt;script&gt;" in text


def test_a_running_job_shows_what_it_does_and_offers_pause_and_cancel(site: Site) -> None:
    text = site.page(site.job("running"))
    assert "measuring block 14 of 56" in text
    assert 'data-action="pause"' in text and 'data-action="cancel"' in text
    assert "Take it home" not in text


def test_a_failed_job_says_why_shows_what_the_tuner_wrote_and_offers_retry(site: Site) -> None:
    text = site.page(site.job("failed"))
    assert "ran out of memory" in text
    assert "Killed" in text
    assert 'data-action="retry"' in text


def test_a_finished_job_shows_network_blocks_trust_failures_and_downloads(site: Site) -> None:
    id = site.finished()
    text = site.page(f"/jobs/{id}")
    assert len(re.findall(r'data-block="\d+"', text)) == len(report()["blocks"])
    for words in ("Blocks, heaviest first", "Can it be trusted?", "What failed", "Take it home", "curl -X POST"):
        assert words in text
    assert f"/tune/api/v1/jobs/{id}/report.html" in text
    assert "last words of &lt;b&gt;3&lt;/b&gt;" in text, "the captured output of the first failure"


def test_the_page_embeds_no_trials_and_addresses_carry_the_prefix(site: Site) -> None:
    text = site.page(site.job("failures"))
    assert not re.search(r'<tbody id="trials-rows">\s*<tr', text)
    links = re.findall(r'(?:href|src)="(/[^"]*)"', text)
    assert links and all(link.startswith("/tune/") for link in links)


def test_a_job_answered_at_once_shows_the_trials_behind_the_answer(site: Site) -> None:
    text = site.page(site.job("reused"))
    assert site.seeded.jobs["real"] in text
    assert f'data-source="{site.seeded.jobs["real"]}"' in text


def test_the_chart_numbers_failed_trials_within_the_job(site: Site) -> None:
    data = site.client.get(f"/jobs/{site.finished()}/chart").json()
    assert data["failed"] == [4, 8, 12, 16, 20, 24]
    assert data["curve"] == [[2.0, 5, 0.0065]]


def test_predictions_come_by_template(site: Site) -> None:
    found = site.client.get(f"/jobs/{site.finished()}/predictions").json()
    assert set(found) <= {"conv2d", "winograd", "pool", "dense"}
    assert all(predicted > 0 and measured > 0 for points in found.values() for predicted, measured, _ in points)


def test_the_page_says_how_well_the_cost_model_predicted(site: Site) -> None:
    knobs = {"samples": 140, "workloads": 5, "rank_correlation": 0.8123, "top1": 0.4, "top8": 0.8,
             "median_error": 0.1571, "within_one": 0.3333, "within_two": 0.6667, "reason": None}  # fmt: skip
    blocks = dict.fromkeys(knobs) | {"samples": 9, "workloads": 2, "reason": "Only 9 evaluations <to> compare."}

    def changed(report: dict[str, Any]) -> dict[str, Any]:
        held_out = {"blocks": blocks, "knobs": knobs}
        return {**report, "cost_model": report["cost_model"] | held_out | {"rank_correlation": None}}

    text = site.page(f"/jobs/{site.finished(report=changed)}")
    assert "How well the cost model predicted" in text
    assert "140 times of 5 workloads" in text and "15.7%" in text
    assert "Only 9 evaluations &lt;to&gt; compare." in text
    assert "Nothing was held out to judge it" in site.page(f"/jobs/{site.finished()}")
    assert "How well the cost model predicted" not in site.page(site.job("running"))


def test_the_other_plan_shows_every_layer_alone_and_without_times(site: Site) -> None:
    id = site.finished()
    assert len(re.findall(r'data-block="\d+"', site.page(f"/jobs/{id}/network?plan=unoptimised"))) == 65
    boxes = site.client.get(f"/jobs/{id}/boxes?plan=unoptimised").json()
    assert {box["cores"] for box in boxes} == {1}
    assert {box["ms"] for box in boxes} == {None}


def test_unknown_jobs_are_not_found_on_every_address(site: Site) -> None:
    for part in ("", "/sections", "/head", "/chart", "/predictions", "/boxes", "/network"):
        assert site.client.get(f"/jobs/nothing{part}", headers=HTML).status_code == 404
    site.page("/compare?a=nothing", 404)


@pytest.mark.parametrize("query", ["trial=0", "trial=x", "trial=1&order=seconds", "trial=99999999999999999999"])
def test_a_senseless_jump_is_refused(site: Site, query: str) -> None:
    assert site.client.get(site.job("real", f"/jump?{query}")).status_code == 422


def test_a_jump_goes_to_the_trial_asked_for(site: Site) -> None:
    id = site.finished()
    items = site.client.get(f"/api/v1/jobs/{id}/trials?limit=24").json()["items"]
    wanted = items[10]["id"]
    for order in ("id", "-id"):
        cursor = site.client.get(f"/jobs/{id}/jump?trial={wanted}&order={order}").json()["cursor"]
        page = site.client.get(f"/api/v1/jobs/{id}/trials?limit=1&order={order}&cursor={cursor}").json()
        assert page["items"][0]["id"] == wanted


def test_comparing_puts_the_greatest_difference_first(site: Site) -> None:
    def slower(found: dict[str, Any]) -> dict[str, Any]:
        found["blocks"][7] |= {"ms": found["blocks"][7]["ms"] + 5.0, "cores": 1}
        found["latency_ms"]["tuned"]["median"] += 5.0
        return found

    a, b = site.finished(), site.finished(report=slower, spec={"seed": 3})
    text = site.page(f"/compare?job={a}&job={b}")
    assert "A is 1.76× faster" in text
    table = text[text.index("Block by block") :]
    first = re.search(r'<span class="sub wrap-anywhere">([^<]*)</span>', table)
    assert first and first[1] == ", ".join(report()["blocks"][7]["layers"])
    assert "Seed" in text


@pytest.mark.parametrize("letter", ["a", "b"])
def test_a_single_job_stands_where_it_was_asked_for(site: Site, letter: str) -> None:
    id = site.finished()
    text = site.page(f"/compare?{letter}={id}")
    pickers = dict(re.findall(r'<select id="pick-([ab])"(.*?)</select>', text, re.S))
    assert {name for name, options in pickers.items() if f'value="{id}" selected' in options} == {letter}


def test_comparing_asks_for_what_is_missing(site: Site) -> None:
    assert "Choose two finished jobs" in site.page("/compare")
    assert "Choose two finished jobs" in site.page(f"/compare?a={site.finished()}")
    assert "has no report yet" in site.page(f"/compare?a={site.seeded.jobs['running']}&b={site.finished()}")
