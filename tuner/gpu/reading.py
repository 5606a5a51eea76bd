"""The program of a lowered model, read off its Relax function."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from tvm import ir, relax

from tuner.errors import CandidateError
from tuner.gpu.lower import Lowered
from tuner.gpu.program import Call, Program, Slot

_VIEWS = ("relax.reshape", "relax.memory.view", "relax.flatten")


@dataclass
class _Reader:
    tasks: dict[str, str]  # symbol -> hash of its task
    slots: list[Slot] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)
    known: dict[Any, tuple[int, ...]] = field(default_factory=dict)  # variable -> its tensors
    constants: list[tuple[int, np.ndarray]] = field(default_factory=list)

    def slot(self, kind: Any, of: int | None = None) -> int:
        shape, dtype = _type(kind)
        self.slots.append(Slot(shape, dtype, of))
        return len(self.slots) - 1

    def value(self, node: Any) -> tuple[int, ...]:
        """The tensors that an argument stands for."""
        if isinstance(node, relax.Var) and node in self.known:
            return self.known[node]
        if isinstance(node, ir.GenericConst):
            slot = self.slot(node.ty)
            self.constants.append((slot, np.asarray(node.value.numpy())))
            return (slot,)
        if isinstance(node, relax.Tuple):
            return tuple(slot for part in node.fields for slot in self.value(part))
        if isinstance(node, relax.TupleGetItem):
            return (self.value(node.tuple_value)[node.index],)
        raise _refused(f"it uses {type(node).__name__}")

    def bind(self, variable: Any, node: Any) -> None:
        if not isinstance(node, relax.Call):
            self.known[variable] = self.value(node)
            return
        name = str(getattr(node.op, "name", node.op))
        if name == "relax.call_tir":
            self._call(variable, node)
        elif name in _VIEWS:
            (source,) = self.value(node.args[0])
            self.known[variable] = (self.slot(variable.ty, source),)
        else:
            raise _refused(f"it calls {name}")

    def _call(self, variable: Any, node: Any) -> None:
        symbol = str(node.args[0].name_hint)
        if len(node.args) > 2:
            raise _refused(f"{symbol} takes sizes at run time")
        reads = self.value(node.args[1])
        kinds = node.ty_args[0]
        writes = tuple(self.slot(kind) for kind in getattr(kinds, "fields", [kinds]))
        self.calls.append(Call(symbol, reads, writes, self.tasks.get(symbol)))
        self.known[variable] = writes


def read_program(lowered: Lowered) -> tuple[Program, tuple[np.ndarray, ...]]:
    """The program, and the values of its constants.

    Raises CandidateError (``no-program``) saying what only TVM's virtual machine can do.
    """
    reader = _Reader({symbol: task.hash for task in lowered.tasks for symbol in task.symbols})
    main = lowered.module["main"]
    for parameter in main.params:
        reader.known[parameter] = (reader.slot(parameter.ty),)
    given = [reader.known[parameter][0] for parameter in main.params]
    for block in main.body.blocks:
        for binding in block.bindings:
            if not isinstance(binding, relax.VarBinding):
                raise _refused(f"it binds with {type(binding).__name__}")
            reader.bind(binding.var, binding.value)
    outputs = reader.value(main.body.body)
    inputs = len(given) - len(lowered.parameters)
    program = Program(
        tuple(reader.slots), tuple(given[:inputs]), tuple(given[inputs:]), tuple(s for s, _ in reader.constants),
        outputs, tuple(reader.calls),
    )  # fmt: skip
    return program, tuple(value for _, value in reader.constants)


def _type(kind: Any) -> tuple[tuple[int, ...], str]:
    try:
        return tuple(int(n) for n in kind.shape.values), _name(kind.dtype)
    except (TypeError, ValueError, AttributeError) as error:
        raise _refused("a tensor's size is not known ahead") from error


def _name(dtype: Any) -> str:
    return str(getattr(dtype, "dtype", dtype))


def _refused(why: str) -> CandidateError:
    return CandidateError(f"The model runs in TVM's virtual machine: {why}.", code="no-program")
