"""Small random workloads for every kernel template, and the check that a kernel computes what its workload means."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import prod
from typing import Any

import kernel_reference as reference
import numpy as np
import tvm

from tuner.graph.ir import Constant, Graph, Layer, Tensor, freeze_attrs
from tuner.kernels.base import Kernel, KernelTemplate
from tuner.kernels.registry import BY_NAME
from tuner.measure.device import cpu_features
from tuner.measure.reference import max_rel_error, unrounded_error
from tuner.plan import int8
from tuner.plan.bf16 import dotted_layers, rounded, stored, weight_names, widened
from tuner.plan.layout import (
    PLAIN,
    RANGE,
    block_of,
    blocked,
    derived,
    is_narrow,
    source_of,
    to_logical,
    to_physical,
)  # fmt: skip
from tuner.plan.workload import workload_of
from tuner.precision import BF16, BF16_DOT, DOT_FEATURE, INT8, INT8_FEATURE, precision_of
from tuner.types import Device

TOLERANCE = 1e-5  # max|y - ref| / max|ref| in float32
TOLERANCES = {"winograd": 5e-5}  # where the algorithm itself rounds more
CHANNELS = (3, 16, 17, 24, 32, 40, 100)  # aligned with 4, 8 or 16 lanes, and with none


def device(lanes: int, registers: int, mcpu: str) -> Device:
    """A processor with more cores than most test machines, so that "some of the cores" is a case of its own."""
    return Device("cpu", "cpu", mcpu, mcpu, (), 4, lanes, registers, 32 << 10, 1 << 20, 8 << 20, 1 << 33)


DEVICES = {"v2": device(4, 16, "x86-64-v2"), "v3": device(8, 16, "x86-64-v3"), "v4": device(16, 32, "x86-64-v4")}
DOT = {"dot": replace(device(16, 32, "cooperlake"), features=(DOT_FEATURE,))}  # it multiplies bfloat16
VNNI = {"vnni": replace(device(16, 32, "cascadelake"), features=(INT8_FEATURE,))}  # 8-bit integers


def machines_of(template: str) -> dict[str, Device]:
    """By name, those that a template is tested on."""
    return {BF16_DOT: DOT, INT8: VNNI}.get(precision_of(template), DEVICES)


def runs_here(machine: Device) -> bool:
    """Whether this processor executes the machine's code."""
    wide = {"avx512f", "avx512bw", "avx512dq", "avx512vl"}
    needed = {
        "x86-64-v2": set(), "x86-64-v3": {"avx2", "fma"}, "x86-64-v4": wide, "cooperlake": {*wide, DOT_FEATURE},
        "cascadelake": {*wide, INT8_FEATURE},
    }  # fmt: skip
    return needed[machine.mcpu] <= set(cpu_features())


@dataclass
class Sketch:
    """A Graph under construction: each layer is evaluated as it is added, so shapes come from the reference."""

    rng: np.random.Generator
    opset: int = 20
    arrays: dict[str, np.ndarray] = field(default_factory=dict)
    inputs: list[str] = field(default_factory=list)
    constants: dict[str, Constant] = field(default_factory=dict)
    layers: list[Layer] = field(default_factory=list)

    def input(self, *shape: int, away_from_zero: bool = False) -> str:
        name = f"x{len(self.inputs)}"
        self.arrays[name] = self._numbers(shape, away_from_zero)
        self.inputs.append(name)
        return name

    def weight(self, *shape: int, scale: float = 1.0, away_from_zero: bool = False) -> str:
        name = f"w{len(self.constants)}"
        array = (self._numbers(shape, away_from_zero) * scale).astype(np.float32)
        literal = (float(array.item()),) if array.size == 1 else None
        self.constants[name] = Constant(name, shape, "float32", "", literal)
        self.arrays[name] = array
        return name

    def indices(self, below: int, *shape: int, dtype: str = "int64") -> str:
        """An input of whole numbers that count among ``below``, from the front or, if negative, from the end."""
        name = f"x{len(self.inputs)}"
        self.arrays[name] = self.rng.integers(-below, below, shape).astype(dtype)
        self.inputs.append(name)
        return name

    def literal(self, values: Sequence[int] | float) -> str:
        """An int64 list or scalar, or a float32 scalar."""
        name = f"w{len(self.constants)}"
        array = np.array(values, np.float32 if isinstance(values, float) else np.int64)
        self.constants[name] = Constant(name, array.shape, array.dtype.name, "", tuple(array.reshape(-1).tolist()))
        self.arrays[name] = array
        return name

    def add(self, op: str, *inputs: str, **attrs: Any) -> str:
        name = f"y{len(self.layers)}"
        values = [self.arrays[n] if n else None for n in inputs]
        self.arrays[name] = reference.evaluate(op, attrs, values, self.opset)
        self.layers.append(Layer(f"{op}_{len(self.layers)}", op, inputs, (name,), freeze_attrs(attrs)))
        return name

    def shape(self, name: str) -> tuple[int, ...]:
        return self.arrays[name].shape

    def graph(self) -> Graph:
        names = [*self.inputs, *(x.outputs[0] for x in self.layers)]
        whole = {n: self.arrays[n].dtype.name for n in names if self.arrays[n].dtype.kind == "i"}
        tensors = {n: Tensor(n, self.shape(n), whole.get(n, "float32")) for n in names}
        last = self.layers[-1].outputs
        return Graph(tuple(self.inputs), last, tuple(self.layers), tensors, self.constants, self.opset)

    def _numbers(self, shape: Sequence[int], away_from_zero: bool) -> np.ndarray:
        array = self.rng.standard_normal(shape)
        return (np.abs(array) + 0.5 if away_from_zero else array).astype(np.float32)


@dataclass(frozen=True)
class Case:
    """A canonical workload with the layouts to build it for and one set of numbers."""

    workload: Graph
    layouts: Mapping[str, str]
    values: Mapping[str, np.ndarray]  # inputs and constants, logical
    rng: np.random.Generator

    @property
    def about(self) -> str:
        """What the case is, for a failure's message."""
        layers = [f"{x.op}{[list(self.workload.type_of(n).shape) for n in x.inputs if n]}{dict(x.attrs)}"
                  for x in self.workload.layers]  # fmt: skip
        return f"{' '.join(layers)} {dict(self.layouts)}"


def case_of(sketch: Sketch, layouts: Callable[[str, tuple[int, ...], bool], str]) -> Case:
    """``layouts``: (canonical name, shape, whether it is the output) -> layout of an input or the output."""
    graph = sketch.graph()
    bound = workload_of(graph, [x.id for x in graph.layers])
    workload = bound.workload
    chosen = {n: layouts(n, workload.tensors[n].shape, False) for n in workload.inputs}
    chosen |= {n: layouts(n, workload.tensors[n].shape, True) for n in workload.outputs}
    values = {n: sketch.arrays[bound.names[n]] for n in (*workload.inputs, *workload.constants)}
    return Case(workload, chosen, values, sketch.rng)


# generators ------------------------------------------------------------------------------------------------------


def _pick(rng: np.random.Generator, *values: Any) -> Any:
    return values[int(rng.integers(len(values)))]


def _blocked(rng: np.random.Generator, lanes: int, plain_inputs: float = 0.3) -> Callable[..., str]:
    """Images in blocks of the device's lanes, some inputs plain."""

    def choose(_: str, shape: tuple[int, ...], output: bool) -> str:
        if len(shape) != 4 or (not output and rng.random() < plain_inputs):
            return PLAIN
        return blocked(lanes)

    return choose


def _plain(_: str, __: tuple[int, ...], ___: bool) -> str:
    return PLAIN


def epilogue(s: Sketch, name: str, steps: int) -> str:
    """Up to ``steps`` random elementwise layers behind a tensor, of the same shape."""
    rng = s.rng
    for _ in range(steps):
        shape = s.shape(name)
        c = shape[1]
        channel = (c, 1, 1) if len(shape) == 4 else (shape[-1],)
        kind = _pick(rng, "bn", "residual", "bias", "scale", "relu", "clip", "swish", "unary", "div", "prelu", "gate")
        if kind == "bn" and len(shape) == 4:
            parts = [s.weight(c), s.weight(c), s.weight(c), s.weight(c, away_from_zero=True)]
            name = s.add("BatchNormalization", name, *parts, epsilon=1e-3)
        elif kind == "residual":
            other = s.input(*shape)
            name = s.add("Add", *_pick(rng, (name, other), (other, name)))
        elif kind == "bias":
            name = s.add(_pick(rng, "Add", "Sub"), name, s.weight(*channel))
        elif kind == "scale":
            name = s.add("Mul", s.weight(*_pick(rng, channel, (1,), ())), name)
        elif kind == "clip":
            ends = _pick(rng, (s.literal(0.0), s.literal(6.0)), (s.literal(-0.5),), ("", s.literal(0.5)))
            name = s.add("Clip", name, *ends)
        elif kind == "swish":
            name = s.add("Mul", name, s.add("Sigmoid", name))
        elif kind == "div":
            name = s.add("Div", name, s.weight(*channel, away_from_zero=True))
        elif kind == "prelu":
            name = s.add("PRelu", name, s.weight(*channel))
        elif kind == "gate" and len(shape) == 4:
            name = s.add("Mul", name, s.input(shape[0], c, 1, 1))
        elif kind == "unary":
            op, attrs = _pick(rng, ("Gelu", {}), ("Gelu", {"approximate": "tanh"}), ("HardSwish", {}),
                              ("HardSigmoid", {"alpha": 0.3}), ("LeakyRelu", {"alpha": 0.1}), ("Tanh", {}),
                              ("Elu", {"alpha": 0.7}), ("Sigmoid", {}), ("Abs", {}), ("Neg", {}),
                              ("Erf", {}), ("Softplus", {}), ("Softsign", {}), ("Mish", {}), ("Selu", {}),
                              ("Selu", {"alpha": 1.5, "gamma": 0.9}), ("Celu", {"alpha": 0.6}))  # fmt: skip
            name = s.add(op, name, **attrs)
        else:
            name = s.add("Relu", name)
    return name


def _conv_attrs(rng: np.random.Generator, kernel: tuple[int, int]) -> dict[str, Any]:
    stride = _pick(rng, (1, 1), (1, 1), (2, 2), (2, 1))
    dilation = (1, 1) if max(kernel) > 5 else _pick(rng, (1, 1), (1, 1), (1, 1), (2, 2), (1, 2))
    if rng.random() < 0.2:
        return {"strides": stride, "dilations": dilation, "auto_pad": _pick(rng, "SAME_UPPER", "SAME_LOWER")}
    high = [(k - 1) * d // 2 + 1 for k, d in zip(kernel, dilation, strict=True)]
    pads = tuple(int(rng.integers(0, h + 1)) for h in (*high, *high)) if rng.random() < 0.8 else (0, 0, 0, 0)
    return {"strides": stride, "dilations": dilation, "pads": pads}


def conv(s: Sketch, groups: int = 1, pointwise: bool = False) -> str:
    rng = s.rng
    kernel = (1, 1) if pointwise else _pick(rng, (3, 3), (3, 3), (1, 3), (5, 5), (2, 2), (1, 1), (7, 7))
    each = _pick(rng, 1, 3, 4, 6, 10, 16)
    ic = groups * each if groups > 1 else _pick(rng, *CHANNELS)
    oc = groups * _pick(rng, 1, 3, 4, 5, 16) if groups > 1 else _pick(rng, *CHANNELS)
    n, h, w = _pick(rng, 1, 1, 2), int(rng.integers(9, 15)), int(rng.integers(9, 17))
    attrs = {} if pointwise and rng.random() < 0.7 else _conv_attrs(rng, kernel)
    if groups > 1:
        attrs["group"] = groups
    weights = s.weight(oc, ic // groups, *kernel, scale=float((ic // groups * kernel[0] * kernel[1]) ** -0.5))
    bias = (s.weight(oc),) if rng.random() < 0.6 else ()
    return s.add("Conv", s.input(n, ic, h, w), weights, *bias, **attrs)


def conv2d_case(rng: np.random.Generator, machine: Device) -> Case:
    s = Sketch(rng)
    kind = rng.random()
    name = conv(s, groups=_pick(rng, 2, 3, 4, 8)) if kind < 0.25 else conv(s, pointwise=kind < 0.5)
    epilogue(s, name, int(rng.integers(0, 4)))
    return case_of(s, _blocked(rng, machine.lanes))


def conv2d_grouped_case(rng: np.random.Generator, machine: Device) -> Case:
    """Groups that cut through blocks, and some that do not; fewer channels than a vector has, and more."""
    s = Sketch(rng)
    groups = _pick(rng, 2, 3, 4, 4, 8)
    ic, oc = 2 * _pick(rng, 1, 3, 8, 14, 17, 17, 34), _pick(rng, 6, 16, 28, 34, 34, 47, 68)
    shape = (int(rng.integers(1, 3)), ic * groups, *_pick(rng, (7, 7), (5, 9), (14, 14), (1, 1), (3, 40)))
    weights = s.weight(oc * groups, ic, 1, 1, scale=ic**-0.5)
    bias = (s.weight(oc * groups),) if rng.random() < 0.5 else ()
    name = s.add("Conv", s.input(*shape), weights, *bias, kernel_shape=(1, 1), group=groups)
    epilogue(s, name, int(rng.integers(0, 4)))
    return case_of(s, _blocked(rng, machine.lanes, plain_inputs=0.0))


def conv2d_pool_case(rng: np.random.Generator, machine: Device) -> Case:
    s = Sketch(rng)
    name = conv(s, pointwise=rng.random() < 0.3)
    name = s.add("Relu", name) if rng.random() < 0.5 else name
    epilogue(s, pooling(s, name, free=True), int(rng.integers(0, 2)))
    return case_of(s, _blocked(rng, machine.lanes))


def depthwise_case(rng: np.random.Generator, machine: Device) -> Case:
    s = Sketch(rng)
    c, kernel = _pick(rng, *CHANNELS), _pick(rng, (3, 3), (5, 5), (1, 3), (7, 7))
    n, h, w = _pick(rng, 1, 2), int(rng.integers(9, 15)), int(rng.integers(9, 17))
    bias = (s.weight(c),) if rng.random() < 0.6 else ()
    weights = s.weight(c, 1, *kernel)
    name = s.add("Conv", s.input(n, c, h, w), weights, *bias, **_conv_attrs(rng, kernel), group=c)
    epilogue(s, name, int(rng.integers(0, 4)))
    return case_of(s, _blocked(rng, machine.lanes))


def pooling(s: Sketch, name: str, free: bool = False) -> str:
    """A pooling whose every window touches the image, as ONNX asks; ``free``: windows do not overlap."""
    rng = s.rng
    kernel = _pick(rng, (2, 2), (2, 2), (3, 3), (2, 3))
    if free:  # and none is larger than the image, which has no padding to make up for that
        kernel = tuple(min(k, size) for k, size in zip(kernel, s.shape(name)[2:], strict=True))
    stride = kernel if free else _pick(rng, (1, 1), (2, 2), (3, 3), (2, 1))
    attrs: dict[str, Any] = {"kernel_shape": kernel, "strides": stride}
    if not free:
        pads = tuple(int(rng.integers(0, k)) for k in (*kernel, *kernel))
        attrs |= {"pads": pads, "ceil_mode": int(rng.integers(2))}
        attrs |= {"dilations": _pick(rng, (1, 1), (1, 1), (2, 2))}
    op = _pick(rng, "MaxPool", "AveragePool")
    if op == "AveragePool":
        attrs |= {"dilations": (1, 1), "count_include_pad": int(rng.integers(2))}
    return s.add(op, name, **attrs)


def pool_case(rng: np.random.Generator, machine: Device) -> Case:
    s = Sketch(rng)
    n, c, h, w = _pick(rng, 1, 2), _pick(rng, *CHANNELS), int(rng.integers(7, 14)), int(rng.integers(7, 15))
    x = s.input(n, c, h, w)
    kind = _pick(rng, "window", "window", "window", "global", "mean")
    if kind == "window":
        name = pooling(s, x)
    elif kind == "global":
        name = s.add(_pick(rng, "GlobalAveragePool", "GlobalMaxPool"), x)
    else:
        name = s.add("ReduceMean", x, s.literal(_pick(rng, [2, 3], [-1, -2])), keepdims=1)
    epilogue(s, name, int(rng.integers(0, 3)))
    aligned = c % machine.lanes == 0 and kind != "window" and rng.random() < 0.5
    choose = _blocked(rng, machine.lanes)
    return case_of(s, lambda n, shape, output: PLAIN if output and aligned else choose(n, shape, output))


def dense_case(rng: np.random.Generator, machine: Device) -> Case:
    s = Sketch(rng)
    k, n = _pick(rng, 7, 16, 40, 100), _pick(rng, 3, 10, 32, 100, 130)
    if rng.random() < 0.6:
        m = _pick(rng, 1, 1, 2, 5, 13, 28)
        attrs: dict[str, Any] = {}
        if rng.random() < 0.5:
            attrs["transB"] = 1
        if rng.random() < 0.4:
            attrs |= {"alpha": 0.5, "beta": 1.5}
        bias = _pick(rng, (), (n,), (1, n), (m, n), (m, 1))
        more = (s.weight(*bias),) if bias else ()
        weights = s.weight(n, k) if "transB" in attrs else s.weight(k, n)
        name = s.add("Gemm", s.input(m, k), weights, *more, **attrs)
    else:
        rows = _pick(rng, (1,), (9,), (1, 7), (2, 5), (2, 1, 3), (3, 14))
        name = s.add("MatMul", s.input(*rows, k), s.weight(k, n))
    epilogue(s, name, int(rng.integers(0, 3)) if len(s.shape(name)) < 4 else 0)
    return case_of(s, _plain)


def matmul_case(rng: np.random.Generator, machine: Device) -> Case:
    s = Sketch(rng)
    m, k, n = _pick(rng, 1, 5, 16, 33), _pick(rng, 7, 16, 40), _pick(rng, 3, 16, 24, 40, 50)
    lead = _pick(rng, (), (2,), (1, 3), (2, 3))
    rank = len(lead) + 2

    def operand(rows: int, columns: int, perm: tuple[int, ...] | None) -> str:
        """As it is, or the transpose of an input."""
        shape = (*lead, rows, columns)
        if perm is None:
            return s.input(*shape)
        source = [0] * rank
        for place, axis in enumerate(perm):
            source[axis] = shape[place]
        return s.add("Transpose", s.input(*source), perm=perm)

    usual = tuple(range(rank))
    heads = (0, 2, 1, 3) if rank == 4 else (1, 0, 2) if rank == 3 else None  # the last axis stays
    swapped = (*usual[:-2], rank - 1, rank - 2)
    keys = (0, 2, 3, 1) if rank == 4 else swapped
    left = operand(m, k, _pick(rng, None, None, heads))
    name = s.add("MatMul", left, operand(k, n, _pick(rng, None, heads, swapped, keys)))
    if rng.random() < 0.5:
        name = s.add("Mul", name, s.literal(0.125))
    if rng.random() < 0.3:
        name = s.add("Add", name, s.input(*_pick(rng, (m, n), (n,), (1, n), (*lead, m, n))))
    if heads and rng.random() < 0.4:
        s.add("Transpose", name, perm=heads)
    return case_of(s, _plain)


def layer_norm_case(rng: np.random.Generator, machine: Device) -> Case:
    s = Sketch(rng)
    shape, axis = _pick(rng, ((5, 48), -1), ((1, 7, 33), -1), ((2, 3, 16), 2), ((3, 4, 10), 1), ((1, 100), -1),
                        ((2, 2, 3, 5), -2), ((4, 3), -1), ((9,), 0), ((3, 1), -1))  # fmt: skip
    behind = shape[axis % len(shape) :]
    scale = s.weight(*_pick(rng, behind, behind, behind[-1:]))
    shift = (s.weight(*behind),) if rng.random() < 0.7 else ()
    attrs = {"epsilon": 1e-2} if rng.random() < 0.5 or behind == (1,) else {}
    name = s.add("LayerNormalization", s.input(*shape), scale, *shift, axis=axis, **attrs)
    epilogue(s, name, int(rng.integers(0, 3)) if len(shape) in {2, 3} else 0)
    return case_of(s, _plain)


def gather_case(rng: np.random.Generator, machine: Device) -> Case:
    s = Sketch(rng)
    shape, axis = _pick(rng, ((50, 24), 0), ((1, 9, 32), 1), ((7, 5), -1), ((3, 4, 2, 5), 2), ((11,), 0))
    table = s.weight(*shape) if rng.random() < 0.6 else s.input(*shape)
    extent = shape[axis]
    kind = _pick(rng, "input", "input", "scalar", "constant")
    if kind == "input":
        places = s.indices(extent, *_pick(rng, (6,), (1, 8), (2, 3), ()), dtype=_pick(rng, "int64", "int32"))
    elif kind == "scalar":
        places = s.literal(_pick(rng, 0, -1, extent - 1))
    else:
        places = s.literal([int(v) for v in rng.integers(-extent, extent, 5)])
    name = s.add("Gather", table, places, axis=axis)
    if len(s.shape(name)) == 3:
        epilogue(s, name, int(rng.integers(0, 3)))
    return case_of(s, _plain)


def transpose_case(rng: np.random.Generator, machine: Device) -> Case:
    s = Sketch(rng)
    shape = _pick(rng, (5, 17), (3, 16, 8), (2, 5, 3, 16), (2, 3, 7, 5), (1, 2, 3, 4, 5))
    perm = tuple(int(v) for v in rng.permutation(len(shape)))
    name = s.add("Transpose", s.input(*shape), perm=perm)
    epilogue(s, name, int(rng.integers(0, 3)) if len(shape) in {2, 3} else 0)
    return case_of(s, _plain)


def slice_case(rng: np.random.Generator, machine: Device) -> Case:
    """Cuts that begin inside a block and at one, from the front and from the end, some in steps, some along a second
    axis; images in either layout.
    """
    s, lanes = Sketch(rng), machine.lanes
    shape, axis, other = _pick(rng, ((2, 40, 5, 7), 1, 3), ((1, 3 * lanes, 4, 6), 1, -2), ((2, 24, 9, 5), 2, 3),
                               ((6, 50), 1, 0), ((3, 5, 24), -1, 1))  # fmt: skip
    extent = shape[axis]
    start = int(rng.choice([0, 1, min(lanes, extent - 1), extent // 2]))
    stop = int(rng.integers(start + 1, extent + 1))
    end = _pick(rng, stop, 1 << 40 if stop == extent else stop - extent if stop < extent else stop)
    bounds = [[start], [end], [axis], [_pick(rng, 1, 1, 2, 3)]]
    if rng.random() < 0.4:
        for values, one in zip(bounds, (1, 1 << 40, other, _pick(rng, 1, 2)), strict=True):
            values.append(one)
    name = s.add("Slice", s.input(*shape), *(s.literal(v) for v in bounds[: 3 if set(bounds[3]) == {1} else 4]))
    if len(shape) in {2, 4}:
        epilogue(s, name, int(rng.integers(0, 3)))
    return case_of(s, _pick(rng, _plain, _blocked(rng, lanes, 0.0), _blocked(rng, lanes, 1.0)))


def depth_to_space_case(rng: np.random.Generator, machine: Device) -> Case:
    """Channels that fill blocks and others, in both modes; sometimes cut, with results that are no whole steps."""
    s, lanes = Sketch(rng), machine.lanes
    size, channels = _pick(rng, 2, 2, 3, 4), _pick(rng, 1, 3, lanes, 2 * lanes, lanes + 4)
    height, width = _pick(rng, (1, 1), (4, 5), (7, 3), (6, 8))
    name = s.input(int(rng.integers(1, 3)), channels * size**2, height, width)
    name = s.add("DepthToSpace", name, blocksize=size, mode=_pick(rng, "DCR", "CRD"))
    if rng.random() < 0.6:
        first = [int(v) for v in rng.integers(0, size, 2)]
        last = [size * n - int(rng.integers(0, size - f)) for n, f in zip((height, width), first, strict=True)]
        name = s.add("Slice", name, *(s.literal(v) for v in (first, last, [2, -1])))
    epilogue(s, name, int(rng.integers(0, 3)))
    return case_of(s, _pick(rng, _plain, _blocked(rng, lanes, 0.0), _blocked(rng, lanes, 1.0)))


def resize_case(rng: np.random.Generator, machine: Device) -> Case:
    """To nearest pixels by whole factors, and between four to any size, from one pixel on."""
    s, lanes = Sketch(rng), machine.lanes
    height, width = (int(v) for v in _pick(rng, (1, 1), (4, 5), (7, 3), (6, 8), (1, 9)))
    name = s.input(int(rng.integers(1, 3)), _pick(rng, 1, 5, lanes, lanes + 4), height, width)
    if rng.random() < 0.4:
        factors = [int(v) for v in rng.integers(1, 5, 2)]
        coordinates, nearest = _pick(rng, ("asymmetric", "floor"), ("half_pixel", "round_prefer_floor"))
        sizes = [height * factors[0], width * factors[1]]
        attrs = {"mode": "nearest", "coordinate_transformation_mode": coordinates, "nearest_mode": nearest}
    else:
        sizes = [int(v) for v in rng.integers(1, 14, 2)]
        coordinates = _pick(rng, "half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric")
        attrs = {"mode": "linear", "coordinate_transformation_mode": coordinates}
    name = s.add("Resize", name, "", "", s.literal([*s.shape(name)[:2], *sizes]), **attrs)
    epilogue(s, name, int(rng.integers(0, 3)))
    return case_of(s, _pick(rng, _plain, _blocked(rng, lanes, 1.0)))


def conv2d_prologue_case(rng: np.random.Generator, machine: Device) -> Case:
    s, lanes = Sketch(rng), machine.lanes
    shape = (int(rng.integers(1, 3)), _pick(rng, *CHANNELS), *_pick(rng, (7, 7), (5, 9), (14, 14), (1, 1), (3, 40)))
    name = s.input(*shape)
    for _ in range(int(rng.integers(1, 4))):
        kind = _pick(rng, "bn", "relu", "add", "gate", "sigmoid")
        if kind == "bn":
            name = s.add("Add", s.add("Mul", name, s.weight(shape[1], 1, 1)), s.weight(shape[1], 1, 1))
        elif kind == "add":
            name = s.add("Add", name, s.input(*shape))
        elif kind == "gate":
            name = s.add("Mul", name, s.input(*shape[:2], 1, 1))
        else:
            name = s.add(kind.capitalize(), name)
    oc = _pick(rng, *CHANNELS)
    weights = s.weight(oc, shape[1], 1, 1, scale=shape[1] ** -0.5)
    name = s.add("Conv", name, weights, *((s.weight(oc),) if rng.random() < 0.5 else ()), kernel_shape=(1, 1))
    epilogue(s, name, int(rng.integers(0, 3)))
    return case_of(s, _blocked(rng, lanes, 0.0))


def elementwise_case(rng: np.random.Generator, machine: Device) -> Case:
    s = Sketch(rng)
    if rng.random() < 0.3:  # a layout change, or a chain from one layout to another
        x = s.input(_pick(rng, 1, 2), _pick(rng, *CHANNELS), *_pick(rng, (5, 7), (1, 1), (8, 8)))
        s.add("Identity", x)
        there = bool(rng.integers(2))
        return case_of(s, lambda _, __, output: blocked(machine.lanes) if output == there else PLAIN)
    shape = _pick(rng, (1, 17, 7, 9), (2, 24, 5, 5), (1, 40, 8, 8), (3, 33), (2, 5, 24), (7,), (1, 16, 1, 1))
    name = s.add(_pick(rng, "Relu", "Abs", "Exp", "Floor", "Ceil", "Neg"), s.input(*shape))
    if rng.random() < 0.4:
        name = s.add(_pick(rng, "Max", "Min", "Sum"), name, s.input(*shape), s.input(*shape))
    if rng.random() < 0.3:
        positive = s.add("Abs", s.input(*shape, away_from_zero=True))
        name = s.add("Mul", name, s.add(_pick(rng, "Sqrt", "Reciprocal"), positive))
    if len(shape) in {2, 4}:
        name = epilogue(s, name, int(rng.integers(0, 3)))
    if rng.random() < 0.2:
        s.add(_pick(rng, "Identity", "Dropout"), name)
    return case_of(s, _pick(rng, _plain, _blocked(rng, machine.lanes), _blocked(rng, machine.lanes, 0.0)))


def concat_case(rng: np.random.Generator, machine: Device) -> Case:
    s, lanes = Sketch(rng), machine.lanes
    parts = int(rng.integers(2, 5))
    kind = _pick(rng, "blocked", "blocked", "plain", "rows")
    if kind == "blocked":  # all parts but the last fill their blocks
        sizes = [lanes * int(rng.integers(1, 3)) for _ in range(parts - 1)] + [int(rng.integers(1, 40))]
        name = s.add("Concat", *(s.input(2, c, 5, 7) for c in sizes), axis=_pick(rng, 1, -3))
    elif kind == "plain":
        axis, shape = _pick(rng, (1, (2, 5, 3, 7)), (3, (2, 5, 3, 8)), (-1, (3, 16)), (0, (2, 9)), (1, (2, 3, 4)))
        shapes = [[*shape] for _ in range(parts)]
        for each in shapes:
            each[axis] = int(rng.integers(1, 33))
        parts_of = [
            s.weight if k and prod(each) > 1 and rng.random() < 0.2 else s.input for k, each in enumerate(shapes)
        ]
        name = s.add("Concat", *(make(*each) for make, each in zip(parts_of, shapes, strict=True)), axis=axis)
    else:
        name = s.add("Concat", *(s.input(1, 17, int(rng.integers(1, 5)), 6) for _ in range(parts)), axis=2)
    if len(s.shape(name)) in {2, 4}:
        epilogue(s, name, int(rng.integers(0, 3)))
    return case_of(s, _plain if kind == "plain" else _blocked(rng, lanes, 0.0))


def shuffled(s: Sketch, x: str, groups: int) -> str:
    n, c, h, w = s.shape(x)
    split = s.add("Reshape", x, s.literal([n, groups, c // groups, h, w]))
    moved = s.add("Transpose", split, perm=(0, 2, 1, 3, 4))
    return s.add("Reshape", moved, s.literal([n, c, h, w]))


def conv2d_shuffle_case(rng: np.random.Generator, machine: Device) -> Case:
    """Shuffles and convolutions of as many groups, or of others; now and then the unshuffled image is added."""
    s = Sketch(rng)
    parts, groups = _pick(rng, (4, 4), (3, 3), (8, 8), (2, 4), (3, 1), (2, 12))
    c = int(np.lcm(parts, groups)) * _pick(rng, 1, 5, 16, 17, 34)
    x = s.input(int(rng.integers(1, 3)), c, *_pick(rng, (7, 7), (5, 9), (14, 14), (1, 1), (3, 40)))
    oc = c if rng.random() < 0.6 else groups * _pick(rng, 3, 16, 28)
    bias = (s.weight(oc),) if rng.random() < 0.5 else ()
    weights = s.weight(oc, c // groups, 1, 1, scale=(c // groups) ** -0.5)
    name = s.add("Conv", shuffled(s, x, parts), weights, *bias, kernel_shape=(1, 1), group=groups)
    if oc == c and rng.random() < 0.3:
        name = s.add("Add", name, x)
    epilogue(s, name, int(rng.integers(0, 4)))
    return case_of(s, _blocked(rng, machine.lanes, plain_inputs=0.0))


def channels_case(rng: np.random.Generator, machine: Device) -> Case:
    s = Sketch(rng)
    if rng.random() < 0.5:
        n, groups, each, h, w = _pick(rng, 1, 2), _pick(rng, 2, 3, 4), _pick(rng, 5, 8, 16), 5, 4
        name = shuffled(s, s.input(n, groups * each, h, w), groups)
    else:
        sizes = [int(rng.integers(1, 30)) for _ in range(int(rng.integers(2, 5)))]
        name = s.add("Concat", *(s.input(2, c, 3, 5) for c in sizes), axis=1)
    epilogue(s, name, int(rng.integers(0, 3)))
    return case_of(s, _blocked(rng, machine.lanes))


def lrn_case(rng: np.random.Generator, machine: Device) -> Case:
    s = Sketch(rng)
    x = s.input(_pick(rng, 1, 2), _pick(rng, *CHANNELS), int(rng.integers(3, 8)), int(rng.integers(3, 8)))
    beta = _pick(rng, 0.75, 0.5, 1.0, 0.6)
    s.add("LRN", x, size=_pick(rng, 1, 3, 4, 5), alpha=_pick(rng, 1e-4, 0.3), beta=beta, bias=_pick(rng, 1.0, 2.0))
    return case_of(s, _blocked(rng, machine.lanes, 0.0))


def softmax_case(rng: np.random.Generator, machine: Device) -> Case:
    s = Sketch(rng, opset=_pick(rng, 11, 13, 20))
    if s.opset < 13:
        s.add(
            "Softmax", s.input(*_pick(rng, (2, 3, 5, 7), (2, 17), (3, 4, 16), (1, 20, 1, 1))), axis=_pick(rng, 1, -1, 0)
        )
    else:
        shape, axis = _pick(rng, ((2, 10), 1), ((3, 1000), -1), ((2, 17, 1, 1), 1), ((2, 3, 4, 16), 3), ((33,), 0),
                            ((1, 1000), -1), ((4, 1), 1), ((2, 5, 37), -1), ((1, 3, 19, 19), -1))  # fmt: skip
        s.add("Softmax", s.input(*shape), axis=axis)
    return case_of(s, _plain)


def winograd_case(rng: np.random.Generator, machine: Device) -> Case:
    s, groups = Sketch(rng), _pick(rng, 1, 1, 1, 2, 3)
    if groups > 1:  # of whole blocks of channels
        ic, oc = (machine.lanes * _pick(rng, 1, 2, 3) for _ in range(2))
    else:
        ic, oc = (machine.lanes + _pick(rng, 0, 1, 8, 16, 24) for _ in range(2))
    n, h, w = _pick(rng, 1, 1, 2), int(rng.integers(5, 18)), int(rng.integers(5, 20))
    side, stride = _pick(rng, (3, 1), (3, 1), (5, 1), (3, 2))
    pads = _pick(rng, (side // 2,) * 4, (side // 2,) * 4, (0, 0, 0, 0), (0, 1, 2, 1))
    bias = (s.weight(groups * oc),) if rng.random() < 0.6 else ()
    weights = s.weight(groups * oc, ic, side, side, scale=float((ic * side * side) ** -0.5))
    image, strides = s.input(n, groups * ic, h * stride, w * stride), (stride, stride)
    name = s.add("Conv", image, weights, *bias, pads=pads, group=groups, strides=strides)
    epilogue(s, name, int(rng.integers(0, 4)))
    return case_of(s, _blocked(rng, machine.lanes, plain_inputs=0.0))


def conv_chain_case(rng: np.random.Generator, machine: Device) -> Case:
    """Two convolutions: 1x1, windowed or depthwise each; a window never smaller than its stride behind another.

    Or a 1x1 convolution in groups, which may cut through vectors, and a depthwise one.
    """
    s = Sketch(rng)
    kinds = _pick(rng, "dp", "dp", "pd", "pd", "ww", "pw", "wp", "pp", "dd", "dw", "wd", "gd", "gd")
    n, h, w = _pick(rng, 1, 1, 2), int(rng.integers(5, 13)), int(rng.integers(5, 15))
    groups = _pick(rng, 2, 4) if kinds == "gd" else 1
    name = s.input(n, groups * _pick(rng, 6, 17, 34) if groups > 1 else _pick(rng, *CHANNELS), h, w)
    for position, kind in enumerate(kinds):
        ic = s.shape(name)[1]
        kernel = (1, 1) if kind in "pg" else _pick(rng, (3, 3), (3, 3), (3, 3), (2, 3), (5, 5))
        attrs = {} if kind == "g" or (kind == "p" and rng.random() < 0.7) else _conv_attrs(rng, kernel)
        reach = [(k - 1) * d + 1 for k, d in zip(kernel, attrs.get("dilations", (1, 1)), strict=True)]
        if any(r > size for r, size in zip(reach, s.shape(name)[2:], strict=True)):
            attrs = {"strides": attrs["strides"], "auto_pad": "SAME_UPPER"}
        if position:
            attrs["strides"] = tuple(map(min, attrs.get("strides", (1, 1)), kernel))
        oc, each = (ic, 1) if kind == "d" else (_pick(rng, *CHANNELS), ic)
        attrs |= {"group": ic} if kind == "d" else {}
        if kind == "g":
            oc, each, attrs["group"] = groups * _pick(rng, 7, 16, 34), ic // groups, groups
        weights = s.weight(oc, each, *kernel, scale=float((each * kernel[0] * kernel[1]) ** -0.5))
        name = s.add("Conv", name, weights, *((s.weight(oc),) if rng.random() < 0.6 else ()), **attrs)
        name = epilogue(s, name, int(rng.integers(0, 3)))
    return case_of(s, _blocked(rng, machine.lanes))


def inverted_residual_case(rng: np.random.Generator, machine: Device) -> Case:
    """Expansion (1x1 or windowed), depthwise convolution, projection; widths that tiles divide, and others."""
    s = Sketch(rng)
    n, h, w = _pick(rng, 1, 1, 2), int(rng.integers(5, 13)), _pick(rng, 7, 8, 12, 14, 5, 11, 13)
    image = s.input(n, _pick(rng, *CHANNELS), h, w)
    hidden, out = (_pick(rng, *CHANNELS) for _ in range(2))
    kernel = _pick(rng, (1, 1), (1, 1), (1, 1), (3, 3))
    window, stride = _pick(rng, (3, 3), (3, 3), (5, 5), (2, 3)), _pick(rng, 1, 1, 2)
    pads = _pick(rng, (1, 1, 1, 1), (1, 1, 1, 1), (2, 2, 2, 2), (0, 1, 1, 0), (0, 0, 0, 0))
    steps: Sequence[tuple[int, int, tuple[int, int], dict[str, Any]]] = [
        (hidden, s.shape(image)[1], kernel, {"pads": (kernel[0] // 2,) * 4}),
        (hidden, 1, window, {"group": hidden, "pads": pads, "strides": (stride, stride)}),
        (out, hidden, (1, 1), {}),
    ]
    name = image
    for oc, each, size, attrs in steps:
        weights = s.weight(oc, each, *size, scale=float((each * size[0] * size[1]) ** -0.5))
        bias = (s.weight(oc, scale=_pick(rng, 0.5, 20.0)),) if rng.random() < 0.7 else ()
        name = epilogue(s, s.add("Conv", name, weights, *bias, **attrs), int(rng.integers(0, 3)))
    if s.shape(name) == s.shape(image) and rng.random() < 0.7:
        s.add("Add", name, image)
    return case_of(s, _blocked(rng, machine.lanes))


def not_depthwise(
    draw: Callable[[np.random.Generator, Device], Case],
) -> Callable[[np.random.Generator, Device], Case]:
    """Cases whose weights may be stored in 16 bits."""

    def drawn(rng: np.random.Generator, machine: Device) -> Case:
        while not weight_names((case := draw(rng, machine)).workload):
            pass
        return case

    return drawn


def accepted(
    template: str, draw: Callable[[np.random.Generator, Device], Case]
) -> Callable[[np.random.Generator, Device], Case]:
    """Cases that the template takes."""

    def drawn(rng: np.random.Generator, machine: Device) -> Case:
        while not BY_NAME[template].accepts((case := draw(rng, machine)).workload, case.layouts, machine):
            pass
        return case

    return drawn


GENERATORS: Mapping[str, Callable[[np.random.Generator, Device], Case]] = {
    "conv2d": conv2d_case, "conv2d_pool": conv2d_pool_case, "depthwise": depthwise_case, "dense": dense_case,
    "matmul": matmul_case, "pool": pool_case, "elementwise": elementwise_case, "concat": concat_case,
    "channels": channels_case, "lrn": lrn_case, "softmax": softmax_case,
    "winograd": accepted("winograd", winograd_case),
    "conv_chain": conv_chain_case, "inverted_residual": accepted("inverted_residual", inverted_residual_case),
    "layer_norm": layer_norm_case, "gather": gather_case, "transpose": transpose_case,
    "conv2d_bf16": not_depthwise(conv2d_case), "conv2d_pool_bf16": conv2d_pool_case, "dense_bf16": dense_case,
    "conv2d_dot": accepted("conv2d_dot", conv2d_case), "slice": slice_case,
    "depth_to_space": depth_to_space_case, "resize": resize_case, "conv2d_prologue": conv2d_prologue_case,
    "conv2d_int8": accepted("conv2d_int8", conv2d_case),
    "conv2d_prologue_dot": conv2d_prologue_case,
    "conv2d_grouped_dot": accepted("conv2d_grouped_dot", conv2d_grouped_case),
    "conv2d_rows": accepted("conv2d_rows", conv2d_case),
    "conv2d_shuffle": accepted("conv2d_shuffle", conv2d_shuffle_case),
}  # fmt: skip


def narrowed(case: Case, rng: np.random.Generator) -> Case:
    """The same with some of its images, often all of them, in bfloat16."""
    share = _pick(rng, 0.0, 0.0, 0.5, 1.0)

    def layout(stored: str) -> str:
        block = block_of(stored)
        return blocked(block, narrow=True) if block and rng.random() < share else stored

    return replace(case, layouts={name: layout(stored) for name, stored in case.layouts.items()})


def generate(name: str, machine: Device, seed: int) -> Case:
    """The case that this template, device and seed stand for; always the same."""
    numbers = [seed, machine.lanes, zlib.crc32(name.encode())]
    case = GENERATORS[name](np.random.default_rng(numbers), machine)
    return narrowed(case, np.random.default_rng([*numbers, 1]))


# checking --------------------------------------------------------------------------------------------------------


def physical_inputs(case: Case) -> dict[str, np.ndarray]:
    """Inputs as they lie in memory. Padded lanes hold what an earlier kernel may have left there: any finite number."""
    found = {}
    for name in case.workload.inputs:
        layout, array = case.layouts[name], case.values[name]
        held = to_physical(array, layout)
        if block_of(layout):
            inside = to_physical(np.ones_like(array), layout)
            left = np.float32(case.rng.choice([0.0, 7.5, -3.0]))
            held = np.where(inside > 0, held, stored(left) if is_narrow(layout) else left)
        found[name] = np.asarray(held, order="C")
    return found


def call(kernel: Kernel, function: Any, case: Case, inputs: Mapping[str, np.ndarray]) -> np.ndarray:
    """Run a compiled kernel; its output buffer starts as NaN, so that what is never written shows."""
    buffers = []
    for arg in kernel.args:
        if arg.role == "input":
            array = inputs[arg.name]
        elif arg.role == "constant":
            raw = given(case, source_of(arg.name, case.workload.constants))
            array = kernel.packs[arg.name](raw) if arg.name in kernel.packs else raw
        else:
            array = np.full(arg.shape, np.nan, np.float32)
            array = stored(array) if is_narrow(arg.layout) else array
        assert array.shape == arg.shape, f"{arg.name} is packed to {array.shape}, the kernel wants {arg.shape}"
        assert str(array.dtype) == arg.dtype
        buffers.append(tvm.runtime.tensor(array))
    function(*buffers)
    return buffers[-1].numpy()


def given(case: Case, source: str) -> np.ndarray:
    """What a kernel's constant is made of: a constant's numbers, or the range of an input's."""
    if source in case.workload.constants:
        return case.values[source]
    numbers = next(array for name, array in case.values.items() if derived(name, RANGE) == source)
    return np.array([numbers.min(), numbers.max()], np.float32)


def meant(case: Case, precision: str) -> dict[str, np.ndarray]:
    """The numbers that kernels in this precision compute with: in bf16, weights rounded to the nearest.

    And images that are stored so. In int8, weights that integers stand for.
    """
    lowered = weight_names(case.workload) if precision in {BF16, BF16_DOT} else []
    lowered += [name for name in case.workload.inputs if is_narrow(case.layouts[name])]
    quantised = [x.inputs[1] for x in int8.quantised_layers(case.workload)] if precision == INT8 else []
    return {
        **case.values, **{n: rounded(case.values[n]) for n in lowered},
        **{n: int8.quantised(case.values[n]) for n in quantised},
    }  # fmt: skip


def rounding(case: Case, precision: str) -> dict[str, Callable[[np.ndarray], np.ndarray]]:
    """Layers whose images kernels in this precision round, and how."""

    def on_grid(image: str) -> Callable[[np.ndarray], np.ndarray]:
        numbers = int8.grid(given(case, derived(image, RANGE)))
        return lambda a: int8.on_grid(a.astype(np.float32), numbers).astype(np.float64)

    if precision == INT8:
        return {x.id: on_grid(x.inputs[0]) for x in int8.quantised_layers(case.workload)}
    dotted = dotted_layers(case.workload) if precision == BF16_DOT else []
    return {x.id: lambda a: rounded(a.astype(np.float32)).astype(np.float64) for x in dotted}


def check(maker: KernelTemplate, case: Case, machine: Device, *, extra: int = 2) -> None:
    """The contract: accepted, default in space, deterministic, and right for the default and ``extra`` other knobs."""
    assert maker.accepts(case.workload, case.layouts, machine), f"not accepted: {case.about}"
    space = maker.space(case.workload, case.layouts, machine)
    assert space.default in space
    points = [p for p in space.points if p != dict(space.default)] if space.bound < 5000 else []
    chosen = [(dict(space.default), 1), (dict(space.default), machine.cores)]
    if points and extra:
        for k in case.rng.choice(len(points), min(extra, len(points)), replace=False):
            chosen.append((points[int(k)], int(case.rng.integers(1, machine.cores + 1))))
    kernels = [maker.build(case.workload, case.layouts, knobs, cores, machine) for knobs, cores in chosen]
    again = maker.build(case.workload, case.layouts, *chosen[0], machine)
    assert again.schedule.mod.script() == kernels[0].schedule.mod.script(), "two builds of one kernel differ"
    assert again.packs == kernels[0].packs and again.args == kernels[0].args
    functions = {f"k{i}": k.schedule.mod["main"].with_attr("global_symbol", f"k{i}") for i, k in enumerate(kernels)}
    with tvm.target.Target(machine.target()) as target:
        library = tvm.compile(tvm.IRModule(functions), target=target)
    inputs = physical_inputs(case)
    expected = reference.run(case.workload, meant(case, maker.precision), rounding(case, maker.precision))
    out = case.workload.outputs[0]
    for i, (kernel, (knobs, cores)) in enumerate(zip(kernels, chosen, strict=True)):
        held = call(kernel, library[f"k{i}"], case, inputs)
        about = f"{maker.name} {knobs} on {cores} cores: {case.about}"
        narrow = is_narrow(case.layouts[out])
        assert np.isfinite(widened(held) if narrow else held).all(), f"not finite, padded lanes included: {about}"
        got = to_logical(held, case.layouts[out], expected.shape).astype(np.float64)
        error = unrounded_error(got, expected) if narrow else max_rel_error(got, expected)
        assert error < TOLERANCES.get(maker.name, TOLERANCE), f"relative error {error:.2e}: {about}"


def with_attr(case: Case, op: str, **attrs: Any) -> Case:
    """The same case with other attributes on the layer ``op`` (shapes are kept)."""
    layers = tuple(
        replace(x, attrs=freeze_attrs(dict(x.attrs) | attrs)) if x.op == op else x for x in case.workload.layers
    )
    return replace(case, workload=replace(case.workload, layers=layers))
