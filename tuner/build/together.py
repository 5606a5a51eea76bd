"""Kernels side by side: one parallel launch of TVM's runtime, whose tasks are divided among lanes of kernels.

A kernel for one core is called as it is, by one task. One for several cores is compiled as a *part*: it takes, beside
its tensors, the number of the task, and does what that one of its own parallel tasks would do. That needs a kernel all
of whose work is one parallel loop; between two loops its tasks would have to wait for each other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import tvm
from tvm import s_tir, tirx
from tvm.ir import GlobalVar, StringImm

from tuner.build.program import Together
from tuner.errors import CandidateError

_PREFIX = "__tvm_ffi_"  # of the symbols that TVM gives packed functions


def is_divisible(function: Any, cores: int) -> bool:
    """Whether all that a scheduled PrimFunc does is one parallel loop, of a task for each of ``cores`` at most."""
    body = function.body.block.body
    return isinstance(body, tirx.For) and body.kind == tirx.ForKind.PARALLEL and int(body.extent) <= cores


def part_of(function: Any, cores: int) -> Any:
    """The PrimFunc that does one task of a scheduled one: with the task's number as one more parameter.

    Raises CandidateError(code="build-failed") for one that is not divisible.
    """
    if not is_divisible(function, cores):
        raise CandidateError(
            "The kernel has several phases, or more tasks than cores: on several cores it cannot run beside others.",
            code="build-failed",
        )
    root = function.body
    block, loop = root.block, root.block.body
    task = tirx.Var("task", loop.loop_var.ty.dtype)
    one = tirx.For(loop.loop_var, task, 1, tirx.ForKind.SERIAL, loop.body, None, loop.annotations)
    body = s_tir.SBlock(
        block.iter_vars, block.reads, block.writes, block.name_hint, tirx.IfThenElse(task < loop.extent, one, None),
        block.init, block.alloc_buffers, block.match_buffers, block.annotations,
    )  # fmt: skip
    realized = s_tir.SBlockRealize(root.iter_values, root.predicate, body)
    return tirx.PrimFunc([*function.params, task], realized, function.ret_type, function.attrs)


def launches(stages: Sequence[Together]) -> tvm.IRModule:
    """A module with a function for each, of the tensors of all its calls: each call's arguments, then its result.

    Kernels are called by their symbols, each from one place: TVM's code generator declares what it calls by symbol anew
    at every place, and under another name from the second on.
    """
    callees = {
        (call.symbol, len(call.args) + 1, lane.cores > 1): GlobalVar(f"call_{call.symbol}")
        for stage in stages for lane in stage.lanes for call in lane.calls
    }  # fmt: skip
    functions = {name: _callee(*key) for key, name in callees.items()}
    return tvm.IRModule(functions | {GlobalVar(stage.symbol): _launch(stage, callees) for stage in stages})


def _callee(symbol: str, tensors: int, part: bool) -> Any:
    """A function that calls a kernel and returns what it returns: zero, if all went well."""
    params = [tirx.Var(f"t{k}", "handle") for k in range(tensors)]
    params += [tirx.Var("task", "int32")] if part else []
    call = tirx.Evaluate(tirx.call_cpacked(_PREFIX + symbol, *params))
    body = tirx.SeqStmt([call, tirx.Return(tirx.const(0, "int32"))])
    return tirx.PrimFunc(params, body, tvm.ir.PrimType("int32"))


def _launch(together: Together, callees: Mapping[tuple[str, int, bool], GlobalVar]) -> Any:
    tensors: list[Any] = []
    task = tirx.Var("task", "int32")
    first, lanes = 0, []
    for lane in together.lanes:
        each = []
        for call in lane.calls:
            own = [tirx.Var(f"t{len(tensors) + k}", "handle") for k in range(len(call.args) + 1)]
            tensors += own
            callee = callees[call.symbol, len(own), lane.cores > 1]
            args = [*own, task - first] if lane.cores > 1 else own
            done = tvm.ir.Call(callee, args, ret_ty="int32") == 0
            each.append(_asserted(done, "a kernel failed"))
        first += lane.cores
        lanes.append((first, each[0] if len(each) == 1 else tirx.SeqStmt(each)))
    body = lanes[-1][1]
    for end, run in reversed(lanes[:-1]):
        body = tirx.IfThenElse(task < end, run, body)
    loop = tirx.For(task, 0, first, tirx.ForKind.PARALLEL, body)
    return tirx.PrimFunc(tensors, loop).with_attr("global_symbol", together.symbol).with_attr("tirx.noalias", True)


def _asserted(condition: Any, message: str) -> Any:
    # TVM 0.27's Python wrapper hands its first two arguments over in the wrong order.
    return tirx.AssertStmt(kind=condition, condition=StringImm("RuntimeError"), message_parts=[StringImm(message)])
