"""Head and workers of a cluster on loopback, to be started and to be killed."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from tuner.measure.cluster.joining import Joining, Offer
from tuner.measure.options import MeasureOptions
from tuner.types import Device

OPTIONS = MeasureOptions(
    build_function="measure_fakes:build", onnx_function="measure_fakes:to_onnx", build_limit=3, run_limit=1,
    memory_limit=256 << 20, sample_seconds=0.002,
)  # fmt: skip


def until(condition: Callable[[], Any], seconds: float = 60.0) -> Any:
    """What the condition gives once that is true; fails after so many seconds."""
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, "it did not come true"
        time.sleep(0.05)
    return found


class Head:
    """Ray's head as docs/cluster.md starts it on one machine."""

    def __init__(self) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.address = f"127.0.0.1:{probe.getsockname()[1]}"
        self._folder = Path(tempfile.mkdtemp(prefix="fusetune-ray-", dir="/tmp"))  # Ray's sockets want short paths
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        port = self.address.partition(":")[2]
        command = [
            str(Path(sys.executable).with_name("ray")), "start", "--head", "--node-ip-address=127.0.0.1",
            f"--port={port}", "--num-cpus=0", "--include-dashboard=false", "--disable-usage-stats",
            f"--object-store-memory={128 << 20}", f"--temp-dir={self._folder}", "--block",
        ]  # fmt: skip
        env = os.environ | {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
        log = self._folder / "head.log"
        with log.open("wb") as file:
            self._process = subprocess.Popen(command, stdout=file, stderr=file, env=env, start_new_session=True)
        until(lambda: "Ray runtime started" in log.read_text())

    def kill(self) -> None:
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None

    def __enter__(self) -> Head:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        subprocess.run(["rm", "-rf", str(self._folder)], check=False)


class Machine:
    """A worker: what `fusetune worker` does, in a thread of ours."""

    def __init__(self, address: str, device: Device | None, builders: int = 2) -> None:
        self.joins = 0
        self.leaves: list[str] = []
        self._joining = Joining(
            Offer(address, device, builders, cores=2), joined=self._join, left=self.leaves.append
        )  # fmt: skip
        self._thread = threading.Thread(target=self._joining.run, daemon=True)

    def _join(self) -> None:
        self.joins += 1

    def __enter__(self) -> Machine:
        self._thread.start()
        until(lambda: self.joins or self.leaves)
        assert not self.leaves
        return self

    def __exit__(self, *_: object) -> None:
        self._joining.stop()
        self._thread.join(30)
        assert not self._thread.is_alive()


def processes(what: str, under: int | None = None) -> list[psutil.Process]:
    """Processes under ours whose command line has this in it."""
    return [p for p in psutil.Process(under).children(recursive=True) if what in " ".join(p.cmdline())]
