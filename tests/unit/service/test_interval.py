"""The interval of a speed-up: how many rounds it rests on is said wherever it is shown."""

from __future__ import annotations

import pytest
from rich.console import Console

from service.commands.live import show
from service.exports.facts import comparisons
from service.interval import interval_words
from tests.service_seed import report


@pytest.mark.parametrize(
    ("rounds", "words"),
    [
        (10, "95%: 0.83 to 0.84, 10 rounds"),
        (6, "95%: 0.83 to 0.84, 6 rounds"),
        (4, "only 4 rounds: 0.83 to 0.84"),
        (1, "only 1 round: 0.83 to 0.84"),
        (None, "95%: 0.83 to 0.84"),
    ],
)
def test_few_rounds_claim_no_95_percent(rounds: int | None, words: str) -> None:
    assert interval_words([0.8301, 0.8352], rounds) == words


def test_the_closing_table_and_the_pages_show_the_rounds() -> None:
    made = report()
    made["speedup"] |= {"over_onnxruntime_interval": [0.8301, 0.8302], "over_onnxruntime_rounds": 4}
    words = "only 4 rounds: 0.83 to 0.83"
    assert [row.interval for row in comparisons(made)].count(words) == 1
    console = Console(record=True, width=200)
    show(console, made)
    assert words in console.export_text()
