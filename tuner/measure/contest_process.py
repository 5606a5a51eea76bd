"""A contestant's process as the contest sees it: loaded once, stopped between turns, told to take turns."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tuner.environment import child_environment
from tuner.measure.process import Child, Outcome, wait

_UNLIMITED = 1 << 62  # bytes: whole models need what they need; the kernel's out-of-memory killer takes them first
_PERIOD = 0.25  # seconds between looks at a child at work: rare, so that the parent does not disturb it
_CPU_CLOCK = 2  # CPUCLOCK_SCHED of linux/posix-timers.h


class Contender(Child):
    """A child in the role "contest" that can be stopped (SIGSTOP) and continued.

    An idle engine's thread pool may spin on the cores that another is being measured on; a stopped one cannot.
    """

    def __init__(
        self, config: Mapping[str, Any], stderr: Path, env: Mapping[str, str], limit: float, role: str = "contest"
    ) -> None:
        self.stopped = False
        super().__init__(role, config, stderr, env, limit, _UNLIMITED)

    def ask(self, request: Mapping[str, Any], limit: float) -> Outcome:
        """Continue the child, have it do something, and stop it again unless it died. Blocks."""
        self.resume()
        self.send(request, limit)
        return self.finish()

    def finish(self) -> Outcome:
        """Wait for the request in progress, then stop the child unless it died."""
        while (outcome := self.collect()) is None:
            wait([self], _PERIOD)
        if not outcome.died:
            self.stop()
        return outcome

    def stop(self) -> None:
        """Stop all its threads; returns when they have stopped."""
        os.killpg(self.pid, signal.SIGSTOP)
        while not _stopped(self.pid):
            time.sleep(0.0005)
        self.stopped = True

    def resume(self) -> None:
        """Let it go on."""
        os.killpg(self.pid, signal.SIGCONT)
        self.stopped = False

    @property
    def cpu_seconds(self) -> float:
        """Processor time its threads have used so far; 0 once it is gone."""
        try:
            return time.clock_gettime((~self.pid << 3) | _CPU_CLOCK)  # clock_getcpuclockid(3)
        except OSError:
            return 0.0


def _stopped(pid: int) -> bool:
    """Whether every thread of a process is stopped, or gone."""
    try:
        for task in os.listdir(f"/proc/{pid}/task"):
            state = Path(f"/proc/{pid}/task/{task}/stat").read_text().rpartition(")")[2].split()[0]
            if state not in "TtZX":
                return False
    except OSError:
        pass
    return True


def environment(threads: int) -> dict[str, str]:
    """Of a contestant that may use so many threads."""
    count = str(threads)
    env = child_environment() | {
        "TVM_NUM_THREADS": count,  # TVM would take half the logical cores on x86, believing in SMT
        "OMP_NUM_THREADS": count,
        "MKL_NUM_THREADS": count,
        "OPENBLAS_NUM_THREADS": "1",  # numpy only reads and writes files here
    }
    env.pop("TVM_USE_RUNTIME_LIB", None)  # the virtual machine's Python side wants the whole of TVM
    return env
