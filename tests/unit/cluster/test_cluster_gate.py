"""Building never disturbs measuring: who may begin while who is at it."""

from __future__ import annotations

import threading
from contextlib import ExitStack

from tuner.measure.cluster.gate import Gate

SOON, LATER = 0.1, 10.0  # seconds: that something does not happen, that it does


class Held:
    """A thread that enters, says so, and leaves when told."""

    def __init__(self, enter: object) -> None:
        self.inside, self.leave = threading.Event(), threading.Event()

        def run() -> None:
            with enter:  # type: ignore[attr-defined]
                self.inside.set()
                self.leave.wait(LATER)

        self.thread = threading.Thread(target=run, daemon=True)
        self.thread.start()

    def end(self) -> None:
        self.leave.set()
        self.thread.join(LATER)


def test_as_many_build_as_there_are_cores() -> None:
    gate = Gate(2)
    first, second = Held(gate.building()), Held(gate.building())
    assert first.inside.wait(LATER) and second.inside.wait(LATER)
    third = Held(gate.building())
    assert not third.inside.wait(SOON)
    first.end()
    assert third.inside.wait(LATER)
    second.end()
    third.end()


def test_without_a_spare_core_nothing_is_built_beside_a_measurement() -> None:
    gate = Gate(2)
    builder = Held(gate.building())
    assert builder.inside.wait(LATER)
    measurer = Held(gate.measuring(1))
    assert not measurer.inside.wait(SOON)  # it waits for what is being built ...
    late = Held(gate.building())
    assert not late.inside.wait(SOON)  # ... and nothing new goes before it
    builder.end()
    assert measurer.inside.wait(LATER)
    assert not late.inside.wait(SOON)
    measurer.end()
    assert late.inside.wait(LATER)
    late.end()


def test_spare_cores_go_on_building() -> None:
    gate = Gate(8)
    with ExitStack() as stack:
        measurer = Held(gate.measuring(4))
        assert measurer.inside.wait(LATER)
        for _ in range(3):  # 8 - 4 measured - 1 for the rest of the machine
            stack.enter_context(gate.building())
        fourth = Held(gate.building())
        assert not fourth.inside.wait(SOON)
        measurer.end()
        assert fourth.inside.wait(LATER)
        fourth.end()


def test_one_measurement_at_a_time() -> None:
    gate = Gate(8)
    first = Held(gate.measuring(1))
    assert first.inside.wait(LATER)
    second = Held(gate.measuring(1))
    assert not second.inside.wait(SOON)
    first.end()
    assert second.inside.wait(LATER)
    second.end()
