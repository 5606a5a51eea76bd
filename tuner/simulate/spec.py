"""SimSpec: what a simulated machine is, read from a JSON file in which every value names its unit and its source.

    {"version": 1, "name": "mlu100", "title": "Cambricon MLU100",
     "cores": {"value": 32, "unit": "1", "source": "where this is published", "assumed": false}, ...}

See docs/simulated-devices.md for what each value means to the machine.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import Any

from tuner.errors import UserError
from tuner.types import SIMULATED, Device, digest

VERSION = 1
PREFIX = SIMULATED
SPECS = Path(__file__).parent / "specs"
LARGEST = 1 << 20  # bytes of a spec file
LARGEST_VALUE = 1e18
MOST_CORES = 4096
GROWTHS = ("linear", "log")

_Units = Mapping[str, int | Fraction]  # exact, so that 5 us and 0.005 ms are one number
_KILO = Fraction(1000)
_BYTES: _Units = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "kB": _KILO, "MB": _KILO**2, "GB": _KILO**3}
_SECONDS: _Units = {"s": 1, "ms": 1 / _KILO, "us": 1 / _KILO**2, "ns": 1 / _KILO**3}
_FLOP: _Units = {"FLOP": 1, "kFLOP": _KILO, "MFLOP": _KILO**2, "GFLOP": _KILO**3}
_FLOPS: _Units = {f"{unit}/s": scale for unit, scale in (*_FLOP.items(), ("TFLOP", _KILO**4))}
_RATE: _Units = {"B/s": 1, "MB/s": _KILO**2, "GB/s": _KILO**3, "TB/s": _KILO**4}
_ONE: _Units = {"1": 1}


@dataclass(frozen=True)
class Entry:
    """One value of a spec file as it stands there, with where it comes from."""

    value: float | str
    unit: str
    source: str
    assumed: bool  # not published: chosen from the class of machine


@dataclass(frozen=True)
class _Rule:
    units: _Units
    low: float = 0.0
    high: float = math.inf
    positive: bool = True
    whole: bool = False


_RULES = {
    "cores": _Rule(_ONE, 1, MOST_CORES, whole=True),
    "core_peak": _Rule(_FLOPS),
    "core_vector_peak": _Rule(_FLOPS),
    "element_bytes": _Rule({"B": 1}, 1, 8, whole=True),
    "peak_share": _Rule(_ONE, 0, 1),
    "half_work": _Rule(_FLOP, positive=False),
    "array_in": _Rule(_ONE, 1, 1 << 20, whole=True),
    "array_out": _Rule(_ONE, 1, 1 << 20, whole=True),
    "bandwidth": _Rule(_RATE),
    "core_bandwidth": _Rule(_RATE),
    "core_memory": _Rule(_BYTES),
    "shared_memory": _Rule(_BYTES, positive=False),
    "memory": _Rule(_BYTES),
    "launch": _Rule(_SECONDS, positive=False),
    "sync": _Rule(_SECONDS, positive=False),
    "noise": _Rule(_ONE, 0, 1, positive=False),
}


@dataclass(frozen=True)
class SimSpec:
    """A simulated machine. Seconds, bytes, floating-point operations (a multiply-add is two)."""

    name: str
    title: str
    cores: int
    core_peak: float  # FLOP/s of one core in layers that reduce over channels
    core_vector_peak: float  # FLOP/s of one core in all others (pooling, elementwise, depthwise)
    element_bytes: int  # of one number: 2 for fp16 machines, though graphs are float32
    peak_share: float  # of core_peak that large, well shaped layers reach
    half_work: float  # FLOP of one layer in one pass over a tile at which a core reaches half of that
    array_in: int  # input channels that one step of the multiplier array takes
    array_out: int  # output channels that it makes
    bandwidth: float  # B/s of DRAM
    core_bandwidth: float  # B/s that one core can draw
    core_memory: float  # B on chip, of one core
    shared_memory: float  # B on chip, shared by all cores; 0 = none
    memory: float  # B of DRAM
    launch: float  # s to start a block
    sync: float  # s that starting and joining costs for each core (linear), or for each doubling of the cores (log)
    sync_growth: str  # "linear" or "log"
    noise: float  # relative standard deviation of measured times (log-normal)
    entries: Mapping[str, Entry] = field(default_factory=dict, repr=False, compare=False, hash=False)

    @cached_property
    def digest(self) -> str:
        """SHA-256 over every value."""
        return digest({f.name: getattr(self, f.name) for f in fields(self) if f.name != "entries"})

    @property
    def peak(self) -> float:
        """FLOP/s of all cores."""
        return self.cores * self.core_peak

    def device(self, name: str | None = None) -> Device:
        """The machine as a Device called ``name``. Its fingerprint depends on every value of the spec."""
        return Device(
            name=name or f"{PREFIX}{self.name}", kind="sim", model=f"{self.title} (simulated)", mcpu="simulated",
            features=(f"spec-{self.digest[:16]}",), cores=self.cores, lanes=self.array_out, registers=0,
            l1=int(self.core_memory), l2=int(self.core_memory), l3=int(self.shared_memory), memory=int(self.memory),
            simulated=True,
        )  # fmt: skip


def names() -> tuple[str, ...]:
    """The specs that come along."""
    return tuple(sorted(path.stem for path in SPECS.glob("*.json")))


def load(which: str) -> SimSpec:
    """The spec called ``which``: one that comes along, or a path to a file; "sim:" in front is allowed.

    Raises UserError: ``unknown-device`` when there is none, ``bad-spec`` naming the field when it cannot be read.
    """
    which = which.removeprefix(PREFIX)
    if re.fullmatch(r"[\w.-]+", which) and (SPECS / f"{which}.json").is_file():
        return read(SPECS / f"{which}.json")
    if which.endswith(".json") or "/" in which:
        return read(Path(which))
    raise UserError(
        f"There is no simulated device {which!r}; known are: {', '.join(names())}.", code="unknown-device",
        hint="A file of your own is given as sim:PATH.json.",
    )  # fmt: skip


def read(path: Path) -> SimSpec:
    """The spec in a file. Raises UserError(code="bad-spec")."""
    try:
        with path.open("rb") as file:
            raw = file.read(LARGEST + 1)
        if len(raw) > LARGEST:
            raise _bad(f"{path} is larger than {LARGEST >> 20} MiB")
        data = json.loads(raw, object_pairs_hook=_once)
    except OSError as error:
        raise _bad(f"{path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise _bad(f"{path} is not JSON: {error}") from error
    return from_json(data)


def from_json(data: Any) -> SimSpec:
    """The spec that this JSON value describes. Raises UserError(code="bad-spec") naming the field."""
    if not isinstance(data, Mapping):
        raise _bad("it is not a JSON object")
    if data.get("version") != VERSION:
        raise _bad(f"version is {data.get('version')!r}, expected {VERSION}")
    name, title = data.get("name"), data.get("title", data.get("name"))
    if not isinstance(name, str) or not re.fullmatch(r"[a-z0-9][a-z0-9._-]{0,62}", name):
        raise _bad(f"name is {name!r}, expected small letters, digits, dots and dashes")
    if not isinstance(title, str) or not title.strip() or len(title) > 200:
        raise _bad("title must be a short text")
    wanted = {*_RULES, "sync_growth"}
    if unknown := sorted(data.keys() - wanted - {"version", "name", "title"}):
        raise _bad(f"{unknown[0]} is not a field of a spec")
    entries = {key: _entry(key, data.get(key)) for key in (*_RULES, "sync_growth")}
    values: dict[str, Any] = {key: _number(key, entries[key], rule) for key, rule in _RULES.items()}
    growth = entries["sync_growth"].value
    if growth not in GROWTHS:
        raise _bad(f"sync_growth.value is {growth!r}, expected one of {', '.join(GROWTHS)}")
    if values["core_bandwidth"] > values["bandwidth"]:
        raise _bad("core_bandwidth is more than bandwidth: one core cannot draw more than the DRAM gives")
    return SimSpec(name=name, title=title, sync_growth=str(growth), entries=entries, **values)


def _entry(key: str, data: Any) -> Entry:
    if data is None:
        raise _bad(f"{key} is missing")
    if not isinstance(data, Mapping):
        raise _bad(f'{key} is not an object {{"value", "unit", "source", "assumed"}}')
    if unknown := sorted(data.keys() - {"value", "unit", "source", "assumed"}):
        raise _bad(f"{key}.{unknown[0]} is not a field of a value")
    for part, kind in (("unit", str), ("source", str), ("assumed", bool)):
        if not isinstance(data.get(part), kind):
            raise _bad(f"{key}.{part} must be {'text' if kind is str else 'true or false'}")
    if not data["source"].strip():
        raise _bad(f"{key}.source is empty: say where the value comes from, or why it is assumed")
    if isinstance(data.get("value"), bool) or not isinstance(data.get("value"), int | float | str):
        raise _bad(f"{key}.value is {data.get('value')!r}, expected a number")
    return Entry(data["value"], data["unit"], data["source"], data["assumed"])


def _number(key: str, entry: Entry, rule: _Rule) -> float | int:
    if isinstance(entry.value, str) or not abs(entry.value) <= LARGEST_VALUE:
        raise _bad(f"{key}.value is {entry.value!r}, expected a number")
    if entry.unit not in rule.units:
        raise _bad(f"{key}.unit is {entry.unit!r}, expected one of {', '.join(rule.units)}")
    value = float(Fraction(str(entry.value)) * rule.units[entry.unit])
    if value < 0 or (rule.positive and value == 0):
        raise _bad(f"{key}.value is {entry.value}, expected {'more than 0' if rule.positive else '0 or more'}")
    if not rule.low <= value <= rule.high:
        raise _bad(f"{key}.value is {entry.value}, expected {rule.low:g} to {rule.high:g}")
    if rule.whole and value != int(value):
        raise _bad(f"{key}.value is {entry.value}, expected a whole number")
    return int(value) if rule.whole else float(value)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"{max(keys, key=keys.count)} stands there twice")
    return found


def _bad(what: str) -> UserError:
    return UserError(f"The spec cannot be used: {what}.", code="bad-spec")
