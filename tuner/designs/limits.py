"""What a GPU asks of tile sizes, read off a trace: uniform draws that keep to it mostly pass VerifyGPUCode.

Followed are the loops that tiles make, through splits and fusions, up to the thread axes they are bound to; and the
bytes that the tiled computation reads in one block, which its trace copies to shared memory.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import tvm

from tuner.designs.parameters import TILE, Parameter

MOST_VTHREADS = 8  # TVM's VerifyGPUCode
_Factor = tuple[str, int]  # (name of a tile parameter, which of its factors)


@dataclass(frozen=True)
class _Read:
    """One tensor that a tiled computation reads: for each dimension, how far it moves with each tiled axis."""

    bytes: int
    steps: tuple[Mapping[str, float], ...]  # per dimension: tile parameter -> elements a step

    def elements(self, extents: Mapping[str, np.ndarray]) -> Any:
        return prod(1 + sum(step * (extents[name] - 1) for name, step in steps.items()) for steps in self.steps)


class Limits:
    """Whether decisions about tiles keep within what one block may have; for a CPU they all do."""

    def __init__(self, module: Any, trace: Any, parameters: Mapping[str, tuple[Parameter, Any]], target: Any) -> None:
        self._gpu = str(target.kind.name) == "cuda"
        if not self._gpu:
            return
        self._warp = int(target.attrs["thread_warp_size"])
        self._threads = int(target.attrs["max_threads_per_block"])
        self._shared = int(target.attrs["max_shared_memory_per_block"])
        self._axes = _axes(trace, parameters)
        self._tables = {
            name: np.array(parameter.values) for name, (parameter, _) in parameters.items() if parameter.kind == TILE
        }
        self._reads = _reads(module, trace, parameters)
        self._copies = _copies(trace)

    def keep(self, knobs: Mapping[str, np.ndarray]) -> np.ndarray:
        """For numbers ``[n]`` by parameter name: which of the n choices are within the limits, ``[n]`` of bool."""
        count = len(next(iter(knobs.values())))
        good = np.ones(count, bool)
        if not self._gpu or not self._tables:
            return good
        factors = {name: table[knobs[name]] for name, table in self._tables.items()}
        for axis, low, high in (
            ("threadIdx.x", self._warp, self._threads),
            ("threadIdx.y", 1, self._threads // self._warp),
            ("vthread.x", 1, MOST_VTHREADS),
        ):
            for parts in self._axes.get(axis, ()):
                extent = prod(factors[name][:, part] for name, part in parts)
                good &= (extent >= low) & (extent <= high)
        inside = {name: table[:, 1:].prod(axis=1) for name, table in factors.items()}
        if self._reads:
            good &= self._copies * sum(r.bytes * r.elements(inside) for r in self._reads) <= self._shared
        return good


def _axes(trace: Any, parameters: Mapping[str, tuple[Parameter, Any]]) -> dict[str, list[list[_Factor]]]:
    """Thread axis -> for each loop bound to it that tiles alone make up, the factors whose product it is."""
    names = {inst: name for name, (_, inst) in parameters.items()}
    factors: dict[Any, _Factor] = {}
    loops: dict[Any, list[_Factor | None]] = {}
    axes: dict[str, list[list[_Factor]]] = {}
    for inst in trace.insts:
        kind = str(inst.kind.name)
        if kind == TILE:
            factors |= {output: (names[inst], k) for k, output in enumerate(inst.outputs)}
        elif kind == "Split":
            for output, factor in zip(inst.outputs, list(inst.inputs)[1:], strict=False):
                loops[output] = [None if factor is None or isinstance(factor, int) else factors.get(factor)]
        elif kind == "Fuse":
            loops[inst.outputs[0]] = [part for loop in inst.inputs for part in loops.get(loop, [None])]
        elif kind == "Bind":
            parts = [part for part in loops.get(inst.inputs[0], [None]) if part is not None]
            if parts and len(parts) == len(loops[inst.inputs[0]]):
                axes.setdefault(str(inst.attrs[0]), []).append(parts)
    return axes


def _copies(trace: Any) -> int:
    """How many steps' data lie in shared memory together: one, or more with a software pipeline."""
    stages = [
        int(stage)
        for inst in trace.insts
        if str(inst.kind.name) == "Annotate" and str(inst.attrs[0]) == "software_pipeline_stage"
        for stage in inst.inputs[1]
    ]
    return 1 + max(stages, default=0)


def _reads(module: Any, trace: Any, parameters: Mapping[str, tuple[Parameter, Any]]) -> list[_Read]:
    """What the computation reads whose own loops the tiles split; nothing where the trace reshapes it first."""
    tiled = {inst.inputs[0]: name for name, (p, inst) in parameters.items() if p.kind == TILE}
    blocks: dict[Any, str] = {}
    for inst in trace.insts:
        kind = str(inst.kind.name)
        if kind == "GetSBlock":
            blocks[inst.outputs[0]] = str(inst.attrs[0])
        elif kind == "GetLoops" and inst.inputs[0] in blocks:
            of_axes = [tiled.get(loop) for loop in inst.outputs]
            if tiled and len([name for name in of_axes if name]) == len(tiled):
                return _footprints(module, blocks[inst.inputs[0]], of_axes)
    return []


def _footprints(module: Any, block: str, tiles: list[str | None]) -> list[_Read]:
    schedule = tvm.s_tir.Schedule(module, debug_mask="none")
    stage = schedule.get(schedule.get_sblock(block))
    variables = [v.var for v in stage.iter_vars]
    if len(variables) != len(tiles):
        return []
    found = []
    for region in stage.reads:
        steps = []
        for part in region.region:
            linear = tvm.sym.detect_linear_equation(part.min, variables)
            if len(linear) != len(variables) + 1 or not all(isinstance(c, tvm.tirx.IntImm) for c in linear[:-1]):
                break  # an index that is no sum of axes
            steps.append({t: abs(int(c)) for t, c in zip(tiles, linear[:-1], strict=True) if t and int(c)})
        else:
            size = np.dtype(str(region.source.dtype)).itemsize
            found.append(_Read(size, tuple(steps)))
    return found
