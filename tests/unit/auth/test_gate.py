"""Who comes through the gate, and how the others are told."""

from __future__ import annotations

from typing import Any

import pytest
from auth_tools import BROWSER, Make, bearer
from fastapi.testclient import TestClient

from db.store import Store
from tuner.errors import InternalError


def problem(answer: Any) -> dict[str, Any]:
    assert answer.headers["content-type"] == "application/problem+json"
    body: dict[str, Any] = answer.json()
    assert body["status"] == answer.status_code
    return body


def test_a_program_without_a_token_gets_a_problem_that_says_how_to_get_one(make: Make) -> None:
    answer = make().get("/api/v1/who")
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == 'Bearer realm="fusetune"'
    body = problem(answer)
    assert (body["code"], body["fault"]) == ("unauthenticated", "user")
    assert body["hint"]


def test_a_browser_without_a_session_is_sent_to_sign_in(make: Make) -> None:
    answer = make().get("/", headers=BROWSER)
    assert (answer.status_code, answer.headers["location"]) == (303, "/login")
    assert make(root_path="/tune").get("/tune/", headers=BROWSER).headers["location"] == "/tune/login"


def test_what_does_not_exist_tells_strangers_nothing(make: Make, store: Store) -> None:
    client = make()
    assert client.get("/api/v1/nothing").status_code == 401
    assert client.get("/api/v1/nothing", headers=bearer(store)).status_code == 404


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/static/app.css"])
def test_health_and_static_files_are_open(make: Make, path: str) -> None:
    assert make(host="0.0.0.0", client="203.0.113.9").get(path).status_code == 200


def test_metrics_are_open_on_loopback_alone(make: Make, store: Store) -> None:
    assert make().get("/metrics").status_code == 200
    # A proxy on the same machine connects from loopback too.
    assert make().get("/metrics", headers={"x-forwarded-for": "203.0.113.9"}).status_code == 401
    public = make(host="0.0.0.0", client="127.0.0.1")
    assert public.get("/metrics").status_code == 401
    assert public.get("/metrics", headers=bearer(store, "read")).status_code == 200


def test_a_token_is_let_in_until_it_is_revoked(make: Make, store: Store) -> None:
    client = make()
    id, secret = store.access.tokens.create("ci", "full")
    headers = {"authorization": f"bearer  {secret}"}
    assert client.get("/api/v1/who", headers=headers).json() == {"kind": "token", "role": "full", "csrf": ""}
    assert client.post("/api/v1/jobs", headers=headers, content="x").json() == {"body": "x"}
    store.access.tokens.revoke(id)
    answer = client.get("/api/v1/who", headers=headers)
    assert problem(answer)["code"] == "bad-token"
    assert 'error="invalid_token"' in answer.headers["www-authenticate"]


@pytest.mark.parametrize(
    "header", ["Bearer", "Bearer ", "Bearer ft_wrong", "Basic dXNlcjpwYXNz", "ft_x", "Bearer \xff"]
)
def test_a_wrong_token_is_refused_even_with_a_good_session(signed_in: TestClient, header: str) -> None:
    answer = signed_in.get("/api/v1/who", headers={"authorization": header.encode("latin1")})
    assert (answer.status_code, problem(answer)["code"]) == (401, "bad-token")


def test_a_reader_may_look_and_nothing_else(make: Make, store: Store) -> None:
    client, headers = make(), bearer(store, "read")
    assert client.get("/api/v1/who", headers=headers).json()["role"] == "read"
    for method in ("POST", "PUT", "PATCH", "DELETE"):
        answer = client.request(method, "/api/v1/jobs", headers=headers)
        assert (answer.status_code, problem(answer)["code"]) == (403, "forbidden")


def test_without_authentication_everybody_here_is_let_in(make: Make) -> None:
    client = make(auth=False)
    assert client.get("/api/v1/who").json() == {"kind": "open", "role": "full", "csrf": ""}
    assert client.post("/api/v1/jobs", content="x").status_code == 200
    assert client.get("/login").headers["location"] == "/"


def test_a_database_that_is_away_is_said_to_be(make: Make, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def busy(*_: object) -> None:
        raise InternalError("The database stayed busy.", code="database-busy")

    monkeypatch.setattr(store.access.tokens, "check", busy)
    answer = make().get("/api/v1/who", headers=bearer(store))
    assert answer.status_code == 503
    assert int(answer.headers["retry-after"]) > 0


def test_streams_pass_unbuffered_in_their_chunks(make: Make, store: Store) -> None:
    with make().stream("GET", "/api/v1/events", headers=bearer(store)) as answer:
        assert b"".join(answer.iter_raw()) == b"data: 1\n\ndata: 2\n\n"


def test_under_a_prefix_it_works_whether_or_not_the_proxy_takes_it_off(make: Make, store: Store) -> None:
    client = make(root_path="/tune")
    assert client.get("/tune/healthz").status_code == client.get("/healthz").status_code == 200
    assert client.get("/tune/api/v1/who").status_code == 401
    assert client.get("/tune/login").status_code == 200
    # A path that only begins like the prefix is not under it.
    assert client.get("/tuneful/healthz").status_code == 401
    answer = client.post("/tune/login", data={"code": store.access.codes.issue(60)})
    assert answer.headers["location"] == "/tune/"
    assert client.get("/tune/api/v1/who").json()["kind"] == "session"


def test_answers_are_not_kept_by_caches(signed_in: TestClient) -> None:
    assert signed_in.get("/").headers["cache-control"] == "no-store"
