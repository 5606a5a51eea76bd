"""What members of a cluster tell each other: a line of JSON, and bytes after it. Nothing is ever unpickled from it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any


def pack(header: Mapping[str, Any], blob: bytes = b"") -> bytes:
    """One message: the header as a line of JSON, then the blob (a kernel's library, mostly)."""
    return json.dumps(header).encode() + b"\n" + blob


def unpack(message: bytes) -> tuple[dict[str, Any], bytes]:
    """Header and blob of a message. Raises ValueError for what is none."""
    line, end, blob = message.partition(b"\n")
    header = json.loads(line) if end else None
    if not isinstance(header, dict):
        raise ValueError("a message begins with a line that holds a JSON object")
    return header, blob
