"""The bench of many devices, with few of them: what it counts, and what it makes of its rows."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bench.scale.figures import render

pytestmark = pytest.mark.alone

# In a process of its own: a fleet's drivers are forked, which a test's threads would not survive.
PROGRAM = """
import json, sys, tempfile
from pathlib import Path
import numpy as np
from bench.scale import fleet, parts
from bench.scale.questions import of
from bench.search.spaces import SimSpace
from tuner.graph.ir import Graph, Layer, Tensor
from tuner.measure.device import devices
from tuner.plan.chains import AnyChain
from tuner.plan.space import plan_space
from tuner.search.blocks import block_rows
from tuner.simulate.machine import times
from tuner.simulate.spec import load

shape, names = (1, 16, 28, 28), [f"t{i}" for i in range(5)]
layers = tuple(Layer(f"l{i}", "Relu", (names[i],), (names[i + 1],)) for i in range(4))
graph = Graph((names[0],), (names[-1],), layers, {n: Tensor(n, shape) for n in names}, {})
device = devices("sim:mlu100")
space = plan_space(graph, device, tuple(range(1, 33)), AnyChain())
spec, each = load(device.name), range(len(space.questions))
table = np.array([times(spec, space.workload(q), space.cores) for q in each])
rows = [block_rows(space.workload(q), space.cores, device, layouts=space.layouts(q)) for q in each]
asked = of(SimSpace("relus", None, spec, space, table, np.array(rows, np.float32)), device)
found = []
for search, hosts in ((True, 3), (False, 1)):
    small = fleet.Fleet("small", devices=3, seconds=0.1, hosts=hosts, search=search, window=1.5)
    with tempfile.TemporaryDirectory() as folder:
        found.append(fleet.run(small, asked, f"sqlite:///{folder}/f.db", Path(folder)))
parts.DISPATCHED = (10,)
with tempfile.TemporaryDirectory() as folder:
    found.append(parts.run(asked, f"sqlite:///{folder}/f.db", 0.2))
print(json.dumps(found))
"""


def test_a_small_fleet_is_watched_and_its_rows_make_a_section(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    search, prepared, parts = json.loads(done.stdout)
    for row in (search, prepared):
        assert 0 < row["trials"] <= 3 * 2.0 / 0.1
        assert row["busy"] == pytest.approx(row["trials"] * 0.1 / (3 * 1.5), rel=0.25)
        assert row["taken_away"] == 0
        costs = [row["parts"][part]["cpu_ms_per_trial"] for part in ("trial", "progress", "lease", "deciding")]
        assert all(cost is not None and cost >= 0 for cost in costs)
        assert 0 < sum(costs) < 1.2 * row["cpu_ms_per_trial"]["drivers"] + 1
        assert row["parts"]["device"]["ms"] >= 100  # it slept
    assert all(parts[name]["per_second"] > 0 for name in ("deciding", "trials", "progress", "leases", "events"))
    about = {"date": "2026-01-01", "command": "python -m bench.scale", "machine": "m", "database": "SQLite"}
    about["load_before"] = "1.0"
    parts |= {f"dispatch:{count}": parts["dispatch:10"] for count in (100, 1000)}
    rows: dict[str, dict[str, Any]] = {"search": search, "prepared": prepared, "parts": parts}
    render({name: row | about for name, row in rows.items()}, tmp_path / "RESULTS.md")
    text = (tmp_path / "RESULTS.md").read_text()
    assert f"{100 * search['busy']:.1f}%" in text and "simulated" in text
    assert "| claiming jobs, 10 devices free |" in text


def test_what_was_not_measured_is_said_to_be_missing(tmp_path: Path) -> None:
    render({}, tmp_path / "RESULTS.md")
    text = (tmp_path / "RESULTS.md").read_text()
    assert "No fleet has been run yet" in text and "have not been measured yet" in text
