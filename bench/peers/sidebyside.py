"""A model side by side with other libraries: what ``fusetune bench`` shows.

Runs the same random inputs through fusetune's artifacts and through its peers, checks that they agree, and times them
in turns (see tuner.measure.contest). Every ratio is the other's latency over ours: above 1 we are faster.
"""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from rich.table import Table

from service.interval import FEW
from tuner.build.verify import compare, softmax_outputs
from tuner.errors import UserError
from tuner.graph.ir import Graph
from tuner.graph.load import import_model
from tuner.measure.contest import Contestant, ContestResult, Ratio, Standing, TurnOptions, contest, ratio
from tuner.measure.device import devices, toolchain
from tuner.precision import PRECISIONS

PEERS = ("onnxruntime", "openvino", "openvino-bf16", "torch", "torch-compile", "tvm")
_REFERENCE = "onnxruntime"  # whose outputs the others are compared with
_TORCH = "bench.peers.engines:TorchModel"  # PyTorch reads no ONNX; imported in its own process only
_SLOW_ROUNDS = 3  # of untuned TVM, which is two orders of magnitude slower than the rest


@dataclass(frozen=True)
class Row:
    """One contestant. What could not be measured is None; then ``failure`` says why."""

    name: str
    precision: str  # what it computed in
    median_ms: float | None
    min_ms: float | None
    samples: int
    ratio: Ratio | None  # its latency over ours; None for ourselves and for other precisions
    disturbed: int  # rounds under foreign load
    load_seconds: float | None
    peak_memory_mb: float | None  # 2**20 bytes, resident
    max_rel_error: float | None  # against ONNX Runtime, a final softmax looked through
    failure: str | None

    def to_json(self) -> dict[str, Any]:
        return {**self.__dict__, "ratio": None if self.ratio is None else asdict(self.ratio)}


@dataclass(frozen=True)
class BenchReport:
    """A model's rows, and the circumstances without which they mean nothing."""

    model: str  # file name
    ours: str  # the row that all ratios are over
    threads: int
    rounds: int  # completed ones
    precision: str
    machine: Mapping[str, Any]
    date: str  # ISO 8601, UTC
    rows: tuple[Row, ...]
    result: ContestResult = field(repr=False)  # every turn, for other pairs; not in the JSON

    def __getitem__(self, name: str) -> Row:
        """Raises KeyError for a name that took no part."""
        for row in self.rows:
            if row.name == name:
                return row
        raise KeyError(name)

    def to_json(self) -> dict[str, Any]:
        values = {**self.__dict__, "machine": dict(self.machine), "rows": [row.to_json() for row in self.rows]}
        del values["result"]
        return values

    def table(self) -> Table:
        """For a terminal."""
        title = f"{self.model}: {self.threads} threads, {self.precision}, {self.rounds} rounds"
        caption = f"x = its latency over that of {self.ours}, with the paired 95% interval and its rounds"
        table = Table(title=title, caption=caption)
        table.add_column("name", overflow="fold")
        for heading in ("median ms", "min ms", "x", "MB", "error"):
            table.add_column(heading, justify="right", no_wrap=True)
        for row in self.rows:
            r = row.ratio
            table.add_row(
                row.name if row.precision == self.precision else f"{row.name} ({row.precision})",
                _number(row.median_ms),
                _number(row.min_ms),
                "–" if r is None else f"{r.median:.3f} ({r.low:.3f}–{r.high:.3f}, {r.pairs})",
                _number(row.peak_memory_mb, 0),
                "–" if row.max_rel_error is None else f"{row.max_rel_error:.0e}",
            )
        return table

    def notes(self) -> list[str]:
        """Sentences that belong under the table: what failed, what was disturbed, what is not comparable."""
        found = [f"{row.name}: {row.failure}" for row in self.rows if row.failure]
        if disturbed := max((row.disturbed for row in self.rows), default=0):
            found.append(f"Other processes used the processor in up to {disturbed} of {self.rounds} rounds.")
        if any(row.ratio is not None and row.ratio.pairs < FEW for row in self.rows):
            found.append(f"Below {FEW} rounds the interval is the whole range, which covers less than 95%.")
        return found


def bench(
    model: Path,
    artifacts: Mapping[str, Path],
    peers: Sequence[str] = ("onnxruntime", "openvino"),
    *,
    threads: int | None = None,
    rounds: int = 15,
    precision: str = "fp32",
    seconds: float | None = None,
    shapes: Mapping[str, tuple[int, ...]] = MappingProxyType({}),
    options: TurnOptions | None = None,
    torch_factory: str | None = None,
    others: Sequence[Contestant] = (),
    seed: int = 0,
) -> BenchReport:
    """Time artifacts and peers on one model.

    Args:
        model: the ONNX file that the peers read.
        artifacts: name -> folder; ratios are over "tuned", or else the first of them, or else the first peer.
        peers: of PEERS; one that is not installed becomes a row that says so.
        threads: that each may use; None = the cores of this device.
        rounds: turns of each.
        precision: "fp32", "bf16", or "int8", for peers that can; the others stay in fp32, without a ratio.
        seconds: no round is begun after so many.
        shapes: input name -> shape, for inputs with symbolic dimensions.
        options: how a turn is taken; None = as usual.
        torch_factory: "package.module:function" that makes the model as a torch.nn.Module; None = from the ONNX file.
        others: further contestants, in float32 unless their options name a ``precision``.
        seed: of the random inputs and the order of turns.

    Raises:
        UserError: the model cannot be read, a peer or precision is unknown, or there is nothing to time.
    """
    if unknown := [p for p in peers if p not in PEERS]:
        raise UserError(f"There is no peer {unknown[0]!r}; known are: {', '.join(PEERS)}.", code="unknown-peer")
    if precision not in PRECISIONS:
        known = ", ".join(PRECISIONS)
        raise UserError(f"There is no precision {precision!r}; known are: {known}.", code="unknown-precision")
    device = devices("cpu")
    threads = threads or device.cores
    graph = import_model(model, shapes=shapes).graph
    entries = [Contestant(name, "artifact", folder) for name, folder in artifacts.items()]
    entries += [_peer(name, model, precision, torch_factory) for name in dict.fromkeys(peers)]
    entries += others
    result = contest(
        entries,
        random_inputs(graph, seed),
        threads=threads,
        rounds=rounds,
        seconds=seconds,
        options=options or TurnOptions(),
        seed=seed,
    )
    ours = "tuned" if "tuned" in artifacts else entries[0].name
    return BenchReport(
        model=model.name,
        ours=ours,
        threads=threads,
        rounds=result.rounds,
        precision=precision,
        machine=machine(),
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        rows=tuple(_row(result, standing, ours, precision, softmax_outputs(graph)) for standing in result.standings),
        result=result,
    )


def random_inputs(graph: Graph, seed: int = 0) -> dict[str, np.ndarray]:
    """Seeded inputs by name: N(0, 1) for floats, zeros and ones for the rest (valid as indexes into anything)."""
    random = np.random.default_rng(seed)
    found = {}
    for name in graph.inputs:
        tensor = graph.type_of(name)
        floats = np.issubdtype(np.dtype(tensor.dtype), np.floating)
        values = random.standard_normal(tensor.shape) if floats else random.integers(0, 2, tensor.shape)
        found[name] = values.astype(tensor.dtype)
    return found


def machine() -> dict[str, Any]:
    """What the figures were measured on. Sizes in bytes."""
    cpu = devices("cpu")
    return {
        "cpu": cpu.model, "cores": cpu.cores, "features": list(cpu.features), "l1": cpu.l1, "l2": cpu.l2, "l3": cpu.l3,
        "memory": cpu.memory, "kernel": platform.release(), "python": platform.python_version(),
        "toolchain": toolchain(), "fingerprint": cpu.fingerprint,
    }  # fmt: skip


def _peer(name: str, model: Path, precision: str, torch_factory: str | None) -> Contestant:
    if name == "torch" and torch_factory is not None:
        return Contestant(name, "torch", model, {"factory": torch_factory})
    kinds: Mapping[str, tuple[str, dict[str, Any]]] = {
        "openvino": ("openvino", {"precision": "bf16" if precision == "bf16" else "fp32"}),
        "openvino-bf16": ("openvino", {"precision": "bf16"}),
        "torch": (_TORCH, {}),
        "torch-compile": (_TORCH, {"compile": True}),
        "tvm": ("tvm", {"rounds": _SLOW_ROUNDS}),
    }
    kind, options = kinds.get(name, (name, {}))
    return Contestant(name, kind, model, options)


def _row(result: ContestResult, standing: Standing, ours: str, precision: str, softmax: Mapping[str, int]) -> Row:
    who = standing.contestant
    computed = who.options.get("precision", precision if who.kind == "artifact" else "fp32")
    comparable = computed == precision and who.name != ours
    return Row(
        name=who.name,
        precision=computed,
        median_ms=_scaled(standing.median, 1e3),
        min_ms=_scaled(standing.min, 1e3),
        samples=len(standing.samples),
        ratio=ratio(result, ours, who.name) if comparable else None,
        disturbed=sum(turn.disturbed for turn in standing.turns),
        load_seconds=standing.load_seconds,
        peak_memory_mb=_scaled(standing.peak_memory, 2**-20),
        max_rel_error=_error(result, standing, softmax),
        failure=None if standing.failure is None else f"{standing.failure.kind}: {standing.failure.message}",
    )


def _error(result: ContestResult, standing: Standing, softmax: Mapping[str, int]) -> float | None:
    names = [s.contestant.name for s in result.standings]
    if _REFERENCE not in names or standing.contestant.name == _REFERENCE:
        return None
    reference = result[_REFERENCE].outputs
    if not reference or standing.outputs.keys() != reference.keys():
        return None
    return compare([standing.outputs], [reference], softmax, limit=0.0).max_rel_error


def _scaled(value: float | None, factor: float) -> float | None:
    return None if value is None else value * factor


def _number(value: float | None, digits: int = 3) -> str:
    return "–" if value is None else f"{value:.{digits}f}"
