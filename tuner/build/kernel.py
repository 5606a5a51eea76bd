"""Candidate -> shared library with one kernel. Runs in builder processes."""

from __future__ import annotations

from pathlib import Path

import tvm

from tuner.build.binary import KernelBinary
from tuner.build.linking import assemble
from tuner.errors import CandidateError
from tuner.graph.ir import Graph
from tuner.kernels.registry import template
from tuner.types import Candidate, Device

SPILLS = 40  # vector moves to or from the stack beyond which a kernel is never among the fastest


def build_kernel(candidate: Candidate, device: Device, library: Path) -> KernelBinary:
    """Build ``candidate`` for ``device`` into ``library``.

    Raises:
        CandidateError: the template refuses ("build-failed"), or the code spills registers ("rejected").
    """
    workload = Graph.from_json(candidate.workload)
    maker = template(candidate.template)
    if not maker.accepts(workload, candidate.layouts, device):
        raise CandidateError(
            f"Template {candidate.template} does not serve this workload with layouts {dict(candidate.layouts)}.",
            code="build-failed",
        )
    kernel = maker.build(workload, candidate.layouts, candidate.knobs, candidate.cores, device)
    compiled = tvm.compile(kernel.schedule.mod, target=tvm.target.Target(device.target()))
    spills = assemble(compiled.mod, library)
    if spills > SPILLS:
        raise CandidateError(f"The code spills vector registers: {spills} moves to or from the stack.", code="rejected")
    return KernelBinary(str(library), "main", kernel.args, kernel.packs)
