"""From a one-time code to a session, and out again."""

from __future__ import annotations

from auth_tools import BROWSER, Make, sign_in
from fastapi.testclient import TestClient

from db.store import Store


def cookie(answer: object) -> str:
    return str(answer.headers["set-cookie"])  # type: ignore[attr-defined]


def test_looking_at_a_link_does_not_use_it_up(make: Make, store: Store) -> None:
    client, code = make(), store.access.codes.issue(60)
    for _ in range(3):
        page = client.get("/login", params={"code": code})
        assert page.status_code == 200
        assert code in page.text
        assert "set-cookie" not in page.headers
    answer = client.post("/login", data={"code": code})
    assert (answer.status_code, answer.headers["location"]) == (303, "/")
    assert client.get("/").text.startswith("home ")


def test_a_code_works_once(make: Make, store: Store) -> None:
    code = store.access.codes.issue(60)
    assert make().post("/login", data={"code": code}).status_code == 303
    again = make().post("/login", data={"code": code})
    assert again.status_code == 403
    assert "not valid" in again.text
    assert "fusetune token login" in again.text
    assert "set-cookie" not in again.headers


def test_the_whole_link_may_be_pasted_as_well(make: Make, store: Store) -> None:
    link = f"  http://127.0.0.1:8077/login?code={store.access.codes.issue(60)} "
    assert make().post("/login", data={"code": link}).status_code == 303


def test_a_code_that_is_too_old_or_no_code_is_refused(make: Make, store: Store) -> None:
    client = make()
    for code in (store.access.codes.issue(0), "", "fc_wrong", "x" * 10_000, "\x00"):
        assert client.post("/login", data={"code": code}).status_code == 403
    for body in (b"", b"\xff\xfe", b"code", b"code=a&code=b"):
        assert client.post("/login", content=body).status_code == 403


def test_the_cookie_is_out_of_reach_of_scripts_and_other_sites(make: Make, store: Store) -> None:
    answer = make().post("/login", data={"code": store.access.codes.issue(60)})
    attributes = {part.strip().lower() for part in cookie(answer).split(";")[1:]}
    assert {"httponly", "samesite=lax", "path=/"} <= attributes
    assert "secure" not in attributes  # plain HTTP on loopback
    https = make(base="https://127.0.0.1:8077").post("/login", data={"code": store.access.codes.issue(60)})
    assert "; secure" in cookie(https).lower()
    told = make(secure=True).post("/login", data={"code": store.access.codes.issue(60)})
    assert "; secure" in cookie(told).lower()
    prefixed = make(root_path="/tune").post("/tune/login", data={"code": store.access.codes.issue(60)})
    assert "path=/tune" in cookie(prefixed).lower()
    assert prefixed.headers["location"] == "/tune/"


def test_who_is_signed_in_already_keeps_the_code(signed_in: TestClient, store: Store) -> None:
    code = store.access.codes.issue(60)
    assert signed_in.get("/login", params={"code": code}).headers["location"] == "/"
    assert store.access.codes.redeem(code)


def test_a_session_may_be_renewed_by_another_code(signed_in: TestClient, store: Store) -> None:
    sign_in(signed_in, store)
    assert signed_in.get("/").status_code == 200


def test_signing_out_ends_the_session_for_good(signed_in: TestClient) -> None:
    stolen = signed_in.cookies["fusetune_session"]
    csrf = signed_in.get("/api/v1/who").json()["csrf"]
    answer = signed_in.post("/logout", data={"csrf": csrf})
    assert (answer.status_code, answer.headers["location"]) == (303, "/login")
    signed_in.cookies.clear()
    signed_in.cookies["fusetune_session"] = stolen
    assert signed_in.get("/api/v1/who").status_code == 401
    assert signed_in.get("/", headers=BROWSER).headers["location"] == "/login"


def test_the_page_says_how_to_get_a_link_and_quotes_nothing_unescaped(make: Make) -> None:
    page = make().get("/login", headers=BROWSER)
    assert "fusetune token login" in page.text
    page = make().get("/login", params={"code": '"><script>alert(1)</script>'})
    assert "<script>" not in page.text
    assert "script-src" not in page.headers["content-security-policy"]  # so default-src 'none' holds: no scripts


def test_another_site_cannot_sign_a_browser_in(make: Make, store: Store) -> None:
    answer = make().post(
        "/login", data={"code": store.access.codes.issue(60)}, headers={"origin": "https://evil.example"}
    )
    assert answer.status_code == 403
    assert "set-cookie" not in answer.headers
