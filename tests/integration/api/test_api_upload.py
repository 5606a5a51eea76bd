"""Uploads that are read: real files, a real child process."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from tests.api_server import Service, serving
from tests.unit.graph.graph_models import cleaned, model, node
from tuner.graph.ir import Graph
from tuner.plan.plan import Block, Plan

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


def test_weights_in_another_file_are_refused(service: Service) -> None:
    """The file beside an upload would be another user's."""
    proto = onnx.load_from_string(small())
    weight = proto.graph.initializer[0]
    theirs = service.blobs.path(service.blobs.put([weight.raw_data]).sha256)
    weight.ClearField("raw_data")
    weight.data_location = onnx.TensorProto.EXTERNAL
    weight.external_data.add(key="location", value=theirs.name)
    content = proto.SerializeToString()
    # Blobs lie in folders by the first digits of their hashes: this one may well be beside ours.
    beside = theirs.parent.parent / hashlib.sha256(content).hexdigest()[: len(theirs.parent.name)]
    beside.mkdir(exist_ok=True)
    (beside / theirs.name).write_bytes(theirs.read_bytes())
    with service.client() as client:
        refused = client.post(MODELS, content=content, headers=BYTES)
    assert (refused.status_code, refused.json()["code"]) == (422, "external-data")


def test_shapes_are_checked_against_what_the_file_leaves_open(service: Service) -> None:
    proto = model([node("Add", ["image", "mask"], "y")],
                  {"image": ["N", 3, None, 8], "mask": ["N", 3, 1, 1]}, ["y"])  # fmt: skip
    with service.client() as client:
        id = client.post(MODELS, content=proto.SerializeToString(), headers=BYTES).json()["id"]

        def submit(**shapes: list[int]) -> tuple[int, str | None]:
            answer = client.post("/api/v1/jobs", json={"model": id, "shapes": shapes})
            return answer.status_code, answer.json().get("code")

        assert submit() == (422, "missing-shape")
        assert submit(image=[2, 3, 5]) == (422, "shape-contradiction")
        assert submit(image=[2, 3, 5, 8], mask=[1, 3, 1, 1]) == (422, "shape-contradiction")
        assert submit(picture=[1]) == (422, "unknown-input")
        assert submit(image=[2, 3, 5, 8]) == (202, None)


def test_a_plan_is_checked_against_the_model(service: Service) -> None:
    """As the job would read it: with its shapes and without the passes that it switches off."""
    weights = np.ones((8, 3, 3, 3), np.float32)
    nodes = [node("Conv", ["x", "w"], "c"), node("Sum", ["c", "c"], "s"), node("Relu", ["s"], "y")]
    proto = model(nodes, {"x": ["N", 3, 16, 16]}, ["y"], {"w": weights})

    def plan(graph: Graph, template: str = "imported") -> dict[str, Any]:
        blocks = [Block((layer.id,), 1, template) for layer in graph.layers]
        return Plan.sequential(graph.hash, blocks, {}).to_json()

    shapes = {"x": (2, 3, 16, 16)}
    ours, _ = cleaned(proto, shapes=shapes)
    other, _ = cleaned(proto, disabled=["sum-to-add"], shapes=shapes)
    with service.client() as client:
        id = client.post(MODELS, content=proto.SerializeToString(), headers=BYTES).json()["id"]

        def submit(plan: dict[str, Any], *disabled: str) -> tuple[int, str | None]:
            body = {"model": id, "plan": plan, "shapes": shapes, "disabled_passes": disabled}
            answer = client.post("/api/v1/jobs", json=body)
            return answer.status_code, answer.json().get("code")

        assert submit(plan(ours)) == (202, None)
        assert submit(plan(other)) == (422, "bad-plan")
        assert submit(plan(other), "sum-to-add") == (202, None)
        assert submit(plan(ours, "view")) == (422, "bad-plan")
        assert submit(plan(ours, "magic")) == (422, "bad-plan")
        assert submit(plan(ours) | {"stages": plan(ours)["stages"][:1]}) == (422, "bad-plan")
