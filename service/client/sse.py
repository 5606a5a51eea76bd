"""Server-sent events, parsed as the HTML standard says (https://html.spec.whatwg.org/multipage/server-sent-events.html).

``retry`` is left out: the client has a back-off of its own.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Any

from service.client.values import Event


def parse(lines: Iterable[str]) -> Iterator[Event]:
    """The events of a stream's lines (without their ends). One cut off before its blank line is dropped."""
    kind, number = "", ""
    data: list[str] = []
    for line in lines:
        if not line:
            if data and (event := _event(kind, number, "\n".join(data))) is not None:
                yield event
            kind, data = "", []
            continue
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "event":
            kind = value
        elif name == "id":
            number = value
        elif name == "data":
            data.append(value)


def _event(kind: str, number: str, data: str) -> Event | None:
    with suppress(ValueError):
        value: Any = json.loads(data)
        if isinstance(value, dict):
            return Event(int(number) if number.isdigit() else 0, kind or "message", value)
    return None
