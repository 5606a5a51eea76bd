"""Features of a candidate for the cost model: numbers from shapes, layouts, knobs and cores; no TVM needed.

Columns are fixed; NaN where one does not apply. Targets are log(seconds / expected seconds), so that kernels of
different size teach each other, and a model that knows nothing yet expects what an analytic model does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from math import ceil, log, log2
from types import MappingProxyType

import numpy as np

from tuner.graph.costs import layer_cost
from tuner.graph.ir import Graph, Layer
from tuner.kernels.base import Space
from tuner.kernels.conv_shape import ConvShape
from tuner.plan.layout import PLAIN, element_bytes, is_narrow
from tuner.plan.plan import DESIGN
from tuner.precision import BF16_DOT, INT8, precision_of
from tuner.search.chain import ChainFacts, TrioFacts
from tuner.search.designed import DesignFacts
from tuner.search.expectation import COUNTED, ConvFacts, conv_terms, peak, seconds_of
from tuner.types import Device

TEMPLATES = ("conv2d", "conv2d_pool", "depthwise", "dense", "matmul", "pool", "elementwise", "concat", "channels",
             "lrn", "softmax", "winograd", "layer_norm", "gather", "transpose", "conv_chain", "conv2d_bf16",
             "conv2d_pool_bf16", "dense_bf16", "conv2d_dot",
             "conv2d_prologue_dot", "conv2d_grouped_dot", "inverted_residual", "conv2d_shuffle",
             "conv2d_rows", "design", "conv2d_int8")  # fmt: skip
KNOBS = ("oc_t", "reg_n", "reg_m", "rows", "order", "stream", "unroll", "m", "bh", "bw", "scheme", "parts", "oc_a",
         "reg_a", "oc_b", "reg_b", "oc_c", "reg_c", "space")  # fmt: skip
_TOGETHER = {BF16_DOT: 2, INT8: 4}  # products that one instruction adds to a sum
_BY_ROWS = ("conv2d_pool", "conv2d_rows")  # templates whose tasks are rows of the image
_CHAINS: Mapping[str, Callable[[Graph, Device], ChainFacts | TrioFacts | None]] = {
    "conv_chain": ChainFacts.of, "inverted_residual": TrioFacts.of,
}  # fmt: skip
NO_LAYOUTS: Mapping[str, str] = MappingProxyType({})
SIDE = 2.0  # length of a space along each knob, for distances between points
NAN = float("nan")


class Features:
    """Makes rows for one question; what does not depend on the knobs is computed once.

    ``layouts``: of the workload's inputs and outputs; those not named hold float32.
    """

    def __init__(
        self, workload: Graph, template: str, cores: int, device: Device, layouts: Mapping[str, str] = NO_LAYOUTS
    ) -> None:
        self._cores, self._device = cores, device
        self._shape = _conv_shape(workload)
        ops = float(sum(layer_cost(workload, x).ops for x in workload.layers))
        names = (*workload.inputs, *workload.constants, *workload.outputs)
        moved = float(sum(workload.type_of(n).bytes / (1 + is_narrow(layouts.get(n, PLAIN))) for n in names))
        work = max(ops, moved / 4, 1.0)  # operations, at least the elements moved
        self._ideal = log(work / peak(device, cores))
        self._chain = _CHAINS[template](workload, device) if template in _CHAINS else None
        self._conv = _conv_facts(workload, template, layouts) if self._chain is None else None
        self._design = DesignFacts.of(workload, device) if template == DESIGN else None
        kind = float(TEMPLATES.index(template)) if template in TEMPLATES else -1.0
        self._known: dict[tuple[int, ...], tuple[float, ...]] = {}  # COUNTED of knobs -> terms of the analytic model
        self._base = [
            kind, log2(1 + ops), log2(1 + moved), log2((1 + ops) / (1 + moved)), float(len(workload.layers)),
            float(cores), *self._shape,
        ]  # fmt: skip

    def row(self, knobs: Mapping[str, int]) -> list[float]:
        """Features of one choice of knobs."""
        if self._chain is not None:
            derived = self._chain.derived(knobs, self._cores)
        elif self._design is not None:
            derived = self._design.derived(knobs, self._cores)
        else:
            derived = _derived(self._shape, self._conv, knobs, self._cores, self._device)
        return [*self._base, *[float(knobs.get(k, NAN)) for k in KNOBS], *derived, *self._terms(knobs)]

    def expected(self, points: Sequence[Mapping[str, int]]) -> np.ndarray:
        """Log-seconds ``[points]`` by the analytic model; where there is none, those of the machine's peak for all."""
        if self._chain is not None:
            return np.asarray([self._chain.log_seconds(p, self._cores) for p in points])
        if self._conv is None:
            return np.full(len(points), self._ideal)
        return np.asarray([self._expect(self._conv, p) for p in points])

    def _expect(self, conv: ConvFacts, knobs: Mapping[str, int]) -> float:
        return log(seconds_of(self._cycles(conv, knobs), self._cores)) if _tiled(knobs) else self._ideal

    def _cycles(self, conv: ConvFacts, knobs: Mapping[str, int]) -> tuple[float, ...]:
        """The terms of the analytic model; rows and expectations ask for the same points."""
        key = tuple([knobs.get(name, 0) for name in COUNTED])
        if key not in self._known:
            self._known[key] = conv_terms(conv, knobs, self._cores, self._device)
        return self._known[key]

    def targets(self, points: Sequence[Mapping[str, int]], log_seconds: Sequence[float] | np.ndarray) -> np.ndarray:
        """What the shared model learns of points of one question ``[points]``: log-seconds over expected seconds.

        The median is taken off: how fast a question is as a whole, its own measurements tell at once.
        """
        beyond = np.asarray(log_seconds) - self.expected(points)
        return np.asarray(beyond - np.median(beyond))

    def places(self, points: Sequence[Mapping[str, int]], space: Space) -> np.ndarray:
        """``[points, coordinates]`` for distances between points: each knob's position among its values."""
        scales = {n: {v: SIDE * i / max(1, len(vs) - 1) for i, v in enumerate(vs)} for n, vs in space.knobs.items()}
        rows = [[scale[p[name]] for name, scale in scales.items()] for p in points]
        return np.asarray(rows, dtype=np.float64).reshape(len(points), len(scales))

    def _terms(self, knobs: Mapping[str, int]) -> list[float]:
        """Parts of the analytic model, as shares of its computing time."""
        if self._conv is None or not _tiled(knobs):
            return [NAN] * 3
        compute, near, far, waiting = self._cycles(self._conv, knobs)
        return [near / compute, far / compute, waiting / compute]

    def rows(self, points: Sequence[Mapping[str, int]]) -> np.ndarray:
        """``[points, columns]`` in float32."""
        return np.asarray([self.row(p) for p in points], dtype=np.float32)


def _tiled(knobs: Mapping[str, int]) -> bool:
    """Whether they are those of a direct convolution in register tiles."""
    return "m" not in knobs and "oc_t" in knobs and "reg_n" in knobs


def _derived(
    shape: list[float], conv: ConvFacts | None, knobs: Mapping[str, int], cores: int, device: Device
) -> list[float]:
    """What decides the speed of register-tiled kernels: accumulators, waste, evenness, and what must stay in cache."""
    if "m" in knobs:
        return _winograd(shape, knobs, cores, device)
    ic, oc, oh, ow, kh, kw, stride, groups, _ = shape
    if conv is None or "oc_t" not in knobs or "reg_n" not in knobs:
        return [NAN] * 8
    lanes = device.lanes
    oc_t, reg_n, rows = knobs["oc_t"], knobs["reg_n"], knobs.get("rows", 1)
    width, height = (oh * ow, 1.0) if conv.flat else (ow, oh)
    steps = ceil(width / reg_n)
    per_row = ceil(steps / rows) if conv.flat else ceil(height / rows)
    tasks = ceil(oc / (lanes * oc_t)) * per_row
    weights = lanes * oc_t * (ic / groups) * kh * kw * conv.bytes
    lines = ceil(rows * reg_n / ow) if conv.flat else rows
    pixels = rows * reg_n if conv.flat and kh == kw == 1 else (lines * stride + kh - 1) * (ow * stride + kw - 1)
    inputs = ic * pixels * conv.bytes
    return [
        float(oc_t * reg_n),
        1 / oc_t + 1 / reg_n,
        steps * reg_n / width,
        log2(tasks),
        ceil(tasks / cores) * cores / tasks,
        log2(1 + weights / device.l2),
        log2(1 + inputs / device.l1),
        log2(1 + (weights + inputs) / device.l2),
    ]


def _winograd(shape: list[float], k: Mapping[str, int], cores: int, device: Device) -> list[float]:
    """The same for Winograd's algorithm: tile waste, blocks per core, what one block keeps in cache, U's size."""
    ic, oc, oh, ow, kh, _, stride, groups, _ = shape
    rows, cols, points = ceil(oh / k["m"]), ceil(ow / k["m"]), ((k["m"] - 1) * stride + kh) ** 2
    blocks = ceil(rows / k["bh"]) * ceil(cols / k["bw"])
    tiles = k["bh"] * k["bw"]
    tasks = blocks if k["scheme"] == 0 else blocks * ceil(oc / (device.lanes * k["oc_t"]))
    return [
        float(k["oc_t"] * k["reg_n"]),
        1 / k["oc_t"] + 1 / k["reg_n"],
        blocks * tiles * k["m"] ** 2 / (oh * ow),
        log2(tasks),
        ceil(tasks / cores) * cores / tasks,
        log2(1 + points * ic / groups * oc * 4 / device.l2),
        log2(1 + points * tiles * ic * 4 / device.l2),
        log2(1 + points * tiles * device.lanes * k["oc_t"] * 4 / device.l2),
    ]


def _conv_facts(workload: Graph, template: str, layouts: Mapping[str, str]) -> ConvFacts | None:
    conv = _conv(workload)
    if conv is None:
        return None
    each = _TOGETHER.get(precision_of(template), 1)
    s = replace(ConvShape.of(workload, conv), rows_kept=template.startswith(_BY_ROWS))
    layout = layouts.get(conv.inputs[0], PLAIN)
    stored = each == _TOGETHER[BF16_DOT] and is_narrow(layout)
    lies = conv.inputs[0] not in workload.inputs or (s.in_place and stored)  # nothing is copied beforehand
    rounded = 0.0 if lies else float(element_bytes(layout) * s.n * s.ic * s.h * s.w)
    return ConvFacts(
        ic=s.ic / s.groups, h=s.h, w=s.w, oc=s.oc, oh=s.oh, ow=s.ow, kh=s.kh, kw=s.kw, stride=s.stride[0],
        groups=s.groups, bordered=any(s.pads), flat=s.flat,
        prepared=rounded if each > 1 else float(s.copied), each=each,
    )  # fmt: skip


def _conv(workload: Graph) -> Layer | None:
    """The first convolution of images."""
    found = (x for x in workload.layers if x.op == "Conv" and len(workload.tensors[x.outputs[0]].shape) == 4)
    return next(found, None)


def _conv_shape(workload: Graph) -> list[float]:
    """ic, oc, oh, ow, kh, kw, stride, groups, batch of the first windowed or dense layer; NaN where there is none."""
    conv = _conv(workload)
    if conv is None:
        return [NAN] * 9
    s = ConvShape.of(workload, conv)
    return [float(v) for v in (s.ic, s.oc, s.oh, s.ow, s.kh, s.kw, s.stride[0], s.groups, s.n)]
