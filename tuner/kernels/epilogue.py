"""Elementwise layers as expressions, inlined behind an anchor (convolution, pooling, ...) or chained on their own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any

from tvm import te, tirx

from tuner.build.binary import Arg
from tuner.graph.ir import Constant, Graph, Layer
from tuner.kernels import math as fast
from tuner.kernels.rounding import to_bf16
from tuner.kernels.views import Chan, View, flat
from tuner.plan.elementwise import ELEMENTWISE
from tuner.plan.layout import Pack, is_narrow, physical_shape
from tuner.precision import BF16

Expr = Any
Read = Callable[[Sequence[Any]], Expr]  # logical indices -> expression


def _gelu(layer: Layer, x: Expr) -> Expr:
    def tanh_form(x: Expr) -> Expr:
        inner = fast.const(0.7978845608028654) * (x + fast.const(0.044715) * x * x * x)
        return fast.const(0.5) * x * (fast.const(1.0) + fast.tanh(inner))

    def erf_form(x: Expr) -> Expr:
        return fast.const(0.5) * x * (fast.const(1.0) + fast.erf(x * fast.const(0.7071067811865476)))

    return fast.let(x, tanh_form if layer.attr("approximate", "none") == "tanh" else erf_form)


def _clip(layer: Layer, x: Expr, low: Expr = None, high: Expr = None) -> Expr:
    low = fast.const(layer.attr("min")) if layer.attr("min") is not None else low
    high = fast.const(layer.attr("max")) if layer.attr("max") is not None else high
    x = x if low is None else tirx.max(x, low)
    return x if high is None else tirx.min(x, high)


def _hard_sigmoid(layer: Layer, x: Expr) -> Expr:
    y = x * fast.const(layer.attr("alpha", 0.2)) + fast.const(layer.attr("beta", 0.5))
    return tirx.max(fast.const(0), tirx.min(fast.const(1), y))


def _leaky(x: Expr, slope: Expr) -> Expr:
    return fast.let(x, lambda v: tirx.Select(v < fast.const(0), v * slope, v))


def _batch_norm(layer: Layer, x: Expr, scale: Expr, bias: Expr, mean: Expr, var: Expr) -> Expr:
    return (x - mean) * (scale / tirx.sqrt(var + fast.const(layer.attr("epsilon", 1e-5)))) + bias


def _elu(x: Expr, alpha: float, scale: float = 1.0, width: float = 1.0) -> Expr:
    """``scale * x`` above zero, ``scale * alpha * (e**(x / width) - 1)`` below."""
    return fast.let(
        x,
        lambda v: tirx.Select(
            v < fast.const(0),
            fast.const(scale * alpha) * (fast.exp(v if width == 1.0 else v / fast.const(width)) - fast.const(1)),
            v if scale == 1.0 else v * fast.const(scale),
        ),
    )


def _mish(x: Expr) -> Expr:
    """x * tanh(log(1 + e**x)), as x * n / (n + 2) where n = e**x * (e**x + 2); above 20 that is x."""
    return fast.let(
        x,
        lambda v: fast.let(
            fast.exp(tirx.min(v, fast.const(20))),
            lambda e: fast.let(e * (e + fast.const(2)), lambda n: v * (n / (n + fast.const(2)))),
        ),
    )


def _fold(combine: Callable[[Expr, Expr], Expr]) -> Callable[..., Expr]:
    def apply(_: Layer, first: Expr, *rest: Expr) -> Expr:
        for value in rest:
            first = combine(first, value)
        return first

    return apply


_OPS: Mapping[str, Callable[..., Expr]] = {
    "Add": lambda _, a, b: a + b,
    "Sub": lambda _, a, b: a - b,
    "Mul": lambda _, a, b: a * b,
    "Div": lambda _, a, b: a / b,
    "Sum": _fold(lambda a, b: a + b),
    "Max": _fold(tirx.max),
    "Min": _fold(tirx.min),
    "Relu": lambda _, x: tirx.max(x, fast.const(0)),
    "Clip": _clip,
    "Sigmoid": lambda _, x: fast.sigmoid(x),
    "Tanh": lambda _, x: fast.tanh(x),
    "Erf": lambda _, x: fast.erf(x),
    "Exp": lambda _, x: fast.exp(x),
    "Gelu": _gelu,
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": lambda _, x: fast.let(
        x, lambda v: v * tirx.max(fast.const(0), tirx.min(fast.const(1), v / fast.const(6) + fast.const(0.5)))
    ),
    "LeakyRelu": lambda layer, x: _leaky(x, fast.const(layer.attr("alpha", 0.01))),
    "PRelu": lambda _, x, again, slope: tirx.max(x, fast.const(0)) + slope * tirx.min(again, fast.const(0)),
    "Elu": lambda layer, x: _elu(x, layer.attr("alpha", 1.0)),
    "Celu": lambda layer, x: _elu(x, layer.attr("alpha", 1.0), width=layer.attr("alpha", 1.0)),
    "Selu": lambda layer, x: _elu(x, layer.attr("alpha", 1.6732632), layer.attr("gamma", 1.0507010)),
    "Softplus": lambda _, x: fast.softplus(x),
    "Softsign": lambda _, x: fast.let(x, lambda v: v / (fast.const(1) + tirx.abs(v))),
    "Mish": lambda _, x: _mish(x),
    "Abs": lambda _, x: tirx.abs(x),
    "Neg": lambda _, x: fast.const(0) - x,
    "Sqrt": lambda _, x: tirx.sqrt(x),
    "Reciprocal": lambda _, x: fast.const(1) / x,
    "Floor": lambda _, x: tirx.floor(x),
    "Ceil": lambda _, x: tirx.ceil(x),
    "Identity": lambda _, x: x,
    "Dropout": lambda _, x: x,
    "BatchNormalization": _batch_norm,
}
_SINGULAR = frozenset({"Div", "Reciprocal", "Sqrt"})  # not finite for some finite operands
if _OPS.keys() != ELEMENTWISE:
    raise ImportError(f"tuner.plan.elementwise and the kernels disagree on {_OPS.keys() ^ ELEMENTWISE}")


@dataclass
class Body:
    """Collects a kernel's arguments while its expressions are written.

    ``views`` of inputs and constants are made on first use; ``args`` gives them in the order inputs, constants, output.
    """

    workload: Graph
    layouts: Mapping[str, str]
    anchors: dict[str, Read] = field(default_factory=dict)  # tensor name -> how to read it
    packs: dict[str, Pack] = field(default_factory=dict)
    _inputs: dict[str, View] = field(default_factory=dict)
    _constants: dict[str, te.Tensor] = field(default_factory=dict)
    _readers: dict[str, Read] = field(default_factory=dict)

    def input(self, name: str) -> View:
        """View of a workload input."""
        if name not in self._inputs:
            tensor = self.workload.tensors[name]
            self._inputs[name] = View.placeholder(name, tensor.shape, self.layouts.get(name, "plain"), tensor.dtype)
        return self._inputs[name]

    def constant(self, name: str, shape: Sequence[int], pack: Pack, dtype: str = "") -> te.Tensor:
        """A constant as this kernel wants it: ``pack`` turns the logical array into ``shape``.

        ``dtype`` is what it is then; by default what it was. ``name`` may be one derived from another's
        (``tuner.plan.layout.derived``).
        """
        if name not in self._constants:
            self.packs[name] = pack
            dtype = dtype or self.workload.constants[name].dtype
            self._constants[name] = te.placeholder(tuple(shape), dtype, name=name)
        return self._constants[name]

    def weights(self, name: str, shape: Sequence[int], pack: Pack, precision: str) -> Callable[..., Expr]:
        """Weights stored in ``precision``: their float32 values by index into ``shape``."""
        if precision != BF16:
            return self.constant(name, shape, pack)
        bits = self.constant(name, shape, Pack((*pack.steps, ("bf16",))), "uint16")
        return lambda *index: fast.from_bf16(bits(*index))

    def result(self, index: Sequence[Any]) -> Expr:
        """What the buffer of the workload's output holds at logical ``index``."""
        name = self.workload.outputs[0]
        value = self.read(name, index)
        return to_bf16(value) if is_narrow(self.layouts[name]) else value

    def read(self, name: str, index: Sequence[Any]) -> Expr:
        """The element of any tensor or constant of the workload at logical ``index``, layers inlined."""
        if name in self.anchors:
            return self.anchors[name](index)
        if name in self.workload.constants:
            return self._read_constant(self.workload.constants[name], index)
        if name in self.workload.inputs:
            return self.input(name).at(index)
        layer = self.workload.producer[name]
        shape = self.workload.tensors[name].shape
        index = _broadcast(index, shape)
        if layer.op == "BatchNormalization":
            channel = (index[1],)
            rest = [self.read(n, channel) for n in layer.inputs[1:]]
            return _OPS[layer.op](layer, self.read(layer.inputs[0], index), *rest)
        # PRelu reads its operand twice: TVM's common subexpression elimination breaks a let whose body reads a buffer.
        operands = (layer.inputs[0], *layer.inputs) if layer.op == "PRelu" else layer.inputs
        values = [self.read(n, index) if n else None for n in operands]
        if layer.op in {"Dropout", "Identity"}:
            values = values[:1]
        value = _OPS[layer.op](layer, *values)
        return _finite(value, index, shape) if layer.op in _SINGULAR else value

    def _read_constant(self, constant: Constant, index: Sequence[Any]) -> Expr:
        if constant.value is not None and constant.elements == 1:
            return tirx.const(constant.value[0], constant.dtype)
        index = _broadcast(index, constant.shape)
        shape = constant.shape
        padded = [
            -(-extent // i.block) * i.block if isinstance(i, Chan) and extent > 1 else extent
            for i, extent in zip(index, shape, strict=True)
        ]
        pack = Pack()
        if tuple(padded) != shape:
            pack = Pack((("pad", [[0, p - s] for p, s in zip(padded, shape, strict=True)]),))
        tensor = self.constant(constant.name, padded, pack)
        return tensor(*(flat(i) for i in index)) if shape else tensor()

    def finish(self, output: te.Tensor) -> tuple[list[te.Tensor], tuple[Arg, ...]]:
        """Tensors and Args in call order: inputs, constants (both in the workload's order), the output."""
        out = self.workload.outputs[0]
        inputs = list(self.workload.inputs)
        constants = [n for n in self.workload.constants if n in self._constants]
        constants += [n for n in self._constants if n not in self.workload.constants]  # derived ones
        tensors = [*(self.input(n).tensor for n in inputs), *(self._constants[n] for n in constants), output]
        args = (
            *(Arg(n, "input", _shape(self.input(n).tensor), str(self.input(n).tensor.dtype), self.input(n).layout)
              for n in inputs),
            *(Arg(n, "constant", _shape(self._constants[n]), str(self._constants[n].dtype)) for n in constants),
            Arg(out, "output", physical_shape(self.workload.tensors[out].shape, self.layouts[out]), str(output.dtype),
                self.layouts[out]),
        )  # fmt: skip
        return tensors, args


def _shape(tensor: te.Tensor) -> tuple[int, ...]:
    return tuple(int(d) for d in tensor.shape)


def _finite(value: Expr, index: Sequence[Any], shape: Sequence[int]) -> Expr:
    """``value``, but zero in padded channels: 0/0 there would poison whatever reads the block with weights of zero."""
    for i, extent in zip(index, shape, strict=True):
        if isinstance(i, Chan) and extent % i.block:
            return tirx.Select(i.expr < extent, value, fast.const(0))
    return value


def _broadcast(index: Sequence[Any], shape: Sequence[int]) -> tuple[Any, ...]:
    index = tuple(index)[len(index) - len(shape) :]
    return tuple(0 if extent == 1 else i for i, extent in zip(index, shape, strict=True))


def anchored(workload: Graph, ops: frozenset[str]) -> Layer | None:
    """The one anchor layer (op in ``ops``) whose result passes only through elementwise layers of the same shape.

    None when the workload is not of that form, has several outputs, or a type other than float32.
    """
    key = (anchored, ops)
    if key not in workload.notes:
        anchors = [x for x in workload.layers if x.op in ops]
        fits = len(anchors) == 1 and elementwise_tail(workload, anchors[0])
        workload.notes[key] = anchors[0] if fits else None
    found: Layer | None = workload.notes[key]
    return found


def elementwise_tail(workload: Graph, anchor: Layer) -> bool:
    """Whether all layers but ``anchor`` are elementwise in float32 and shaped like the anchor's single result."""
    if len(workload.outputs) != 1 or any(t.dtype != "float32" for t in workload.tensors.values()):
        return False
    shape = workload.tensors[anchor.outputs[0]].shape
    out = workload.outputs[0]
    if workload.tensors[out].shape != shape or len([o for o in anchor.outputs if o]) != 1:
        return False
    rest = [x for x in workload.layers if x is not anchor]
    return all(fusable_elementwise(workload, x) and workload.tensors[x.outputs[0]].shape == shape for x in rest)


def fusable_elementwise(workload: Graph, layer: Layer) -> bool:
    """Elementwise, one result, and constants that are weights or single numbers in float32."""
    if layer.op not in ELEMENTWISE or sum(bool(o) for o in layer.outputs) != 1:
        return False
    if layer.op == "PRelu" and not workload.is_constant(layer.inputs[1]):
        return False
    names = layer.inputs[:1] if layer.op in {"Dropout", "Identity"} else layer.inputs
    constants = [workload.constants[n] for n in names if n and workload.is_constant(n)]
    return all(c.dtype == "float32" and (c.value is None or prod(c.shape) == 1) for c in constants)
