"""Program + memory -> the Relax function "main": storages, tensors in them, kernel calls in order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tvm import relax, tirx

from tuner.build.memory import Memory
from tuner.build.program import Call, Foreign, Given, Join, Load, Program, Slice, Together, Value, View

REBASE = "rebase"  # the function that moves a tensor's address; see ``_rebase``
_DATA, _BYTE_OFFSET = 1, 8  # TVM's TVMStructFieldKind


def emit_main(
    builder: Any, inputs: Sequence[Any], parameter_types: Sequence[Any], program: Program, memory: Memory
) -> None:
    """Add "main" to ``builder``'s module: the model's inputs and a tuple of parameters -> its results.

    Kernels, and what launches several of them, are called by name: they are linked to the module later.
    """
    rebase = builder.add_func(_rebase(), REBASE)  # always: a module without a function of its own has no library
    params = relax.Var("params", relax.TupleType(list(parameter_types)))
    with builder.function("main", [*inputs, params]):
        emitter = _Emitter(builder, memory, params, rebase)
        for op in program.ops:
            emitter.emit(op)
        results = [emitter.values[v] for v in program.results]
        builder.emit_func_output(results[0] if len(results) == 1 else relax.Tuple(results))


class _Emitter:
    def __init__(self, builder: Any, memory: Memory, params: Any, rebase: Any) -> None:
        self.builder, self.memory, self.params, self.rebase = builder, memory, params, rebase
        self.values: dict[Value, Any] = {}
        self.storages: dict[int, Any] = {}

    def emit(self, op: Any) -> None:
        values, builder = self.values, self.builder
        if isinstance(op, Given):
            values[op.out] = op.expression
        elif isinstance(op, Load):
            values[op.out] = builder.emit(relax.TupleGetItem(self.params, op.parameter))
        elif isinstance(op, View):
            values[op.out] = builder.emit(relax.op.reshape(values[op.source], op.out.shape))
        elif isinstance(op, Foreign):
            made = op.emit(builder, [values[v] for v in op.args])
            values.update(zip(op.outs, made, strict=True))
        elif isinstance(op, Join | Slice):
            values[op.out] = self._tensor(op.out)
        elif isinstance(op, Call):
            self._run(relax.ExternFunc(op.symbol), self._arguments(op))
        elif isinstance(op, Together):
            arguments = [argument for call in op.calls for argument in self._arguments(call)]
            self._run(relax.ExternFunc(op.symbol), arguments)

    def _arguments(self, call: Call) -> list[Any]:
        self.values[call.out] = self._tensor(call.out)
        return [self.values[v] for v in (*call.args, call.out)]

    def _tensor(self, value: Value) -> Any:
        place = self.memory.places[value]
        memory = relax.op.memory
        if place.storage not in self.storages:
            size = relax.ShapeExpr([self.memory.storages[place.storage]])
            self.storages[place.storage] = self.builder.emit(memory.alloc_storage(size, 0, "global", "uint8"))
        shape = relax.ShapeExpr(value.shape)
        made = self.builder.emit(memory.alloc_tensor(self.storages[place.storage], place.offset, shape, value.dtype))
        if place.offset:
            self._run(self.rebase, [made])
        return made

    def _run(self, function: Any, args: Sequence[Any]) -> None:
        self.builder.emit(relax.Call(function, list(args), ty_args=[relax.TupleType([])]))


def _rebase() -> Any:
    """A function of one tensor that adds its byte offset to its address, and makes the offset zero.

    The virtual machine gives a tensor inside a storage the storage's address and a byte offset; kernels are compiled
    for tensors without one, and stay the kernels that were measured.
    """
    tensor = tirx.Var("tensor", "handle")
    address = tirx.call_intrin("handle", "tirx.tvm_struct_get", tensor, 0, _DATA)
    offset = tirx.Cast("int64", tirx.call_intrin("uint64", "tirx.tvm_struct_get", tensor, 0, _BYTE_OFFSET))
    moved = tirx.call_intrin("handle", "tirx.handle_add_byte_offset", address, offset)
    stores: Mapping[int, Any] = {_DATA: moved, _BYTE_OFFSET: tirx.const(0, "uint64")}
    body = [
        tirx.Evaluate(tirx.call_intrin("int32", "tirx.tvm_struct_set", tensor, 0, kind, value))
        for kind, value in stores.items()
    ]
    return tirx.PrimFunc([tensor], tirx.SeqStmt(body)).with_attr("global_symbol", REBASE)
