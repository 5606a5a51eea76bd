"""The Python client against the real application, over connections that break."""

from __future__ import annotations

import hashlib
import io
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from client_tools import DEVICE, TOOLCHAIN, Faulty, Running, running, tiny_model

from service.client import Client, Event
from service.client.sse import parse
from tuner.errors import FusetuneError, InternalError, UserError
from tuner.types import Budget, Candidate, JobSpec, JobState, Trial, digest


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(tmp_path_factory.mktemp("served")) as started:
        yield started


@pytest.fixture(scope="module")
def model(server: Running, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that the server holds."""
    path = tiny_model(tmp_path_factory.mktemp("model") / "tiny.onnx")
    with server.client() as client:
        client.upload(path)
    return path


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def events_only(request: httpx.Request) -> bool:
    return request.headers.get("accept", "").startswith("text/event-stream")


# models and jobs ------------------------------------------------------------------------------------------------------


def test_a_model_is_sent_once(server: Running, tmp_path: Path) -> None:
    path = tiny_model(tmp_path / "once.onnx", width=7)
    transport = Faulty()
    seen: list[tuple[int, int]] = []
    with server.client(transport=transport) as client:
        first = client.upload(path, progress=lambda sent, size: seen.append((sent, size)))
        second = client.upload(path)
    assert first.id == second.id == sha256(path)
    assert first.name == "once"
    assert seen[-1] == (path.stat().st_size,) * 2
    assert [method for method, _, _ in transport.requests] == ["GET", "POST", "GET"]


def test_an_upload_that_breaks_off_begins_anew(server: Running, tmp_path: Path) -> None:
    path = tiny_model(tmp_path / "again.onnx", width=8)
    transport = Faulty("lose", 503, only=lambda request: request.method == "POST")
    with server.client(transport=transport) as client:
        assert client.upload(path).id == sha256(path)
    assert [method for method, _, _ in transport.requests] == ["GET", "POST", "POST", "POST"]


def test_what_is_no_model_is_the_users_fault(server: Running, tmp_path: Path) -> None:
    path = tmp_path / "bad.onnx"
    path.write_bytes(b"this is no model")
    with server.client() as client:
        with pytest.raises(UserError) as caught:
            client.upload(path)
        assert caught.value.code == "not-onnx"
        with pytest.raises(UserError) as caught:
            client.upload(tmp_path / "absent.onnx")
        assert caught.value.code == "no-model"


def test_a_job_is_submitted_once_however_often_it_is_sent(server: Running, model: Path) -> None:
    transport = Faulty("lose", 502, only=lambda request: request.method == "POST")
    spec = JobSpec(model=sha256(model), strategy="greedy", budget=Budget(trials=3), cores=(1, 2))
    with server.client(transport=transport) as client:
        job = client.submit(spec, priority=5, notes="once")
        same = [j for j in client.jobs(limit=200).items if j.raw["notes"] == "once"]
    assert [j.id for j in same] == [job.id]
    assert job.state is JobState.QUEUED
    assert job.spec == spec
    keys = {headers["idempotency-key"] for method, _, headers in transport.requests if method == "POST"}
    assert len(keys) == 1


def test_two_submissions_are_two_jobs_unless_they_share_a_key(server: Running, model: Path) -> None:
    spec = JobSpec(model=sha256(model), strategy="greedy", budget=Budget(trials=4))
    with server.client() as client:
        assert client.submit(spec).id != client.submit(spec).id
        key = "my-own-key"
        assert client.submit(spec, idempotency_key=key).id == client.submit(spec, idempotency_key=key).id
        with pytest.raises(UserError) as caught:
            client.submit(JobSpec(model=sha256(model), strategy="none"), idempotency_key=key)
    assert caught.value.code == "idempotency-conflict"


def test_actions_change_the_state(server: Running) -> None:
    id = server.job()
    with server.client(transport=Faulty("lose")) as client:
        assert client.act(id, "pause").state is JobState.PAUSED  # the answer to the first one was lost
        assert client.act(id, "resume").state is JobState.QUEUED
        assert client.act(id, "cancel").state is JobState.CANCELLED
        assert client.act(id, "retry").state is JobState.QUEUED
        client.act(id, "cancel")
        client.delete_job(id)
        with pytest.raises(UserError) as caught:
            client.job(id)
    assert caught.value.code == "unknown-job"


def test_trials_come_page_by_page(server: Running) -> None:
    id = server.job()
    for number in range(7):
        candidate = Candidate({"layers": []}, digest("w"), {"i0": "plain"}, "conv2d", 1, {"ob": number}, 1)
        server.store.trials.add(id, Trial(candidate, samples=(1.0,)), device=DEVICE.fingerprint, toolchain=TOOLCHAIN)
    transport = Faulty("lose")
    with server.client(transport=transport) as client:
        assert [t["knobs"]["ob"] for t in client.trials(id, limit=3)] == list(range(7))
        assert [t["knobs"]["ob"] for t in client.trials(id, order="-id", limit=200)] == list(reversed(range(7)))
    assert len(transport.requests) == 1 + 3 + 1


# errors ---------------------------------------------------------------------------------------------------------------


def test_problems_arrive_as_errors_of_fusetune(server: Running, model: Path) -> None:
    with server.client() as client:
        with pytest.raises(UserError) as caught:
            client.submit(JobSpec(model=sha256(model), strategy="greedy", budget=Budget(trials=-1), seed=0))
        assert caught.value.code == "invalid-request"
        assert "body.budget.trials" in caught.value.message
        with pytest.raises(UserError) as caught:
            client.submit(JobSpec(model="cd" * 32, strategy="greedy"))
        assert (caught.value.code, bool(caught.value.hint)) == ("unknown-model", True)
        for bad in ("", "..", "a/../../healthz", "x?y"):
            with pytest.raises(UserError):
                client.job(bad)


def test_who_asks_matters(server: Running, model: Path) -> None:
    _, reader = server.store.access.tokens.create("reader", "read")
    with Client(server.url, reader) as client:
        client.jobs()
        with pytest.raises(UserError) as caught:
            client.submit(JobSpec(model=sha256(model), strategy="greedy"))
        assert caught.value.code == "forbidden"
    for token, code in ((None, "unauthenticated"), ("wrong", "bad-token")):
        with Client(server.url, token) as client, pytest.raises(UserError) as caught:
            client.jobs()
        assert caught.value.code == code
    with pytest.raises(UserError):
        Client(server.url, "tokén\n")


def test_a_server_that_is_not_there(server: Running) -> None:
    pauses: list[float] = []
    with Client("http://127.0.0.1:1", "secret-token", sleep=pauses.append) as client:
        with pytest.raises(InternalError) as caught:
            client.jobs()
    assert caught.value.code == "server-unreachable"
    assert "fusetune serve" in caught.value.hint
    assert "secret-token" not in str(caught.value)
    assert len(pauses) == 1  # nobody was ever there: it does not try for long


def test_pauses_grow_and_obey_the_server(server: Running) -> None:
    pauses: list[float] = []
    with server.client(transport=Faulty(503, 503, 503, 503, 503), sleep=pauses.append) as client:
        client.jobs()
    assert len(pauses) == 5
    assert pauses[4] > pauses[0]
    with server.client(transport=Faulty(*[503] * 6), sleep=pauses.append) as client, pytest.raises(InternalError):
        client.jobs()

    def busy(_: httpx.Request) -> httpx.Response:
        pauses.append(-1)
        return httpx.Response(429, headers={"Retry-After": "7"}) if pauses.count(-1) < 2 else httpx.Response(
            200, json={"items": [], "next": None})  # fmt: skip

    with server.client(transport=httpx.MockTransport(busy), sleep=pauses.append) as client:
        client.jobs()
    assert pauses[-3:] == [-1, 7, -1]


@pytest.mark.parametrize("answer", [
    httpx.Response(200, text="<html>hello</html>"),
    httpx.Response(404, text="<html>not here</html>"),
    httpx.Response(302, headers={"Location": "http://elsewhere/"}),
])  # fmt: skip
def test_something_else_than_fusetune(answer: httpx.Response) -> None:
    with Client(transport=httpx.MockTransport(lambda _: answer)) as client, pytest.raises(InternalError) as caught:
        client.jobs()
    assert caught.value.code == "bad-answer"


@pytest.mark.parametrize("url", ["", "ftp://x", "127.0.0.1:8077", "http://", "http://[::1"])
def test_an_address_that_is_none(url: str) -> None:
    with pytest.raises(UserError) as caught:
        Client(url)
    assert caught.value.code == "bad-server-url"


def test_secrets_are_masked() -> None:
    with Client("https://me:pass-word@host/prefix", "secret-token") as client:
        assert "secret-token" not in repr(client)
        assert "pass-word" not in repr(client)
        assert "host/prefix" in repr(client)


# watching -------------------------------------------------------------------------------------------------------------


def drive(server: Running, id: str, steps: int, go: threading.Event | None = None) -> None:
    """Work a job off as a driver does; waits for ``go`` in the middle."""
    queue = server.store.queue
    claim = queue.start(id, "test", 60)
    for step in range(steps):
        if go is not None and step == steps // 2:
            assert go.wait(30)
        queue.progress(claim, event=True, stage="search", message=f"step {step}", measured=step)
    queue.finish(claim, JobState.SUCCEEDED)


def steps_of(events: list[Event]) -> list[int]:
    return [e.data["trials"]["measured"] for e in events if e.kind == "progress"]


@pytest.mark.parametrize("faults", [(), ("cut",), ("refuse", "cut", "cut"), (502, "cut", 503, "refuse")])
def test_no_event_is_lost_or_doubled_when_the_stream_breaks(server: Running, faults: tuple[str | int, ...]) -> None:
    id, go = server.job(), threading.Event()
    worker = threading.Thread(target=drive, args=(server, id, 8, go))
    worker.start()
    seen: list[Event] = []
    with server.client(transport=Faulty(*faults, only=events_only)) as client:
        for event in client.watch(id):
            seen.append(event)
            if steps_of(seen)[-1:] == [3]:
                go.set()
    worker.join()
    assert steps_of(seen) == list(range(8))
    assert seen[-1].kind == "end"
    assert [e.data["state"] for e in seen if e.kind == "state"] == ["QUEUED", "RUNNING", "SUCCEEDED"]
    numbers = [e.seq for e in seen if e.kind != "end"]
    assert numbers == sorted(set(numbers))


def test_where_streams_do_not_get_through_it_polls(server: Running) -> None:
    id, go = server.job(), threading.Event()
    go.set()
    worker = threading.Thread(target=drive, args=(server, id, 5, go))
    worker.start()
    with server.client(transport=Faulty(*[502] * 100, only=events_only)) as client:
        seen = list(client.watch(id))
    worker.join()
    assert steps_of(seen) == list(range(5))
    assert (seen[-1].kind, seen[-1].data["state"]) == ("end", "SUCCEEDED")


def test_watching_goes_on_after_the_last_event_seen(server: Running) -> None:
    id = server.job()
    drive(server, id, 3)
    with server.client() as client:
        whole = list(client.watch(id))
        rest = list(client.watch(id, after=whole[2].seq))
    assert rest == whole[3:]


def test_a_server_that_stays_away_ends_the_watching(server: Running) -> None:
    id = server.job()
    with server.client(transport=Faulty(*["refuse"] * 100)) as client, pytest.raises(InternalError) as caught:
        list(client.watch(id, patience=0))
    assert caught.value.code == "server-unreachable"


def test_an_unknown_job_cannot_be_watched(server: Running) -> None:
    with server.client() as client, pytest.raises(UserError) as caught:
        list(client.watch("0" * 16))
    assert caught.value.code == "unknown-job"


def test_event_streams_are_parsed_as_the_standard_says() -> None:
    lines = [": hello", "retry: 100", "", "id: 4", "event: state", 'data: {"a":', "data:  1}", "", "data: not json", "",
             'data: {"b": 2}', "", "event: state", 'data: {"cut": 1}']  # fmt: skip
    assert list(parse(lines)) == [Event(4, "state", {"a": 1}), Event(4, "message", {"b": 2})]


# downloads ------------------------------------------------------------------------------------------------------------

ARTIFACT = bytes(range(256)) * 1000


@pytest.fixture(scope="module")
def done(server: Running) -> str:
    """A job that ended with an artifact and a report."""
    id = server.job()
    claim = server.store.queue.start(id, "test", 60)
    blob = server.blobs.put(io.BytesIO(ARTIFACT))
    report = {"latency_ms": {"tuned": {"median": 1.5}}}
    server.store.queue.finish(
        claim, JobState.SUCCEEDED, report=report, files={"artifact.zip": (blob.sha256, blob.size, "application/zip")}
    )
    return id


def test_a_download_is_whole_under_the_name_asked_for(server: Running, done: str, tmp_path: Path) -> None:
    with server.client(transport=Faulty("cut", "lose", 503)) as client:
        named = client.download(done, "artifact", tmp_path / "mine.zip")
        within = client.download(done, "artifact", tmp_path)
        assert client.report(done)["latency_ms"]["tuned"]["median"] == 1.5
        log = client.download(done, "log", tmp_path, format="csv")
    assert named == tmp_path / "mine.zip"
    assert named.read_bytes() == within.read_bytes() == ARTIFACT
    assert within.parent == log.parent == tmp_path
    assert done in within.name
    assert sorted(tmp_path.iterdir()) == sorted([named, within, log])


def test_what_did_not_arrive_whole_is_not_kept(server: Running, done: str, tmp_path: Path) -> None:
    before = tmp_path / "mine.zip"
    before.write_text("the one before")
    with server.client(transport=Faulty(*["spoil"] * 6)) as client, pytest.raises(InternalError) as caught:
        client.download(done, "artifact", before)
    assert caught.value.code == "bad-download"
    with server.client(transport=Faulty(*["cut"] * 6)) as client, pytest.raises(InternalError):
        client.download(done, "artifact", before)
    assert list(tmp_path.iterdir()) == [before]
    assert before.read_text() == "the one before"


def test_downloads_that_cannot_be(server: Running, done: str, tmp_path: Path) -> None:
    queued = server.job()
    with server.client() as client:
        for id, what, to, code in (
            (queued, "artifact", tmp_path, "not-finished"),
            (done, "plan", tmp_path, "no-file"),
            ("0" * 16, "artifact", tmp_path, "unknown-job"),
            (done, "artifact", tmp_path / "no" / "folder", "bad-output"),
        ):
            with pytest.raises(UserError) as caught:
                client.download(id, what, to)  # type: ignore[arg-type]
            assert caught.value.code == code
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["../../evil", "/etc/evil", "..", ".hidden", ""])
def test_the_server_does_not_choose_the_folder(name: str, tmp_path: Path) -> None:
    headers = {"Content-Disposition": f'attachment; filename="{name}"'}
    answer = httpx.MockTransport(lambda _: httpx.Response(200, content=b"x", headers=headers))
    with Client(transport=answer) as client:
        path = client.download("1", "artifact", tmp_path)
    assert path.parent == tmp_path
    assert not path.name.startswith(".")


def test_values_are_frozen(server: Running) -> None:
    with server.client() as client:
        job = client.job(server.job())
    with pytest.raises(AttributeError):
        job.state = JobState.FAILED  # type: ignore[misc]
    with pytest.raises(TypeError):
        job.trials["measured"] = 1  # type: ignore[index]
    json.dumps(dict(job.raw))
    assert isinstance(FusetuneError("x"), Exception)


def test_polling_misses_nothing_when_the_job_ends_in_between() -> None:
    """It ends, with a last event, between two requests of the client: whichever comes first must not lose it."""
    last = {"seq": 4, "kind": "progress", "at": "", "data": {"stage": "export"}}
    states, events = iter(["RUNNING", "RUNNING", *["SUCCEEDED"] * 9]), iter([[], [], [last], [], []])
    spec = JobSpec(model="ab" * 32).to_json()

    def answer(request: httpx.Request) -> httpx.Response:
        if request.headers["accept"].startswith("text/event-stream"):
            return httpx.Response(502)
        if request.url.path.endswith("/events"):
            return httpx.Response(200, json={"items": next(events), "next": 4})
        return httpx.Response(200, json={"id": "1", "state": next(states), "stage": "", "spec": spec})

    with Client(transport=httpx.MockTransport(answer), sleep=lambda _: None) as client:
        assert [e.kind for e in client.watch("1")] == ["progress", "end"]
