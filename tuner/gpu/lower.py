"""A whole model as TVM lowers it for a GPU: functions not yet scheduled, and the Relax function that calls them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import tvm
from onnx.defs import SchemaError
from tvm import relax
from tvm.relax.frontend.onnx import from_onnx
from tvm_ffi import structural_equal

from tuner.errors import UserError
from tuner.gpu.counts import counts_of
from tuner.gpu.cuda import SCHEDULED
from tuner.gpu.half import channels_last, halved
from tuner.gpu.precision import FP16, FP32, TF32
from tuner.graph.ir import Graph
from tuner.graph.onnx_io import to_onnx
from tuner.types import digest

_ORDINARY_PEAK, _ORDINARY_BANDWIDTH = 3e13, 1e12  # FLOP/s, B/s
_PASSES = (
    relax.transform.DecomposeOpsForInference,
    relax.transform.LegalizeOps,
    relax.transform.AnnotateTIROpPattern,
    relax.transform.FoldConstant,
    relax.transform.FuseOps,
    relax.transform.FuseTIR,
    relax.transform.DeadCodeElimination,
    relax.transform.RewriteDataflowReshape,  # before scheduling, which hides that a function is a mere view
    relax.transform.DeadCodeElimination,
)


@dataclass(frozen=True)
class Task:
    """One function to schedule. Functions that compute the same are one task."""

    symbols: tuple[str, ...]  # its names in the model
    module: Any  # IRModule with the function as "main"
    calls: int  # how often the model calls it
    parts: tuple[str, ...] = ()  # hashes of the tasks that it does at once, where it is a chain that the model may get

    @property
    def name(self) -> str:
        return self.symbols[0]

    @cached_property
    def hash(self) -> str:
        """SHA-256 of its text, which names neither model nor weights."""
        return digest(self.module.script())

    @cached_property
    def args(self) -> tuple[tuple[tuple[int, ...], str], ...]:
        """Shape and dtype of each argument; the output is the last."""
        return tuple((tuple(int(n) for n in p.shape), str(p.dtype)) for p in self.module["main"].params)

    def save(self, path: Path) -> None:
        """Write it for another process."""
        path.write_text(json.dumps([self.symbols, self.calls, self.parts, tvm.ir.save_json(self.module)]))

    @staticmethod
    def load(path: Path) -> Task:
        symbols, calls, parts, module = json.loads(path.read_text())
        return Task(tuple(symbols), tvm.ir.load_json(module), calls, tuple(parts))

    @cached_property
    def weight(self) -> float:
        """Seconds of all its calls on a GPU of an ordinary kind, roughly: what is worth exploring first."""
        operations = counts_of(self.module["main"]).operations
        return self.calls * max(operations / _ORDINARY_PEAK, self.compulsory / _ORDINARY_BANDWIDTH)

    @property
    def compulsory(self) -> float:
        """Bytes of its arguments."""
        return float(sum(np.prod(shape, dtype=float) * np.dtype(dtype).itemsize for shape, dtype in self.args))


@dataclass(frozen=True)
class Lowered:
    """A model whose "main" takes its inputs, then its parameters in order."""

    module: Any
    parameters: tuple[np.ndarray, ...]

    @cached_property
    def tasks(self) -> tuple[Task, ...]:
        """What is to be scheduled, in the order of first calls."""
        calls = _calls(self.module)
        grouped: list[tuple[Any, list[str]]] = []
        for symbol in calls:
            function = self.module[symbol].with_attr("global_symbol", "main")
            module = tvm.IRModule({"main": function})
            alike = (symbols for other, symbols in grouped if structural_equal(other, module))
            if (symbols := next(alike, None)) is None:
                grouped.append((module, [symbol]))
            else:
                symbols.append(symbol)
        return tuple(Task(tuple(symbols), module, sum(calls[s] for s in symbols)) for module, symbols in grouped)

    def scheduled(self, functions: Mapping[str, Any]) -> Any:
        """The module with these scheduled PrimFuncs, by symbol, in place of its own."""
        module = tvm.IRModule(dict(self.module.functions.items()), attrs=self.module.attrs)
        for symbol, function in functions.items():
            variable = self.module.get_global_var(symbol)
            module.update_func(variable, function.with_attr({"global_symbol": symbol, SCHEDULED: 1}))
        return module

    def save(self, folder: Path) -> None:
        """Write it for another process into ``folder`` (created)."""
        folder.mkdir(parents=True)
        (folder / "module.json").write_text(tvm.ir.save_json(self.module))
        for number, parameter in enumerate(self.parameters):
            np.save(folder / f"{number}.npy", parameter, allow_pickle=False)

    @staticmethod
    def load(folder: Path) -> Lowered:
        module = tvm.ir.load_json((folder / "module.json").read_text())
        count = len(list(folder.glob("*.npy")))
        return Lowered(module, tuple(np.load(folder / f"{k}.npy", mmap_mode="r") for k in range(count)))


def lower(graph: Graph, weights: Mapping[str, np.ndarray], target: Any, precision: str = FP32) -> Lowered:
    """Lower a model; its inputs and outputs keep their types in any precision.

    Raises UserError (``unsupported-operator``) with TVM's own words when it cannot be imported.
    """
    try:
        module = from_onnx(_plainly_named(to_onnx(graph, weights)), keep_params_in_input=True)
        module, detached = relax.frontend.detach_params(module)
        parameters = tuple(np.asarray(p.numpy()) for p in detached.get("main", []))
        if precision == FP16:
            module, parameters = halved(module, parameters)
        elif precision == TF32:
            module, parameters = channels_last(module, parameters)
        with target:
            module = tvm.transform.Sequential([make() for make in _PASSES])(module)
    except (tvm.error.InternalError, ValueError, TypeError, KeyError, IndexError,
            NotImplementedError, AttributeError, RuntimeError, AssertionError, SchemaError) as error:  # fmt: skip
        reason = str(error).strip().splitlines()[-1][:200] if str(error).strip() else type(error).__name__
        raise UserError(f"TVM's importer cannot lower the model: {reason}", code="unsupported-operator") from error
    return Lowered(module, parameters)


def with_more(module: Any, functions: Mapping[str, Any]) -> Any:
    """The module with further scheduled PrimFuncs, by name, for those who call them past the Relax function."""
    more = {
        tvm.ir.GlobalVar(name): function.with_attr({"global_symbol": name, SCHEDULED: 1})
        for name, function in functions.items()
    }
    return tvm.IRModule({**dict(module.functions.items()), **more}, attrs=module.attrs)


def _plainly_named(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with names that may stand in C, because TVM writes names of weights into its code as they are."""
    plain: dict[str, str] = {"": ""}
    values = [*model.graph.input, *model.graph.output, *model.graph.initializer, *model.graph.value_info]
    for value in values:
        value.name = plain.setdefault(value.name, f"x{len(plain)}")
    for node in model.graph.node:
        for names in (node.input, node.output):
            names[:] = [plain.setdefault(name, f"x{len(plain)}") for name in names]
    return model


def _calls(module: Any) -> Counter[str]:
    """How often "main" calls each PrimFunc that has one output, in the order of first calls.

    Those with several are left to default schedules.
    """
    found: Counter[str] = Counter()
    for block in module["main"].body.blocks:
        for binding in block.bindings:
            value = binding.value
            if isinstance(value, relax.Call) and str(getattr(value.op, "name", "")) == "relax.call_tir":
                symbol = value.args[0].name_hint
                if len(module[symbol].params) == len(value.args[1].fields) + 1:
                    found[symbol] += 1
    return found
