"""Ctrl-C while a job is shown: once ends it with what there is, twice at once, and afterwards all is as before."""

from __future__ import annotations

import io
import signal

import pytest
from rich.console import Console

from service.commands.live import Live
from tuner.types import Budget


def test_an_interrupt_asks_to_stop_and_a_second_one_ends_it() -> None:
    before, asked, shown = signal.getsignal(signal.SIGINT), [0], io.StringIO()
    with Live(Console(file=shown), Budget()) as live:
        live.stop_on_interrupt(lambda: asked.append(1), "what there is")
        signal.raise_signal(signal.SIGINT)
        assert asked == [0, 1] and "Stopping with what there is" in shown.getvalue()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before
    assert asked == [0, 1]


def test_what_ctrl_c_means_is_put_back_when_nobody_pressed_it() -> None:
    before = signal.getsignal(signal.SIGINT)
    with Live(Console(file=io.StringIO()), Budget()) as live:
        live.stop_on_interrupt(lambda: None, "what there is")
        assert signal.getsignal(signal.SIGINT) is not before
    assert signal.getsignal(signal.SIGINT) is before
