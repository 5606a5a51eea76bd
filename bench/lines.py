"""Files of JSON lines that a bench adds to as it goes, and goes on from when it was interrupted."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any


def read(lines: Path) -> Iterator[dict[str, Any]]:
    """The rows; none where there is no file. A half-written line, left by a kill, does not count."""
    for line in lines.read_text().splitlines() if lines.exists() else ():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict):
            yield row


def append(lines: Path, row: Mapping[str, Any]) -> None:
    """As a line of its own, also behind one that a kill cut short; the folder is made if it is not there."""
    lines.parent.mkdir(parents=True, exist_ok=True)
    torn = lines.exists() and lines.read_bytes()[-1:] not in (b"", b"\n")
    with lines.open("a") as file:
        file.write(("\n" if torn else "") + json.dumps(row) + "\n")
