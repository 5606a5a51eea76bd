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
from tuner.measure.arena import Arena, Copies, residencies
from tuner.measure.contention import Gauge, kernel_burst
from tuner.measure.options import MeasureOptions
from tuner.measure.reference import Reference, load_reference, max_rel_error, unrounded_error
from tuner.measure.timing import LoadMeter, Sample, Wanted, calls_per_sample, kept, take
from tuner.plan import bf16
from tuner.plan.layout import is_narrow, physical_shape, source_of, to_logical, to_physical
from tuner.types import Device

_SETS = 3  # of inputs and outputs: a model reads what was just written, into memory used shortly before that
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
        sizes = residencies(device.l2, device.l3)
        self._weights, self._activations = Arena(sizes), Arena({"cache": sizes["cache"]}, _SETS)

    def handle(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """``request``: reference (folder), binary, residency, final, best_seconds, floor (of the gauge, if known).

        Answers samples and the error; "calibration" is what the gauge's burst took beside them, in seconds.
        """
        binary = KernelBinary.from_json(request["binary"])
        reference = self._reference(request["reference"])
        function = self._load(binary.library)[binary.symbol]
        bind, error, message = self._tried(function, binary, reference, request["residency"])
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

    def _tried(
        self, function: Any, binary: KernelBinary, reference: Reference, residency: str
    ) -> tuple[_Bound, float, str]:
        """The verified kernel with its buffers. A wrong result is looked at again on new ones: the kernel before may
        have written to what this one reads."""
        for _ in range(2):
            weights, activations = self._pack(binary, reference, residency), self._lay_out(binary, reference)
            bind = _Bound(self._to_tensor, binary, weights, activations)
            error, message = self._verify(function, bind, reference)
            if error <= self._options.tolerance:
                break
            self._weights.forget()
            self._activations.forget()
        return bind, error, message

    def _pack(self, binary: KernelBinary, reference: Reference, residency: str) -> Copies:
        """The packed constants, in as many copies as make them cold."""
        names = [a.name for a in binary.args if a.role == "constant"]

        def packed() -> list[np.ndarray]:
            given = [reference.constants[source_of(n, reference.constants)] for n in names]
            arrays = [binary.packs[n](a) if n in binary.packs else a for n, a in zip(names, given, strict=True)]
            for arg, array in zip((a for a in binary.args if a.role == "constant"), arrays, strict=True):
                _check(arg, array)
            return arrays

        packs = {n: p.to_json() for n, p in binary.packs.items()}
        key = json.dumps([str(reference.folder), names, packs])
        return self._weights.copies(key, packed, residency)

    def _lay_out(self, binary: KernelBinary, reference: Reference) -> Copies:
        """Inputs and outputs, in copies: called on the same ones over and over, a kernel finds them too near."""
        args = [a for a in binary.args if a.role != "constant"]

        def laid() -> list[np.ndarray]:
            arrays = []
            for arg in args:
                if arg.role == "output":
                    array = np.zeros(arg.shape, arg.dtype)
                    _check(arg, array, physical_shape(reference.outputs[arg.name].shape, arg.layout))
                else:
                    array = self._physical("input", reference, arg)
                    _check(arg, array)
                arrays.append(array)
            return arrays

        key = json.dumps([str(reference.folder), [[a.name, a.role, a.layout, list(a.shape), a.dtype] for a in args]])
        return self._activations.copies(key, laid, "cache")

    def _physical(self, what: str, reference: Reference, arg: Arg) -> np.ndarray:
        """An input, or what an output should be ("truth"), as it lies in memory."""
        source = reference.inputs if what == "input" else reference.outputs
        key = (what, str(reference.folder), arg.name, arg.layout)
        return self._arrays.get(key, partial(to_physical, source[arg.name], arg.layout))

    def _verify(self, function: Any, bind: _Bound, reference: Reference) -> tuple[float, str]:
        bind.refresh(1)
        for arg in bind.output_args:
            bind.buffers[0][arg.name].view(np.uint8).fill(0xFF)  # NaN in every format: what is not written shows
        function(*bind.calls[0])
        for arg in bind.input_args:
            if not _same(bind.buffers[0][arg.name], self._physical("input", reference, arg)):
                return _WRONG, f"It writes to its input {arg.name}."
        worst, message = 0.0, ""
        for arg in bind.output_args:
            truth = reference.outputs[arg.name]
            got = bind.buffers[0][arg.name]
            shape = physical_shape(truth.shape, arg.layout)
            if is_narrow(arg.layout):
                error = unrounded_error(to_logical(got, arg.layout, truth.shape), truth)
                first = truth.shape[1] % shape[-1]  # of the last block's channels that are padding
                if first and not np.isfinite(bf16.widened(got[:, -1, :, :, first:])).all():
                    return _WRONG, f"Output {arg.name} has a number in its channel padding that is not finite."
            elif shape == truth.shape or shape[1] * shape[-1] == truth.shape[1]:  # no padding: compare as it lies
                error = max_rel_error(got, self._physical("truth", reference, arg))
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
    """A kernel's buffers, and the arguments of its next calls, each on the copies that were used longest ago."""

    def __init__(
        self, to_tensor: Callable[..., Any], binary: KernelBinary, weights: Copies, activations: Copies
    ) -> None:
        self._tensor, self._args = to_tensor, binary.args
        self._copies = {True: weights, False: activations}  # by whether an argument is a constant
        self._held: dict[tuple[bool, int], list[Any]] = {}  # tensors of a copy
        self.input_args = [a for a in binary.args if a.role == "input"]
        self.output_args = [a for a in binary.args if a.role == "output"]
        self.buffers: list[dict[str, np.ndarray]] = []  # inputs and outputs of the next call
        self.calls: list[list[Any]] = []

    def refresh(self, calls: int) -> None:
        """Line up the next copies."""
        turns = [{kind: copies.take() for kind, copies in self._copies.items()} for _ in range(calls)]
        self.calls[:] = [self._arguments(turn) for turn in turns]
        self.buffers[:] = [self._buffers(turn[False]) for turn in turns[:1]]

    def _arguments(self, turn: Mapping[bool, int]) -> list[Any]:
        for key in turn.items():
            if key not in self._held:
                kind, copy = key
                self._held[key] = [self._tensor(a) for a in self._copies[kind].arrays(copy)]
        rest = {kind: iter(self._held[kind, copy]) for kind, copy in turn.items()}
        return [next(rest[arg.role == "constant"]) for arg in self._args]

    def _buffers(self, copy: int) -> dict[str, np.ndarray]:
        named = (a.name for a in self._args if a.role != "constant")
        return dict(zip(named, self._copies[False].arrays(copy), strict=True))


def _same(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether every bit is."""
    mine, theirs = (np.ascontiguousarray(x).reshape(-1).view(np.uint8) for x in (a, b))
    return np.array_equal(mine, theirs)


def _check(arg: Arg, array: np.ndarray, shape: tuple[int, ...] | None = None) -> None:
    have = array.shape if shape is None else shape
    if tuple(have) != arg.shape or array.dtype != np.dtype(arg.dtype):
        raise CandidateError(
            f"Kernel argument {arg.name} is {arg.dtype}{list(arg.shape)}; the workload has {array.dtype}{list(have)}.",
            code="bad-kernel",
        )
