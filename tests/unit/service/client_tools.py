"""The real application on a free port of loopback, and connections that break when a test says so."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import onnx
import uvicorn
from onnx import TensorProto, helper

from db.blobs import Blobs
from db.store import Store
from service.app import create_app
from service.client import Client
from service.jobs import Jobs, Known
from service.models import ModelLibrary
from service.settings import Settings
from tuner.types import Budget, Device, JobSpec

DEVICE = Device("cpu", "cpu", "Test CPU", "znver5", ("avx2", "avx512f"), 2, 16, 32, 2**15, 2**20, 2**25, 2**34)
TOOLCHAIN = "tvm-test"


class Running:
    """A server without a dispatcher: tests move its jobs on themselves, through the store."""

    def __init__(self, url: str, store: Store, blobs: Blobs, settings: Settings) -> None:
        self.url, self.store, self.blobs, self.settings = url, store, blobs, settings
        _, self.token = store.access.tokens.create("tests", "full")

    def client(self, **options: Any) -> Client:
        """A client that hardly waits between its tries."""
        return Client(self.url, self.token, **{"sleep": lambda s: time.sleep(min(s, 0.02))} | options)

    def job(self, **spec: Any) -> str:
        """A queued job on a model that is known by name only."""
        given = JobSpec(model="ab" * 32, budget=Budget(trials=10), **spec)
        job, _ = self.store.jobs.submit(
            given, DEVICE.fingerprint, TOOLCHAIN, model_name="net", device_name=DEVICE.name
        )  # fmt: skip
        return job.id


@contextmanager
def running(folder: Path) -> Iterator[Running]:
    """Serve until the block ends."""
    with socket.socket() as listener, Store.open(f"sqlite:///{folder}/served.db") as store:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        settings = Settings(db=f"sqlite:///{folder}/served.db", data=folder / "data", port=listener.getsockname()[1])
        store.devices.put(DEVICE)
        blobs = Blobs(settings.blobs, store.database, None)
        library = ModelLibrary(store, blobs, DEVICE, TOOLCHAIN, settings.max_upload)
        jobs = Jobs(store, library, Known({"cpu": DEVICE}, TOOLCHAIN))
        app = create_app(settings, store, blobs, jobs=jobs, models=library)
        server = uvicorn.Server(uvicorn.Config(app, log_config=None, timeout_graceful_shutdown=1))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            yield Running(f"http://127.0.0.1:{settings.port}", store, blobs, settings)
        finally:
            app.state.context.hub.close()
            server.should_exit = True
            thread.join()


def tiny_model(path: Path, width: int = 4) -> Path:
    """A valid ONNX file of one layer."""
    tensors = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, width]) for n in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "tiny", tensors[:1], tensors[1:])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(path))
    return path


class Faulty(httpx.BaseTransport):
    """A connection on which the first requests that match meet ``faults``, in order; all later ones get through.

    "refuse": nobody is there. "lose": the server does its work, its answer is lost. "cut": the answer's body breaks off
    in the middle. A number: that status, from something that is not fusetune. "spoil": other bytes arrive than sent.
    """

    def __init__(self, *faults: str | int, only: Callable[[httpx.Request], bool] = lambda _: True) -> None:
        self._real, self._faults, self._only = httpx.HTTPTransport(), list(faults), only
        self.requests: list[tuple[str, str, Mapping[str, str]]] = []

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        self.requests.append((request.method, request.url.path, dict(request.headers)))
        fault = self._faults.pop(0) if self._faults and self._only(request) else None
        if fault == "refuse":
            raise httpx.ConnectError("nobody is there")
        if isinstance(fault, int):
            return httpx.Response(fault, text="<html>a proxy</html>")
        response = self._real.handle_request(request)
        if fault == "lose":
            response.read()
            response.close()
            raise httpx.ReadError("the connection is gone")
        if fault in {"cut", "spoil"}:
            response.stream = _Broken(response.stream, fault)  # type: ignore[arg-type]
        return response

    def close(self) -> None:
        self._real.close()


class _Broken(httpx.SyncByteStream):
    """A body that does not arrive as it was sent."""

    def __init__(self, real: httpx.SyncByteStream, fault: str) -> None:
        self._real, self._fault = real, fault

    def __iter__(self) -> Iterator[bytes]:
        for chunk in self._real:
            if self._fault == "spoil":
                yield bytes(len(chunk))
            else:
                yield chunk[: len(chunk) // 2]
                raise httpx.ReadError("the connection is gone")

    def close(self) -> None:
        self._real.close()
