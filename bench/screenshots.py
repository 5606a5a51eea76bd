"""Pictures of each page of a running server: ``python -m bench.screenshots --url URL --login LINK --out FOLDER``.

LINK is what ``fusetune serve`` or ``fusetune token login`` prints. Pages are taken at 1280 pixels in light colours; the
job page also in dark ones and at a phone's 375 pixels. The job is the newest that has ended well, unless ``--job``
names one; it is compared with the next that has ended well, if there is one.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tuner.errors import FusetuneError, InternalError, UserError

if TYPE_CHECKING:
    from playwright.sync_api import Page

WIDTH, PHONE = 1280, 375  # CSS pixels
LOW, HIGH, TALL = 320, 1600, 2600  # heights of a picture: at least, at most, and of a job page at most
PATIENCE = 60_000  # ms


@dataclass(frozen=True)
class Shot:
    """One picture to take."""

    name: str  # of its file, without .png
    path: str  # of the page
    width: int = WIDTH
    height: int = HIGH  # what is longer is cut off
    dark: bool = False


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; gives the exit code."""
    parser = argparse.ArgumentParser(prog="python -m bench.screenshots", description=__doc__)
    parser.add_argument("--url", required=True, help="where the server is, as http://127.0.0.1:8077")
    parser.add_argument("--login", help="a sign-in link; leave it out for a server without authentication")
    parser.add_argument("--job", help="id of the job to show; default: the newest that has ended well")
    parser.add_argument("--out", type=Path, default=Path("docs/screenshots"))
    args = parser.parse_args(arguments)
    try:
        for file in take(args.url.rstrip("/"), args.login, args.job, args.out):
            print(f"{file} {file.stat().st_size / 1024:.0f} KiB")
    except FusetuneError as error:
        print(f"screenshots: {error}", file=sys.stderr)
        return 2
    return 0


def take(url: str, login: str | None, job: str | None, out: Path) -> Iterator[Path]:
    """Takes the pictures one after the other and gives their files.

    Raises:
        UserError: there is no Chromium (``no-browser``), no job to show (``no-job``), the link is used (``bad-login``).
        InternalError: a page answers with an error (``page-error``).
    """
    from playwright.sync_api import sync_playwright

    chromium = shutil.which("chromium")
    if chromium is None:
        raise UserError("Chromium is missing.", code="no-browser", hint="Install it with: apt-get install chromium")
    out.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--hide-scrollbars"])
        page = browser.new_context(reduced_motion="reduce").new_page()
        page.set_default_timeout(PATIENCE)
        page.goto(login or url)
        if login:
            yield _picture(page, Shot("sign-in", ""), out)
            page.get_by_role("button", name="Sign in").click()
            if page.url.endswith("/login"):
                raise UserError("The sign-in link was used already, or it is too old.", code="bad-login")
        for shot in _shots(page, url, job):
            answer = page.goto(url + shot.path)
            if answer is None or not answer.ok:
                raise InternalError(f"{url}{shot.path} does not open.", code="page-error")
            yield _picture(page, shot, out)
        browser.close()


def _shots(page: Page, url: str, job: str | None) -> list[Shot]:
    """Which pictures, with the addresses of what is there."""

    def items(path: str) -> list[dict[str, Any]]:
        answer = page.request.get(f"{url}/api/v1{path}")
        return list(answer.json()["items"]) if answer.ok else []

    ended = [each["id"] for each in items("/jobs?state=SUCCEEDED&limit=20")]
    job = job or next(iter(ended), None)
    if job is None:
        raise UserError("No job has ended well yet; there is nothing to show.", code="no-job")
    model = page.request.get(f"{url}/api/v1/jobs/{job}").json()["model"]["id"]
    other = next((each for each in ended if each != job), None)
    page.goto(f"{url}/records")
    record = page.locator("tr.goes a.cover").first
    device = next((each["fingerprint"] for each in items("/devices")), None)
    shots = [
        Shot("jobs", "/jobs"),
        Shot("new-job", f"/jobs/new?model={model}"),
        Shot("job", f"/jobs/{job}", height=TALL),
        Shot("job-dark", f"/jobs/{job}", dark=True),
        Shot("job-phone", f"/jobs/{job}", width=PHONE, height=TALL),
        Shot("models", "/models"),
        Shot("model", f"/models/{model}"),
        Shot("devices", "/devices"),
        Shot("records", "/records"),
        Shot("tokens", "/tokens"),
    ]
    if other:
        shots.append(Shot("compare", f"/compare?a={job}&b={other}"))
    if device:
        shots.append(Shot("device", f"/devices/{device}"))
    if record.count():
        shots.append(Shot("record", f"/records/{(record.get_attribute('href') or '').rpartition('/')[2]}"))
    return shots


def _picture(page: Page, shot: Shot, out: Path) -> Path:
    """The page as it is once nothing more loads."""
    page.emulate_media(color_scheme="dark" if shot.dark else "light")
    # High enough for all: what is far down is fetched once it is in view.
    page.set_viewport_size({"width": shot.width, "height": shot.height})
    page.wait_for_load_state("networkidle")
    for busy in page.locator('main [aria-busy="true"]:visible').all():
        busy.scroll_into_view_if_needed()
    page.locator('main [aria-busy="true"]:visible').first.wait_for(state="hidden")
    page.evaluate("() => { scrollTo(0, 0); document.activeElement?.blur(); }")
    page.set_viewport_size({"width": shot.width, "height": LOW})  # else a short page is as high as the window
    content = int(page.evaluate("() => document.documentElement.scrollHeight"))
    file = out / f"{shot.name}.png"
    page.set_viewport_size({"width": shot.width, "height": max(LOW, min(content, shot.height))})
    page.wait_for_load_state("networkidle")
    page.screenshot(path=file)
    return file


if __name__ == "__main__":
    sys.exit(main())
