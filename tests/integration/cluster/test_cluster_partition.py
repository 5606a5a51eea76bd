"""Workers that are cut off and come back: in a network namespace whose link goes down, and stopped as they stand."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from cluster_tools import MISSING, OPTIONS, Head, Machine
from measure_fakes import candidate

from tuner.measure.cluster.address import COMMANDS
from tuner.measure.cluster.cluster import Cluster
from tuner.measure.cluster.runner import ClusterRunner
from tuner.measure.device import detect_cpu
from tuner.types import Trial

pytest.importorskip("ray", reason=MISSING)
pytestmark = [pytest.mark.alone, pytest.mark.slow, pytest.mark.timeout(900)]

COUNT = 16  # candidates
BEFORE = 4  # of them, when the worker is cut off
ABSENCE = 240.0  # seconds until it is noticed that a machine is not there


@dataclass(frozen=True)
class Link:
    """A network of two: this machine, and a namespace of its own. Its link can be cut."""

    name: str  # of the namespace
    here: str  # addresses
    there: str
    device: str  # this side's

    def cut(self) -> None:
        _ip("link", "set", self.device, "down")

    def mend(self) -> None:
        _ip("link", "set", self.device, "up")


@pytest.fixture
def link() -> Iterator[Link]:
    if os.geteuid() != 0 or shutil.which("ip") is None:
        pytest.skip("network namespaces need root and the command ip")
    number = os.getpid() % 250
    made = Link(f"fusetune-{os.getpid()}", f"10.203.{number}.1", f"10.203.{number}.2", f"ft{os.getpid() % 100000}a")
    other = made.device[:-1] + "b"
    try:
        _ip("netns", "add", made.name)
    except subprocess.CalledProcessError as error:
        pytest.skip(f"network namespaces cannot be made here: {error.stderr}")
    try:
        _ip("link", "add", made.device, "type", "veth", "peer", "name", other, "netns", made.name)
        _ip("addr", "add", f"{made.here}/24", "dev", made.device)
        _ip("link", "set", made.device, "up")
        for command in (f"addr add {made.there}/24 dev {other}", f"link set {other} up", "link set lo up"):
            _ip("-n", made.name, *command.split())
        yield made
    finally:
        _ip("netns", "del", made.name)
        with suppress(subprocess.CalledProcessError):  # it went with its other end
            _ip("link", "del", made.device)


@pytest.fixture
def secrets(link: Link, tmp_path: Path) -> dict[str, str]:
    """What members' environments need; one certificate for both addresses."""
    text = COMMANDS.format(host=link.here, san=f"IP:{link.there},IP")
    shell = [line.strip() for line in text.splitlines() if line.strip().startswith(("openssl", "printf", "export"))]
    script = "\n".join([*shell, "env | grep ^RAY_"])
    done = subprocess.run(["bash", "-euc", script], cwd=tmp_path, capture_output=True, text=True, check=True)
    return dict(line.split("=", 1) for line in done.stdout.splitlines())


def test_a_worker_that_is_cut_off_and_comes_back_costs_nothing_but_time(link: Link, secrets: dict[str, str]) -> None:
    with Head(link.here, secrets) as head:
        worker = Machine(head.address, environment=secrets, prefix=["ip", "netns", "exec", link.name])
        with worker as machine:
            trials, waits = _measured(head, secrets, link.cut, link.mend)
            assert machine.joins >= 2, machine.said
    _judge(trials, waits)


def test_a_worker_that_stands_still_and_goes_on_costs_nothing_but_time(head: Head) -> None:
    with Machine(head.address) as machine:
        family: list[psutil.Process] = []

        def stop() -> None:
            own = psutil.Process(machine.process.pid)
            family.extend([own, *own.children(recursive=True)])
            _all(family, signal.SIGSTOP)

        trials, waits = _measured(head, {}, stop, lambda: _all(family, signal.SIGCONT))
    _judge(trials, waits)


def _measured(
    head: Head, secrets: Mapping[str, str], cut: Callable[[], None], mend: Callable[[], None]
) -> tuple[list[Trial], list[str]]:
    """The trials of a run whose only worker is cut off until the runner waits for it; and what the runner said."""
    waits: list[str] = []
    here = threading.Event()

    @contextmanager
    def waiting() -> Iterator[None]:
        waits.append("began")
        here.set()
        yield
        waits.append("ended")

    def come_back() -> None:
        here.wait(ABSENCE)
        time.sleep(3.0)
        mend()

    back = threading.Thread(target=come_back)
    found: list[Trial] = []
    cluster = Cluster(head.address, secrets)
    with closing(ClusterRunner(cluster, detect_cpu(), OPTIONS, waiting)) as runner:
        cluster.devices(60.0)  # what is waited for from here on is what was cut off
        for trial in runner.run([candidate("good", n) for n in range(COUNT)]):
            found.append(trial)
            if len(found) == BEFORE:
                cut()
                back.start()
    back.join()
    return found, waits


def _judge(trials: list[Trial], waits: list[str]) -> None:
    assert Counter(t.candidate.key for t in trials) == Counter(candidate("good", n).key for n in range(COUNT))
    assert [t.failure for t in trials] == [None] * COUNT  # no time-out, however long it was away
    assert waits[:2] == ["began", "ended"]


def _all(processes: list[psutil.Process], number: signal.Signals) -> None:
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.send_signal(number)


def _ip(*args: str) -> None:
    subprocess.run(["ip", *args], check=True, capture_output=True, text=True)
