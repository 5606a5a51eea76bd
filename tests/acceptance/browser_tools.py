"""A real headless Chromium, a watch over all that its pages do, and a proxy that puts a path prefix before a server."""

from __future__ import annotations

import base64
import http.client
import http.server
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, Request, Response, Route, sync_playwright

PATIENCE = 60_000  # ms that a page may take on a busy machine
PART = 65_536  # bytes that the proxy hands on at once
OFFLINE = "MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"  # no name is found: what slips past the watch gets nowhere


class Watch:
    """Writes down what a browser's pages complain of, and every request that wants to leave the server."""

    def __init__(self, context: BrowserContext, origin: str) -> None:
        self.origin = origin
        self.complaints: list[str] = []
        self._allowed: list[str] = []  # parts of complaints that a test causes on purpose
        context.route(self._foreign, self._stop)
        context.on("console", self._console)
        context.on("weberror", lambda error: self.complaints.append(f"page error: {error.error}"))
        context.on("requestfailed", self._failed)
        context.on("response", self._answered)

    def allow(self, *parts: str) -> None:
        """Until the next check, complaints with one of these parts are what the test wants to see."""
        self._allowed += parts

    def check(self) -> None:
        found = [each for each in self.complaints if not any(part in each for part in self._allowed)]
        self.complaints, self._allowed = [], []
        assert found == []

    def _foreign(self, url: str) -> bool:
        return urlsplit(url).scheme not in {"data", "blob"} and not f"{url}/".startswith(f"{self.origin}/")

    def _stop(self, route: Route) -> None:
        self.complaints.append(f"a request leaves the server: {route.request.url}")
        route.abort("blockedbyclient")

    def _console(self, message: ConsoleMessage) -> None:
        if message.type in {"error", "warning", "assert"}:
            self.complaints.append(f"console {message.type}: {message.text} ({message.location.get('url')})")

    def _failed(self, request: Request) -> None:
        # A page that is left drops what is on its way, and a download takes over from the request that began it.
        if request.failure != "net::ERR_ABORTED":
            self.complaints.append(f"failed request: {request.method} {request.url}: {request.failure}")

    def _answered(self, response: Response) -> None:
        if response.status >= 400:
            self.complaints.append(f"{response.status}: {response.request.method} {response.url}")


@contextmanager
def chromium() -> Iterator[Browser]:
    """The Debian package's browser; skips the test where it is missing."""
    path = shutil.which("chromium")
    if path is None:
        pytest.skip("Chromium is missing; install it with: apt-get install chromium")
    with sync_playwright() as driver:
        browser = driver.chromium.launch(
            executable_path=path, args=["--no-sandbox", f"--host-resolver-rules={OFFLINE}"], timeout=PATIENCE
        )
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def profile(browser: Browser, origin: str) -> Iterator[tuple[BrowserContext, Watch]]:
    """A browser profile that nobody used yet, watched."""
    context = browser.new_context(viewport={"width": 1280, "height": 900}, accept_downloads=True)
    context.set_default_timeout(PATIENCE)
    try:
        yield context, Watch(context, origin)
    finally:
        context.close()


def sign_in(page: Page, link: str) -> None:
    """Open the printed link and press its button."""
    page.goto(link)
    page.get_by_role("button", name="Sign in").click()
    page.wait_for_url("**/jobs")


def drop(page: Page, selector: str, path: Path) -> None:
    """Drop a file on an element, as if dragged in from a file manager."""
    files = page.evaluate_handle(
        """([name, base64]) => {
            const bytes = Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
            const data = new DataTransfer();
            data.items.add(new File([bytes], name));
            return data;
        }""",
        [path.name, base64.b64encode(path.read_bytes()).decode()],
    )
    for event in ("dragenter", "dragover", "drop"):
        page.dispatch_event(selector, event, {"dataTransfer": files})


@contextmanager
def prefix_proxy(backend: str, prefix: str) -> Iterator[str]:
    """A reverse proxy that serves ``backend`` under a path prefix, which it takes off; gives its origin."""
    target = urlsplit(backend)

    class Handler(http.server.BaseHTTPRequestHandler):
        def _pass_on(self) -> None:
            if not self.path.startswith(f"{prefix}/"):
                self.send_error(404, "not under the prefix")
                return
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            connection = http.client.HTTPConnection(target.hostname or "", target.port, timeout=60)
            with suppress(ConnectionError):  # either side may go while events stream
                connection.request(self.command, self.path[len(prefix) :], body, dict(self.headers.items()))
                answer = connection.getresponse()
                self.send_response_only(answer.status, answer.reason)
                for name, value in answer.getheaders():
                    if name.lower() not in {"transfer-encoding", "connection"}:
                        self.send_header(name, value)
                self.send_header("Connection", "close")
                self.end_headers()
                while part := answer.read1(PART):
                    self.wfile.write(part)
                    self.wfile.flush()
            connection.close()
            self.close_connection = True

        do_GET = do_HEAD = do_POST = do_DELETE = _pass_on

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing: the watch knows what went wrong."""

    proxy = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    proxy.daemon_threads = True
    thread = threading.Thread(target=proxy.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{proxy.server_port}"
    finally:
        proxy.shutdown()
        proxy.server_close()
        thread.join(10)
