"""Plan + knobs -> one Relax module that calls compiled kernels, and the list of its packed parameters.

The module's "main" takes the model's inputs and one tuple of parameters; kernels are called by their symbols in the
plan's order in destination-passing style, on memory planned here (``tuner.build.memory``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import tvm
from tvm import relax

from tuner.build import program
from tuner.build.blocks import block_layouts, candidate_of, kernel_of, knobs_of
from tuner.build.emit import emit_main
from tuner.build.imported import Imported, import_layers
from tuner.build.memory import Memory, plan_memory
from tuner.build.objects import KernelObject, Objects
from tuner.build.program import Call, Foreign, Given, Join, Load, Program, Slice, Together, Value, View
from tuner.graph.ir import Graph, Layer, Tensor
from tuner.kernels.registry import template
from tuner.plan.joins import joins
from tuner.plan.layout import PLAIN, Pack, physical_shape, source_of, stored_type
from tuner.plan.plan import IMPORTED, VIEW, Block, Plan, Stage
from tuner.plan.slices import SLICE, offset_of
from tuner.plan.workload import Bound, workload_of
from tuner.types import Candidate, Device, digest

TOGETHER = "side-by-side"  # in the place of a template, of calls that run several kernels at the same time
CONVERSION = "elementwise"  # template that changes layouts


@dataclass(frozen=True)
class Parameter:
    """One packed constant of the assembled model: ``pack`` applied to ``constant``, or a ready array."""

    constant: str
    pack: Pack
    array: np.ndarray | None = None

    def materialise(self, weights: Mapping[str, np.ndarray]) -> np.ndarray:
        return self.pack(weights[self.constant]) if self.array is None else np.asarray(self.array, order="C")


@dataclass(frozen=True)
class Step:
    """One kernel call of the assembled model, in running order; conversions have no layers.

    Kernels that run side by side are one call, of template TOGETHER; ``lanes`` tells them.
    """

    symbol: str
    layers: tuple[str, ...]
    template: str
    cores: int
    knobs: Mapping[str, int] | None
    layouts: Mapping[str, str]
    lanes: tuple[tuple[Step, ...], ...] = ()


@dataclass
class Assembly:
    """A Relax module not yet compiled, its parameters in order, its memory, what each of its calls is, its kernels."""

    module: tvm.IRModule
    parameters: list[Parameter]
    program: Program
    memory: Memory
    steps: list[Step] = field(default_factory=list)
    objects: list[Path] = field(default_factory=list)


def assemble(
    graph: Graph, weights: Mapping[str, np.ndarray], plan: Plan, device: Device, objects: Objects
) -> Assembly:  # fmt: skip
    """Build the module of a valid plan; kernels that are not among ``objects`` are compiled into it.

    Raises UserError when a block's template does not serve it as planned.
    """
    return _Assembler(graph, weights, plan, device, objects).run()


class _Assembler:
    def __init__(
        self, graph: Graph, weights: Mapping[str, np.ndarray], plan: Plan, device: Device, objects: Objects
    ) -> None:  # fmt: skip
        self.graph, self.weights, self.plan, self.device, self.objects = graph, weights, plan, device, objects
        self.builder = relax.BlockBuilder()
        self.parameters: list[Parameter] = []
        self.parameter_types: list[Any] = []
        self.index: dict[tuple[str, str], int] = {}  # (constant, pack) -> parameter
        self.kernels: dict[str, KernelObject] = {}  # by symbol: equal blocks share one
        self.imported = 0  # blocks so far
        self.steps: list[Step] = []
        self.program = Program()
        self.loaded: dict[int, Value] = {}
        self.joins = joins(graph, plan)
        self.prepared = {
            block.layers: self._prepare(block, part=len(stage.lanes) > 1 and lane.cores > 1)
            for stage in plan.stages for lane in stage.lanes for block in lane.blocks
        }  # fmt: skip

    # first pass: kernels, so that all parameters are known before "main" is begun -------------------------------

    def _prepare(self, block: Block, part: bool) -> tuple[Bound, Any]:
        """What a block computes, and its kernel, or whatever stands for it. ``part``: it runs beside others."""
        bound = workload_of(self.graph, block.layers)
        if block.template == VIEW:
            return bound, None
        if block.template == IMPORTED:
            imported = import_layers(self.graph, self.weights, bound, self.device, block.cores)
            for number, array in enumerate(imported.parameters):
                self._parameter(Parameter(f"{bound.workload.hash[:8]}.{block.layers[0]}.{number}", Pack(), array))
            return bound, imported
        candidate = kernel_of(block, bound, self.plan, self.device)
        if block.layers[0] in self.joins:
            return bound, None
        kernel = self._compiled(candidate, part)
        for arg in kernel.args:
            if arg.role == "constant":
                self._parameter(_constant_of(arg, bound, kernel), arg)
        return bound, kernel

    def _compiled(self, candidate: Candidate, part: bool = False) -> KernelObject:
        kernel = self.objects.compiled(candidate, self.device, part)
        return self.kernels.setdefault(kernel.symbol, kernel)

    def _parameter(self, parameter: Parameter, arg: Any = None) -> int:
        key = (parameter.constant, digest(parameter.pack.to_json()))
        if key not in self.index:
            self.index[key] = len(self.parameters)
            self.parameters.append(parameter)
            shape = arg.shape if arg is not None else parameter.array.shape  # type: ignore[union-attr]
            dtype = arg.dtype if arg is not None else str(parameter.array.dtype)  # type: ignore[union-attr]
            self.parameter_types.append(relax.TensorType(shape, dtype))
        return self.index[key]

    # second pass: the program of the main function -----------------------------------------------------------------

    def run(self) -> Assembly:
        inputs = {n: relax.Var(_identifier(n), _type(self.graph, n)) for n in self.graph.inputs}
        values = {n: self._given(var, self.graph.tensors[n].shape, self.graph.tensors[n].dtype)
                  for n, var in inputs.items()}  # fmt: skip
        for stage in self.plan.stages:
            if len(stage.lanes) > 1:
                self._add_together(stage, values)
            else:
                for block in stage.lanes[0].blocks:
                    self._add(block, values)
        self.program.results = [self._output(n, values) for n in self.graph.outputs]
        memory = plan_memory(self.program)
        emit_main(self.builder, list(inputs.values()), self.parameter_types, self.program, memory)
        objects = [kernel.path for kernel in self.kernels.values()]
        return Assembly(self.builder.finalize(), self.parameters, self.program, memory, self.steps, objects)

    def _output(self, name: str, values: dict[str, Value]) -> Value:
        """A result as the user gets it: plain."""
        if name in self.graph.constants:
            return self._constant(name)
        stored = self.plan.layout(name)
        return values[name] if stored == PLAIN else self._convert(values[name], name, stored, PLAIN)

    def _given(self, expression: Any, shape: Sequence[int], dtype: str) -> Value:
        out = Value(tuple(shape), dtype)
        self.program.ops.append(Given(expression, out))
        return out

    def _constant(self, name: str) -> Value:
        array = self.weights[name]
        return self._given(relax.const(array), array.shape, str(array.dtype))

    def _load(self, parameter: int) -> Value:
        if parameter not in self.loaded:
            type_ = self.parameter_types[parameter]
            self.loaded[parameter] = Value(tuple(int(d) for d in type_.shape), str(type_.dtype))
            self.program.ops.append(Load(parameter, self.loaded[parameter]))
        return self.loaded[parameter]

    def _add(self, block: Block, values: dict[str, Value]) -> None:
        bound, made = self.prepared[block.layers]
        workload, names = bound.workload, bound.names
        read = {n: self._as_read(block, names[n], values) for n in workload.inputs}
        if block.layers[0] in self.joins:
            self._add_join(block, values)
        elif made is None and workload.layers[0].op == SLICE:
            self._add_slice(block, read["i0"], values)
        elif made is None:
            self._add_view(bound, read, values)
        elif isinstance(made, Imported):
            self._add_imported(block, bound, made, read, values)
        else:
            call, step = self._kernel(block, read, values)
            self.program.ops.append(call)
            self.steps.append(step)

    def _add_together(self, stage: Stage, values: dict[str, Value]) -> None:
        """Lanes that run at the same time. Layouts are changed before; ``check_blocks`` knows what else is refused."""
        blocks = [block for lane in stage.lanes for block in lane.blocks]
        inside = {o for block in blocks for i in block.layers for o in self.graph.by_id[i].outputs}
        for block in blocks:
            for name in self.prepared[block.layers][0].names.values():
                if name in values and name not in inside:
                    self._as_read(block, name, values)
        lanes, steps = [], []
        for lane in stage.lanes:
            made = []
            for block in lane.blocks:
                bound = self.prepared[block.layers][0]
                read = {n: self._as_read(block, bound.names[n], values) for n in bound.workload.inputs}
                made.append(self._kernel(block, read, values))
            lanes.append(program.Lane(tuple(call for call, _ in made), lane.cores))
            steps.append(tuple(step for _, step in made))
        symbol = f"together_{sum(isinstance(op, Together) for op in self.program.ops)}"
        self.program.ops.append(Together(symbol, tuple(lanes)))
        layers, cores = tuple(i for block in blocks for i in block.layers), sum(lane.cores for lane in lanes)
        self.steps.append(Step(symbol, layers, TOGETHER, cores, None, {}, tuple(steps)))

    def _kernel(self, block: Block, read: Mapping[str, Value], values: dict[str, Value]) -> tuple[Call, Step]:
        """The call of a block's kernel; the parameters that it takes are loaded, but it is not yet in the program."""
        bound, made = self.prepared[block.layers]
        workload = bound.workload
        layouts = block_layouts(self.plan, block, bound)
        args = [
            read[a.name] if a.role == "input" else self._load(self._parameter(_constant_of(a, bound, made)))
            for a in made.args
            if a.role != "output"
        ]  # fmt: skip
        call = self._call(made, args)
        values[bound.names[workload.outputs[0]]] = call.out
        knobs = knobs_of(block, workload, layouts, self.device)
        return call, Step(made.symbol, block.layers, block.template, block.cores, knobs, layouts)

    def _add_view(self, bound: Bound, read: dict[str, Value], values: dict[str, Value]) -> None:
        workload = bound.workload
        out = workload.outputs[0]
        name = workload.layers[0].inputs[0]
        source = read[name] if name in read else self._constant(bound.names[name])  # unfolded constants
        shape = tuple(workload.tensors[out].shape)
        if tuple(workload.type_of(name).shape) != shape:
            view = Value(shape, source.dtype)
            self.program.ops.append(View(source, view))
            source = view
        values[bound.names[out]] = source

    def _add_slice(self, block: Block, source: Value, values: dict[str, Value]) -> None:
        """A part of a tensor, read where it lies; of one whose memory is not ours, and for the user, a copy."""
        layer = self.graph.by_id[block.layers[0]]
        name, layout = layer.outputs[0], self.plan.layout(layer.outputs[0])
        offset = offset_of(self.graph, layer, layout)
        if offset is None:
            raise ValueError("check_blocks() refuses such a plan")
        if not self.program.places(source):
            source = self._convert(source, layer.inputs[0], layout, layout)
        values[name] = Value(physical_shape(self.graph.tensors[name].shape, layout), source.dtype)
        self.program.ops.append(Slice(source, offset, values[name]))
        if name in self.graph.outputs and layout == PLAIN:
            values[name] = self._convert(values[name], name, layout, layout)

    def _add_join(self, block: Block, values: dict[str, Value]) -> None:
        """A concatenation whose parts are written where they belong; those that cannot be are copied there."""
        name = self.graph.by_id[block.layers[0]].outputs[0]
        layout = self.plan.layout(name)
        parts = []
        for part in self.joins[block.layers[0]].parts:
            value = self._as_read(block, part.tensor, values)
            parts.append(self._convert(value, part.tensor, layout, layout) if part.copied else value)
        shape = physical_shape(self.graph.tensors[name].shape, layout)
        values[name] = Value(shape, stored_type(self.graph.tensors[name].dtype, layout))
        self.program.ops.append(Join(tuple(parts), values[name]))

    def _add_imported(
        self, block: Block, bound: Bound, made: Imported, read: dict[str, Value], values: dict[str, Value]
    ) -> None:
        number, self.imported = self.imported, self.imported + 1
        mapping = {
            name: self.builder.add_func(func.with_attr("global_symbol", f"imported_{number}_{name}"),
                                        f"imported_{number}_{name}")
            for name, func in made.kernels.items()
        }  # fmt: skip
        parameters = [
            self._load(self.index[(f"{bound.workload.hash[:8]}.{block.layers[0]}.{k}", digest(Pack().to_json()))])
            for k in range(len(made.parameters))
        ]
        inputs = [read[n] for n in bound.workload.inputs]

        def emit(builder: Any, args: Sequence[Any]) -> list[Any]:
            data, constants = list(args[: len(inputs)]), list(args[len(inputs) :])
            return made.emit(builder, data, constants, mapping, f"imported_{number}")

        outs = tuple(Value(tuple(t.shape), t.dtype) for t in map(bound.workload.type_of, bound.workload.outputs))
        self.program.ops.append(Foreign(emit, (*inputs, *parameters), outs))
        self.steps.append(Step(f"imported_{number}", block.layers, IMPORTED, block.cores, None, {}))
        values.update(zip((bound.names[n] for n in bound.workload.outputs), outs, strict=True))

    def _as_read(self, block: Block, tensor: str, values: dict[str, Value]) -> Value:
        stored, wanted = self.plan.layout(tensor), block.reads.get(tensor, self.plan.layout(tensor))
        if stored == wanted:
            return values[tensor]
        key = f"{tensor} as {wanted}"
        if key not in values:
            values[key] = self._convert(values[tensor], tensor, stored, wanted)
        return values[key]

    def _convert(self, value: Value, tensor: str, stored: str, wanted: str) -> Value:
        workload = identity_workload(self.graph.tensors[tensor].shape)
        layouts = {"i0": stored, "t0": wanted}
        maker = template(CONVERSION)
        knobs = maker.space(workload, layouts, self.device).default
        kernel = self._compiled(candidate_of(workload, layouts, CONVERSION, knobs, self.device.cores))
        self.steps.append(Step(kernel.symbol, (), "layout", self.device.cores, knobs, layouts))
        call = self._call(kernel, [value])
        self.program.ops.append(call)
        return call.out

    def _call(self, kernel: KernelObject, args: list[Value]) -> Call:
        return Call(kernel.symbol, tuple(args), Value(tuple(kernel.args[-1].shape), kernel.args[-1].dtype))


def identity_workload(shape: tuple[int, ...]) -> Graph:
    """The workload of a pure layout change."""
    tensors = {n: Tensor(n, tuple(shape)) for n in ("i0", "t0")}
    return Graph(("i0",), ("t0",), (Layer("l0", "Identity", ("i0",), ("t0",)),), tensors, {})


def _constant_of(arg: Any, bound: Bound, kernel: KernelObject) -> Parameter:
    """What a constant of a block's kernel is in the model."""
    source = source_of(arg.name, bound.workload.constants, bound.names)
    return Parameter(source, kernel.packs.get(arg.name, Pack()))


def _type(graph: Graph, name: str) -> Any:
    tensor = graph.tensors[name]
    return relax.TensorType(tensor.shape, tensor.dtype)


def _identifier(name: str) -> str:
    return "".join(c if c.isalnum() else "_" for c in name) or "x"
