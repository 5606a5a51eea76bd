"""A program run on a device with the TVM runtime alone: its kernels called one by one, memory planned ahead."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from tuner.errors import DeviceError, FusetuneError
from tuner.gpu.launching import Launcher, OneAfterAnother, Streams
from tuner.gpu.program import Program, buffers, given
from tuner.gpu.streams import Cuda
from tuner.plan.arranging import Branch

GRAPH, PARTITIONED, STREAMS, PLAIN = "graph", "graph, branches on SMs of their own", "streams", "one after another"
_MEMORY_WORDS = ("out of memory", "memory allocation", "cudaerrormemoryallocation")


class Execution:
    """A program's calls over tensors on ``device``.

    ``functions`` has one for each call, ``values`` the arrays of parameters and constants in the program's order.

    Raises DeviceError (``out-of-memory``).
    """

    def __init__(
        self, program: Program, stages: Sequence[Sequence[Branch]], functions: Sequence[Any],
        values: Sequence[np.ndarray], device: Any,
    ) -> None:  # fmt: skip
        self.program, self._stages, self._device = program, stages, device
        pieces, sizes = buffers(program, [[call for branch in stage for call in branch.calls] for stage in stages])
        self._tensors = _tensors(program, pieces, sizes, values, device)
        tensors = self._tensors
        self._calls = [
            (function, [tensors[slot] for slot in (*call.reads, *call.writes)])
            for call, function in zip(program.calls, functions, strict=True)
        ]

    def give(self, inputs: Sequence[np.ndarray]) -> None:
        """Copy the inputs to the device."""
        for slot, array in zip(self.program.inputs, inputs, strict=True):
            self._tensors[slot].copyfrom(np.ascontiguousarray(array))
        self._device.sync()

    def work(self, launcher: Launcher) -> None:
        """Launch everything once."""
        for stage in self._stages:
            if len(stage) == 1:
                self._branch(stage[0])
                continue
            for branch, context in zip(stage, launcher.fork([b.cores for b in stage]), strict=True):
                with context:
                    self._branch(branch)
            launcher.join()

    def outputs(self) -> list[Any]:
        """TVM tensors on the device, which the next run overwrites."""
        return [self._tensors[slot] for slot in self.program.outputs]

    def _branch(self, branch: Branch) -> None:
        for call in branch.calls:
            function, args = self._calls[call]
            function(*args)


class Launched:
    """An execution made ready: ``launch`` starts it, ``finish`` waits. ``how`` says in which way, ``why`` why not more.

    The ways, the best first: a CUDA graph whose branches have SMs of their own, a graph, streams, one call after the
    other. What fails with one is tried with the next.
    """

    def __init__(self, execution: Execution, device: Any, ways: Sequence[str], index: int = 0) -> None:
        self.why: list[str] = []
        self.launch: Callable[[], None]
        self.finish: Callable[[], None]
        for way in ways:
            try:
                self.launch, self.finish = _ready(execution, device, way, index)
            except Exception as error:  # drivers say it in many ways; the last way has none behind it
                if way == ways[-1] or getattr(error, "code", "") == "out-of-memory":
                    raise
                self.why.append(f"{way}: {_short(error)}")
                continue
            self.how = way
            return
        raise ValueError("no way to launch")


def ways_for(stages: Sequence[Sequence[Branch]]) -> tuple[str, ...]:
    """The ways in which these stages are worth launching on a GPU, the best first."""
    forks = any(len(stage) > 1 for stage in stages)
    return (PARTITIONED, GRAPH, STREAMS, PLAIN) if forks else (GRAPH, PLAIN)


def _ready(
    execution: Execution, device: Any, way: str, index: int
) -> tuple[Callable[[], None], Callable[[], None]]:  # fmt: skip
    if way == PLAIN:
        launcher = OneAfterAnother(device)
        execution.work(launcher)
        launcher.finish()
        return lambda: execution.work(launcher), launcher.finish
    streams = Streams(device, Cuda(index), partitioned=way == PARTITIONED)
    streams.run(execution.work)  # loads the kernels, which a capture must not
    streams.finish()
    if way == STREAMS:
        return lambda: streams.run(execution.work), streams.finish
    launch = streams.capture(execution.work)
    launch()
    streams.finish()
    return launch, streams.finish


def _tensors(
    program: Program, pieces: Mapping[int, int], sizes: Sequence[int], values: Sequence[np.ndarray], device: Any
) -> list[Any]:  # fmt: skip
    import tvm

    owned = (*program.parameters, *program.constants)
    needed = sum(sizes) + sum(program.slots[slot].bytes for slot in given(program))
    found: dict[int, Any] = {}
    try:
        memory = [tvm.runtime.empty((size,), "uint8", device) for size in sizes]
        for slot, value in zip(owned, values, strict=True):
            found[slot] = tvm.runtime.tensor(np.ascontiguousarray(value).reshape(program.slots[slot].shape), device)
        for slot in program.inputs:
            found[slot] = tvm.runtime.tensor(np.zeros(program.slots[slot].shape, program.slots[slot].dtype), device)
        for slot, piece in pieces.items():
            found[slot] = memory[piece]._create_view(program.slots[slot].shape, program.slots[slot].dtype)
        for slot, what in enumerate(program.slots):
            if what.of is not None:
                found[slot] = found[program.root(slot)]._create_view(what.shape, what.dtype)
    except Exception as error:
        check_memory(error, needed)
        raise
    return [found.get(slot) for slot in range(len(program.slots))]


def check_memory(error: BaseException, needed: int) -> None:
    """Raise DeviceError (``out-of-memory``) if that is what TVM's error is about. ``needed``: bytes of the model."""
    if isinstance(error, FusetuneError) or any(word in str(error).lower() for word in _MEMORY_WORDS):
        raise DeviceError(
            f"The GPU has too little free memory for the model, which needs {needed / 2**20:.0f} MiB.",
            code="out-of-memory", hint="Free some, or run a smaller batch.",
        ) from error  # fmt: skip


def _short(error: BaseException) -> str:
    text = str(error).strip()
    return text.splitlines()[-1][:200] if text else type(error).__name__
