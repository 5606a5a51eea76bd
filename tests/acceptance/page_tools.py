"""Questions to a page in a browser: is all there, what is under the keyboard, how light is it, what is it flawed by."""

from __future__ import annotations

from typing import Any

from browser_tools import PATIENCE
from playwright.sync_api import Download, Locator, Page, expect

# Who the keyboard is on, and whether one can see it: an outline or shadow on it, its label, or what covers its row.
_FOCUSED = """() => {
    const at = document.activeElement;
    if (!at || at === document.body) return null;
    const seen = [at, at.closest("label"), at.nextElementSibling, at.querySelector(".frame")].filter(Boolean);
    const styles = [...seen.map((each) => getComputedStyle(each)), getComputedStyle(at, "::after")];
    const marked = styles.some((style) => (style.outlineStyle !== "none" && parseFloat(style.outlineWidth) > 0)
        || style.boxShadow !== "none" || (at.closest("svg") && parseFloat(style.strokeWidth) > 1));
    const box = (at.matches(".visually-hidden") || at.closest(".segmented label") ? at.closest("label") : at)
        .getBoundingClientRect();
    let opacity = 1;
    const shown = at.closest("label, .modebar") || at;
    for (let each = shown; each; each = each.parentElement) opacity *= getComputedStyle(each).opacity;
    const name = at.getAttribute("aria-label") || at.labels?.[0]?.textContent || at.textContent || at.id;
    return {
        name: name.trim().replace(/\\s+/g, " ").slice(0, 60), marked: marked && opacity > 0.3,
        inside: box.bottom > 0 && box.top < innerHeight && box.width > 0,
    };
}"""

# What assistive technology stumbles over.
_FLAWS = """() => {
    const name = (one) => one.getAttribute("aria-label") || one.getAttribute("aria-labelledby") || one.title
        || [...(one.labels || [])].map((label) => label.textContent).join("") || one.textContent.trim();
    const say = (what, found) => found.map((one) => `${what}: ${one.outerHTML.slice(0, 160)}`);
    const all = (selector) => [...document.querySelectorAll(selector)].filter((one) => one.checkVisibility());
    const ids = [...document.querySelectorAll("[id]")].filter((one) => !one.closest(".js-plotly-plot"))
        .map((one) => one.id);
    const controls = "a[href], button, input, select, textarea, [role=img], [role=region]";
    return [
        ...say("without a name", all(controls).filter((one) => !name(one))),
        ...say("to be pressed, inside a picture", all("[role=img] :is(a[href], button, input, [tabindex])")),
        ...say("scrolls, but not by keyboard", all("main *").filter((one) => one.scrollWidth > one.clientWidth + 1
            && /auto|scroll/.test(getComputedStyle(one).overflowX) && !one.matches("[tabindex], textarea, input")
            && !one.querySelector("a[href], button, [tabindex]"))),
        ...ids.filter((id, at) => ids.indexOf(id) !== at).map((id) => `twice: #${id}`),
    ];
}"""


def settled(page: Page) -> None:
    """Wait until all that loads by itself is there: parts far down do once they come near the window."""
    page.bring_to_front()  # pages behind another may be drawn a minute later, or never
    for section in page.locator("main section:visible").all():
        section.evaluate("(section) => section.scrollIntoView()")
    expect(page.locator('main [aria-busy="true"]:visible')).to_have_count(0, timeout=PATIENCE)
    page.wait_for_load_state("networkidle")
    page.evaluate("() => scrollTo(0, 0)")


def brightness(page: Page) -> dict[str, float]:
    """How light the page's ground and its heading are, 0 to 255."""
    found: dict[str, float] = page.evaluate("""() => {
        const light = (colour) => {
            const canvas = Object.assign(document.createElement("canvas"), {width: 1, height: 1}).getContext("2d");
            canvas.fillStyle = colour;
            canvas.fillRect(0, 0, 1, 1);
            const [r, g, b] = canvas.getImageData(0, 0, 1, 1).data;
            return 0.2126 * r + 0.7152 * g + 0.0722 * b;
        };
        return {ground: light(getComputedStyle(document.documentElement).backgroundColor),
                text: light(getComputedStyle(document.querySelector("h1")).color)};
    }""")
    return found


def walk(page: Page, most: int = 120) -> list[str]:
    """Names of what Tab reaches, in order; every stop can be seen."""
    names: list[str] = []
    for _ in range(most):
        page.keyboard.press("Tab")
        now: dict[str, Any] | None = page.evaluate(_FOCUSED)
        if now is None:
            return names
        assert now["marked"], f"one cannot see that the keyboard is on {now}"
        assert now["inside"], f"the keyboard is on {now}, outside the window"
        names.append(now["name"])
    return names


def in_order(names: list[str], *wanted: str) -> None:
    """Every wanted name is among them, one after the other."""
    rest = iter(names)
    for each in wanted:
        assert any(name.startswith(each) for name in rest), f"Tab does not reach {each!r} in its turn: {names}"


def downloaded(page: Page, link: Locator) -> Download:
    with page.expect_download(timeout=PATIENCE) as began:
        link.click()
    return began.value


def flaws(page: Page) -> list[str]:
    """What keeps people with a keyboard or a screen reader from using the page."""
    found: list[str] = page.evaluate(_FLAWS)
    return found


def width(page: Page) -> int:
    """How wide the page is in a window of its present size, once its charts have followed the window."""
    found: int = page.evaluate("""async () => {
        const end = performance.now() + 10_000;
        while (document.documentElement.scrollWidth > innerWidth && performance.now() < end)
            await new Promise((resume) => setTimeout(resume, 20));  // a browser without a screen may draw no frame
        return document.documentElement.scrollWidth;
    }""")
    return found
