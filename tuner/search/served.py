"""What the kernel templates of a CPU can fuse: the BlockRules of real devices."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from tuner.graph.ir import Graph, Layer
from tuner.kernels.registry import foreign, serving
from tuner.plan.layout import PLAIN, Images
from tuner.plan.legality import VIEWS, may_lead, why_illegal
from tuner.plan.plan import VIEW
from tuner.plan.slices import SLICE, in_place
from tuner.plan.space import Variant, crossing
from tuner.plan.workload import Bound, workload_of
from tuner.types import Device

LONGEST = 12  # layers of a block


class Served:
    """A set of layers may be a block if some template serves it with these layouts.

    ``narrow``: tensors that lie as bfloat16 where they lie blocked.
    """

    def __init__(self, device: Device, narrow: Collection[str] = ()) -> None:
        self._device, self._images = device, Images(device.lanes, narrow)

    def may_grow(self, heavy: Sequence[Layer]) -> bool:
        return may_lead(heavy)

    def variants(self, graph: Graph, layers: tuple[str, ...]) -> Sequence[Variant]:
        """Images all blocked or all plain, on either side; a lone layer that no template takes is ``foreign``."""
        if len(layers) > LONGEST or why_illegal(graph, layers):
            return ()
        if len(layers) == 1 and graph.by_id[layers[0]].op in VIEWS:
            return (_plain(graph, VIEW, layers),)
        if len(layers) == 1 and (views := self._slices(graph, graph.by_id[layers[0]])):
            return views
        bound = workload_of(graph, layers)
        workload, found = bound.workload, []
        for read in self._layouts(bound, workload.inputs):
            for write in self._layouts(bound, workload.outputs):
                template = next(serving(workload, read | write, self._device), None)
                if template is not None:
                    reads = {bound.names[n]: v for n, v in read.items() if len(workload.tensors[n].shape) == 4}
                    writes = {bound.names[n]: v for n, v in write.items() if len(workload.tensors[n].shape) == 4}
                    found.append(Variant(template.name, reads, writes, bound))
        if not found and len(layers) == 1:
            return (_plain(graph, foreign(workload, self._device), layers, bound),)
        return found

    def _slices(self, graph: Graph, layer: Layer) -> list[Variant]:
        """How a Slice may be read where its input lies."""
        if layer.op != SLICE or layer.inputs[0] not in graph.tensors:
            return []
        image = len(graph.tensors[layer.inputs[0]].shape) == 4
        block = self._images.layout(layer.inputs[0])
        alike = self._images.layout(layer.outputs[0]) == block
        layouts = (*([block] if alike else []), PLAIN) if image else (PLAIN,)
        found = [v for v in layouts if in_place(graph, layer, v)]
        return [Variant(VIEW, {layer.inputs[0]: v} if image else {}, {layer.outputs[0]: v} if image else {})
                for v in found]  # fmt: skip

    def _layouts(self, bound: Bound, names: Sequence[str]) -> list[dict[str, str]]:
        shapes = {n: bound.workload.tensors[n].shape for n in names}
        images = {n: self._images.layout(bound.names[n]) if len(shapes[n]) == 4 else PLAIN for n in names}
        plain = dict.fromkeys(names, PLAIN)
        return [images, plain] if images != plain else [plain]


def _plain(graph: Graph, template: str, layers: tuple[str, ...], bound: Bound | None = None) -> Variant:
    """Images plain on both sides."""
    reads, writes = crossing(graph, layers)
    images = [[n for n in names if len(graph.tensors[n].shape) == 4] for names in (reads, writes)]
    return Variant(template, dict.fromkeys(images[0], PLAIN), dict.fromkeys(images[1], PLAIN), bound)
