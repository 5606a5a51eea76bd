"""Reads a page as a browser's parser would: its links, its text, and whatever a strict policy would refuse."""

from __future__ import annotations

from dataclasses import dataclass, field
from html.parser import HTMLParser

_ADDRESSES = {"href", "src", "action"}
_VOID = {"meta", "link", "input", "br", "img", "hr"}


@dataclass
class Read:
    """What was found in a page."""

    links: list[str] = field(default_factory=list)  # addresses that a GET follows
    refused: list[str] = field(default_factory=list)  # inline scripts and styles
    tags: list[str] = field(default_factory=list)
    ids: list[str] = field(default_factory=list)
    text: str = ""
    unclosed: list[str] = field(default_factory=list)


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.read = Read()
        self._open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.read.tags.append(tag)
        values = dict(attrs)
        if tag == "script" and "src" not in values:
            self.read.refused.append("<script>")
        if tag == "style":
            self.read.refused.append("<style>")
        for name, value in attrs:
            if name == "style" or name.startswith("on"):
                self.read.refused.append(f"{tag} {name}={value}")
            if name == "id" and value:
                self.read.ids.append(value)
            if name in _ADDRESSES and value and values.get("method", "get").lower() == "get":
                self.read.links.append(value)
            if (value or "").strip().lower().startswith("javascript:"):
                self.read.refused.append(f"{tag} {name}={value}")
        if tag not in _VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in _VOID:
            self._open.pop()

    def handle_endtag(self, tag: str) -> None:
        if not self._open or self._open.pop() != tag:
            self.read.unclosed.append(tag)

    def handle_data(self, data: str) -> None:
        self.read.text += data


def read(page: str) -> Read:
    """Parse a page, or part of one."""
    reader = _Reader()
    reader.feed(page)
    reader.close()
    return reader.read
