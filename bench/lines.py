"""Files of JSON lines that a bench adds to as it goes, and goes on from when it was interrupted."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any


def read(lines: Path) -> Iterator[dict[str, Any]]:
    """The rows; none where there is no file. A half-written line, left by a kill, does not count.

    A file whose name ends in .gz is compressed: see ``keep``.
    """
    data = lines.read_bytes() if lines.exists() else b""
    text = (gzip.decompress(data) if lines.suffix == ".gz" else data).decode()
    for line in text.splitlines():
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


def keep(lines: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write a compressed file of rows, for the repository: equal rows give equal bytes."""
    text = "".join(json.dumps(row) + "\n" for row in rows)
    lines.write_bytes(gzip.compress(text.encode(), 9, mtime=0))
