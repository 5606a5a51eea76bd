"""Convolutions one behind the other that one kernel may do, and a lowered model in which it does.

A chain is two convolutions, or three of which the second is depthwise, each with what TVM fused behind it, whose
images in between nothing else reads. The kernel's schedule is tuner.designs.chain's; which chains the model gets is
decided from times, of the chain and of its parts (tuner.gpu.covering).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count, pairwise
from typing import Any

import tvm
from tvm import relax

from tuner.designs.chain import ChainSpace
from tuner.designs.scalars import without_scalars
from tuner.gpu.chain_estimate import gain
from tuner.gpu.lower import Lowered, Task
from tuner.gpu.spec import SHARED, THREADS, GpuSpec

LONGEST = 3  # convolutions of a chain
MOST = 16  # different chains of a model that are proposed: each is explored beside the model's tasks


@dataclass(frozen=True)
class Chain:
    """A kernel that may take the place of several.

    ``places``: for each time the model computes this, the numbers of its calls among those of "main".
    """

    task: Task
    parts: tuple[str, ...]  # hashes of the tasks that it does at once
    places: tuple[tuple[int, ...], ...]
    gain: float  # s that one place should save, by the roofline


def find_chains(lowered: Lowered, spec: GpuSpec, least: float = 0.0) -> tuple[Chain, ...]:
    """The chains of a model that should save more than ``least`` seconds a call, the most promising first.

    Each fits into shared memory somehow.
    """
    calls = _Calls(lowered)
    tasks = {symbol: task for task in lowered.tasks for symbol in task.symbols}
    grouped: dict[Any, list[tuple[int, ...]]] = {}
    for place in calls.runs(tasks):
        key = tuple(tasks[calls.symbol(k)].hash for k in place), calls.links(place)
        grouped.setdefault(key, []).append(place)
    found: list[Chain] = []
    for (parts, links), places in grouped.items():
        function = _joined(lowered.module, [calls.symbol(k) for k in places[0]], links)
        module = tvm.IRModule({"main": function})
        try:
            space = ChainSpace(module, SHARED, THREADS)
        except ValueError:
            continue
        if len(space.stages.convolutions) < len(parts):
            continue
        task = Task((f"chain{len(found)}",), module, len(places), parts)
        saved = gain(space, task, [tasks[calls.symbol(k)] for k in places[0]], spec)
        if saved > least:
            found.append(Chain(task, parts, tuple(places), saved))
    found.sort(key=lambda chain: -chain.gain * len(chain.places))
    return tuple(found[:MOST])


def with_chains(lowered: Lowered, taken: Sequence[tuple[Chain, tuple[int, ...]]]) -> Lowered:
    """The model with the calls of these places, no two of which share one, replaced by their chains' kernels."""
    if not taken:
        return lowered
    calls = _Calls(lowered)
    main = lowered.module["main"]
    builder = relax.BlockBuilder(tvm.IRModule(dict(lowered.module.functions.items()), attrs=lowered.module.attrs))
    variables: dict[str, Any] = {}
    for chain, _ in taken:
        name = chain.task.name
        if name not in variables:
            variables[name] = builder.add_func(chain.task.module["main"].without_attr("global_symbol"), name)
    replaced: dict[int | None, Any] = {}  # by number of call: what takes its place, None for nothing
    for chain, place in taken:
        *firsts, last = place
        arguments = [a for k in place for a in calls.outside(k, place)]
        kind = calls.value(last).ty_args[0]
        replaced |= dict.fromkeys(firsts)
        replaced[last] = relax.call_tir(variables[chain.task.name], relax.Tuple(arguments), kind)
    numbers = count()
    blocks = []
    for block in main.body.blocks:
        bindings = []
        for binding in block.bindings:
            number = next(numbers) if _is_call(binding) else None
            if number not in replaced:
                bindings.append(binding)
            elif (value := replaced[number]) is not None:
                bindings.append(relax.VarBinding(binding.var, value))
        blocks.append(type(block)(bindings))
    body = relax.SeqExpr(blocks, main.body.body)
    function = relax.Function(main.params, body, main.ret_ty, main.is_pure, main.attrs)
    module = builder.get()
    module.update_func(module.get_global_var("main"), function)
    module = tvm.transform.Sequential([relax.transform.Normalize(), relax.transform.DeadCodeElimination()])(module)
    return Lowered(module, lowered.parameters)


class _Calls:
    """The calls of "main" to PrimFuncs, numbered in order."""

    def __init__(self, lowered: Lowered) -> None:
        bindings = [b for block in lowered.module["main"].body.blocks for b in block.bindings]
        self._calls = [b for b in bindings if _is_call(b)]
        self._readers: dict[Any, list[int | None]] = {}
        numbered = {b.var: number for number, b in enumerate(self._calls)}
        for binding in bindings:
            for used in _used(binding.value):
                self._readers.setdefault(used, []).append(numbered.get(binding.var))
        for used in _used(lowered.module["main"].body.body):
            self._readers.setdefault(used, []).append(None)

    def value(self, number: int) -> Any:
        return self._calls[number].value

    def symbol(self, number: int) -> str:
        return str(self.value(number).args[0].name_hint)

    def runs(self, tasks: Mapping[str, Task]) -> Iterator[tuple[int, ...]]:
        """Two and more calls, each the only reader of what the one before it makes."""
        for first in range(len(self._calls)):
            run = [first]
            while len(run) < LONGEST and (reader := self._reader(run[-1])) is not None:
                run.append(reader)
                if all(self.symbol(k) in tasks for k in run):
                    yield tuple(run)

    def _reader(self, number: int) -> int | None:
        readers = self._readers.get(self._calls[number].var, [])
        return readers[0] if len(readers) == 1 else None

    def links(self, place: Sequence[int]) -> tuple[int, ...]:
        """Which argument of each call but the first is what the call before makes."""
        found = []
        for before, number in pairwise(place):
            made = self._calls[before].var
            found.append(next(k for k, a in enumerate(self.value(number).args[1].fields) if a.same_as(made)))
        return tuple(found)

    def outside(self, number: int, place: Sequence[int]) -> list[Any]:
        """The arguments of a call that no other of these calls makes."""
        inner = {self._calls[k].var for k in place}
        return [a for a in self.value(number).args[1].fields if a not in inner]


def _is_call(binding: Any) -> bool:
    value = binding.value
    return isinstance(value, relax.Call) and str(getattr(value.op, "name", "")) == "relax.call_tir"


def _used(value: Any) -> list[Any]:
    """The variables in an expression, each as often as it stands there."""
    if isinstance(value, relax.Var):
        return [value]
    if isinstance(value, relax.Tuple):
        return [used for part in value.fields for used in _used(part)]
    if isinstance(value, relax.Call):
        return [used for part in value.args for used in _used(part)]
    if isinstance(value, relax.TupleGetItem):
        return _used(value.tuple_value)
    return []


def _joined(module: Any, symbols: Sequence[str], links: Sequence[int]) -> Any:
    """One PrimFunc that does what these do in turn; its arguments are theirs without the links, in order."""
    builder = relax.BlockBuilder()
    functions = [module[symbol] for symbol in symbols]
    variables = [builder.add_func(f, s) for f, s in zip(functions, symbols, strict=True)]
    kinds = [[relax.TensorType([int(n) for n in p.shape], str(p.dtype)) for p in f.params] for f in functions]
    taken: list[list[Any]] = []
    for number, (*inputs, _) in enumerate(kinds):
        link = links[number - 1] if number else None
        taken.append([None if k == link else relax.Var(f"p{number}_{k}", kind) for k, kind in enumerate(inputs)])
    parameters = [a for arguments in taken for a in arguments if a is not None]
    with builder.function("chain", parameters, attrs={"Primitive": True}, private=True):
        with builder.dataflow():
            made: Any = None
            for variable, arguments, (*_, out) in zip(variables, taken, kinds, strict=True):
                filled = [made if a is None else a for a in arguments]
                made = builder.emit(relax.call_tir(variable, relax.Tuple(filled), out))
            result = builder.emit_output(made)
        builder.emit_func_output(result)
    whole = builder.get().get_global_var("chain")
    given = [relax.Var(f"q{k}", parameter.ty) for k, parameter in enumerate(parameters)]
    with builder.function("main", given):
        with builder.dataflow():
            result = builder.emit_output(builder.emit(relax.Call(whole, given)))
        builder.emit_func_output(result)
    fused = relax.transform.FuseTIR()(builder.get())
    return without_scalars(fused["chain"]).with_attr("global_symbol", "main")
