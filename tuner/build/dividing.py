"""Parallel loops whose iterations the cores take as they come, so that a slow core does not keep all others waiting.

TVM gives every task of a parallel launch one run of iterations of equal length, and the launch takes as long as the
slowest core: one that shares its execution units with another program, or that the host gives to another guest for a
while. Here each task still begins with its own run, which keeps what one layer wrote in the cache of the core that
reads it in the next; but it takes a batch at a time, from a counter, and when its run is used up it goes on with those
of the other tasks.

The counters are made anew for each launch, on its stack or in its workspace, each in cache lines of its own. Nothing
is global, so a kernel may run in two threads at once; no task waits for another, so it is right with any number of
threads. Adding to a counter needs no order with other memory, since the runtime's launch and join already give it. What
a task has begun it ends: a core that is taken away for milliseconds still keeps the others waiting for its last batch.
"""

from __future__ import annotations

from typing import Any

import tvm
from tvm import tirx
from tvm.ir import StringImm

from tuner.kernels.scheduling import CHUNK

VERSION = 1  # raised when kernels for several cores come out otherwise
BATCHES = 16  # in a task's own run, at least, if it has as many iterations
_LINE = 32  # counters' distance in int32: two lines of 64 bytes, as processors fetch them in pairs; one of 128
_TAKE = "fusetune_take"
_SOURCE = f"""
define i32 @{_TAKE}(ptr %counter, i32 %batch) alwaysinline nounwind {{
  %first = atomicrmw add ptr %counter, i32 %batch monotonic
  ret i32 %first
}}
"""


def pipeline(cores: int) -> str:
    """Name of the pipeline that lowers schedules as TVM does, and divides their loops among ``cores`` tasks."""
    name = f"fusetune.divided.{cores}"
    tvm.tirx.register_tir_pipeline(name, lambda: _pipeline(cores))
    return name


def _pipeline(cores: int) -> tuple[Any, Any, Any]:
    inner, for_hosts, for_devices = tvm.tirx.get_tir_pipeline("s_tir")

    @tvm.transform.module_pass(opt_level=0)
    def lower(module: Any, _: Any) -> Any:
        lowered = inner(module)
        functions = {variable: divided(function, cores) for variable, function in lowered.functions.items()}
        return tvm.IRModule(functions, attrs=lowered.attrs)

    return lower, for_hosts, for_devices


def divided(function: Any, cores: int) -> Any:
    """A lowered PrimFunc with those of its parallel loops divided that have more iterations than ``cores``.

    A parallel loop around one marked ``CHUNK`` is taken as one loop, whose runs are those of the marked loop.
    """
    body = _rewritten(function.body, cores)
    if body is function.body:
        return function
    return function.with_body(tirx.AttrStmt(tirx.const(0), "pragma_import_llvm", StringImm(_SOURCE), body))


def _rewritten(statement: Any, cores: int) -> Any:
    """``statement`` with its parallel loops divided; the same object if there are none to divide."""
    if isinstance(statement, tirx.For) and statement.kind == tirx.ForKind.PARALLEL:
        return _divided(statement, cores)
    if isinstance(statement, tirx.SeqStmt):
        parts = [_rewritten(part, cores) for part in statement.seq]
        same = all(new is old for new, old in zip(parts, statement.seq, strict=True))
        return statement if same else tirx.SeqStmt(parts)
    if isinstance(statement, tirx.AttrStmt):
        body = _rewritten(statement.body, cores)
        same = body is statement.body
        return statement if same else tirx.AttrStmt(statement.node, statement.attr_key, statement.value, body)
    return statement


def batch_of(run: int) -> int:
    """How many iterations of a task's ``run`` it takes at once.

    Between 16 and 31 batches, so that those who are done wait for a few percent of the kernel's time at most, and what
    taking one costs is paid a few dozen times: a few nanoseconds while a task is alone with its counter, some hundred
    when another core takes from it.
    """
    return max(1, run // BATCHES)


def _divided(loop: Any, cores: int) -> Any:
    """What does the work of a parallel ``loop``: itself, if it is left as it is."""
    allocations, body = _split_head(loop.body, (tirx.AllocBuffer,))
    bindings, chunk = _split_head(body, (tirx.Bind,))
    chunked = isinstance(chunk, tirx.For) and CHUNK in chunk.annotations
    whole = chunk if chunked else loop
    if not (_counts(loop) and _counts(whole)):
        return loop
    if chunked:
        runs, run, total = int(loop.extent), int(chunk.extent), int(loop.extent) * int(chunk.extent)
        body = chunk.body
    else:
        total = int(loop.extent)
        run = -(-total // cores)
        runs, bindings = -(-total // run), []
    if total <= cores:
        return loop  # there is nothing to take

    batch = batch_of(run)
    counters = tirx.decl_buffer(((runs + cores) * _LINE,), "int32", "counters")  # behind them, what each task took
    task, turn, victim = (tirx.Var(name, "int32") for name in ("task", "turn", "victim"))
    begins = [0 if chunked else run * k for k in range(runs)]
    end = tirx.const(run, "int32") if chunked else tirx.min((victim + 1) * run, total)
    # Kept in memory: TVM repeats a call that a variable is bound to wherever it simplifies what the variable is in.
    place = (runs + task) * _LINE
    first = counters[place]
    take = tirx.BufferStore(
        counters, tirx.call_extern("int32", _TAKE, tirx.address_of(counters[victim * _LINE]), batch), [place]
    )
    # Of a number that may be negative, as far as TVM knows, quotients and remainders take more instructions.
    begin = tirx.max(first, 0)
    count = tirx.const(1, "int32") if batch == 1 else tirx.min(batch, end - first)
    work = tirx.For(whole.loop_var, begin, count, tirx.ForKind.SERIAL, body)
    one_run = [
        tirx.Bind(victim, (task + turn) % runs),
        *([tirx.Bind(loop.loop_var, victim)] if chunked else []),
        *bindings,
        take,
        tirx.While(first < end, tirx.SeqStmt([work, take])),
    ]
    all_runs = tirx.For(turn, 0, runs, tirx.ForKind.SERIAL, tirx.SeqStmt(one_run))
    return tirx.SeqStmt([
        tirx.AllocBuffer(counters),
        *(tirx.BufferStore(counters, tirx.const(k, "int32"), [i * _LINE]) for i, k in enumerate(begins)),
        tirx.For(task, 0, cores, tirx.ForKind.PARALLEL, _sequence([*allocations, all_runs])),
    ])  # fmt: skip


def _counts(loop: Any) -> bool:
    """Whether a loop counts from zero to a number that is known, in 32 bits."""
    return (
        isinstance(loop.min, tirx.IntImm) and int(loop.min) == 0
        and isinstance(loop.extent, tirx.IntImm) and str(loop.loop_var.ty) == "int32"
    )  # fmt: skip


def _split_head(body: Any, kinds: tuple[type, ...]) -> tuple[list[Any], Any]:
    """The statements of these kinds that ``body`` begins with, and the rest of it."""
    statements = list(body.seq) if isinstance(body, tirx.SeqStmt) else [body]
    head = next((k for k, one in enumerate(statements) if not isinstance(one, kinds)), len(statements))
    return statements[:head], _sequence(statements[head:])


def _sequence(statements: list[Any]) -> Any:
    return statements[0] if len(statements) == 1 else tirx.SeqStmt(statements)
