"""What is known of models and devices."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest
from db_values import DEVICE, TOOLCHAIN, new_job
from sqlalchemy import update

from db.models import Model
from db.schema import models
from db.store import Store
from tuner.errors import UserError
from tuner.types import JobSpec

SHA = "ab" * 32
PORT = {"name": "x", "dtype": "float32", "shape": [1, 3, 224, 224]}


def put(store: Store, sha: str = SHA, **more: object) -> Model:
    return store.models.put(sha, name="resnet", layers=3, macs=4, size=5, **more)  # type: ignore[arg-type]


def test_a_model_carries_what_was_found_of_it(store: Store) -> None:
    graph = {"layers": [{"bound": float("-inf")}]}
    model = put(store, inputs=[PORT], outputs=[PORT, PORT], details={"ops": {"Conv": 53}}, graph=graph)
    assert model == store.models.get(SHA) == store.models.list().items[0]
    assert (model.inputs, model.outputs, model.details, model.file) == (
        (PORT,),
        (PORT, PORT),
        {"ops": {"Conv": 53}},
        True,
    )
    assert store.models.graph(SHA) == graph
    assert store.models.graph("none") is None
    # A better inspection takes the place of the old; a model put without one leaves it.
    assert put(store).details == {"ops": {"Conv": 53}}
    assert put(store, details={"ops": {}}, graph={}).details == {"ops": {}}
    assert store.models.graph(SHA) == {}


def test_a_deleted_model_is_known_but_not_listed(store: Store) -> None:
    model = put(store, graph={"n": 1})
    assert store.models.delete(SHA)
    assert store.models.get(SHA) == replace(model, file=False)
    assert store.models.graph(SHA) == {"n": 1}
    assert store.models.list().items == []
    assert not store.models.delete(SHA) and not store.models.delete("none")
    assert put(store) == model
    assert store.models.list().items == [model]


def test_a_model_without_its_file_is_not_listed_until_it_comes(store: Store) -> None:
    assert not put(store, file=False).file
    assert store.models.list().items == []
    assert put(store).file
    assert put(store, file=False).file


def test_a_model_that_unfinished_jobs_need_is_kept(store: Store) -> None:
    put(store)
    job = new_job(store)
    for action in ("pause", "resume"):
        with pytest.raises(UserError) as caught:
            store.models.delete(SHA)
        assert caught.value.code == "model-in-use" and job in str(caught.value)
        store.jobs.request(job, action)  # type: ignore[arg-type]
    model = store.models.get(SHA)
    assert model and model.file
    store.jobs.request(job, "cancel")
    store.devices.put(DEVICE)
    store.jobs.submit(JobSpec(model="cd" * 32), DEVICE.fingerprint, TOOLCHAIN)
    assert store.models.delete(SHA)


def test_models_are_listed_page_by_page_also_where_they_tie(store: Store) -> None:
    shas = [f"{number:064x}" for number in range(7)]
    for sha in shas:
        put(store, sha)
    with store.database.write() as connection:
        connection.execute(update(models).values(created_at=datetime(2026, 1, 1, tzinfo=UTC)))
    found: list[str] = []
    cursor = None
    for _ in range(3):
        page = store.models.list(limit=3, cursor=cursor)
        found += [model.sha256 for model in page.items]
        cursor = page.next
        put(store, "ff" * 32)  # newer than all pages to come
    assert found == shas[::-1] and cursor is None
    with pytest.raises(UserError) as caught:
        store.models.list(cursor="x")
    assert caught.value.code == "bad-cursor"


def test_a_device_is_offered_for_some_seconds(store: Store) -> None:
    here = store.devices.put(DEVICE)
    there = store.devices.put(replace(DEVICE, model="Other CPU"))
    assert store.devices.offered() == set()
    store.devices.offer(here, "server 1", 60)
    store.devices.offer(there, "server 2", -1)
    assert store.devices.offered() == {here}
    known = {device.device.fingerprint: (device.server, device.available) for device in store.devices.list()}
    assert known == {here: ("server 1", True), there: ("server 2", False)}
    store.devices.offer(here, "server 1", 0)
    assert store.devices.offered() == set()
    with pytest.raises(UserError) as caught:
        store.devices.offer("none", "x", 1)
    assert caught.value.code == "unknown-device"


def test_a_device_that_is_seen_is_seen_now(store: Store) -> None:
    here = store.devices.put(DEVICE)
    before = store.devices.get(here)
    store.devices.seen(here)
    store.devices.seen("none")
    after = store.devices.get(here)
    assert before and after and after.last_seen_at > before.last_seen_at
    assert replace(after, last_seen_at=before.last_seen_at) == before
