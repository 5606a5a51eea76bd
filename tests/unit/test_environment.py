"""What processes are told by their environment."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tuner.environment import child_environment

ROOT = Path(__file__).parents[2]
ASK = """
from service.cli import main
main(["devices", "--json"])
import numpy, scipy.linalg, ctypes
pools = {line.split()[-1] for line in open("/proc/self/maps") if "openblas" in line}
for path in sorted(pools):
    library = ctypes.CDLL(path)
    for name in ("scipy_openblas_get_num_threads64_", "scipy_openblas_get_num_threads"):
        if hasattr(library, name):
            print(getattr(library, name)())
"""


@pytest.mark.parametrize(("said", "threads"), [(None, {"1"}), ("2", {"2"})])
def test_commands_do_linear_algebra_on_one_thread_unless_told_otherwise(said: str | None, threads: set[str]) -> None:
    if said is not None and len(os.sched_getaffinity(0)) < 2:
        return
    environment = {k: v for k, v in child_environment().items() if k != "OPENBLAS_NUM_THREADS"}
    environment |= {"OPENBLAS_NUM_THREADS": said} if said else {}
    done = subprocess.run([sys.executable, "-c", ASK], capture_output=True, text=True, env=environment, check=True)
    assert set(done.stdout.split()[-2:]) == threads, done.stdout + done.stderr


def test_children_get_no_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FUSETUNE_DB_PASSWORD", "secret")
    monkeypatch.setenv("RAY_AUTH_TOKEN", "secret")
    assert "secret" not in child_environment().values()


def test_children_find_no_modules_in_the_working_folder(tmp_path: Path) -> None:
    for name in ("grp", "random", "json"):
        (tmp_path / f"{name}.py").write_text("raise RuntimeError('not the one of Python')")
    command = [Path(sys.executable).with_name("fusetune"), "devices", "--json"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    said = [
        subprocess.run(command, cwd=folder, capture_output=True, text=True, env=environment, check=True).stdout
        for folder in ("/", tmp_path)
    ]
    assert said[0] == said[1]
