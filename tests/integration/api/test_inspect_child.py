"""The process that reads uploaded models: what it is told, and that it never outlives the server."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from service.inspect import inspect
from tests.api_server import DEVICE
from tests.unit.graph.graph_models import model, node

ROOT = Path(__file__).parents[3]


def relu(folder: Path) -> Path:
    path = folder / "relu.onnx"
    path.write_bytes(model([node("Relu", ["x"], "y")], {"x": [1, 3]}, ["y"]).SerializeToString())
    return path


def hook(folder: Path, body: str) -> Path:
    """A folder that, being on the module path, has every Python process run ``body`` first."""
    made = folder / "hook"
    made.mkdir()
    (made / "sitecustomize.py").write_text(body)
    return made


def test_who_reads_a_file_learns_no_secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    body = f"""
import json, os, pathlib, sys
pathlib.Path({str(tmp_path)!r}, f"{{os.getpid()}}.env").write_text(json.dumps([sys.orig_argv, dict(os.environ)]))
"""
    monkeypatch.syspath_prepend(str(hook(tmp_path, body)))
    monkeypatch.setenv("FUSETUNE_DB_PASSWORD", "hunter2")
    monkeypatch.setenv("FUSETUNE_TOKEN", "hunter2")
    assert inspect(relu(tmp_path), DEVICE).layers == 1
    seen = [json.loads(file.read_text()) for file in tmp_path.glob("*.env")]
    for module in ("service.inspect.child", "tuner.graph.child"):
        assert any(module in words for words, _ in seen)
    assert all("hunter2" not in environment.values() for _, environment in seen)


def test_it_dies_with_the_server(tmp_path: Path) -> None:
    """Killed as suddenly as can be while the child is at work."""
    pid_file = tmp_path / "pid"
    body = f"""
import os, pathlib, sys, time
class Stop:
    def find_spec(self, name, path=None, target=None):
        if name == "numpy":  # the first thing that it loads to work
            file = pathlib.Path({str(pid_file)!r})
            file.with_suffix(".new").write_text(str(os.getpid()))
            file.with_suffix(".new").rename(file)
            time.sleep(600)
if "service.inspect.child" in sys.orig_argv:
    sys.meta_path.insert(0, Stop())
"""
    program = """
import sys
from pathlib import Path
from service.inspect import inspect
from tests.api_server import DEVICE
inspect(Path(sys.argv[1]), DEVICE)
"""
    paths = os.pathsep.join([str(hook(tmp_path, body)), str(ROOT)])
    server = subprocess.Popen(
        [sys.executable, "-c", program, str(relu(tmp_path))], env=os.environ | {"PYTHONPATH": paths}, cwd=ROOT
    )
    child = None
    try:
        while not pid_file.exists():
            assert server.poll() is None
            time.sleep(0.02)
        child = int(pid_file.read_text())
        assert alive(child)
        server.kill()
        server.wait()
        for _ in range(400):
            if not alive(child):
                break
            time.sleep(0.05)
        assert not alive(child)
    finally:
        server.kill()
        server.wait()
        if child is not None and alive(child):
            os.kill(child, signal.SIGKILL)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False
