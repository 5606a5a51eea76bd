"""Work -> Graph: layer ids, frozen attributes, literals."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np

from tuner.graph.ir import LITERAL_LIMIT, Constant, Graph, Layer, Tensor, freeze_attrs
from tuner.graph.work import Work


def to_graph(work: Work, digests: Mapping[str, str]) -> Graph:
    """The frozen Graph of a cleaned Work; ``digests`` gives each read constant's SHA-256.

    Ids are the operator's name and its ordinal among equals in topological order: Conv_1, Conv_2, Relu_1.
    """
    count: Counter[str] = Counter()
    layers = []
    for node in work.nodes:
        count[node.op] += 1
        layer_id = f"{node.op}_{count[node.op]}"
        outputs = tuple(node.outputs)
        layers.append(Layer(layer_id, node.op, tuple(node.inputs), outputs, freeze_attrs(node.attrs), node.domain))
    names = [*work.inputs, *(name for layer in layers for name in layer.outputs if name)]
    return Graph(
        inputs=tuple(work.inputs),
        outputs=tuple(work.outputs),
        layers=tuple(layers),
        tensors={n: Tensor(n, work.types[n].shape, work.types[n].dtype) for n in names},
        constants={n: _constant(n, work.arrays[n], digest) for n, digest in digests.items()},
        opset=work.opset,
    )


def digests_of(work: Work) -> dict[str, str]:
    """SHA-256 of each constant that a node reads, in order of first use."""
    read = dict.fromkeys(name for node in work.nodes for name in node.inputs if name in work.arrays)
    return {name: hashlib.sha256(bytes_of(work.arrays[name])).hexdigest() for name in read}


def bytes_of(array: np.ndarray) -> Any:
    """The array's bytes in C order, as a buffer."""
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)


def _constant(name: str, array: np.ndarray, digest: str) -> Constant:
    whole = array.dtype.kind in "iub" and array.size <= LITERAL_LIMIT
    literal = whole or (array.size == 1 and array.dtype.kind != "c")
    return Constant(name, array.shape, array.dtype.name, digest, tuple(array.ravel().tolist()) if literal else None)
