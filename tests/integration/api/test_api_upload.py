"""Uploads that are read: real files, a real child process."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.api_server import Service, serving
from tests.unit.graph.graph_models import model, node

MODELS = "/api/v1/models"
BYTES = {"Content-Type": "application/octet-stream"}


@pytest.fixture
def service(tmp_path: Path):  # type: ignore[no-untyped-def]
    with serving(f"sqlite:///{tmp_path}/fusetune.db", tmp_path / "data") as made:
        yield made


def small() -> bytes:
    weights = np.ones((8, 3, 3, 3), np.float32)
    proto = model([node("Conv", ["x", "w"], "c"), node("Relu", ["c"], "y")], {"x": [1, 3, 16, 16]}, ["y"],
                  {"w": weights})  # fmt: skip
    content: bytes = proto.SerializeToString()
    return content


def test_a_model_is_read_once(service: Service) -> None:
    content = small()
    with service.client() as client:
        pieces = (content[start : start + 100] for start in range(0, len(content), 100))
        first = client.post(MODELS, content=pieces, params={"name": "tiny"}, headers=BYTES)
        again = client.post(MODELS, content=content, headers=BYTES)
        graph = client.get(first.json()["links"]["graph"]).json()
        job = client.post("/api/v1/jobs", json={"model": first.json()["id"], "budget": {"trials": 1}})
    assert (first.status_code, again.status_code, job.status_code) == (201, 200, 202)
    assert first.json() == again.json()
    assert (first.json()["name"], first.json()["ops"]["Conv"]) == ("tiny", 1)
    assert first.json()["inputs"][0]["shape"] == [1, 3, 16, 16]
    assert graph["layers"][0]["op"] == "Conv"


@pytest.mark.parametrize(
    ("content", "codes"),
    [
        (b"", {"not-onnx", "empty-model", "truncated-model", "invalid-model"}),
        (b"\x00\x01\x02 no model at all", {"not-onnx", "invalid-model"}),
        (b"{}", {"not-onnx", "invalid-model"}),
    ],
    ids=["empty", "noise", "json"],
)
def test_what_is_no_model_is_refused(service: Service, content: bytes, codes: set[str]) -> None:
    with service.client() as client:
        refused = client.post(MODELS, content=content, headers=BYTES)
        assert refused.status_code == 422
        assert refused.json()["code"] in codes
        assert (refused.json()["fault"], refused.json()["stage"]) == ("user", "import")
        assert client.get(MODELS).json()["items"] == []


def test_a_model_with_an_operator_that_is_unknown_is_refused(service: Service) -> None:
    proto = model([node("Relu", ["x"], "y")], {"x": [1, 3]}, ["y"])
    proto.graph.node[0].op_type = "Conjure"
    with service.client() as client:
        refused = client.post(MODELS, content=proto.SerializeToString(), headers=BYTES)
    assert refused.status_code == 422
    assert "Conjure" in refused.json()["detail"]
