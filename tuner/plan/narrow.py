"""Which tensors may lie in memory as bfloat16: those that every reader reads rounded. No TVM.

Layers that only select (Relu, MaxPool, Concat, ...) give the same whether their operand or their result is rounded, so
that their results' readers count instead. Which other layers may read rounded numbers is up to a job's limit on its
error (``tuner.measure.rounding``): convolutions in bf16-dot do in any case.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import cache

from tuner.graph.ir import Graph, Layer
from tuner.plan.legality import VIEWS

_SELECTING = VIEWS | {"Relu", "Clip", "MaxPool", "GlobalMaxPool", "Concat", "Slice", "Transpose", "DepthToSpace"}


def selects(layer: Layer) -> bool:
    """Whether a layer's results are some of its operands' numbers, or bounds."""
    return layer.op in _SELECTING


def image_operands(graph: Graph) -> Mapping[str, tuple[int, ...]]:
    """Layers that compute with images -> which of their inputs are images, or made of images by selecting."""
    images = {name for name in graph.tensors if _is_image(graph, name)}
    found: dict[str, tuple[int, ...]] = {}
    for layer in graph.layers:
        places = tuple(k for k, name in enumerate(layer.inputs) if name in images)
        if places and selects(layer):
            images.update(n for n in layer.outputs if n)
        elif places:
            found[layer.id] = places
    return found


def narrow_tensors(graph: Graph, rounding: Mapping[str, Collection[int]]) -> frozenset[str]:
    """The images that may be stored rounded.

    Args:
        rounding: layers -> which of their inputs they read rounded.
    """

    @cache
    def tolerant(tensor: str) -> bool:
        """Whether nobody sees a tensor unrounded."""
        readers = graph.consumers.get(tensor, ())
        if not readers or tensor in graph.outputs:
            return False
        return all(
            all(tolerant(n) for n in layer.outputs if n) if selects(layer)
            else {k for k, name in enumerate(layer.inputs) if name == tensor} <= set(rounding.get(layer.id, ()))
            for layer in readers
        )  # fmt: skip

    for layer in reversed(graph.layers):  # readers first, so that recursion stays shallow
        for name in layer.outputs:
            if name:
                tolerant(name)
    return frozenset(name for name in graph.tensors if _is_image(graph, name) and tolerant(name))


def _is_image(graph: Graph, tensor: str) -> bool:
    """Whether a layer makes it, with four dimensions in float32."""
    kind = graph.tensors[tensor]
    return len(kind.shape) == 4 and kind.dtype == "float32" and tensor in graph.producer
