"""Named sections of bench/RESULTS.md, between two markers each: rendering one leaves the rest as it is."""

from __future__ import annotations

from pathlib import Path

RESULTS = Path(__file__).parent / "RESULTS.md"


def write_section(name: str, text: str, path: Path = RESULTS) -> None:
    """Put the text between ``<!-- NAME: begin -->`` and its end; both are appended where they are missing."""
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    known = path.read_text() if path.exists() else "# Results\n"
    if begin not in known or end not in known:
        known = f"{known.rstrip()}\n\n{begin}\n{end}\n"
    before, _, rest = known.partition(begin)
    path.write_text(f"{before}{begin}\n{text.strip()}\n{end}{rest.partition(end)[2]}")
