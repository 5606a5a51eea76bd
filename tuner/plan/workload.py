"""Workloads: a block's computation under canonical names, so that equal computations share kernels and records.

A workload is a small ``Graph`` whose tensors are called i0, i1, ... (inputs), c0, ... (constants), t0, ... (the rest)
and whose weights carry no digest: two convolutions of equal shape are one workload whatever their weights.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from tuner.graph.ir import Constant, Graph, Layer, Tensor


@dataclass(frozen=True)
class Bound:
    """A workload and how its names are bound in the model: canonical name -> the Graph's name."""

    workload: Graph
    names: Mapping[str, str]

    @property
    def canonical(self) -> Mapping[str, str]:
        """The Graph's name -> canonical name."""
        return {real: name for name, real in self.names.items()}


def workload_of(graph: Graph, layer_ids: Iterable[str]) -> Bound:
    """The workload that these layers form.

    Outputs are the tensors read outside the set or by the model's user, in order of production.
    """
    ids = set(layer_ids)
    layers = sorted((graph.by_id[i] for i in ids), key=lambda x: graph.position[x.id])
    made = [out for layer in layers for out in layer.outputs if out]
    read = list(dict.fromkeys(name for layer in layers for name in layer.inputs if name))
    inside = set(made)
    inputs = [n for n in read if n in graph.tensors and n not in inside]
    constants = [n for n in read if n in graph.constants]
    outputs = [n for n in made if n in graph.outputs or any(c.id not in ids for c in graph.consumers.get(n, ()))]
    if not outputs:  # dead layers (their removal can be switched off) still are a computation
        outputs = made[-1:]
    rename = {n: f"i{k}" for k, n in enumerate(inputs)}
    rename |= {n: f"c{k}" for k, n in enumerate(constants)}
    rename |= {n: f"t{k}" for k, n in enumerate(made)}
    rename[""] = ""
    workload = Graph(
        inputs=tuple(rename[n] for n in inputs),
        outputs=tuple(rename[n] for n in outputs),
        layers=tuple(
            Layer(
                f"l{k}",
                x.op,
                tuple(rename[n] for n in x.inputs),
                tuple(rename[n] for n in x.outputs),
                x.attrs,
                x.domain,
            )
            for k, x in enumerate(layers)
        ),
        tensors={rename[n]: _tensor(rename[n], graph.tensors[n]) for n in (*inputs, *made)},
        constants={rename[n]: _constant(rename[n], graph.constants[n]) for n in constants},
        opset=graph.opset,
    )
    return Bound(workload, {new: old for old, new in rename.items() if old})


# Not dataclasses.replace: a model of a thousand layers has tens of thousands of these.


def _tensor(name: str, like: Tensor) -> Tensor:
    return Tensor(name, like.shape, like.dtype)


def _constant(name: str, like: Constant) -> Constant:
    return Constant(name, like.shape, like.dtype, value=like.value)
