"""Kernels compiled one by one and kept by what they are, so that what was measured goes into whole models as it is."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tvm

from tuner.build import dividing
from tuner.build.binary import Arg, KernelBinary
from tuner.build.linking import emit_object
from tuner.build.together import is_divisible, part_of
from tuner.errors import CandidateError
from tuner.graph.ir import Graph
from tuner.kernels.base import Kernel
from tuner.kernels.registry import template
from tuner.plan.layout import Pack
from tuner.types import Candidate, Device, digest


@dataclass(frozen=True)
class KernelObject:
    """A compiled kernel: an object file that defines ``symbol``. See KernelBinary for ``args`` and ``packs``."""

    path: Path
    symbol: str
    args: tuple[Arg, ...]
    packs: Mapping[str, Pack]
    spills: int  # how often its products move a vector register to or from the stack; -1 = not known

    def binary(self, library: Path) -> KernelBinary:
        """The kernel as it is in a library that this object was linked into."""
        return KernelBinary(str(library), self.symbol, self.args, self.packs)


def symbol_of(candidate: Candidate, part: bool = False) -> str:
    """Name of a candidate's function: equal for candidates of equal code. Where weights come from does not matter.

    ``part``: of the function that does one task of it (see ``tuner.build.together``).
    """
    code = [
        candidate.workload_hash, dict(candidate.layouts), candidate.template_version, dict(candidate.knobs),
        candidate.cores, candidate.precision, dividing.VERSION if candidate.cores > 1 else 0,
    ]  # fmt: skip
    return f"{candidate.template}_{digest(code)[:16]}{'_part' if part else ''}"


def can_share(candidate: Candidate, device: Device) -> bool:
    """Whether the kernel can run on its cores beside others."""
    return candidate.cores == 1 or is_divisible(_scheduled(candidate, device).schedule.mod["main"], candidate.cores)


def compile_kernel(
    candidate: Candidate, device: Device, path: Path, part: bool = False, *, divide: bool = True
) -> KernelObject:
    """Compile ``candidate`` for ``device`` into the object file ``path``, or the function that does one task of it.

    Without ``divide`` its tasks keep the iterations they have, however slow their cores (see ``tuner.build.dividing``).

    Raises CandidateError(code="build-failed") when its template does not serve it or it has no tasks to do one by one,
    and whatever the template raises.
    """
    kernel, symbol = _scheduled(candidate, device), symbol_of(candidate, part)
    function = kernel.schedule.mod["main"]
    if part:
        function = part_of(function, candidate.cores)
    several = divide and candidate.cores > 1 and not part
    lowering = dividing.pipeline(min(candidate.cores, device.cores)) if several else "default"
    module = tvm.IRModule({symbol: function.with_attr("global_symbol", symbol)})
    with tvm.target.Target(device.target()) as target:  # what tuner.kernels.rounding looks at
        compiled = tvm.compile(module, target=target, tir_pipeline=lowering)
    return KernelObject(path, symbol, kernel.args, kernel.packs, emit_object(compiled.mod, path))


def _scheduled(candidate: Candidate, device: Device) -> Kernel:
    workload = Graph.from_json(candidate.workload)
    maker = template(candidate.template)
    if not maker.accepts(workload, candidate.layouts, device):
        raise CandidateError(
            f"Template {candidate.template} does not serve this workload with layouts {dict(candidate.layouts)}.",
            code="build-failed",
        )
    return maker.build(workload, candidate.layouts, candidate.knobs, candidate.cores, device)


class Objects:
    """A folder of compiled kernels for one device. Any number of processes may fill it at the same time.

    ``seconds`` is the time that this process spent on compiling.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.seconds = 0.0
        self._known: dict[str, KernelObject] = {}  # by symbol

    def find(self, candidate: Candidate, part: bool = False) -> KernelObject | None:
        """The kernel, if it was compiled already."""
        symbol = symbol_of(candidate, part)
        if symbol not in self._known:
            try:
                data: Mapping[str, Any] = json.loads((self.folder / f"{symbol}.json").read_text())
            except FileNotFoundError:
                return None
            known = KernelBinary.from_json(data)
            self._known[symbol] = KernelObject(
                self.folder / f"{symbol}.o", known.symbol, known.args, known.packs, data["spills"]
            )
        return self._known[symbol]

    def compiled(self, candidate: Candidate, device: Device, part: bool = False) -> KernelObject:
        """The kernel, compiled now if need be. Raises what ``compile_kernel`` raises; nothing is kept then."""
        if found := self.find(candidate, part):
            return found
        began = time.monotonic()
        symbol = symbol_of(candidate, part)
        objects, facts = (self.folder / f"{symbol}.{os.getpid()}.{end}" for end in ("o", "json"))
        try:
            made = compile_kernel(candidate, device, objects, part)
            facts.write_text(json.dumps(made.binary(self.folder / f"{symbol}.o").to_json() | {"spills": made.spills}))
            objects.rename(self.folder / f"{symbol}.o")
            facts.rename(self.folder / f"{symbol}.json")  # last: with it the kernel is there
        finally:
            objects.unlink(missing_ok=True)
            facts.unlink(missing_ok=True)
            self.seconds += time.monotonic() - began
        found = self.find(candidate, part)
        assert found is not None
        return found
