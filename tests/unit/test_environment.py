"""What processes are told by their environment."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tuner.environment import child_environment

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
