"""Images made larger or smaller, by the nearest pixel or between four, with the elementwise layers behind."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tvm import tirx

from tuner.graph.ir import Graph, Layer
from tuner.kernels import math as fast
from tuner.kernels.base import Kernel, KernelTemplate, Knobs, Layouts, Space
from tuner.kernels.elementwise import one_pass
from tuner.kernels.epilogue import Body, anchored
from tuner.types import Device

_NEAREST = {("asymmetric", "floor"), ("half_pixel", "round_prefer_floor")}  # by whole factors both copy squares
_LINEAR = frozenset({"half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric"})


class Resize(KernelTemplate):
    """Height and width, to sizes that are known: by whole factors to the nearest pixel, to any size linearly."""

    name = "resize"
    version = 1
    heavy = frozenset({"Resize"})

    def accepts(self, workload: Graph, layouts: Layouts, device: Device) -> bool:
        layer = anchored(workload, self.heavy)
        if layer is None or layer.domain or layer.inputs[0] not in workload.inputs or not _to_sizes(workload, layer):
            return False
        source, made = (workload.tensors[n].shape for n in (layer.inputs[0], layer.outputs[0]))
        if len(source) != 4 or source[:2] != made[:2] or 0 in source:
            return False
        coordinates = layer.attr("coordinate_transformation_mode", "half_pixel")
        if layer.attr("mode", "nearest") == "linear":
            return coordinates in _LINEAR and not layer.attr("antialias", 0)
        whole = all(out % size == 0 for size, out in zip(source[2:], made[2:], strict=True))
        return whole and (coordinates, layer.attr("nearest_mode", "round_prefer_floor")) in _NEAREST

    def space(self, workload: Graph, layouts: Layouts, device: Device) -> Space:
        return Space({"unroll": [1, 4]}, {"unroll": 1})

    def build(self, workload: Graph, layouts: Layouts, knobs: Knobs, cores: int, device: Device) -> Kernel:
        body = Body(workload, layouts)
        layer = next(x for x in workload.layers if x.op == "Resize")
        name, linear = layer.inputs[0], layer.attr("mode", "nearest") == "linear"
        sizes = [workload.tensors[n].shape[2:] for n in (name, layer.outputs[0])]

        def read(index: Sequence[Any]) -> Any:
            n, c, *place = index
            if not linear:
                return body.read(
                    name, (n, c, *(at // (out // size) for at, size, out in zip(place, *sizes, strict=True)))
                )
            (top, bottom, down), (left, right, across) = (
                _between(layer, at, size, out) for at, size, out in zip(place, *sizes, strict=True)
            )

            def row(y: Any) -> Any:
                first, second = body.read(name, (n, c, y, left)), body.read(name, (n, c, y, right))
                return first + (second - first) * across

            upper, lower = row(top), row(bottom)
            return upper + (lower - upper) * down

        body.anchors[layer.outputs[0]] = read
        return one_pass(body, knobs, cores, device)


def _to_sizes(workload: Graph, layer: Layer) -> bool:
    """Whether sizes are given, for all axes, and nothing else."""
    given = [*layer.inputs, "", "", ""]
    plain = not layer.attr("axes") and layer.attr("keep_aspect_ratio_policy", "stretch") == "stretch"
    return plain and not given[1] and not given[2] and given[3] in workload.constants


def _between(layer: Layer, at: Any, size: int, out: int) -> tuple[Any, Any, Any]:
    """The two places of an axis of ``size`` between which place ``at`` of ``out`` lies, and how far on its way."""
    mode, place = layer.attr("coordinate_transformation_mode", "half_pixel"), tirx.Cast("float32", at)
    if out == size:
        return at, at, fast.const(0)
    if mode == "align_corners":
        place = place * fast.const((size - 1) / (out - 1) if out > 1 else 0)
    elif mode == "asymmetric":
        place = place * fast.const(size / out)
    elif mode == "pytorch_half_pixel" and out == 1:
        place = fast.const(0)
    else:
        place = (place + fast.const(0.5)) * fast.const(size / out) - fast.const(0.5)
    place = tirx.max(tirx.min(place, fast.const(size - 1)), fast.const(0))
    first = tirx.Cast("int32", place)  # towards zero, and it is not negative
    return first, tirx.min(first + 1, size - 1), place - tirx.Cast("float32", first)
