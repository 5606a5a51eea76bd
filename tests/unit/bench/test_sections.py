"""The results' page and the lines that its sections are made of."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.lines import append, read
from bench.results import render as render_first_light
from bench.sections import RESULTS, write_section
from bench.service import figures

PAGE = "# Mine\n\nbefore\n\n<!-- a: begin -->\nold\n<!-- a: end -->\n\nafter\n"


def test_only_the_section_is_replaced(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(PAGE)
    write_section("a", "\nnew\n\n", page)
    assert page.read_text() == PAGE.replace("old", "new")


def test_writing_the_same_again_changes_no_byte(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(PAGE)
    write_section("b", "text", page)
    once = page.read_bytes()
    write_section("b", "text", page)
    assert page.read_bytes() == once and once.endswith(b"after\n\n<!-- b: begin -->\ntext\n<!-- b: end -->\n")


def test_a_page_that_is_not_there_is_begun(tmp_path: Path) -> None:
    write_section("a", "text", tmp_path / "page.md")
    assert (tmp_path / "page.md").read_text() == "# Results\n\n<!-- a: begin -->\ntext\n<!-- a: end -->\n"


@pytest.mark.parametrize("name", ["first light", "service", "search:sim", "search:predictions", "search:knobs"])
def test_every_section_of_the_results_would_be_found_and_replaced(name: str) -> None:
    text = RESULTS.read_text()
    assert text.count(f"<!-- {name}: begin -->\n") == text.count(f"\n<!-- {name}: end -->\n") == 1


def test_both_benches_with_a_page_of_their_own_use_these_sections(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    about = {"command": "c", "date": "d", "machine": "m", "load": "l", "counts": {"trials": 1, "page_trials": 1}}
    render_first_light({}, page, ["a"])
    figures.render({"get_p99_ms": 1.0, "about": about}, page)
    assert [line for line in page.read_text().splitlines() if line.startswith("<!--")] == [
        "<!-- first light: begin -->", "<!-- first light: end -->", "<!-- service: begin -->", "<!-- service: end -->",
    ]  # fmt: skip


def test_lines_come_back_but_for_what_a_kill_cut_short(tmp_path: Path) -> None:
    lines = tmp_path / "new" / "rows.jsonl"
    assert list(read(lines)) == []
    append(lines, {"n": 1})
    with lines.open("a") as file:
        file.write('{"n": 2, "x"')
    append(lines, {"n": 3})
    append(lines, {"n": 4})
    assert [row["n"] for row in read(lines)] == [1, 3, 4]
