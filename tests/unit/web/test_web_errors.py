"""What goes wrong is a page to a browser and a problem document to a program; what one may not do is not offered."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from page_reader import read

from tests.api_server import Service, serving
from tests.unit.web.conftest import BROWSER, Dashboard


@pytest.mark.parametrize(
    ("path", "status", "words"),
    [
        ("/nothing/here", 404, "There is nothing at this address"),
        ("/models/" + "0" * 64, 404, "There is no such model"),
        ("/devices/none", 404, "There is no such device"),
        ("/records?cursor=x", 400, "The cursor"),
    ],
)
def test_errors_are_pages_for_browsers(dashboard: Dashboard, path: str, status: int, words: str) -> None:
    answer = dashboard.client.get(path)
    assert answer.status_code == status
    assert answer.headers["content-type"].startswith("text/html")
    page = read(answer.text)
    assert words in page.text
    assert page.refused == []
    assert "/jobs" in page.links
    assert "/api/" not in page.text


def test_errors_are_documents_for_programs(dashboard: Dashboard) -> None:
    for path, accept in (("/nothing", "application/json"), ("/api/v1/jobs/none", BROWSER["Accept"])):
        answer = dashboard.client.get(path, headers={"Accept": accept})
        assert answer.status_code == 404
        assert answer.headers["content-type"].startswith("application/problem+json")


def test_a_defect_is_a_page_that_tells_nothing_of_it(empty: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(**_: object) -> None:
        raise RuntimeError("secret detail")

    monkeypatch.setattr(empty.jobs, "list", broken)
    with TestClient(empty.app, base_url="http://127.0.0.1:8077", raise_server_exceptions=False) as client:
        answer = client.get("/jobs", headers=BROWSER)
    assert answer.status_code == 500
    assert "secret" not in answer.text
    assert "Try again" in answer.text


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[Service]:
    """A service that asks who one is."""
    with serving(f"sqlite:///{tmp_path}/fusetune.db", tmp_path / "data", auth=True) as service:
        yield service


def test_readers_are_offered_nothing_they_may_not_do(guarded: Service) -> None:
    _, secret = guarded.store.access.tokens.create("eyes", "read")
    guarded.finished()
    with guarded.client(headers=BROWSER | {"Authorization": f"Bearer {secret}"}) as reader:
        for path in ("/jobs", "/models", "/devices"):
            page = read(reader.get(path).text)
            assert not any(link.startswith("/jobs/new") for link in page.links), path
        assert "You may read, not submit" in reader.get("/jobs/new").text
        refused = reader.get("/tokens")
        assert refused.status_code == 403
        assert refused.headers["content-type"].startswith("text/html")


def test_pages_need_signing_in(guarded: Service) -> None:
    with guarded.client(headers=BROWSER) as stranger:
        for path in ("/", "/jobs", "/models", "/devices", "/records", "/tokens", "/jobs/new", "/jobs/rows"):
            assert stranger.get(path).headers["location"].endswith("/login"), path


def test_a_session_makes_and_revokes_tokens_by_form(guarded: Service) -> None:
    with guarded.client(headers=BROWSER) as browser:
        browser.post("/login", data={"code": guarded.store.access.codes.issue(60)})
        page = browser.get("/tokens").text
        csrf = page.partition('name="csrf" value="')[2].partition('"')[0]
        assert f'<meta name="csrf-token" content="{csrf}">' in page
        assert browser.post("/tokens", data={"name": "ci"}).status_code == 403  # without the token of our pages
        made = browser.post("/tokens", data={"name": "<ci>", "role": "read", "csrf": csrf})
        assert made.status_code == 200
        secret = made.text.partition("<code>ft_")[2].partition("<")[0]
        token = guarded.store.access.tokens.check(f"ft_{secret}")
        assert token is not None
        assert (token.name, token.role) == ("<ci>", "read")
        again = browser.get("/tokens").text
        assert secret not in again
        assert "&lt;ci&gt;" in again
        bad = browser.post("/tokens", data={"name": " ", "csrf": csrf})
        assert bad.status_code == 400
        assert 'aria-invalid="true"' in bad.text
        gone = browser.post(f"/tokens/{token.id}/revoke", data={"csrf": csrf})
        assert gone.headers["location"] == "/tokens"
        assert guarded.store.access.tokens.check(f"ft_{secret}") is None
        assert browser.post("/tokens/none/revoke", data={"csrf": csrf}).status_code == 404
