"""How long the job page takes in a real browser until a person can use it."""

from __future__ import annotations

from statistics import median

from bench.service.server import Server
from tuner.errors import InternalError

CHROMIUM = "/usr/bin/chromium"  # the Debian package
# What a person waits for: the page with a picture of the chart stands, and its own code listens.
READY = "() => document.querySelector('#trials-card')?.dataset.ready && document.querySelector('#curve svg')"
CHART = "() => document.querySelector('#curve.js-plotly-plot:not([aria-busy]) .plotly')"  # it answers to the mouse
ROWS = "() => document.querySelectorAll('#trials-rows tr').length > 0"  # fetched as the table comes into view


def interactive_seconds(server: Server, job: str, rounds: int) -> tuple[float, float, float]:
    """Median and worst seconds from the click to a usable page, and the median to a chart that answers to the mouse.

    Each round is in a browser profile without a cache.

    Raises:
        InternalError: the page reports an error (``page-error``).
    """
    from playwright.sync_api import sync_playwright

    found, charted, complaints = [], [], []
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        for _ in range(rounds):
            context = browser.new_context(
                viewport={"width": 1400, "height": 900},
                extra_http_headers={"Authorization": f"Bearer {server.token}"},
                bypass_csp=True,  # for the question below, which the page's policy forbids
            )
            page = context.new_page()
            page.on("pageerror", lambda error: complaints.append(str(error)))
            page.goto(f"{server.url}/jobs/{job}", wait_until="commit")
            page.wait_for_function(READY, polling="raf", timeout=60_000)
            # After the next frame the main thread is free again: that is when a click is answered.
            seconds = page.evaluate("() => new Promise(r => setTimeout(() => r(performance.now() / 1e3), 0))")
            found.append(float(seconds))
            page.wait_for_function(CHART, polling="raf", timeout=60_000)
            charted.append(float(page.evaluate("() => performance.now() / 1e3")))
            page.locator("#trials-card").scroll_into_view_if_needed()
            page.wait_for_function(ROWS, polling="raf", timeout=60_000)
            context.close()
        browser.close()
    if complaints:
        raise InternalError(f"The page complains: {complaints[0]}", code="page-error")
    return median(found), max(found), median(charted)
