"""The service bench's own arithmetic and its page of figures."""

from __future__ import annotations

import asyncio
import json
import math
import signal
from pathlib import Path

import pytest
from client_tools import Running, running

from bench.service import __main__ as command
from bench.service import figures
from bench.service.load import Latencies, Request, load

ABOUT = {"command": "python -m bench.service", "date": "2026-01-01", "machine": "a machine", "load": "Some load.",
         "counts": {"trials": 5000, "page_trials": 70}}  # fmt: skip


@pytest.mark.parametrize(("count", "share", "expected"), [(1, 0.99, 1), (100, 0.99, 99), (101, 0.99, 100), (4, 0.5, 2)])
def test_percentiles(count: int, share: float, expected: float) -> None:
    assert Latencies([float(n) for n in range(count, 0, -1)]).percentile(share) == expected
    assert Latencies().percentile(share) == math.inf


def test_what_was_missed_is_marked() -> None:
    found = {"post_p99_ms": 60.0, "get_p99_ms": 10.0, "server_mb": 200.0, "about": ABOUT}
    assert figures.missed(found) == ["post_p99_ms", "server_mb"]
    lines = figures.table(found).splitlines()
    assert [line.endswith("(missed) |") for line in lines[2:5]] == [True, False, True]
    assert not [line for line in lines if "Chromium" in line]  # not measured: not shown
    assert "out of 5,000 trials" in figures.table({"trials_page_ms": 1.0, "about": ABOUT})


def test_figures_replace_earlier_ones(tmp_path: Path) -> None:
    page = tmp_path / "RESULTS.md"
    page.write_text("# Results\n\nbefore\n")
    figures.render({"get_p99_ms": 1.25, "about": ABOUT}, page)
    figures.render({"get_p99_ms": 2.5, "about": ABOUT}, page)
    assert page.read_text().count("2.5 ms") == 1
    assert "1.25 ms" not in page.read_text()
    assert page.read_text().startswith("# Results\n\nbefore\n")


def test_the_command_kept_says_what_was_measured_but_no_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "measure", lambda options: {"get_p99_ms": 1.0})
    for where in (["--out", str(tmp_path)], [f"--out={tmp_path}"], [f"--ou={tmp_path}"]):
        command.main([*where, "--load-seconds", "15", "--only", "load", "--trials", "100000"])
        text = (tmp_path / "service.json").read_text()
        assert json.loads(text)["about"]["command"] == "python -m bench.service --load-seconds 15 --only load"
        assert str(tmp_path) not in text
    again = command._parser().parse_args(["--load-seconds", "15", "--only", "load"])
    assert (again.load_seconds, again.only) == (15.0, "load")


def test_a_command_that_is_told_to_end_leaves_as_an_interrupt_would(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(command, "measure", lambda _: signal.raise_signal(signal.SIGTERM))
    try:
        with pytest.raises(SystemExit, match="143"):
            command.main(["--out", str(tmp_path)])
    finally:
        signal.signal(signal.SIGTERM, before)
    assert not (tmp_path / "service.json").exists()


def test_every_request_of_the_load_is_sent_and_counted(tmp_path: Path) -> None:
    with running(tmp_path) as server:
        id = server.job()
        found = asyncio.run(load(_Target(server), [  # type: ignore[arg-type]
            Request("good", lambda: ("GET", f"/api/v1/jobs/{id}", None)),
            Request("bad", lambda: ("GET", "/api/v1/jobs/0", None)),
        ], rate=50, seconds=0.4))  # fmt: skip
    assert {name: len(found[name].seconds) for name in found} == {"good": 10, "bad": 10}
    assert (found["good"].errors, found["bad"].errors) == (0, 10)


class _Target:
    """The part of bench.service.server.Server that the load needs."""

    def __init__(self, server: Running) -> None:
        self.url, self.token, self.port = server.url, server.token, server.settings.port
