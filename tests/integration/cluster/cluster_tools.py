"""Head and workers of a cluster on loopback, to be started and to be killed."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil

from tuner.environment import child_environment
from tuner.measure.cluster.address import LOOPBACK
from tuner.measure.options import MeasureOptions

# Limits that no candidate which is to succeed comes near, however busy the machine is: a build runs a C compiler.
OPTIONS = MeasureOptions(
    build_function="measure_fakes:build", onnx_function="measure_fakes:to_onnx", build_limit=100, run_limit=60,
    memory_limit=256 << 20, sample_seconds=0.002, patience=0,
)  # fmt: skip
HASTY = replace(OPTIONS, run_limit=4)  # for candidates that hang

JOIN_LIMIT = 150.0  # seconds for a worker to join: as often as not its head comes up at the same time
MISSING = "Ray is missing; install it with: pip install -c constraints.txt -e '.[cluster]'"
HIDDEN = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"  # set to 0, Ray stays on the loopback address


def until(condition: Callable[[], Any], seconds: float = 60.0) -> Any:
    """What the condition gives once that is true; fails after so many seconds."""
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, "it did not come true"
        time.sleep(0.05)
    return found


class Head:
    """Ray's head as docs/cluster.md starts it on one machine."""

    def __init__(self, host: str = LOOPBACK, secrets: Mapping[str, str] | None = None) -> None:
        with socket.socket() as probe:
            probe.bind((host, 0))
            self.address = f"{host}:{probe.getsockname()[1]}"
        self._env = os.environ | (secrets or {}) | ({HIDDEN: "0"} if host == LOOPBACK else {})
        self._folder = Path(tempfile.mkdtemp(prefix="fusetune-ray-", dir="/tmp"))  # Ray's sockets want short paths
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        host, _, port = self.address.partition(":")
        command = [
            str(Path(sys.executable).with_name("ray")), "start", "--head", f"--node-ip-address={host}",
            f"--port={port}", "--num-cpus=0", "--include-dashboard=false", "--disable-usage-stats",
            f"--object-store-memory={128 << 20}", f"--temp-dir={self._folder}", "--block",
        ]  # fmt: skip
        log = self._folder / "head.log"
        for _ in range(20):  # it refuses while a node of the one before it is still up
            with log.open("wb") as file:
                self._process = subprocess.Popen(
                    command, stdout=file, stderr=file, env=self._env, start_new_session=True
                )
            until(lambda: "Ray runtime started" in log.read_text() or self._ended, 60)
            if not self._ended:
                return
            time.sleep(1.0)
        raise AssertionError(log.read_text())

    @property
    def _ended(self) -> bool:
        return self._process is None or self._process.poll() is not None

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
    """A worker: `fusetune worker` in a process of its own."""

    def __init__(
        self, address: str, *options: str, environment: Mapping[str, str] | None = None, prefix: Sequence[str] = ()
    ) -> None:
        """``prefix``: a command that runs commands."""
        self._command = [*prefix, sys.executable, "-m", "service.cli", "worker", "--cluster", address, *options]
        self._env = child_environment() | dict(environment or {})  # it finds the fakes where we do
        self._folder = Path(tempfile.mkdtemp(prefix="fusetune-worker-"))

    @property
    def said(self) -> str:
        return (self._folder / "log").read_text()

    @property
    def joins(self) -> int:
        """How often it has joined."""
        return self.said.count("Joined the cluster")

    def start(self) -> None:
        with (self._folder / "log").open("wb") as file:
            self.process = subprocess.Popen(self._command, stdout=file, stderr=file, env=self._env)
        until(lambda: self.joins or self.process.poll() is not None, JOIN_LIMIT)
        assert self.joins, self.said

    def kill(self) -> None:
        """SIGKILL; what it started hangs on lifelines."""
        self.process.kill()
        self.process.wait()

    def __enter__(self) -> Machine:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        assert self.process.wait(30) == 0, self.said
        subprocess.run(["rm", "-rf", str(self._folder)], check=False)


def processes(what: str, under: int | None = None) -> list[psutil.Process]:
    """Processes under ours whose command line has this in it."""
    return [p for p in psutil.Process(under).children(recursive=True) if what in " ".join(p.cmdline())]
