"""A fleet of simulated devices under the real dispatcher, queue and drivers: how busy it is kept, at what cost."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import psutil
from sqlalchemy import func, select

from bench.scale.hosts import Hosts, Seat, Task
from bench.scale.meters import PARTS
from bench.scale.questions import MODEL, Questions
from db.blobs import Blobs
from db.schema import attempts, trials
from db.store import Store
from service.dispatch.dispatcher import Dispatcher, _Process
from service.settings import Settings
from tuner.errors import InternalError
from tuner.measure.device import toolchain
from tuner.measure.machine import MachineState, Reading
from tuner.types import Budget, Device, JobSpec

TURNS = 2  # jobs of each device: when a search is through, the next one begins
AT_WORK = 0.99  # share of the devices that have a trial when the window begins
RAMP = 240.0  # seconds for that


@dataclass(frozen=True)
class Fleet:
    """What is run."""

    name: str
    devices: int
    seconds: float  # that a candidate takes on its device
    hosts: int  # processes that the drivers share
    search: bool  # a real search in each driver; else proposals made beforehand
    window: float  # seconds that are watched, once all devices are at work


class _Hosted(Dispatcher):
    """The dispatcher, whose drivers sit in hosts instead of being started."""

    def __init__(self, seats: Iterator[Seat], *args: Any) -> None:
        super().__init__(*args)
        self._seats = seats

    def _spawn(self) -> _Process:
        assert self._work is not None  # since start
        self._spawned += 1
        work = self._work.path / f"spare-{self._spawned}"
        work.mkdir(mode=0o700)
        return _Process(cast(Any, next(self._seats)), work, 2)

    @staticmethod
    def _kill(process: Any) -> None:
        process.kill()


def run(fleet: Fleet, asked: Questions, url: str, folder: Path) -> dict[str, Any]:
    """One row. The database at ``url`` must be empty.

    Raises:
        InternalError: not all devices got to work (``bench-failed``).
    """
    machines = list(asked.fleet(fleet.devices))
    made = asked.prepared(int(fleet.window / fleet.seconds) + int(RAMP / fleet.seconds)) if not fleet.search else ()
    with Store.open(url) as store:  # closed before anything forks
        _submit(store, fleet, machines)
    seats = fleet.devices * (TURNS if fleet.search else 1) + 2
    with (
        closing(Hosts(fleet.hosts, seats, Task(url, asked, fleet.seconds, made))) as hosts,
        Store.open(url) as store,
        _dispatching(store, url, folder, machines, hosts) as dispatcher,
    ):
        began = time.monotonic()
        while _busy(store) < AT_WORK * fleet.devices:
            if time.monotonic() - began > RAMP:
                text = f"After {RAMP:g} s {len(dispatcher.running)} drivers run and {_busy(store)} devices have trials."
                raise InternalError(text, code="bench-failed")
            time.sleep(0.5)
        ramp = time.monotonic() - began
        watched = _watch(fleet, store, hosts)
        hosts.close()
    return {
        "fleet": fleet.name, "devices": fleet.devices, "candidate_seconds": fleet.seconds, "search": fleet.search,
        "hosts": fleet.hosts, "window": fleet.window, "model": asked.model, "ramp_seconds": round(ramp, 1), **watched,
    }  # fmt: skip


@contextmanager
def _dispatching(
    store: Store, url: str, folder: Path, machines: list[Device], hosts: Hosts
) -> Iterator[Dispatcher]:  # fmt: skip
    settings = Settings(db=url, data=folder)
    blobs = Blobs(settings.blobs, store.database, settings.quota)
    dispatcher = _Hosted(iter(hosts.seats), store, blobs, settings, {device.name: device for device in machines})
    dispatcher.start()
    try:
        yield dispatcher
    finally:
        dispatcher.stop()


def _submit(store: Store, fleet: Fleet, machines: list[Device]) -> None:
    for device in machines:
        store.devices.put(device)
    for turn in range(TURNS if fleet.search else 1):
        for number, device in enumerate(machines):
            spec = JobSpec(
                model=MODEL, device=device.name, budget=Budget(trials=None), fresh=True,
                seed=turn * fleet.devices + number,
            )  # fmt: skip
            store.jobs.submit(spec, device.fingerprint, toolchain(), model_name="scale", device_name=device.name)


def _watch(fleet: Fleet, store: Store, hosts: Hosts) -> dict[str, Any]:
    """What happens in the window."""
    own = psutil.Process()
    machine, parts, trials_before = Reading.now(), hosts.meters.read(), _count(store)
    drivers, server, ended = _cpu(hosts.pids), _cpu([own.pid]), _taken_away(store)
    began = time.monotonic()
    time.sleep(fleet.window)
    made, window = _count(store) - trials_before, time.monotonic() - began
    drivers, server = _cpu(hosts.pids) - drivers, _cpu([own.pid]) - server
    state, after = MachineState.since(machine), hosts.meters.read()
    memory = sum(_memory(pid) for pid in hosts.pids)
    return {
        "taken_away": _taken_away(store) - ended, "trials": made,
        "busy": round(made * fleet.seconds / (fleet.devices * window), 4),
        "trials_per_second": round(made / window, 1),
        "cpu_ms_per_trial": {"drivers": _ms(drivers, made), "server": _ms(server, made)},
        "cores_used": round((drivers + server) / window, 2),
        "parts": {part: _part(parts[part], after[part], made, window) for part in PARTS},
        "driver_mb": round(memory / fleet.devices / 1e6, 1),
        "state": {"busy": state.busy, "steal": state.steal, "load": state.load},
    }  # fmt: skip


def _part(before: tuple[float, ...], after: tuple[float, ...], made: int, window: float) -> dict[str, float | None]:
    calls, seconds, cpu = (b - a for a, b in zip(before, after, strict=True))
    return {
        "per_second": round(calls / window, 1), "ms": _ms(seconds, calls), "cpu_ms": _ms(cpu, calls),
        "cpu_ms_per_trial": _ms(cpu, made),
    }  # fmt: skip


def _ms(seconds: float, calls: float) -> float | None:
    return round(seconds * 1e3 / calls, 3) if calls else None


def _count(store: Store) -> int:
    with store.database.read() as connection:
        return int(connection.execute(select(func.count()).select_from(trials)).scalar_one())


def _busy(store: Store) -> int:
    """Devices that have a trial."""
    with store.database.read() as connection:
        return int(connection.execute(select(func.count(trials.c.device.distinct()))).scalar_one())


def _taken_away(store: Store) -> int:
    """Times that a driver lost its job, because it did not renew its lease or died."""
    with store.database.read() as connection:
        query = select(func.count()).select_from(attempts).where(attempts.c.outcome.in_(("lost", "crashed")))
        return int(connection.execute(query).scalar_one())


def _cpu(pids: list[int]) -> float:
    """Seconds of processor time of these processes so far."""
    times = [psutil.Process(pid).cpu_times() for pid in pids]
    return float(sum(t.user + t.system for t in times))


def _memory(pid: int) -> int:
    """Bytes of a process that it shares with no other."""
    return int(psutil.Process(pid).memory_full_info().uss)
