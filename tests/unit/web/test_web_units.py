"""Numbers with units: as many digits as mean something, and the same on the server and in scripts."""

from __future__ import annotations

import json
import math
import subprocess
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.web import units
from service.web.assets import FOLDER

CASES = {
    "latency": {
        None: "–", 0.0: "0 s", 0.0179: "17.9 ms", 0.152: "152 ms", 1.234: "1.23 s", 0.000842: "842 µs",
        3e-7: "0.300 µs", 0.00099996: "1.00 ms", 12.0: "12.0 s", math.inf: "∞",
    },
    "speedup": {None: "–", 1.42: "1.42×", 0.685: "0.69×", 8.6: "8.6×", 120.4: "120×", 99.96: "100×"},
    "duration": {
        None: "–", 0.04: "0.0 s", 0.4: "0.4 s", 12.3: "12 s", 59.7: "1 min", 252.0: "4 min 12 s", 12000.0: "3 h 20 min",
        3600.0: "1 h", 190800.0: "2 d 5 h",
    },
    "count": {None: "–", 0: "0", 12345: "12,345", 999: "999"},
    "bytes": {None: "–", 900: "900 B", 102469419: "97.7 MiB", 1024: "1.00 KiB", 5 << 40: "5.00 TiB"},
    "percent": {None: "–", 0.0: "0%", 0.123: "12.3%", 0.004: "0.4%", 1.0: "100%"},
    "gflops": {None: "–", 63.2: "63.2 GFLOP/s", 1210.0: "1.21 TFLOP/s", 999.6: "1.00 TFLOP/s"},
    "error": {None: "–", 0.0: "0", 2.1e-6: "2e-6", 0.5: "5e-1", math.inf: "∞"},
}  # fmt: skip
PYTHON = {name: getattr(units, {"bytes": "size"}.get(name, name)) for name in CASES}


@pytest.mark.parametrize("name", CASES)
def test_figures_carry_units_and_sensible_digits(name: str) -> None:
    assert {value: PYTHON[name](value) for value in CASES[name]} == CASES[name]


def test_scripts_write_figures_as_the_server_does() -> None:
    wanted = [(name, value) for name, cases in CASES.items() for value in cases if value != math.inf]
    wanted += [(name, 10.0**power * digit) for name in ("latency", "bytes", "gflops", "error")
               for power in range(-8, 13) for digit in (1, 3.3, 7.77)]  # fmt: skip
    source = (FOLDER / "js" / "format.js").read_text()
    calls = ",".join(f"{name}({json.dumps(value)})" for name, value in wanted)
    answers = json.loads(_node(f"{source}\nconsole.log(JSON.stringify([{calls}]));"))
    assert answers == [PYTHON[name](value) for name, value in wanted]


def _node(program: str) -> str:
    """Run a module in the Node.js that Playwright brings along."""
    from playwright._impl._driver import compute_driver_executable

    node, _ = compute_driver_executable()
    done = subprocess.run(
        [node, "--input-type=module"], input=program, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@given(st.floats(1e-12, 1e15))
def test_three_digits_stand_for_any_number(value: float) -> None:
    shown = float(units.significant(value).replace(",", ""))
    assert abs(shown - value) <= 0.005 * value


def test_shapes_leave_open_what_is_open() -> None:
    assert units.shape([1, 3, 224, 224]) == "1×3×224×224"
    assert units.shape(["batch", 3, None]) == "batch×3×?"
    assert units.shape([]) == "scalar"


def test_the_strongest_colour_is_the_maximum() -> None:
    steps = [units.step(value, 12) for value in (None, 0, 1, 2, 4, 6, 12)]
    assert steps == sorted(steps)
    assert (steps[0], steps[-1]) == (0, 7)
    assert units.step(99, 12) == 7
    assert units.step(1, 0) == 0


def test_times_are_coarse_near_and_dates_far_away() -> None:
    now = datetime(2026, 3, 14, 12, tzinfo=UTC)
    ages = {0: "just now", 59: "just now", 60: "1 min ago", 3600: "1 h ago", 90000: "1 d ago", 30 * 86400: "2026-02-12"}
    assert {age: units.ago(now - timedelta(seconds=age), now) for age in ages} == ages
    assert units.ago(now + timedelta(seconds=5), now) == "just now"  # clocks differ
