"""A machine that joins a cluster and stays: a Ray node and its member, both started anew when one of them ends.

Knows no Ray. What it starts ends with it, however that comes about: each holds on to a lifeline.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from tuner.environment import child_environment
from tuner.measure.cluster.address import LOOPBACK, parse, settings
from tuner.measure.cluster.names import device_resource, node_resource
from tuner.scratch import Scratch
from tuner.types import Device

log = logging.getLogger(__name__)

REST = 2.0  # seconds between two tries to join
_PERIOD = 0.2  # seconds between looks at the processes
_UP_LIMIT = 300.0  # seconds for node and member to come up
_TAIL = 2000  # characters of what a process said that are told


@dataclass(frozen=True)
class Offer:
    """What a machine brings into a cluster."""

    address: str  # of the head, HOST:PORT
    device: Device | None  # None = it only builds
    builders: int  # kernels built side by side
    cores: int  # that building and measuring share


class Joining:
    """Keeps one machine in a cluster until ``stop``. ``joined`` is called each time it is in, ``left`` when it is not.

    Raises UserError, when it is made, for an address that is none or is not safe.
    """

    def __init__(
        self, offer: Offer, environment: Mapping[str, str] | None = None, *,
        joined: Callable[[], None] = lambda: None, left: Callable[[str], None] = lambda _: None,
    ) -> None:  # fmt: skip
        where = parse(offer.address)
        self._offer, self._joined, self._left = offer, joined, left
        self._address = str(where)
        self._host = LOOPBACK if where.loopback else _own_address(where.host, where.port)
        self._settings = settings(where, os.environ if environment is None else environment)
        self._ending = threading.Event()

    def stop(self) -> None:
        """Have ``run`` leave the cluster and return. From any thread or signal handler."""
        self._ending.set()

    def run(self) -> None:
        """Join, and join again whenever the cluster or a process of ours went away; until ``stop``."""
        while not self._ending.is_set():
            reason = self._once()
            if reason and not self._ending.is_set():
                self._left(reason)
                self._ending.wait(REST)

    def _once(self) -> str:
        """Be a member as long as it lasts; why it ended."""
        scratch = Scratch()
        node = secrets.token_hex(4)
        started: list[_Process] = []
        try:
            started.append(self._node(node, scratch.path / "node.log"))
            started.append(self._member(node, scratch.path / "member.log"))
            return self._watch(*started)
        finally:
            for process in reversed(started):
                process.end()
            scratch.remove()

    def _watch(self, node: _Process, member: _Process) -> str:
        began, up = time.monotonic(), False
        while not self._ending.wait(_PERIOD):
            for process in (node, member):
                code = process.popen.poll()
                if code is not None:
                    return f"its {process.what} ended ({code}): {process.said()}"
            if not up and member.ready():
                up = True
                self._joined()
            if not up and time.monotonic() - began > _UP_LIMIT:
                return f"its {member.what} did not come up within {_UP_LIMIT:g} s: {member.said()}"
        return ""

    def _node(self, node: str, log: Path) -> _Process:
        offer = self._offer
        resources = {node_resource(node): 1}
        if offer.device is not None:
            resources[device_resource(offer.device.fingerprint)] = 1
        # Ray's own processes may see the address of the others: the switch that hides it is for those who only join.
        env = {name: text for name, text in self._settings.items() if name != "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"}
        args = [self._address, self._host, "0", json.dumps(resources)]
        return _Process("Ray node", "tuner.measure.cluster.node", args, env, log)

    def _member(self, node: str, log: Path) -> _Process:
        offer = self._offer
        process = _Process("member", "tuner.measure.cluster.member", [], self._settings, log)
        device = None if offer.device is None else offer.device.to_json()
        process.tell({
            "address": self._address, "node": node, "device": device, "builders": offer.builders, "cores": offer.cores,
        })  # fmt: skip
        return process


class _Process:
    """A process of ours on a lifeline."""

    def __init__(self, what: str, module: str, args: list[str], env: Mapping[str, str], log: Path) -> None:
        self.what = what
        self._log = log
        lifeline, self._lifeline = os.pipe()
        try:
            with log.open("wb") as file:
                self.popen = subprocess.Popen(
                    [sys.executable, "-m", module, str(lifeline), *args],
                    stdin=subprocess.PIPE, stdout=file, stderr=file, pass_fds=(lifeline,), start_new_session=True,
                    env=child_environment() | dict(env),
                )  # fmt: skip
        except BaseException:
            os.close(self._lifeline)
            raise
        finally:
            os.close(lifeline)

    def tell(self, value: Mapping[str, object]) -> None:
        stdin: IO[bytes] | None = self.popen.stdin
        assert stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it died: the watcher says so
            stdin.write(json.dumps(value).encode() + b"\n")
            stdin.flush()

    def ready(self) -> bool:
        return "ready" in self._log.read_text(errors="replace").splitlines()

    def said(self) -> str:
        """The end of what it wrote."""
        try:
            return self._log.read_text(errors="replace")[-_TAIL:].strip() or "it said nothing"
        except OSError:
            return "it said nothing"

    def end(self) -> None:
        """Kill it and all in its process group."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.popen.pid, signal.SIGKILL)
        self.popen.wait()
        os.close(self._lifeline)
        if self.popen.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                self.popen.stdin.close()


def _own_address(host: str, port: int) -> str:
    """This machine's address as the head sees it. Nothing is sent: connecting a datagram socket only picks a route."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((host, port))
        return str(probe.getsockname()[0])
