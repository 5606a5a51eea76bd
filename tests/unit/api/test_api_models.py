"""Models over HTTP, as far as no file has to be read; uploads that are read are tests of integration."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from tests.api_server import GRAPH, Service, serving

MODELS = "/api/v1/models"
BYTES = {"Content-Type": "application/octet-stream"}


def test_a_model_says_what_is_in_it(service: Service, client: TestClient) -> None:
    id = service.model(name="net")
    shown = client.get(f"{MODELS}/{id}").json()
    assert (shown["id"], shown["name"], shown["layers"], shown["gmacs"]) == (id, "net", 3, 1e-6)
    assert shown["inputs"] == [{"name": "x", "dtype": "float32", "shape": [1, 3, "height", None], "open": False}]
    assert (shown["ops"], shown["parameters"], shown["file"]) == ({"Conv": 1}, 12, True)
    assert client.get(shown["links"]["graph"]).json() == GRAPH


def test_models_are_listed_newest_first(either: Service) -> None:
    made = [either.model(bytes([n]), f"net{n}") for n in range(5)]
    with either.client() as client:
        first = client.get(MODELS, params={"limit": 3}).json()
        rest = client.get(MODELS, params={"limit": 3, "cursor": first["next"]}).json()
    assert [each["id"] for each in first["items"] + rest["items"]] == made[::-1]
    assert rest["next"] is None


def test_bytes_that_are_known_are_the_same_model(service: Service, client: TestClient) -> None:
    id = service.model(b"the bytes", "first")
    again = client.post(MODELS, content=b"the bytes", params={"name": "second"}, headers=BYTES)
    assert (again.status_code, again.json()["id"], again.json()["name"]) == (200, id, "first")
    assert again.headers["location"] == f"{MODELS}/{id}"


def test_a_model_in_use_stays(either: Service) -> None:
    job = either.job()
    with either.client() as client:
        refused = client.delete(f"{MODELS}/{job.model}")
        assert (refused.status_code, refused.json()["code"]) == (409, "model-in-use")
        client.post(f"/api/v1/jobs/{job.id}:cancel")
        assert client.delete(f"{MODELS}/{job.model}").status_code == 204
        gone = client.post("/api/v1/jobs", json={"model": job.model})
        assert gone.status_code in {404, 409}


def test_an_estimate_counts_what_is_known(service: Service, client: TestClient) -> None:
    id = service.model(questions=[["a"], ["b", "c"]])
    found = client.get(f"{MODELS}/{id}/estimate", params={"device": "cpu"}).json()
    assert (found["questions"], found["known"]) == (2, 0)
    assert found["seconds"] > 0
    refused = client.get(f"{MODELS}/{id}/estimate", params={"device": "gpu"})
    assert refused.json()["code"] == "unknown-device"


@pytest.mark.parametrize("media_type", ["multipart/form-data; boundary=x", "application/json", "text/html"])
def test_other_types_are_refused(reader: TestClient, media_type: str) -> None:
    refused = reader.post(MODELS, content=b"x", headers={"Content-Type": media_type})
    assert (refused.status_code, refused.json()["code"]) == (415, "unsupported-media-type")
    assert "--data-binary" in refused.json()["hint"]


@pytest.mark.parametrize("name", ["", "a\0b", "x" * 201])
def test_a_name_that_is_none_is_refused(reader: TestClient, name: str) -> None:
    refused = reader.post(MODELS, content=b"x", params={"name": name}, headers=BYTES)
    assert refused.status_code == 422
    assert refused.json()["errors"][0]["where"] == "query.name"


@pytest.fixture
def narrow(empty: Path, tmp_path: Path) -> Iterator[Service]:
    (tmp_path / "fusetune.db").write_bytes(empty.read_bytes())
    with serving(f"sqlite:///{tmp_path}/fusetune.db", tmp_path / "data", max_upload=1000, quota=500) as made:
        yield made


@pytest.mark.parametrize("announced", [True, False])
def test_a_model_above_the_limit_is_refused_and_not_kept(narrow: Service, announced: bool) -> None:
    content = b"x" * 1001
    with narrow.client() as client:
        refused = client.post(MODELS, content=content if announced else iter([content]), headers=BYTES)
    assert (refused.status_code, refused.json()["code"]) == (413, "too-large")
    assert narrow.blobs.usage() == 0


def test_a_model_for_which_there_is_no_room_is_refused(narrow: Service) -> None:
    with narrow.client() as client:
        refused = client.post(MODELS, content=iter([b"x" * 600]), headers=BYTES)
    assert (refused.status_code, refused.json()["code"], refused.json()["fault"]) == (507, "storage-full", "service")
