"""Addresses inside this server, under the path prefix that a proxy may put before them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import quote, urlencode


@dataclass(frozen=True)
class Addresses:
    """Makes every link of every page.

    Usage: ``Addresses("/fusetune").url("/jobs", state=["RUNNING"], device=None)`` -> ``/fusetune/jobs?state=RUNNING``
    """

    prefix: str = ""  # "" or "/so/mething"

    def url(self, path: str, query: Mapping[str, object] | None = None, /, **more: object) -> str:
        """The address of ``path`` (from "/" on, unquoted); parameters that are None or empty are left out."""
        pairs: list[tuple[str, str]] = []
        for name, value in {**(query or {}), **more}.items():
            values = value if isinstance(value, (list, tuple)) else [value]
            pairs += [(name, str(item)) for item in values if item is not None and item != ""]
        address = self.prefix + quote(path, safe="/:@!$&'()*+,;=-._~")
        return f"{address}?{urlencode(pairs)}" if pairs else address
