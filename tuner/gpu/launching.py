"""How the stages of a program are launched: as a CUDA graph with its branches side by side, or with less than that."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Protocol

from tuner.errors import DeviceError
from tuner.gpu.streams import Cuda

Work = Callable[["Launcher"], None]  # launches everything once


class Launcher(Protocol):
    """Where launches go. All from one thread."""

    def fork(self, cores: Sequence[int]) -> Sequence[AbstractContextManager[None]]:
        """Contexts, one a branch; what is launched inside waits for what was launched before. SMs of each branch."""

    def join(self) -> None:
        """Have what is launched next wait for all branches of the last fork."""

    def finish(self) -> None:
        """Wait until all that was launched is done."""


class OneAfterAnother:
    """Everything in the order of launches: CPUs, and GPUs without streams of our own."""

    def __init__(self, device: Any) -> None:
        self._device = device

    def fork(self, cores: Sequence[int]) -> Sequence[AbstractContextManager[None]]:
        return [nullcontext() for _ in cores]

    def join(self) -> None:
        return

    def finish(self) -> None:
        self._device.sync()


class Streams:
    """Branches on streams; ``partitioned``: each on SMs of its own.

    Contexts of green streams are made once for each list of SMs, and kept.
    """

    def __init__(self, device: Any, cuda: Cuda, partitioned: bool = False) -> None:
        self._device, self._cuda, self._partitioned = device, cuda, partitioned
        self.main = cuda.stream()
        self._side: list[int] = []
        self._parts: dict[tuple[int, ...], list[int]] = {}
        self._under_way: list[int] = []
        self._events: list[int] = []
        self._used = 0

    def fork(self, cores: Sequence[int]) -> Sequence[AbstractContextManager[None]]:
        self._under_way = self._streams(tuple(cores))
        begun = self._event()
        self._cuda.record(begun, self.main)
        for stream in self._under_way:
            if stream != self.main:
                self._cuda.wait(stream, begun)
        return [self._on(stream) for stream in self._under_way]

    def join(self) -> None:
        for stream in self._under_way:
            if stream != self.main:
                done = self._event()
                self._cuda.record(done, stream)
                self._cuda.wait(self.main, done)
        self._under_way = []

    def finish(self) -> None:
        self._cuda.synchronise(self.main)
        self._used = 0

    def run(self, work: Work) -> None:
        """Launch everything, without waiting for it."""
        self._used = 0
        with self._on(self.main):
            work(self)

    def capture(self, work: Work) -> Callable[[], None]:
        """``work`` as a CUDA graph: a function that launches it on the main stream. Its kernels were loaded before."""
        self._used = 0
        self._cuda.begin_capture(self.main)
        try:
            with self._on(self.main):
                work(self)
        except BaseException:
            _ended(self._cuda, self.main)
            raise
        graph = self._cuda.end_capture(self.main)
        return lambda: self._cuda.launch(graph, self.main)

    def _streams(self, cores: tuple[int, ...]) -> list[int]:
        if self._partitioned:
            if cores not in self._parts:
                self._parts[cores] = self._cuda.partition(cores)
            return self._parts[cores]
        while len(self._side) < len(cores) - 1:
            self._side.append(self._cuda.stream())
        return [self.main, *self._side[: len(cores) - 1]]

    def _event(self) -> int:
        """One that is not in use since the last ``finish`` or ``run``: a graph's edges must not be mixed up."""
        if self._used == len(self._events):
            self._events.append(self._cuda.event())
        self._used += 1
        return self._events[self._used - 1]

    @contextmanager
    def _on(self, stream: int) -> Iterator[None]:
        import tvm_ffi

        with tvm_ffi.use_raw_stream(self._device, stream):
            yield


def _ended(cuda: Cuda, stream: int) -> None:
    """Leave a capture that failed, so that the stream can be used again."""
    try:
        cuda.end_capture(stream)
    except DeviceError:
        return
