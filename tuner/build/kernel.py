"""Candidate -> shared library with one kernel. Runs in builder processes."""

from __future__ import annotations

from pathlib import Path

from tuner.build.binary import KernelBinary
from tuner.build.linking import link
from tuner.build.objects import KernelObject, Objects, compile_kernel
from tuner.errors import CandidateError
from tuner.graph.ir import Graph
from tuner.kernels.registry import template
from tuner.types import Candidate, Device

SPILLS = 15  # vector moves to or from the stack between products, beyond which a kernel is never among the fastest


def build_kernel(
    candidate: Candidate, device: Device, library: Path, objects: Objects | None = None
) -> KernelBinary:  # fmt: skip
    """Build ``candidate`` for ``device`` into ``library``, from an object that is there or is kept there, if given.

    Raises:
        CandidateError: the template refuses ("build-failed"), or the code spills registers ("rejected"). Default knobs
            may spill: the plan that a job begins with has them, and what it takes is to be known.
    """
    if objects is not None:
        return _library(candidate, device, objects.compiled(candidate, device), library)
    path = library.with_suffix(".o")
    try:
        return _library(candidate, device, compile_kernel(candidate, device, path), library)
    finally:
        path.unlink(missing_ok=True)


def _library(candidate: Candidate, device: Device, kernel: KernelObject, library: Path) -> KernelBinary:
    if kernel.spills > SPILLS and not _by_default(candidate, device):
        raise CandidateError(
            f"The code spills vector registers: {kernel.spills} moves to or from the stack.", code="rejected"
        )
    link([kernel.path], library)
    return kernel.binary(library)


def _by_default(candidate: Candidate, device: Device) -> bool:
    space = template(candidate.template).space(Graph.from_json(candidate.workload), candidate.layouts, device)
    return dict(candidate.knobs) == dict(space.default)
