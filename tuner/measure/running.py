"""What the measuring child does: load a kernel, verify its output against the reference, time it.

Everything that depends on the workload alone is kept from one request to the next, so that a trial of a small
convolution costs little more than its calls.
"""

from __future__ import annotations

import gc
import json
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from tuner.build.binary import Arg, KernelBinary
from tuner.errors import CandidateError
from tuner.measure.arena import Copies, WeightArena, aligned, residencies
from tuner.measure.contention import Gauge, kernel_burst
from tuner.measure.options import MeasureOptions
from tuner.measure.reference import Reference, load_reference, max_rel_error
from tuner.measure.timing import LoadMeter, Sample, Wanted, calls_per_sample, kept, take
from tuner.plan.layout import physical_shape, to_logical, to_physical
from tuner.types import Device

_KEPT_BYTES = 1 << 30  # of physical inputs and of buffers, together
_WRONG = float("inf")
CONTENDED = 1.7  # times longer that calls take at most on contended cores


def handler(config: Mapping[str, Any]) -> Callable[[Mapping[str, Any]], dict[str, Any]]:
    import tvm.runtime  # noqa: F401 - brings the thread pool that kernels call
    from tvm_ffi import from_dlpack, load_module

    device, options = Device.from_json(config["device"]), MeasureOptions.from_json(config["options"])
    burst = kernel_burst(device, Path(config["burst"])) if options.patience > 0 else None
    measurer = _Measurer(
        device, options, from_dlpack, partial(load_module, keep_module_alive=False),  # or thousands would stay mapped
        None if burst is None else Gauge(burst),
    )  # fmt: skip
    gc.collect()
    gc.freeze()
    gc.disable()  # a collection inside a sample would be timed; requests are few and leave no cycles worth it
    return measurer.handle


class _Kept:
    """Arrays kept by key, the least recently used dropped beyond a number of bytes."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._held: OrderedDict[Any, np.ndarray] = OrderedDict()

    def get(self, key: Any, make: Callable[[], np.ndarray]) -> np.ndarray:
        if key not in self._held:
            self._held[key] = make()
        self._held.move_to_end(key)
        while len(self._held) > 1 and sum(a.nbytes for a in self._held.values()) > self._limit:
            self._held.popitem(last=False)
        return self._held[key]


class _Measurer:
    def __init__(
        self,
        device: Device,
        options: MeasureOptions,
        to_tensor: Callable[..., Any],
        load: Callable[..., Any],
        gauge: Gauge | None,
    ) -> None:
        self._device = device
        self._gauge = gauge
        self._began = time.perf_counter()
        self._waited = 0.0
        self._options = options
        self._load = load
        self._to_tensor = to_tensor
        self._references: OrderedDict[str, Reference] = OrderedDict()
        self._arrays = _Kept(_KEPT_BYTES)
        self._arena = WeightArena(residencies(device.l2, device.l3))

    def handle(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """``request``: reference (folder), binary, residency, final, best_seconds, floor (of the gauge, if known).

        Answers samples and the error; "calibration" is what the gauge's burst took beside them, in seconds.
        """
        binary = KernelBinary.from_json(request["binary"])
        reference = self._reference(request["reference"])
        function = self._load(binary.library)[binary.symbol]
        weights = self._pack(binary, reference, request)
        bind = _Bound(self, binary, reference, weights)
        error, message = self._verify(function, bind, reference)
        if not error <= self._options.tolerance:
            return {"wrong": message, "error": error if error < _WRONG else None}
        if self._gauge is not None:
            self._gauge.hear(request.get("floor") or float("inf"))
        samples, disturbed, calls, contention = self._time(function, bind, request)
        floor = None if self._gauge is None else self._gauge.floor
        return {
            "samples": samples, "error": error, "disturbed": disturbed, "calls": calls, "floor": floor,
            "calibration": None if floor is None else floor * contention,
        }  # fmt: skip

    def _reference(self, folder: str) -> Reference:
        if folder not in self._references:
            self._references[folder] = load_reference(Path(folder))
            while len(self._references) > 8:
                self._references.popitem(last=False)
        self._references.move_to_end(folder)
        return self._references[folder]

    def _pack(self, binary: KernelBinary, reference: Reference, request: Mapping[str, Any]) -> Copies:
        """The packed constants, in as many copies as make them cold."""
        names = [a.name for a in binary.args if a.role == "constant"]

        def packed() -> list[np.ndarray]:
            arrays = [
                binary.packs[n](reference.constants[n]) if n in binary.packs else reference.constants[n] for n in names
            ]
            for arg, array in zip((a for a in binary.args if a.role == "constant"), arrays, strict=True):
                _check(arg, array)
            return arrays

        packs = {n: p.to_json() for n, p in binary.packs.items()}
        key = json.dumps([str(reference.folder), names, packs])
        return self._arena.copies(key, packed, request["residency"])

    def _verify(self, function: Any, bind: _Bound, reference: Reference) -> tuple[float, str]:
        bind.refresh(1)
        for buffer in bind.outputs.values():
            buffer.view(np.uint8).fill(0xFF)  # NaN in every floating-point format: what is not written shows
        function(*bind.calls[0])
        worst, message = 0.0, ""
        for arg in bind.output_args:
            truth = reference.outputs[arg.name]
            got = bind.outputs[arg.name]
            shape = physical_shape(truth.shape, arg.layout)
            if shape == truth.shape or shape[1] * shape[-1] == truth.shape[1]:  # no padding: compare as it lies
                key = ("truth", str(reference.folder), arg.name, arg.layout)
                error = max_rel_error(got, self._arrays.get(key, partial(to_physical, truth, arg.layout)))
            else:
                error = max_rel_error(to_logical(got, arg.layout, truth.shape), truth)
                if not np.isfinite(got).all():
                    return _WRONG, f"Output {arg.name} has a number in its channel padding that is not finite."
            if not error <= worst:
                worst = error
                message = f"Output {arg.name} differs from the reference: max|y-ref| / max|ref| = {error:.3g}."
        return worst, message

    def _time(self, function: Any, bind: _Bound, request: Mapping[str, Any]) -> tuple[list[float], int, int, float]:
        """Samples that count, how many were disturbed, calls of each, and the contention beside the usual sample."""
        options = self._options
        wanted = Wanted.of(options, final=request["final"], best_seconds=request.get("best_seconds"))
        calls = bind.calls

        def call(i: int) -> None:
            function(*calls[i])

        warm = Wanted(1, 2, options.sample_seconds / 10, 0)
        seconds = min(s.seconds for s in take(call, bind.refresh, 1, warm)[0])
        group = calls_per_sample(seconds, options.group_seconds)
        best: list[Sample] = []
        least, disturbed = float("inf"), 0
        hopeless = seconds > wanted.early_limit * CONTENDED
        patience = 0.0 if hopeless else self._patience(request["final"])
        for _ in range(2):  # once more if others kept our cores busy
            meter = LoadMeter()
            samples, waited = take(call, bind.refresh, group, wanted, self._gauge, patience)
            foreign = meter.read().foreign(self._device.cores)
            self._waited, patience = self._waited + waited, patience - waited
            disturbed += sum(s.disturbed for s in samples)
            if foreign < least:
                best, least = samples, foreign
            if foreign <= options.foreign_load or len(samples) < wanted.minimum:
                break
        return kept(best), disturbed, group, median(s.contention for s in best)

    def _patience(self, final: bool) -> float:
        """Seconds that a trial may wait for calm cores: less when much has been waited in vain."""
        options = self._options
        if final:
            return options.patience
        saved = options.waiting * (time.perf_counter() - self._began) - self._waited
        return min(options.patience, max(0.0, options.patience + saved))


class _Bound:
    """A kernel's buffers, and the arguments of its next calls."""

    def __init__(self, owner: _Measurer, binary: KernelBinary, reference: Reference, weights: Copies) -> None:
        self._tensor = owner._to_tensor
        self._weights = weights
        self.outputs: dict[str, np.ndarray] = {}
        self.output_args = [a for a in binary.args if a.role == "output"]
        self._fresh: list[tuple[np.ndarray, np.ndarray]] = []  # input buffer, what is copied into it
        self._fixed: list[Any] = []  # tensors in call order, None for constants
        keep = owner._arrays
        for index, arg in enumerate(binary.args):
            if arg.role == "constant":
                self._fixed.append(None)
                continue
            buffer = keep.get((index, arg.shape, arg.dtype), partial(aligned, arg.shape, np.dtype(arg.dtype)))
            if arg.role == "output":
                self.outputs[arg.name] = buffer
                _check(arg, buffer, physical_shape(reference.outputs[arg.name].shape, arg.layout))
            else:
                key = ("input", str(reference.folder), arg.name, arg.layout)
                master = keep.get(key, partial(to_physical, reference.inputs[arg.name], arg.layout))
                _check(arg, master)
                self._fresh.append((buffer, master))
            self._fixed.append(self._tensor(buffer))
        self._held: dict[int, list[Any]] = {}  # copy of the weights -> its tensors
        self.calls: list[list[Any]] = []

    def refresh(self, calls: int) -> None:
        """Write the inputs anew, as the layer before would have, and line up the next copies of the weights."""
        for buffer, master in self._fresh:
            np.copyto(buffer, master)
        self.calls[:] = [self._arguments() for _ in range(calls)]

    def _arguments(self) -> list[Any]:
        copy = self._weights.take()
        if copy not in self._held:
            self._held[copy] = [self._tensor(a) for a in self._weights.arrays(copy)]
        constants = iter(self._held[copy])
        return [next(constants) if t is None else t for t in self._fixed]


def _check(arg: Arg, array: np.ndarray, shape: tuple[int, ...] | None = None) -> None:
    have = array.shape if shape is None else shape
    if tuple(have) != arg.shape or array.dtype != np.dtype(arg.dtype):
        raise CandidateError(
            f"Kernel argument {arg.name} is {arg.dtype}{list(arg.shape)}; the workload has {array.dtype}{list(have)}.",
            code="bad-kernel",
        )
