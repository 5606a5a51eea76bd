"""What browsers are told to forbid, and that Plotly's charts work under it in a real browser."""

from __future__ import annotations

import http.server
import importlib.util
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from auth_tools import BROWSER, Make, bearer

from db.store import Store
from service.auth.headers import PAGE_POLICY

_PAGE = """<!doctype html><html><head><title>drawing</title><link rel="icon" href="data:,">
<script src="plotly.js" defer></script><script src="charts.js" defer></script></head>
<body><div id="a"></div><div id="b"></div><div id="c"></div></body></html>"""
# Every kind of thing that the dashboard draws: text with mark-up, legend, annotations, error bars, heat map, log axes.
_CHARTS = """
const options = {responsive: true, displaylogo: false};
Promise.all([
  Plotly.newPlot('a', [{x: [1, 2, 3], y: [3, 2, 1], name: '<b>best</b>', mode: 'lines+markers', line: {shape: 'hv'}},
    {x: [1, 2, 3], y: [1, 2, 3], name: 'two', error_y: {type: 'data', array: [1, 1, 1]}}],
    {title: {text: 'A <b>b</b><br>c<sub>2</sub>'}, hovermode: 'x unified', xaxis: {type: 'log'},
     shapes: [{type: 'line', x0: 1, x1: 3, y0: 2, y1: 2}], annotations: [{x: 0, y: 2, text: '<i>here</i>'}]}, options),
  Plotly.newPlot('b', [{type: 'heatmap', z: [[1, 2], [3, 4]]}], {}, options),
  Plotly.newPlot('c', [{type: 'bar', x: ['u', 'v'], y: [1, 2], text: ['one', 'two']}], {}, options),
]).then(() => { document.title = 'drawn'; });
"""


def directives(policy: str) -> dict[str, list[str]]:
    return {name: values for name, *values in (part.split() for part in policy.split(";"))}


def test_pages_run_scripts_of_their_own_only(make: Make, store: Store) -> None:
    answer = make().get("/", headers=bearer(store))
    policy = directives(answer.headers["content-security-policy"])
    assert policy["default-src"] == ["'none'"]
    assert policy["script-src"] == policy["connect-src"] == policy["form-action"] == ["'self'"]
    assert policy["frame-ancestors"] == policy["base-uri"] == ["'none'"]
    assert "unsafe" not in str(policy["script-src"] + policy["style-src"])


@pytest.mark.parametrize("path", ["/healthz", "/api/v1/who", "/api/v1/nothing", "/login", "/", "/static/app.css"])
def test_every_answer_has_them_refusals_too(make: Make, path: str) -> None:
    for answer in (make().get(path), make().get(path, headers=BROWSER), make().get(path, headers={"host": "evil"})):
        headers = answer.headers
        assert "default-src 'none'" in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["x-frame-options"] == "DENY"
        assert headers["referrer-policy"] == "same-origin"
        assert headers["cross-origin-opener-policy"] == headers["cross-origin-resource-policy"] == "same-origin"
        assert "permissions-policy" in headers


def test_a_report_opened_in_a_tab_cannot_act_as_its_reader(make: Make, store: Store) -> None:
    policy = directives(
        make().get("/api/v1/jobs/1/report.html", headers=bearer(store)).headers["content-security-policy"]
    )
    assert policy["sandbox"] == []
    assert "script-src" not in policy
    assert policy["default-src"] == ["'none'"]


def test_https_is_kept_to_once_it_is_there(make: Make) -> None:
    assert "strict-transport-security" not in make().get("/healthz").headers
    assert "strict-transport-security" in make(secure=True).get("/healthz").headers


@pytest.fixture
def charts() -> Iterator[str]:
    """The address of a page with charts under our policy."""
    spec = importlib.util.find_spec("plotly")
    assert spec is not None and spec.origin is not None
    plotly = Path(spec.origin).parent / "package_data" / "plotly.min.js"
    files = {
        "/plotly.js": (plotly.read_bytes(), "text/javascript"),
        "/charts.js": (_CHARTS.encode(), "text/javascript"),
    }

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body, media_type = files.get(urlsplit(self.path).path, (_PAGE.encode(), "text/html"))
            self.send_response(200)
            self.send_header("content-type", media_type)
            self.send_header("content-security-policy", PAGE_POLICY)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}/"
        server.shutdown()


def test_charts_draw_under_the_policy_without_a_complaint(charts: str) -> None:
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("Chromium is missing; install it with: apt-get install chromium")
    from playwright.sync_api import sync_playwright

    said: list[str] = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page()
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: said.append(request.url) if charts not in request.url else None)
        page.goto(charts)
        page.wait_for_function("document.title === 'drawn'")
        box = page.locator("#b .nsewdrag").first.bounding_box()
        assert box is not None
        page.mouse.move(box["x"] + box["width"] / 4, box["y"] + box["height"] / 4)
        page.wait_for_selector("#b .hoverlayer .hovertext", state="attached")
        # The charts' own rules are in force: the toolbar floats instead of pushing the chart down.
        assert page.evaluate("getComputedStyle(document.querySelector('#b .modebar')).position") == "absolute"
        with page.expect_download() as download:
            page.click("#b .modebar-btn[data-title*='ownload']")
        assert download.value.suggested_filename.endswith(".png")
        browser.close()
    # The address of a picture made in the page begins with "blob:" or "data:".
    assert [line for line in said if not line.startswith(("blob:", "data:"))] == []
