"""What a job leaves for download."""

from __future__ import annotations

import csv
import io
import json

import pytest
from fastapi.testclient import TestClient

from tests.api_server import FILES, REPORT, Service
from tuner.types import JobState

ARTIFACT = FILES["artifact.zip"][0]


def test_files_come_from_the_blob_store(either: Service) -> None:
    path = f"/api/v1/jobs/{either.finished().id}"
    with either.client() as client:
        artifact = client.get(f"{path}/artifact")
        assert artifact.content == ARTIFACT
        assert artifact.headers["content-type"] == "application/zip"
        assert artifact.headers["content-disposition"].startswith("attachment;")
        assert client.get(f"{path}/plan").json() == {"version": 1, "stages": [], "layouts": {}}
        assert client.get(f"{path}/report").json() == REPORT
        log = client.get(f"{path}/log?format=metaschedule")
        assert (log.content, log.headers["content-type"]) == (b"PK log", "application/zip")


def test_the_report_is_a_page_of_its_own(service: Service, client: TestClient) -> None:
    page = client.get(f"/api/v1/jobs/{service.finished().id}/report.html")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert page.headers["content-disposition"].startswith("attachment;")
    assert "<svg" in page.text
    assert "last words" in page.text, "failures come with an example"
    assert "<script" not in page.text
    assert "sandbox" in page.headers["content-security-policy"]


def test_the_log_is_streamed_from_the_trials(service: Service, client: TestClient) -> None:
    path = f"/api/v1/jobs/{service.finished().id}/log"
    lines = [json.loads(line) for line in client.get(path, params={"format": "jsonl"}).text.splitlines()]
    assert [line["failure"] is None for line in lines] == [True, False]
    rows = list(csv.DictReader(io.StringIO(client.get(path, params={"format": "csv"}).text)))
    assert [row["failure"] for row in rows] == ["", "crash"]


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("bytes=0-3", ARTIFACT[:4]), ("bytes=10-", ARTIFACT[10:]), ("bytes=-5", ARTIFACT[-5:]),
        ("bytes=200-99999", ARTIFACT[200:]),
    ],
)  # fmt: skip
def test_a_range_is_given(service: Service, client: TestClient, header: str, expected: bytes) -> None:
    part = client.get(f"/api/v1/jobs/{service.finished().id}/artifact", headers={"Range": header})
    assert (part.status_code, part.content) == (206, expected)


@pytest.mark.parametrize("header", ["bytes=9999-", "bytes=5-2", "bytes=-0", "bytes=-", "lines=1-2", "bytes=a-b", "x"])
def test_a_range_that_is_none_is_a_problem(service: Service, client: TestClient, header: str) -> None:
    refused = client.get(f"/api/v1/jobs/{service.finished().id}/artifact", headers={"Range": header})
    assert (refused.status_code, refused.json()["code"]) == (416, "bad-range")
    assert refused.headers["content-range"] == f"bytes */{len(ARTIFACT)}"


@pytest.mark.parametrize("part", ["plan", "report", "report.html", "artifact"])
def test_what_is_not_there_yet_says_so(service: Service, client: TestClient, part: str) -> None:
    job, claim = service.running()
    refused = client.get(f"/api/v1/jobs/{job.id}/{part}")
    assert (refused.status_code, refused.json()["code"]) == (409, "not-finished")
    service.store.queue.finish(claim, JobState.FAILED, reason="the model is odd")
    refused = client.get(f"/api/v1/jobs/{job.id}/{part}")
    assert (refused.status_code, refused.json()["code"]) == (404, "no-file")
    assert "the model is odd" in refused.json()["hint"]


def test_a_file_whose_blob_is_gone_is_not_found(service: Service, client: TestClient) -> None:
    job = service.finished()
    service.blobs.path(service.store.jobs.files(job.id)["artifact.zip"].sha256).unlink()
    gone = client.get(f"/api/v1/jobs/{job.id}/artifact")
    assert (gone.status_code, gone.json()["code"]) == (404, "unknown-blob")


def test_head_of_a_download_tells_its_size(service: Service, client: TestClient) -> None:
    head = client.head(f"/api/v1/jobs/{service.finished().id}/artifact")
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-length"] == str(len(ARTIFACT))
    assert head.headers["accept-ranges"] == "bytes"
