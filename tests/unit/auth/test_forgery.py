"""Cross-site requests, rebound names, and proxies in between."""

from __future__ import annotations

import pytest
from auth_tools import Make, bearer, sign_in
from fastapi.testclient import TestClient

from db.store import Store

OWN = "http://127.0.0.1:8077"


def csrf(client: TestClient) -> dict[str, str]:
    return {"x-csrf-token": client.get("/api/v1/who").json()["csrf"]}


def test_a_session_writes_only_with_its_token(signed_in: TestClient) -> None:
    assert signed_in.post("/api/v1/jobs", content="x").status_code == 403
    assert signed_in.post("/api/v1/jobs", content="x", headers={"x-csrf-token": "wrong"}).status_code == 403
    assert signed_in.post("/api/v1/jobs", content="x", headers={"x-csrf-token": ""}).status_code == 403
    assert signed_in.post("/api/v1/jobs", content="x", headers=csrf(signed_in)).json() == {"body": "x"}


def test_a_form_may_carry_the_token_and_arrives_whole(signed_in: TestClient) -> None:
    token = csrf(signed_in)["x-csrf-token"]
    answer = signed_in.post("/form", data={"name": "ä b", "csrf": token})
    assert answer.json() == {"body": f"name=%C3%A4+b&csrf={token}"}
    assert signed_in.post("/form", data={"name": "a", "csrf": "b"}).status_code == 403
    assert signed_in.post("/form", data={"name": "a" * (2 << 20), "csrf": token}).status_code == 403


def test_the_token_of_one_session_is_worth_nothing_in_another(make: Make, store: Store, signed_in: TestClient) -> None:
    other = make()
    sign_in(other, store)
    assert other.post("/api/v1/jobs", headers=csrf(signed_in)).status_code == 403


@pytest.mark.parametrize(
    "headers",
    [
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},  # another port of this machine
        {"sec-fetch-site": "cross-site", "origin": OWN},
        {"origin": "https://evil.example"},
        {"origin": "http://127.0.0.1:3000"},
        {"origin": "http://localhost:8077"},
        {"origin": "null"},
        {"origin": "http://127.0.0.1:8077.evil.example"},
    ],
)
def test_other_sites_are_refused_even_where_no_token_is_asked(
    make: Make, signed_in: TestClient, headers: dict[str, str]
) -> None:
    assert signed_in.post("/api/v1/jobs", headers=csrf(signed_in) | headers).status_code == 403
    # Without authentication, a page of another site would otherwise work the server through its owner's browser.
    assert make(auth=False).post("/api/v1/jobs", headers=headers).status_code == 403


@pytest.mark.parametrize(
    "headers", [{"sec-fetch-site": "same-origin"}, {"sec-fetch-site": "none"}, {"origin": OWN}, {}]
)
def test_our_own_pages_and_programs_pass(make: Make, signed_in: TestClient, headers: dict[str, str]) -> None:
    assert signed_in.post("/api/v1/jobs", headers=csrf(signed_in) | headers).status_code == 200
    assert make(auth=False).post("/api/v1/jobs", headers=headers).status_code == 200


def test_a_token_needs_none_of_it(make: Make, store: Store) -> None:
    headers = bearer(store) | {"origin": "https://notebook.example", "sec-fetch-site": "cross-site"}
    assert make().post("/api/v1/jobs", headers=headers).status_code == 200


def test_reading_needs_no_token(signed_in: TestClient) -> None:
    assert signed_in.get("/", headers={"sec-fetch-site": "cross-site"}).status_code == 200  # a link from elsewhere


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:8077", "127.0.0.1:1", "[::1]:8077", "[::1]"])
def test_on_loopback_its_own_names_are_answered(make: Make, host: str) -> None:
    assert make().get("/healthz", headers={"host": host}).status_code == 200


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8077", "127.0.0.1.evil.example", "", "localhost.evil"])
def test_on_loopback_a_rebound_name_is_refused(make: Make, host: str) -> None:
    answer = make(auth=False).get("/api/v1/who", headers={"host": host})
    assert (answer.status_code, answer.json()["code"]) == (421, "wrong-host")


def test_configured_names_are_answered_and_on_the_network_any_until_then(make: Make) -> None:
    assert make(allowed_hosts=("Tune.Example",)).get("/healthz", headers={"host": "tune.example"}).status_code == 200
    assert make(host="0.0.0.0").get("/healthz", headers={"host": "any.example"}).status_code == 200
    told = make(host="0.0.0.0", allowed_hosts=("tune.example",))
    assert told.get("/healthz", headers={"host": "any.example"}).status_code == 421
    assert told.get("/healthz").status_code == 200  # a health check beside it


def test_behind_a_proxy_that_renames_the_host_its_configured_name_counts(make: Make, store: Store) -> None:
    client = make(allowed_hosts=("tune.example",))
    sign_in(client, store)
    headers = csrf(client) | {"origin": "https://tune.example"}
    assert client.post("/api/v1/jobs", headers=headers).status_code == 200
    assert client.post("/api/v1/jobs", headers=headers | {"origin": "https://other.example"}).status_code == 403
