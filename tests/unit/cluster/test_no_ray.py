"""Ray stays where it belongs: in the four modules that run in processes of their own."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]
ROOMS = ("service", "tuner", "cost_model", "db", "bench")
THEIRS = {f"tuner/measure/cluster/{name}.py" for name in ("actor", "link", "member", "node")}


def test_only_the_processes_of_the_cluster_import_ray() -> None:
    importing = {
        str(path.relative_to(ROOT))
        for room in ROOMS
        for path in (ROOT / room).rglob("*.py")
        if re.search(r"^\s*(import|from) ray\b", path.read_text(), re.MULTILINE)
    }
    assert importing == THEIRS


def test_the_runner_and_the_command_line_load_no_ray() -> None:
    program = (
        "import sys, service.cli, service.commands.serve, tuner.measure.cluster.runner, tuner.measure.cluster.joining\n"
        "assert 'ray' not in sys.modules"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
