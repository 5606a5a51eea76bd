"""Greedy fusion: cut a Graph into blocks that templates serve, and give every tensor between them a layout."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from tuner.graph.ir import Graph, Layer
from tuner.kernels.inverted_residual_shape import is_worthwhile
from tuner.kernels.registry import foreign, serving
from tuner.plan.elementwise import ELEMENTWISE
from tuner.plan.joins import lies_free
from tuner.plan.layout import PLAIN, Images, block_of, blocked
from tuner.plan.legality import POOLS, VIEWS, why_illegal
from tuner.plan.plan import VIEW, Block, Plan
from tuner.plan.shuffle import SHUFFLE, is_shuffle
from tuner.plan.slices import SLICE, in_place
from tuner.plan.workload import workload_of
from tuner.types import Device

SMALL = 64 << 10  # bytes moved below which a launch on all cores costs more than it brings
LONGEST = 12  # layers a greedy block may grow to
_PLAIN_READERS = frozenset({"Gemm", "MatMul", "Softmax", *VIEWS})


def greedy(
    graph: Graph, device: Device, cores: int, narrow: Collection[str] = (), *, deep: bool = True
) -> Plan:  # fmt: skip
    """Fuse every chain of elementwise layers behind its producer, pooling where nothing is computed twice, channel
    shuffles with the convolution that reads them, and inverted residual blocks where that should clearly pay.

    Args:
        narrow: tensors that lie as bfloat16 where they lie blocked.
        deep: whether blocks may have several convolutions, or a shuffle before one; their kernels multiply float32.
    """
    return lay_out(graph, _fuse(graph, device, deep), device, cores, narrow=narrow)


def unfused(graph: Graph, device: Device, cores: int) -> Plan:
    """Every layer its own block: the baselines "unoptimised" (cores = 1) and "unfused" (all cores)."""
    return lay_out(graph, [(x.id,) for x in graph.layers], device, cores, always=True)


def lay_out(
    graph: Graph, blocks: Sequence[tuple[str, ...]], device: Device, cores: int, *, always: bool = False,
    narrow: Collection[str] = (),
) -> Plan:  # fmt: skip
    """Templates, layouts and cores for blocks in running order; ``always`` uses ``cores`` even for small ones."""
    layouts: dict[str, str] = {}
    images = Images(device.lanes, narrow)
    planned = []
    for layers in blocks:
        choice = _choose(graph, layers, layouts, device, images)
        layouts.update(choice.outputs)
        small = not always and _bytes(graph, layers) < SMALL
        planned.append(Block(layers, 1 if small else cores, choice.template, None, choice.reads))
    return Plan.sequential(graph.hash, planned, {k: v for k, v in layouts.items() if v != PLAIN})


@dataclass(frozen=True)
class _Choice:
    template: str
    reads: dict[str, str]  # tensors wanted in another layout than they are stored in
    outputs: dict[str, str]  # layouts of the tensors made


def _choose(
    graph: Graph, layers: tuple[str, ...], layouts: dict[str, str], device: Device, images: Images
) -> _Choice:  # fmt: skip
    bound = workload_of(graph, layers)
    workload, names = bound.workload, bound.names
    stored = {n: layouts.get(names[n], PLAIN) for n in workload.inputs}
    if len(layers) == 1 and graph.by_id[layers[0]].op in VIEWS:
        return _Choice(VIEW, {names[n]: PLAIN for n in workload.inputs if stored[n] != PLAIN}, {})
    if len(layers) == 1 and in_place(graph, graph.by_id[layers[0]], stored.get("i0", PLAIN)):
        return _Choice(VIEW, {}, {names[n]: stored["i0"] for n in workload.outputs})
    blocked = {n: images.layout(names[n]) if len(workload.tensors[n].shape) == 4 else PLAIN for n in stored}
    for inputs in _input_options(stored, blocked):
        for out in _output_options(graph, workload, inputs, names, images):
            wanted = inputs | dict.fromkeys(workload.outputs, out)
            for template in serving(workload, wanted, device):
                reads = {names[n]: v for n, v in inputs.items() if v != stored[n]}
                return _Choice(template.name, reads, {names[n]: out for n in workload.outputs})
    plain = {names[n]: PLAIN for n in workload.inputs if stored[n] != PLAIN}
    return _Choice(foreign(workload, device), plain, {})


def _input_options(stored: dict[str, str], blocked: dict[str, str]) -> list[dict[str, str]]:
    """Layouts in which a block might read: as stored first, then all images blocked, then all plain."""
    options = [stored]
    if PLAIN in stored.values() and any(block_of(v) for v in stored.values()):
        options = [blocked, stored]  # mixed: one kernel that reads both ways is slower than a conversion
    for option in (blocked, dict.fromkeys(stored, PLAIN)):
        if option not in options:
            options.append(option)
    return options


def _output_options(
    graph: Graph, workload: Graph, inputs: Mapping[str, str], names: Mapping[str, str], images: Images
) -> list[str]:
    """Layouts in which a block might write, best first."""
    out = workload.outputs[0]
    if len(workload.tensors[out].shape) != 4:
        return [PLAIN]
    real = names[out]
    block = images.layout(real)
    if real in graph.outputs:
        return [PLAIN, block]  # a blocked result is converted at the very end
    readers = {layer.op for layer in graph.consumers[real]}
    plain_first = bool(readers) and readers <= _PLAIN_READERS
    follows = all(x.op in ELEMENTWISE or x.op in {"Concat", "Softmax"} for x in workload.layers)
    if follows and not any(block_of(v) for v in inputs.values()):
        plain_first = True
    return [PLAIN, block] if plain_first else [block, PLAIN]


def _bytes(graph: Graph, layers: Collection[str]) -> int:
    """Bytes a block reads and writes, its weights included."""
    workload = workload_of(graph, layers).workload
    tensors = (workload.type_of(n) for n in (*workload.inputs, *workload.constants, *workload.outputs))
    return sum(t.bytes for t in tensors)


# which layers go together ----------------------------------------------------------------------------------------


def _fuse(graph: Graph, device: Device, deep: bool) -> list[tuple[str, ...]]:
    """Blocks in running order; ``deep``: see ``greedy``."""
    taken: dict[str, int] = {}  # layer id -> index of its block
    blocks: list[list[str]] = []
    for layer in graph.layers:
        if layer.id in taken:
            continue
        block = _seed(graph, layer, taken, device)
        index = len(blocks)
        blocks.append(block)
        taken.update(dict.fromkeys(block, index))
        while len(block) < LONGEST:
            grown = _grow(graph, block, taken, blocks, device, deep)
            if grown is None:
                break
            block.extend(grown)
            taken.update(dict.fromkeys(grown, index))
    return _ordered(graph, blocks, taken)


def _seed(graph: Graph, layer: Layer, taken: Collection[str], device: Device) -> list[str]:
    """The block a layer starts: itself, the three layers of a channel shuffle, or a product with its Transposes."""
    if layer.op == "Transpose":
        return _product(graph, layer, taken, device)
    if layer.op == "Reshape":
        chain = [layer]
        for op in SHUFFLE[1:]:
            readers = graph.consumers[chain[-1].outputs[0]]
            if len(readers) != 1 or readers[0].op != op or chain[-1].outputs[0] in graph.outputs:
                return [layer.id]
            chain.append(readers[0])
        read, split, _, made = (graph.tensors[n].shape for n in (layer.inputs[0], *(x.outputs[0] for x in chain)))
        if is_shuffle(read, split, chain[1].attr("perm"), made) and not any(x.id in taken for x in chain):
            return [x.id for x in chain]
    return [layer.id]


def _product(graph: Graph, layer: Layer, taken: Collection[str], device: Device) -> list[str]:
    """A Transpose that only a MatMul reads goes with it, and with the Transpose of the other operand."""
    readers = graph.consumers[layer.outputs[0]]
    if len(readers) != 1 or readers[0].op != "MatMul" or readers[0].id in taken:
        return [layer.id]
    makers = [graph.producer[n] for n in dict.fromkeys(readers[0].inputs) if n in graph.producer]
    moved = [x.id for x in makers if x.op == "Transpose" and x.id not in taken and _only_for(graph, x, readers[0])]
    for before in (moved, [layer.id]):
        together = [*before, readers[0].id]
        if layer.id in before and not why_illegal(graph, together) and _served(graph, together, device):
            return together
    return [layer.id]


def _only_for(graph: Graph, layer: Layer, reader: Layer) -> bool:
    return graph.consumers[layer.outputs[0]] == (reader,) and layer.outputs[0] not in graph.outputs


def _grow(
    graph: Graph, block: list[str], taken: dict[str, int], blocks: list[list[str]], device: Device, deep: bool
) -> list[str] | None:
    """Layers to add to a block: the next elementwise reader (with those that must come along), or a pooling."""
    if len(block) == 1 and _costs_nothing(graph, graph.by_id[block[0]], device):
        return None
    outputs = [n for n in _made(graph, block) if _leaves(graph, n, block)]
    if len(outputs) != 1 or outputs[0] in graph.outputs:
        return None
    for added in _extensions(graph, outputs[0], block, taken, deep):
        together = [*block, *added]
        if why_illegal(graph, together) or _cycle(graph, together, taken, blocks, added):
            continue
        if _served(graph, together, device):
            return added
    added = _separable(graph, outputs[0], taken) if deep else []
    together = [*block, *added]
    if not added or why_illegal(graph, together) or _cycle(graph, together, taken, blocks, added):
        return None
    served = _served(graph, together, device)
    return added if served and is_worthwhile(workload_of(graph, together).workload, device) else None


def _separable(graph: Graph, tensor: str, taken: Collection[str]) -> list[str]:
    """The depthwise convolution that reads a tensor, elementwise layers behind it, and the convolution behind those.

    Nothing where they are not one behind the other, each the only reader of what the one before makes.
    """
    added: list[Layer] = []
    while [layer.op for layer in added].count("Conv") < 2:
        readers = graph.consumers[tensor]
        if len(readers) != 1 or readers[0].id in taken:
            return []
        (reader,) = readers
        if reader.op not in ELEMENTWISE | {"Conv"} or (not added and reader.attr("group", 1) == 1):
            return []
        added.append(reader)
        tensor = reader.outputs[0]
    return [layer.id for layer in added]


def _costs_nothing(graph: Graph, layer: Layer, device: Device) -> bool:
    """Whether a layer by itself needs no kernel: a view, or a Slice or Concat whose parts lie in the whole."""
    if layer.op not in {"Concat", SLICE}:
        return layer.op in VIEWS
    image = len(graph.tensors[layer.outputs[0]].shape) == 4
    layout = blocked(device.lanes) if image else PLAIN
    return in_place(graph, layer, layout) if layer.op == SLICE else lies_free(graph, layer, layout, graph.by_id)


def _extensions(
    graph: Graph, tensor: str, block: list[str], taken: Collection[str], deep: bool
) -> list[list[str]]:  # fmt: skip
    readers, ops = graph.consumers[tensor], tuple([graph.by_id[i].op for i in block])
    if any(r.id in taken for r in readers):
        return []
    if len(readers) == 1:
        reader = readers[0]
        if reader.op in ELEMENTWISE or (reader.op in POOLS and _pool_is_free(graph, block, reader)):
            return [[reader.id]]
        if reader.op == "Conv" and ((deep and ops == SHUFFLE) or ELEMENTWISE.issuperset(ops)):
            return [[reader.id]]
        if (*ops, reader.op) == ("DepthToSpace", SLICE) or (reader.op == "Transpose" and "MatMul" in ops):
            return [[reader.id]]
        return []
    added: list[str] = []  # several readers: they must all be elementwise and meet again (x * sigmoid(x))
    frontier = list(readers)
    while frontier and len(added) < 6:
        layer = min(frontier, key=lambda x: graph.position[x.id])
        frontier.remove(layer)
        if layer.op not in ELEMENTWISE or layer.id in taken:
            return []
        if layer.id not in added:
            added.append(layer.id)
        left = [n for n in _made(graph, [*block, *added]) if _leaves(graph, n, [*block, *added])]
        if len(left) == 1 and not frontier:
            return [added]
        frontier += [c for n in layer.outputs for c in graph.consumers.get(n, ()) if c not in frontier]
    return []


def _pool_is_free(graph: Graph, block: list[str], pool: Layer) -> bool:
    """Windows that do not overlap: fusing the pooling behind a convolution computes nothing twice."""
    if not any(graph.by_id[i].op == "Conv" for i in block) or pool.op not in {"MaxPool", "AveragePool"}:
        return False
    kernel, stride = pool.attr("kernel_shape"), pool.attr("strides", (1, 1))
    conv = graph.by_id[next(i for i in block if graph.by_id[i].op == "Conv")]
    if tuple(graph.type_of(conv.inputs[1]).shape[2:]) == (3, 3) and set(conv.attr("strides", (1, 1))) == {1}:
        return False  # Winograd's algorithm wins more on its own than the pooling saves
    return all(s >= k for k, s in zip(kernel, stride, strict=True))


def _served(graph: Graph, layers: list[str], device: Device) -> bool:
    """Whether some template takes these layers, in blocked layout where that applies."""
    workload = workload_of(graph, layers).workload
    block = blocked(device.lanes)
    names = (*workload.inputs, *workload.outputs)
    image = {n: block if len(workload.tensors[n].shape) == 4 else PLAIN for n in names}
    options = (image, dict.fromkeys(names, PLAIN), image | dict.fromkeys(workload.outputs, PLAIN))
    return any(next(serving(workload, layouts, device), None) is not None for layouts in options)


def _made(graph: Graph, layers: Collection[str]) -> list[str]:
    return [n for i in layers for n in graph.by_id[i].outputs if n]


def _leaves(graph: Graph, tensor: str, layers: Collection[str]) -> bool:
    """Whether a tensor made in the set is read outside it (or by the model's user)."""
    return tensor in graph.outputs or any(c.id not in layers for c in graph.consumers.get(tensor, ()))


def _cycle(graph: Graph, together: list[str], taken: dict[str, int], blocks: list[list[str]], added: list[str]) -> bool:
    """Whether what the added layers read from elsewhere depends on this block, seen block by block."""
    inside = set(together)
    todo = [(n, False) for i in added for n in graph.by_id[i].inputs if n in graph.producer]
    seen: set[str] = set()
    while todo:
        tensor, from_outside = todo.pop()
        maker = graph.producer[tensor].id
        if maker in inside:
            if from_outside:
                return True
            continue
        if maker in seen:
            continue
        mates = blocks[taken[maker]] if maker in taken else [maker]
        seen.update(mates)
        todo.extend((n, True) for mate in mates for n in graph.by_id[mate].inputs if n in graph.producer)
    return False


def _ordered(graph: Graph, blocks: list[list[str]], taken: dict[str, int]) -> list[tuple[str, ...]]:
    """Blocks so that each comes after those it reads from; ties in the graph's order."""
    position: Callable[[str], int] = graph.position.__getitem__
    needs = [
        {taken[graph.producer[n].id] for i in b for n in graph.by_id[i].inputs if n in graph.producer} - {k}
        for k, b in enumerate(blocks)
    ]
    done: set[int] = set()
    order: list[tuple[str, ...]] = []
    waiting = sorted(range(len(blocks)), key=lambda k: max(position(i) for i in blocks[k]))
    while waiting:
        k = next(k for k in waiting if needs[k] <= done)
        waiting.remove(k)
        done.add(k)
        order.append(tuple(sorted(blocks[k], key=position)))
    return order
