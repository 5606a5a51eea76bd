"""Rate limits and what a trusted proxy changes."""

from __future__ import annotations

from auth_tools import Make, bearer, sign_in

from db.store import Store
from service.auth.rates import FAILURES, LOGINS, client


def test_one_client_is_slowed_down_and_told_for_how_long(make: Make, store: Store) -> None:
    app, headers = make(rate=5), bearer(store)
    answers = [app.get("/api/v1/who", headers=headers) for _ in range(6)]
    assert [a.status_code for a in answers] == [200] * 5 + [429]
    assert 1 <= int(answers[-1].headers["retry-after"]) <= 60
    assert answers[-1].json()["code"] == "too-many-requests"
    # Others are not held up, not even from the same address.
    assert app.get("/api/v1/who", headers=bearer(store)).status_code == 200
    sign_in(app, store)
    assert app.get("/api/v1/who").status_code == 200


def test_no_limit_is_no_limit(make: Make, store: Store) -> None:
    app, headers = make(rate=0), bearer(store)
    assert {app.get("/api/v1/who", headers=headers).status_code for _ in range(50)} == {200}


def test_codes_cannot_be_tried_out(make: Make, store: Store) -> None:
    app = make(rate=0)
    for _ in range(LOGINS):
        assert app.post("/login", data={"code": "fc_guess"}).status_code == 403
    answer = app.post("/login", data={"code": store.access.codes.issue(60)})
    assert answer.status_code == 429
    assert "set-cookie" not in answer.headers


def test_tokens_cannot_be_tried_out(make: Make, store: Store) -> None:
    app = make(rate=0)
    for n in range(FAILURES):
        assert app.get("/api/v1/who", headers={"authorization": f"Bearer ft_{n}"}).status_code == 401
    assert app.get("/api/v1/who", headers={"authorization": "Bearer ft_x"}).status_code == 429
    assert app.get("/api/v1/who", headers=bearer(store)).status_code == 200  # who has one is still let in


def test_a_browser_is_told_so_by_a_page(make: Make) -> None:
    app = make(rate=0)
    for _ in range(LOGINS + 1):
        answer = app.post("/login", data={"code": "fc_guess"}, headers={"accept": "text/html"})
    assert answer.status_code == 429
    assert answer.headers["content-type"].startswith("text/html")
    assert int(answer.headers["retry-after"]) >= 1


def test_behind_a_trusted_proxy_each_client_counts_for_itself(make: Make) -> None:
    app = make(rate=0, trust_proxy=True, host="0.0.0.0", client="10.0.0.2")

    def attempt(forwarded: str) -> int:
        return app.post("/login", data={"code": "x"}, headers={"x-forwarded-for": forwarded}).status_code

    assert {attempt("203.0.113.1") for _ in range(LOGINS)} == {403}
    assert attempt("203.0.113.1") == 429
    assert attempt("203.0.113.2") == 403
    # What a client writes there itself stands further left and counts for nothing.
    assert attempt("198.51.100.7, 203.0.113.1") == 429


def test_without_trust_the_header_is_not_believed(make: Make) -> None:
    app = make(rate=0)
    codes = [
        app.post("/login", data={"code": "x"}, headers={"x-forwarded-for": f"203.0.113.{n}"}).status_code
        for n in range(LOGINS + 1)
    ]
    assert codes[-1] == 429


def test_a_trusted_proxy_tells_the_scheme_and_the_host(make: Make, store: Store) -> None:
    app = make(trust_proxy=True, allowed_hosts=("tune.example",))
    headers = {"x-forwarded-proto": "https", "x-forwarded-host": "tune.example", "origin": "https://tune.example"}
    answer = app.post("/login", data={"code": store.access.codes.issue(60)}, headers=headers)
    assert answer.status_code == 303
    assert "; secure" in answer.headers["set-cookie"].lower()
    assert "strict-transport-security" in answer.headers
    assert app.get("/healthz", headers={"x-forwarded-host": "evil.example"}).status_code == 421


def test_one_subscriber_of_ipv6_is_one_client() -> None:
    assert client("2001:db8:1:2::1") == client("2001:db8:1:2:ffff::9")
    assert client("2001:db8:1:3::1") != client("2001:db8:1:2::1")
    assert client("192.0.2.1") == "192.0.2.1"
    assert client("") == ""
