"""Calibrating a device: measure a designed set of synthetic blocks, and teach the cost model with what came out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from cost_model.block_features import INDEX
from cost_model.block_model import BlockModel
from cost_model.machine import Machine
from cost_model.quality import Quality, held_out, judge
from cost_model.synthetic import COUNT, BlockDesign, design
from tuner.graph.ir import Graph
from tuner.measure.device import toolchain
from tuner.measure.runner import Runner
from tuner.plan.plan import DESIGN, IMPORTED
from tuner.plan.space import SIMULATED
from tuner.plan.workload import workload_of
from tuner.search.blocks import block_rows, machine_of, stacked_rows
from tuner.search.synthetic import synthetic_graph, synthetic_workload
from tuner.types import Candidate, Device, Trial

_SPARE = 3  # designs drawn for each that is wanted: a CPU has no template for some


@dataclass(frozen=True)
class Sample:
    """One block of the design measured: its median seconds, or why there are none."""

    design: BlockDesign
    template: str
    layouts: Mapping[str, str]  # by the workload's tensor names
    seconds: float | None
    failure: str | None = None  # kind

    def to_json(self) -> dict[str, Any]:
        return {
            "design": self.design.to_json(), "template": self.template, "layouts": dict(self.layouts),
            "seconds": self.seconds, "failure": self.failure,
        }  # fmt: skip

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Sample:
        return Sample(**dict(data) | {"design": BlockDesign(**data["design"])})

    @staticmethod
    def of(block: BlockDesign, trial: Trial) -> Sample:
        failure = None if trial.failure is None else trial.failure.kind.value
        return Sample(block, trial.candidate.template, trial.candidate.layouts, trial.seconds, failure)


def designed(device: Device, count: int = COUNT) -> Iterator[tuple[BlockDesign, Candidate]]:
    """What to measure on the device, best first: at most ``count`` blocks that it can run, with default knobs."""
    found = 0
    for block in design(device.cores, count if device.simulated else count * _SPARE):
        candidate = _simulated(block) if device.simulated else _served(block, device)
        if candidate is not None:
            yield block, candidate
            found += 1
            if found == count:
                return


def measure(wanted: Sequence[tuple[BlockDesign, Candidate]], runner: Runner) -> Iterator[Sample]:
    """Samples in the order in which they come; to stop, take no more."""
    blocks = {candidate.key: block for block, candidate in wanted}
    for trial in runner.run(candidate for _, candidate in wanted):
        yield Sample.of(blocks[trial.candidate.key], trial)


def sample_rows(samples: Sequence[Sample], device: Device) -> tuple[np.ndarray, np.ndarray]:
    """Features ``[n, columns]`` and seconds ``[n]`` of the samples that have any."""
    good = [s for s in samples if s.seconds is not None]
    rows = [
        block_rows(synthetic_workload(s.design), [s.design.cores], device, layouts=s.layouts, template=s.template)
        for s in good
    ]
    return stacked_rows(rows), np.array([s.seconds for s in good], dtype=np.float64)


def train(samples: Sequence[Sample], device: Device, machine: Machine, seed: int = 0) -> BlockModel:
    """The block model that learned from these samples."""
    model = BlockModel(machine, seed)
    model.fit(*sample_rows(samples, device))
    return model


@dataclass(frozen=True)
class HeldOut:
    """Predictions of samples by models that had not seen their workloads; log-seconds, each ``[n]``."""

    rows: np.ndarray  # [n, columns]
    measured: np.ndarray
    mean: np.ndarray
    std: np.ndarray
    quality: Quality


def examine(samples: Sequence[Sample], device: Device, machine: Machine, folds: int = 5) -> HeldOut | None:
    """How good the model is on workloads it has not seen; None with fewer than two workloads."""
    rows, seconds = sample_rows(samples, device)
    names = [str((s.design.kind, *s.design.place[:4], *s.design.place[5:])) for s in samples if s.seconds is not None]
    if len(set(names)) < 2:
        return None
    logs, (_, workloads) = np.log(seconds), np.unique(names, return_inverse=True)

    def predict(rows: np.ndarray, logs: np.ndarray, asked: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        model = BlockModel(machine)
        model.fit(rows, np.exp(logs))
        return model.predict(asked)

    mean, std = held_out(predict, rows, logs, workloads, folds)
    unit = np.log(np.maximum(rows[:, INDEX["ops"]], 1.0))
    return HeldOut(rows, logs, mean, std, judge(mean, std, logs, workloads, unit))


def points(samples: Sequence[Sample], checked: HeldOut) -> list[dict[str, Any]]:
    """What each sample with a time is, took, and was predicted to take by a model that had not seen its workload."""
    rows = checked.rows
    moved = rows[:, INDEX["input_bytes"]] + rows[:, INDEX["output_bytes"]] + rows[:, INDEX["weight_bytes"]]
    good = [s for s in samples if s.seconds is not None]
    return [
        {
            "kind": s.design.kind, "cores": s.design.cores, "channels": s.design.channels, "width": s.design.width,
            "depth": s.design.depth, "ops": float(rows[i, INDEX["ops"]]), "bytes": float(moved[i]),
            "seconds": s.seconds, "predicted": float(np.exp(checked.mean[i])), "std": float(checked.std[i]),
        }
        for i, s in enumerate(good)
    ]  # fmt: skip


class _Calibrated(Protocol):
    @property
    def samples(self) -> Sequence[Mapping[str, Any]]: ...
    @property
    def model(self) -> Mapping[str, Any] | None: ...


class _Calibrations(Protocol):
    def get(self, device: str, toolchain: str) -> _Calibrated | None: ...


class _Known(Protocol):
    @property
    def device(self) -> Device: ...
    @property
    def peak_flops(self) -> float | None: ...
    @property
    def bandwidth(self) -> float | None: ...


class _Devices(Protocol):
    def get(self, fingerprint: str) -> _Known | None: ...
    def list(self) -> Sequence[_Known]: ...


class CalibrationStore(Protocol):
    """What ``db.Store`` has of this."""

    @property
    def calibrations(self) -> _Calibrations: ...
    @property
    def devices(self) -> _Devices: ...


def load_model(store: CalibrationStore, device: Device) -> BlockModel | None:
    """The model that a device's calibration left, of its samples alone; None before its first calibration.

    One that another version of the model wrote is learned anew from the stored samples.
    """
    found = store.calibrations.get(device.fingerprint, place(device))
    if found is None:
        return None
    if found.model is not None:
        try:
            return BlockModel.from_json(found.model)
        except (ValueError, KeyError, TypeError):
            pass  # another version's
    return train([Sample.from_json(s) for s in found.samples], device, known_machine_of(store, device))


def known_machine_of(store: CalibrationStore, device: Device) -> Machine:
    """The machine with what was measured of its peak and bandwidth, if anything was."""
    known = store.devices.get(device.fingerprint)
    return machine_of(device) if known is None else machine_of(device, known.peak_flops, known.bandwidth)


def place(device: Device) -> str:
    """The toolchain that a device's times belong to; a simulated device has none."""
    return SIMULATED if device.simulated else toolchain()


def _simulated(block: BlockDesign) -> Candidate:
    return _candidate(block, SIMULATED, 1, {}, {}, "fp32")


def _candidate(
    block: BlockDesign, template: str, version: int, layouts: Mapping[str, str], knobs: Mapping[str, int],
    precision: str,
) -> Candidate:  # fmt: skip
    workload = synthetic_workload(block)
    return Candidate(
        workload=workload.to_json(), workload_hash=workload.hash, layouts=layouts, template=template,
        template_version=version, knobs=knobs, cores=block.cores, precision=precision,
    )  # fmt: skip


def _served(block: BlockDesign, device: Device) -> Candidate | None:
    """With the first template that serves the whole block, its default knobs and the layouts that it likes best."""
    from tuner.kernels.registry import template  # brings TVM

    found = served(block, device)
    if found is None:
        return None
    workload, layouts, name = found
    maker = template(name)
    return _candidate(block, maker.name, maker.version, layouts, maker.space(workload, layouts, device).default, "fp32")


def served(block: BlockDesign, device: Device) -> tuple[Graph, dict[str, str], str] | None:
    """The block's workload, the layouts that the first template likes best, and its name; None where none serves it."""
    from tuner.search.served import Served  # brings TVM

    graph = synthetic_graph(block)
    layers = tuple(x.id for x in graph.layers)
    variants = Served(device).variants(graph, layers)
    if not variants or variants[0].template in {IMPORTED, DESIGN}:
        return None
    bound, variant = workload_of(graph, layers), variants[0]
    layouts = {bound.canonical[n]: v for n, v in {**variant.reads, **variant.writes}.items()}
    layouts = dict.fromkeys((*bound.workload.inputs, *bound.workload.outputs), "plain") | layouts
    return bound.workload, layouts, variant.template
