"""Folders of runners: removed by their owner, or swept after it was killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from tuner.scratch import Scratch


def test_it_is_removed_once_and_again(tmp_path: Path) -> None:
    scratch = Scratch(tmp_path)
    (scratch.path / "x").touch()
    scratch.remove()
    scratch.remove()
    assert list(tmp_path.iterdir()) == []


OWNER = """
import signal, sys
from pathlib import Path
from tuner.scratch import Scratch
print(Scratch(Path(sys.argv[1])).path, flush=True)
signal.pause()
"""


def test_the_folder_of_a_living_owner_stays_and_that_of_a_dead_one_goes(tmp_path: Path) -> None:
    env = os.environ | {"PYTHONPATH": os.pathsep.join(p or os.getcwd() for p in sys.path)}
    owner = subprocess.Popen([sys.executable, "-c", OWNER, tmp_path], stdout=subprocess.PIPE, text=True, env=env)
    assert owner.stdout is not None
    theirs = Path(owner.stdout.readline().strip())
    mine = Scratch(tmp_path)
    assert theirs.exists()
    owner.send_signal(signal.SIGKILL)
    owner.wait()
    another = Scratch(tmp_path)
    assert not theirs.exists() and mine.path.exists()
    mine.remove()
    another.remove()
