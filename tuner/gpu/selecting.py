"""Which kernels an artifact runs with, once its bundle was measured: the fastest of each task, without a compiler.

The artifact's own library holds what was chosen when it was built; the bundle beside it holds the other candidates as
libraries of their own, and what was measured says which are better, and on how many SMs. Needs no TVM.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from tuner.gpu.program import Program
from tuner.gpu.sidebyside import arranged, in_turn
from tuner.gpu.spec import GpuSpec
from tuner.plan.arranging import Arrangement, Branch, Timed

LAUNCH = 3e-6  # s of a kernel of which nothing is known but its bytes


@dataclass(frozen=True)
class Kernel:
    """Where a call's kernel stands: a library of the bundle, or (None) the artifact's own."""

    library: str | None  # path in the bundle
    name: str


@dataclass(frozen=True)
class Selection:
    """Stages of a program and the kernel of each of its calls."""

    stages: tuple[tuple[Branch, ...], ...]
    kernels: tuple[Kernel, ...]
    seconds: float  # expected
    measured: int  # calls whose kernel was measured


class Selector:
    """Chooses for one artifact; ``results`` are those of its bundle (what results.json holds), on any GPU of ``spec``.

    ``own``: seconds expected of the kernels in the artifact's library, by task.
    """

    def __init__(
        self, program: Program, own: Mapping[str, float], results: Sequence[Mapping[str, Any]], spec: GpuSpec
    ) -> None:  # fmt: skip
        self._program, self._spec = program, spec
        self._known: dict[str, dict[int, tuple[float, str]]] = {}  # task -> SMs -> seconds, library
        for result in results:
            if result["failure"] is None and result["samples"]:
                self._take(result)
        self._times = [self._timed(number, own) for number in range(len(program.calls))]

    def side_by_side(self) -> Selection:
        """The plan with the least expected time."""
        return self._select(arranged(self._program, self._times, self._spec.sms))

    def in_turn(self) -> Selection:
        """The same kernels, one after the other."""
        return self._select(in_turn(self._program, self._times, self._spec.sms))

    def _take(self, result: Mapping[str, Any]) -> None:
        seconds = median(float(s) for s in result["samples"])
        sms = min(int(result["sms"]), self._spec.sms)
        task = self._known.setdefault(str(result["task"]), {})
        if sms not in task or seconds < task[sms][0]:
            task[sms] = seconds, str(result["library"])

    def _timed(self, number: int, own: Mapping[str, float]) -> Timed:
        task = self._program.calls[number].task or ""
        floor = self._program.bytes(number) / self._spec.bandwidth
        if task in self._known:
            return Timed({sms: seconds for sms, (seconds, _) in self._known[task].items()}, floor)
        return Timed({self._spec.sms: own.get(task, LAUNCH + floor)}, floor)

    def _select(self, arrangement: Arrangement) -> Selection:
        cores = {call: b.cores for stage in arrangement.stages for b in stage for call in b.calls}
        kernels, measured = [], 0
        for number, call in enumerate(self._program.calls):
            known = self._known.get(call.task or "")
            if not known:
                kernels.append(Kernel(None, call.symbol))
                continue
            fitting = self._times[number].within(cores[number]) or self._times[number].alone
            kernels.append(Kernel(known[fitting[0]][1], "main"))
            measured += 1
        return Selection(arrangement.stages, tuple(kernels), arrangement.seconds, measured)
