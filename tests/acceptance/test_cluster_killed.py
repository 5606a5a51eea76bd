"""kill -9 of workers, of Ray's head, of the server and of the tuner, at random moments: nothing is lost or doubled.

FUSETUNE_KILLS and FUSETUNE_KILL_SEED change how many there are in the long test, and which. The tally is printed.
"""

from __future__ import annotations

import os
import sys
from contextlib import closing
from pathlib import Path

import pytest
from cli_tools import conv_net
from kill_tools import Served, Tally, torture

sys.path.append(str(Path(__file__).parents[1] / "integration" / "cluster"))
from cluster_tools import MISSING, Head, Machine, processes

pytest.importorskip("ray", reason=MISSING)
pytestmark = pytest.mark.alone
SEED = int(os.environ.get("FUSETUNE_KILL_SEED", "11"))

NODE, MEMBER = "tuner.measure.cluster.node", "tuner.measure.cluster.member"


@pytest.mark.timeout(900)
@pytest.mark.parametrize("url", ["postgres"], indirect=True)
def test_ten_random_kills(tmp_path: Path, url: str) -> None:
    tally = tortured(tmp_path, url, 10)
    assert tally.killed.total() == 10 and tally.jobs


@pytest.mark.slow
@pytest.mark.timeout(4 * 3600)
@pytest.mark.parametrize("url", ["postgres"], indirect=True)
def test_two_hundred_random_kills(tmp_path: Path, url: str, capsys: pytest.CaptureFixture[str]) -> None:
    tally = tortured(tmp_path, url, int(os.environ.get("FUSETUNE_KILLS", "200")))
    with capsys.disabled():
        print(f"\n{tally}")


def tortured(folder: Path, url: str, kills: int) -> Tally:
    """A head, a worker and a server, and so many kills of any of them."""
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

        served = Served(folder, "--cluster", head.address, db=url, device="bench")
        with closing(served):
            victims = {
                "worker": worker, "worker's node": lambda: part(NODE), "worker's member": lambda: part(MEMBER),
                "head": first, **served.victims,
            }  # fmt: skip
            return torture(served, conv_net(folder / "small.onnx"), kills, SEED, victims)
