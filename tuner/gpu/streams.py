"""CUDA's streams, events, graphs and green contexts, through the libraries themselves. Knows no TVM.

Green contexts give a stream SMs of its own (CUDA Driver API, "Green Contexts", from driver 550 on); without them which
SMs a kernel gets is the hardware's choice.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

from tuner.errors import DeviceError
from tuner.gpu.cubins import preload_runtime

_NON_BLOCKING, _NO_TIMING, _RELAXED = 1, 2, 2  # cudaStreamNonBlocking, cudaEventDisableTiming, captureModeRelaxed
_SM, _DEFAULT_STREAM = 1, 1  # CU_DEV_RESOURCE_TYPE_SM, CU_GREEN_CTX_DEFAULT_STREAM
_RESOURCE_BYTES, _COUNT_AT = 144, 96  # of CUdevResource; where its smCount stands (cuda.h, 12.4 to 13)
_OUT_OF_MEMORY = 2  # cudaErrorMemoryAllocation


class Cuda:
    """The CUDA runtime and driver of this process. Raises DeviceError (``no-cuda``) where they cannot be loaded."""

    def __init__(self, device: int = 0) -> None:
        try:
            preload_runtime()
            self._runtime = ctypes.CDLL("libcudart.so.13")
            self._driver = ctypes.CDLL("libcuda.so.1")
        except OSError as error:
            raise DeviceError(f"The CUDA runtime cannot be loaded: {error}.", code="no-cuda",
                              hint="Install it, for example: pip install 'fusetune[gpu]'.") from error  # fmt: skip
        self._device = device
        self._call("cudaSetDevice", device)

    def stream(self) -> int:
        """A stream that waits for no other."""
        made = ctypes.c_void_p()
        self._call("cudaStreamCreateWithFlags", ctypes.byref(made), _NON_BLOCKING)
        return made.value or 0

    def event(self) -> int:
        made = ctypes.c_void_p()
        self._call("cudaEventCreateWithFlags", ctypes.byref(made), _NO_TIMING)
        return made.value or 0

    def record(self, event: int, stream: int) -> None:
        self._call("cudaEventRecord", _p(event), _p(stream))

    def wait(self, stream: int, event: int) -> None:
        """Have what comes on ``stream`` wait for the event as it was last recorded."""
        self._call("cudaStreamWaitEvent", _p(stream), _p(event), 0)

    def synchronise(self, stream: int) -> None:
        self._call("cudaStreamSynchronize", _p(stream))

    def begin_capture(self, stream: int) -> None:
        self._call("cudaStreamBeginCapture", _p(stream), _RELAXED)

    def end_capture(self, stream: int) -> int:
        """What was captured, ready to launch."""
        graph, ready = ctypes.c_void_p(), ctypes.c_void_p()
        self._call("cudaStreamEndCapture", _p(stream), ctypes.byref(graph))
        if not graph.value:
            raise DeviceError("Capturing the model's launches gave no CUDA graph.", code="no-graph")
        try:
            self._call("cudaGraphInstantiate", ctypes.byref(ready), graph, ctypes.c_ulonglong(0))
        finally:
            self._call("cudaGraphDestroy", graph)
        return ready.value or 0

    def launch(self, graph: int, stream: int) -> None:
        self._call("cudaGraphLaunch", _p(graph), _p(stream))

    def partition(self, cores: Sequence[int]) -> list[int]:
        """Streams of green contexts on disjoint SMs, about so many each (rounded up as the GPU wants it).

        They live as long as the process. Raises DeviceError (``no-partition``): the driver or GPU has none, or there
        are too few SMs.
        """
        rest, streams = (ctypes.c_ubyte * _RESOURCE_BYTES)(), []
        handle = ctypes.c_int()
        self._drive("cuDeviceGet", ctypes.byref(handle), self._device)
        self._drive("cuDeviceGetDevResource", handle, ctypes.byref(rest), _SM)
        for wanted in cores:
            part, left = (ctypes.c_ubyte * _RESOURCE_BYTES)(), (ctypes.c_ubyte * _RESOURCE_BYTES)()
            groups = ctypes.c_uint(1)
            self._drive(
                "cuDevSmResourceSplitByCount", ctypes.byref(part), ctypes.byref(groups), ctypes.byref(rest),
                ctypes.byref(left), 0, wanted,
            )  # fmt: skip
            if groups.value != 1 or _sms(part) < wanted:
                raise DeviceError(f"The GPU has no {wanted} SMs left to set apart.", code="no-partition")
            streams.append(self._green_stream(part, handle))
            rest = left
        return streams

    def _green_stream(self, part: Any, handle: Any) -> int:
        description, context, stream = ctypes.c_void_p(), ctypes.c_void_p(), ctypes.c_void_p()
        self._drive("cuDevResourceGenerateDesc", ctypes.byref(description), ctypes.byref(part), 1)
        self._drive("cuGreenCtxCreate", ctypes.byref(context), description, handle, _DEFAULT_STREAM)
        self._drive("cuGreenCtxStreamCreate", ctypes.byref(stream), context, _NON_BLOCKING, 0)
        return stream.value or 0

    def _call(self, name: str, *args: Any) -> None:
        code = getattr(self._runtime, name)(*args)
        if code:
            raise DeviceError(f"{name} failed: {self._said(code)} ({code}).",
                              code="out-of-memory" if code == _OUT_OF_MEMORY else "cuda-error")  # fmt: skip

    def _drive(self, name: str, *args: Any) -> None:
        function = getattr(self._driver, name, None)
        if function is None:
            raise DeviceError(f"The driver has no {name}: green contexts came with branch 550.", code="no-partition")
        if code := function(*args):
            raise DeviceError(f"{name} failed ({code}).", code="no-partition")

    def _said(self, code: int) -> str:
        text = self._runtime.cudaGetErrorString
        text.restype = ctypes.c_char_p
        return (text(code) or b"unknown").decode(errors="replace")


def _sms(resource: Any) -> int:
    return ctypes.c_uint.from_buffer(resource, _COUNT_AT).value


def _p(handle: int) -> ctypes.c_void_p:
    return ctypes.c_void_p(handle)
