"""Static files: kept for ever under addresses of their content, compressed, and nothing else served beside them."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from page_reader import read

from service.web.addresses import Addresses
from service.web.assets import FOLDER, Assets
from tests.unit.web.conftest import Dashboard


def test_files_are_kept_for_ever_and_compressed(dashboard: Dashboard) -> None:
    links = [link for link in read(dashboard.client.get("/jobs").text).links if link.startswith("/static/")]
    assert {link.rpartition(".")[2] for link in links} >= {"css", "js", "svg"}
    for link in links:
        answer = dashboard.client.get(link)
        assert answer.status_code == 200
        assert "immutable" in answer.headers["cache-control"]
        name = link.split("/", 3)[3].partition("#")[0]
        assert answer.content == (FOLDER / name).read_bytes()
        assert answer.headers["vary"] == "Accept-Encoding"
        plain = dashboard.client.get(link, headers={"Accept-Encoding": "identity"})
        assert "content-encoding" not in plain.headers
        assert plain.content == answer.content


def test_the_charts_script_comes_out_of_the_installed_package(dashboard: Dashboard) -> None:
    page = dashboard.client.get("/jobs").text
    address = page.partition('data-plotly="')[2].partition('"')[0]
    assert dashboard.client.get(address).text.startswith("/**\n* plotly.js")
    with dashboard.client.stream("GET", address, headers={"Accept-Encoding": "gzip"}) as answer:
        packed = b"".join(answer.iter_raw())
    assert len(packed) < 2_000_000
    assert b"plotly.js" in gzip.decompress(packed)[:200]
    assert address not in read(page).links  # nothing loads it before a page asks


@pytest.mark.parametrize(
    "name",
    [
        "../settings.py",
        "%2e%2e/settings.py",
        "js/%2e%2e/%2e%2e/__init__.py",
        "js/",
        "",
        "css/none.css",
        "plotly.min.js",
    ],
)
def test_nothing_else_is_served(dashboard: Dashboard, name: str) -> None:
    version = dashboard.client.get("/jobs").text.partition("/static/")[2].partition("/")[0]
    assert dashboard.client.get(f"/static/{version}/{name}").status_code == 404


def test_another_version_is_not_found(dashboard: Dashboard) -> None:
    assert dashboard.client.get("/static/000000000000/css/base.css").status_code == 404


def test_the_address_changes_with_the_content(tmp_path: Path) -> None:
    (tmp_path / "a.css").write_text("a {}")
    before = Assets(Addresses(), tmp_path).url("a.css")
    (tmp_path / "a.css").write_text("b {}")
    assert Assets(Addresses(), tmp_path).url("a.css") != before


def test_a_name_that_is_not_there_is_a_defect(tmp_path: Path) -> None:
    with pytest.raises(KeyError):
        Assets(Addresses(), tmp_path).url("none.css")


def test_addresses_are_quoted_and_prefixed() -> None:
    addresses = Addresses("/a")
    assert addresses.url("/jobs/x y?", state=["A", "B"], none=None, empty="") == "/a/jobs/x%20y%3F?state=A&state=B"
    assert addresses.url("/jobs", {"q": "a&b=c/ü"}) == "/a/jobs?q=a%26b%3Dc%2F%C3%BC"


def test_the_icon_is_found_where_browsers_look(browser: TestClient) -> None:
    assert browser.get("/favicon.ico").headers["content-type"].startswith("image/svg+xml")
