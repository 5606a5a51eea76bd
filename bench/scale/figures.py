"""The rows of ``python -m bench.scale`` as a section of bench/RESULTS.md."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.sections import RESULTS, write_section

SECTION = "scale"
PROMISED = 90.0  # percent of the time that devices are kept busy
_MISSING = "–"
_PARTS = {
    "deciding": "deciding what to measure (strategy joint, AlexNet's plans)",
    "trials": "writing trials",
    "progress": "noting progress, with an event for watchers",
    "leases": "renewing a job's lease and its turn on the device",
    "events": "reading events and putting them into words",
    "dispatch:10": "claiming jobs, 10 devices free",
    "dispatch:100": "claiming jobs, 100 devices free",
    "dispatch:1000": "claiming jobs, 1,000 devices free",
}
_COSTS = {
    "deciding": "deciding, and the driver's own", "trial": "writing the trial", "progress": "noting progress",
    "lease": "renewing leases", "device": "the simulated device's answer",
}  # fmt: skip

Rows = Mapping[str, Mapping[str, Any]]


def render(rows: Rows, path: Path = RESULTS) -> None:
    """Write them."""
    write_section(SECTION, section(rows), path)


def section(rows: Rows) -> str:
    """The markdown. A row that is missing is said to be."""
    return "\n\n".join(
        [
            "## Many devices, simulated",
            "Devices are simulated: measuring a candidate is sleeping. Dispatcher, queue, leases, turns, writes of\n"
            "trials and events are the service's own; drivers are forked from one process, where a server starts them.",
            _fleets(rows),
            _costs(rows),
            _parts(rows.get("parts")),
            *(_about(name, row) for name, row in rows.items()),
        ]
    )


def _fleets(rows: Rows) -> str:
    names = ("devices", "candidates of", "proposals", "promised busy", "busy", "trials/s", "cores used", "cores busy",
             "jobs taken away", "ramp")  # fmt: skip
    lines = [f"| {' | '.join(names)} |", "|--:|--:|:--|--:|--:|--:|--:|--:|--:|--:|"]
    for name, devices, seconds in (("search", 100, 1), ("prepared", 1000, 5)):
        row = rows.get(name)
        how = "joint, a process per driver" if name == "search" else "made beforehand, 4 processes"
        found = [_MISSING] * 6
        if row is not None:
            found = [f"{100 * row['busy']:.1f}%", f"{row['trials_per_second']:g}", f"{row['cores_used']:g}",
                     f"{100 * row['state']['busy']:.0f}%", f"{row['taken_away']}",
                     f"{row['ramp_seconds']:g} s"]  # fmt: skip
        lines.append(f"| {devices:,} | {seconds} s | {how} | > {PROMISED:g}% | {' | '.join(found)} |")
    lines += [
        "",
        "Cores used: by drivers and dispatcher together; cores busy: of the machine, with whatever else ran on it.",
    ]
    return "\n".join(lines)


def _costs(rows: Rows) -> str:
    known = [name for name in ("search", "prepared") if name in rows]
    lines = ["Milliseconds of processor time per trial, and by the clock per call:", "",
             "| part | " + " | ".join(f"{name}: per trial | a call takes" for name in known) + " |",
             "|:--|" + "--:|--:|" * len(known)]  # fmt: skip
    for part, words in _COSTS.items():
        cells = [cell for name in known for cell in _part(rows[name]["parts"][part])]
        lines.append(f"| {words} | {' | '.join(cells)} |")
    whole = [cell for name in known for cell in (_number(rows[name]["cpu_ms_per_trial"]["drivers"]), "")]
    server = [cell for name in known for cell in (_number(rows[name]["cpu_ms_per_trial"]["server"]), "")]
    lines += [f"| drivers in all | {' | '.join(whole)} |", f"| dispatcher | {' | '.join(server)} |"]
    return "\n".join(lines) if known else "No fleet has been run yet."


def _part(part: Mapping[str, Any]) -> list[str]:
    return [_number(part["cpu_ms_per_trial"]), _number(part["ms"])]


def _parts(row: Mapping[str, Any] | None) -> str:
    if row is None:
        return "The parts alone have not been measured yet."
    lines = [f"Each part alone, as fast as it goes, on {row['processes']} processes (events and claims on one):", "",
             "| part | a second | ms of processor time each |", "|:--|--:|--:|"]  # fmt: skip
    lines += [f"| {words} | {row[part]['per_second']:g} | {row[part]['cpu_ms']:g} |" for part, words in _PARTS.items()]
    return "\n".join(lines)


def _about(name: str, row: Mapping[str, Any]) -> str:
    state = row.get("state") or {}
    during = f", {state['load']} at the end" if state.get("load") is not None else ""
    return (
        f"{name}: `{row['command']}`, {row['date']}, on {row['machine']}, {row['database']}; load average before "
        f"{row['load_before']}{during}."
    )


def _number(value: float | None) -> str:
    return _MISSING if value is None else f"{value:.3g}"
