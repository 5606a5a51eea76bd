"""kill -9 of workers, of Ray's head, of the server and of the tuner, at random moments: nothing is lost or doubled.

FUSETUNE_KILLS and FUSETUNE_KILL_SEED change how many there are, and which. The tally is printed.
"""

from __future__ import annotations

import os
import sys
from contextlib import closing
from pathlib import Path

import pytest
from cli_tools import conv_net
from kill_tools import Served, torture

sys.path.append(str(Path(__file__).parents[1] / "integration" / "cluster"))
from cluster_tools import MISSING, Head, Machine, processes

pytest.importorskip("ray", reason=MISSING)
pytestmark = [pytest.mark.alone, pytest.mark.slow]

NODE, MEMBER = "tuner.measure.cluster.node", "tuner.measure.cluster.member"


@pytest.mark.timeout(4 * 3600)
@pytest.mark.parametrize("url", ["postgres"], indirect=True)
def test_two_hundred_random_kills(tmp_path: Path, url: str, capsys: pytest.CaptureFixture[str]) -> None:
    kills = int(os.environ.get("FUSETUNE_KILLS", "200"))
    seed = int(os.environ.get("FUSETUNE_KILL_SEED", "11"))
    with Head() as head, Machine(head.address, "--name", "bench") as machine:

        def part(what: str) -> None:
            """A part of the worker; the rest of it starts it again."""
            for process in processes(what, under=machine.process.pid):
                process.kill()

        def worker() -> None:
            machine.kill()
            machine.start()

        def first() -> None:
            head.kill()
            head.start()

        served = Served(tmp_path, "--cluster", head.address, db=url, device="bench")
        with closing(served):
            victims = {
                "worker": worker, "worker's node": lambda: part(NODE), "worker's member": lambda: part(MEMBER),
                "head": first, **served.victims,
            }  # fmt: skip
            tally = torture(served, conv_net(tmp_path / "small.onnx"), kills, seed, victims)
    with capsys.disabled():
        print(f"\n{tally}")
