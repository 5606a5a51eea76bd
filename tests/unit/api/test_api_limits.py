"""Requests that are large, come again, or come at a bad moment."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import update

from db.schema import blobs as blobs_table
from db.schema import jobs as jobs_table
from service.api import jobs as routes
from service.api.edge import JSON_LIMIT
from service.api.schemas.jobs import PLAN_LIMIT
from tests.api_server import Service
from tuner.errors import UserError
from tuner.types import Budget, JobSpec

JOBS = "/api/v1/jobs"
MODELS = "/api/v1/models"
BYTES = {"Content-Type": "application/octet-stream"}


def plan(size: int) -> dict[str, Any]:
    return {"version": 1, "words": "x" * size}


def test_a_plan_has_a_limit_of_its_own(calm: Service, reader: TestClient) -> None:
    assert PLAN_LIMIT < JSON_LIMIT <= 2 * PLAN_LIMIT, "so much may be parsed and kept for anybody"
    refused = reader.post(JOBS, json={"model": calm.model(), "plan": plan(PLAN_LIMIT)})
    assert (refused.status_code, refused.json()["code"]) == (422, "invalid-request")
    assert refused.json()["errors"][0]["where"] == "body.plan"
    refused = reader.post(JOBS, json={"model": calm.model(), "plan": plan(JSON_LIMIT)})
    assert (refused.status_code, refused.json()["code"]) == (413, "too-large")


def test_large_bodies_are_read_outside_the_event_loop(
    calm: Service, reader: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside: list[bool] = []
    read = routes._job_in

    def noted(body: bytes) -> Any:
        try:
            asyncio.get_running_loop()
            inside.append(True)
        except RuntimeError:
            inside.append(False)
        return read(body)

    monkeypatch.setattr(routes, "_job_in", noted)
    asked = {"model": calm.model(), "device": "none", "plan": plan(PLAN_LIMIT // 2)}
    assert reader.post(JOBS, json=asked).json()["code"] == "unknown-device"
    assert inside == [False]


@pytest.mark.parametrize("body", [b"", b"null", b"[]", b'"x"', b"[" * 100_000, b"1" * 5000, b"\xff", b'{"model": 1}'])
def test_bodies_that_are_no_job_are_refused(reader: TestClient, body: bytes) -> None:
    refused = reader.post(JOBS, content=body, headers={"Content-Type": "application/json"})
    assert refused.status_code in {400, 422}
    assert refused.json()["code"] in {"bad-json", "bad-request", "invalid-request"}


def test_a_request_that_was_taken_is_answered_again_without_its_model(service: Service) -> None:
    model = service.model()
    spec = JobSpec(model=model, budget=Budget(3, None), fresh=True)
    first, created = service.jobs.submit(spec, idempotency="key")
    assert created
    service.store.jobs.request(first.id, "cancel")
    assert service.store.models.delete(model)
    again, created = service.jobs.submit(spec, idempotency="key")
    assert (again.id, created) == (first.id, False)
    for other, key, code in ((JobSpec(model="cd" * 32), "key", "idempotency-conflict"), (spec, "new", "unknown-model")):
        with pytest.raises(UserError) as caught:
            service.jobs.submit(other, idempotency=key)
        assert caught.value.code == code


def test_an_answer_of_another_engine_is_none(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    done = service.finished(fresh=False)
    assert service.jobs.submit(done.spec)[0].answered_by == done.id
    monkeypatch.setattr("db.answers.ENGINE", "a later one")
    assert service.jobs.submit(done.spec)[0].reused is False


def test_the_log_of_an_answer_to_an_answer_has_its_trials(service: Service, client: TestClient) -> None:
    done = service.finished(fresh=False)
    answers = [service.jobs.submit(done.spec)[0] for _ in range(3)]
    assert all(each.reused for each in answers)
    logs = {client.get(f"{JOBS}/{each.id}/log").text for each in (done, *answers)}
    assert len(logs) == 1 and len(logs.pop().splitlines()) == 2
    refused = client.delete(f"{JOBS}/{done.id}")
    assert (refused.status_code, refused.json()["code"]) == (409, "wrong-state")


def test_a_refused_upload_leaves_nothing(service: Service, client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_path: Path, _device: object) -> None:
        raise UserError("It is no model.", code="not-onnx")

    monkeypatch.setattr("service.models.inspect", refuse)
    assert client.post(MODELS, content=b"garbage", headers=BYTES).json()["code"] == "not-onnx"
    assert service.blobs.usage() == 0
    # Of a known one nothing is lost.
    id = service.model(b"known")
    assert client.post(MODELS, content=b"known", headers=BYTES).status_code == 200
    assert service.blobs.has(id)


def test_what_is_deleted_frees_its_room(service: Service, client: TestClient) -> None:
    done, other = service.finished(), service.finished()
    before = service.blobs.usage()
    own = service.blobs.put([b"its own"])
    with service.store.database.write() as connection:
        connection.execute(update(blobs_table).values(touched_at=blobs_table.c.touched_at - 3600.0))
    files = {"artifact.zip": (b"only here", "application/zip")}
    alone = service.finished(files)
    with service.store.database.write() as connection:
        connection.execute(update(blobs_table).values(touched_at=blobs_table.c.touched_at - 3600.0))
    assert client.delete(f"{JOBS}/{alone.id}").status_code == 204
    assert client.delete(f"{JOBS}/{done.id}").status_code == 204
    assert service.blobs.usage() == before + own.size, "the other job has the same files"
    assert client.get(f"{JOBS}/{other.id}/artifact").status_code == 200
    model = service.blobs.path(other.model)
    assert client.delete(f"{MODELS}/{other.model}").status_code == 204
    assert not model.exists()


def test_files_that_were_put_just_now_stay_for_the_job_that_may_finish_with_them(
    service: Service, client: TestClient
) -> None:
    done = service.finished()
    kept = service.store.jobs.files(done.id).values()
    assert client.delete(f"{JOBS}/{done.id}").status_code == 204
    assert all(service.blobs.has(file.sha256) for file in kept)


def test_a_job_of_the_command_line_cannot_be_paused(service: Service, client: TestClient) -> None:
    job = service.job()
    with service.store.database.write() as connection:  # as submitted by `fusetune tune`
        connection.execute(update(jobs_table).where(jobs_table.c.id == job.id).values(pausable=False))
    service.store.queue.start(job.id, "the command line", 60)
    refused = client.post(f"{JOBS}/{job.id}:pause")
    assert (refused.status_code, refused.json()["code"]) == (409, "wrong-state")
    assert client.get(f"{JOBS}/{job.id}").json()["wanted"] is None
