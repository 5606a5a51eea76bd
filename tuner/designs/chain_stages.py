"""The stages of a function that computes convolutions one behind the other: which are sums, images, or inlined."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import tvm
import tvm_ffi
from tvm import ir, tirx
from tvm.s_tir import Schedule

from tuner.designs.convolution import Convolution, convolution_of


@dataclass(frozen=True)
class Stages:
    """The stages of a chain's function, by name, in order."""

    convolutions: tuple[Convolution, ...]
    sums: tuple[str, ...]  # of the convolutions
    images: tuple[str, ...]  # what the second convolution reads, and so on
    before: str | None  # what the first one reads, where that is no argument
    out: str | None  # what makes the result; None: the last sum does
    inlined: tuple[str, ...]
    names: tuple[str, ...]  # of all

    @property
    def steps(self) -> int:
        """Channels between the last two convolutions, all of which one tile needs; 1 where it needs its own alone."""
        last = self.convolutions[-1]
        return 1 if last.depthwise else last.in_channels


def stages_of(module: Any) -> Stages | None:
    """The chain that a module's one function "main" computes, if it does."""
    schedule = Schedule(module, debug_mask="none")
    blocks = [schedule.get(b) for b in schedule.get_child_blocks(schedule.get_sblock("root"))]
    reductions = [k for k, block in enumerate(blocks) if _reduces(block)]
    found = [convolution_of(blocks[k]) for k in reductions]
    if len(found) < 2 or any(c is None for c in found):
        return None
    convolutions = tuple(c for c in found if c is not None)
    first, last = reductions[0], reductions[-1]
    if first > 1 or any(b - a < 2 for a, b in pairwise(reductions)):  # nothing between two sums: no image
        return None
    if any(not c.depthwise for c in convolutions[1:-1]) or len({(c.axis, c.batch) for c in convolutions}) > 1:
        return None
    made = {block.writes[0].source for block in blocks}
    if not all(_straight(block, made) for k, block in enumerate(blocks) if k not in reductions):
        return None
    names = [str(block.name_hint) for block in blocks]
    images = tuple(names[k - 1] for k in reductions[1:])
    for k, convolution in zip(reductions[1:], convolutions[1:], strict=True):
        if not blocks[k - 1].writes[0].source.same_as(convolution.data):
            return None
    if not all(_follows(blocks, a, b) for a, b in pairwise(reductions)):
        return None
    before = names[0] if first == 1 else None
    if before is not None and not blocks[0].writes[0].source.same_as(convolutions[0].data):
        return None
    out = names[-1] if last < len(names) - 1 else None
    kept = {*(names[k] for k in reductions), *images, before, out}
    return Stages(
        convolutions, tuple(names[k] for k in reductions), images, before, out,
        tuple(n for n in names if n not in kept), tuple(names),
    )  # fmt: skip


def _follows(blocks: Sequence[Any], total: int, then: int) -> bool:
    """Whether all that a sum makes goes into the image that the next one reads."""
    made = {blocks[total].writes[0].source}
    for block in blocks[total + 1 : then]:
        if any(region.source in made for region in block.reads):
            made.add(block.writes[0].source)
    image = blocks[then - 1].writes[0].source
    later = [region.source for block in blocks[then:] for region in block.reads]
    return image in made and not any(source in made for source in later if not source.same_as(image))


def _straight(block: Any, made: set[Any]) -> bool:
    """Whether a stage reads what others made pixel by pixel, perhaps moved by a border."""
    axes = [v.var for v in block.iter_vars]
    loads: list[Any] = []
    tvm_ffi.structural_walk(block.body, (ir.TensorLoad, loads.append))
    written = block.body.indices if isinstance(block.body, tirx.BufferStore) else []
    if not len(written) == len(axes) == 4 or not all(
        index.same_as(axis) for index, axis in zip(written, axes, strict=True)
    ):
        return False
    for load in loads:
        if load.source in made and not all(_moved(index, axes, k) for k, index in enumerate(load.indices)):
            return False
    return True


def _moved(index: Any, axes: Sequence[Any], number: int) -> bool:
    terms = tvm.sym.detect_linear_equation(index, list(axes))
    if len(terms) != len(axes) + 1 or not all(isinstance(term, tirx.IntImm) for term in terms):
        return False
    return [int(term) for term in terms[:-1]] == [int(k == number) for k in range(len(axes))]


def _reduces(block: Any) -> bool:
    return any(int(v.iter_type) == tirx.IterVar.CommReduce for v in block.iter_vars)


def required(module: Any) -> Stages:
    if (stages := stages_of(module)) is None:
        raise ValueError("the function is no chain of convolutions")
    return stages
