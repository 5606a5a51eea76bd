"""What is refused before a job exists, and what the server has to load for that."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]


def test_jobs_are_checked_without_numpy_onnx_or_tvm() -> None:
    program = """
import sys
import service.jobs
from service.rules import check_shapes, checked
from tuner.errors import UserError
from tuner.types import JobSpec

block = {"layers": ["a"], "cores": 1, "template": "view"}
plan = {"version": 1, "graph": "", "stages": [{"lanes": [{"blocks": [block]}]}]}
checked(JobSpec("", plan=plan, disabled_passes=("sum-to-add",)))
check_shapes({"x": (2, 3)}, [{"name": "x", "declared": ["N", 3]}, {"name": "y", "declared": ["N"]}])
for wrong, code in (({"plan": {}}, "bad-plan"), ({"disabled_passes": ("fold",)}, "unknown-pass")):
    try:
        checked(JobSpec("", **wrong))
    except UserError as error:
        assert error.code == code
    else:
        raise AssertionError(code)
assert not {"numpy", "onnx", "tvm"} & set(sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
