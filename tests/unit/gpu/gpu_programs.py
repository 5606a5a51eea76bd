"""Small programs for tests: a chain, and a fork whose branches meet again."""

from __future__ import annotations

from tuner.gpu.program import Call, Program, Slot


def chain(count: int, viewed: bool = False, kept: int | None = None) -> Program:
    """``count`` calls of "f" on tensors of 1000 floats; ``viewed``: each reads the one before under another shape."""
    slots, calls, last = [Slot((10, 100), "float32")], [], 0
    for _ in range(count):
        slots.append(Slot((10, 100), "float32"))
        written = len(slots) - 1
        calls.append(Call("f", (last,), (written,), "t"))
        last = written
        if viewed:
            slots.append(Slot((1000,), "float32", written))
            last = len(slots) - 1
    outputs = (last,) if kept is None else (calls[kept].writes[0], last)
    return Program(tuple(slots), (0,), (), (), outputs, tuple(calls))


def fork(branches: int, length: int = 1) -> Program:
    """A call, then ``branches`` chains of ``length`` calls that read it, then one that reads them all."""
    slots = [Slot((4, 4), "float32"), Slot((4, 4), "float32")]
    calls, ends = [Call("begin", (0,), (1,), "begin")], []
    for branch in range(branches):
        last = 1
        for _ in range(length):
            slots.append(Slot((4, 4), "float32"))
            calls.append(Call(f"branch{branch}", (last,), (len(slots) - 1,), f"t{branch}"))
            last = len(slots) - 1
        ends.append(last)
    slots.append(Slot((4, 4 * branches), "float32"))
    calls.append(Call("end", tuple(ends), (len(slots) - 1,), None))
    return Program(tuple(slots), (0,), (), (), (len(slots) - 1,), tuple(calls))
