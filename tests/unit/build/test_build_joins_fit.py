"""Whatever ``joins`` decides of random slices and concatenations can be laid out in memory."""

from __future__ import annotations

import random

import pytest

from tuner.build.memory import homes_of, plan_memory
from tuner.build.program import Call, Given, Join, Program, Slice, Value
from tuner.graph.ir import Constant, Graph, Layer, Tensor, freeze_attrs
from tuner.plan.joins import joins
from tuner.plan.plan import VIEW, Block, Plan
from tuner.plan.slices import in_place, offset_of


def random_graph(rng: random.Random) -> Graph:
    """Relus of 1 to 3 blocks of channels, slices, and concatenations of what there is."""
    channels = {"x": 16}
    layers, constants = [], {"axis": Constant("axis", (1,), "int64", "", (1,))}
    for k in range(18):
        name, made = f"t{k}", list(channels)[1:]
        op = rng.choice(["Conv", "Conv", "Slice", "Slice", "Concat", "Concat", "Concat"]) if made else "Conv"
        if op == "Conv":
            channels[name] = 16 * rng.randint(1, 3)
            layers.append(Layer(name, "Conv", ("x", "w"), (name,)))
        elif op == "Slice":
            source = rng.choice(made)
            blocks = channels[source] // 16
            start = rng.randrange(blocks)
            stop = rng.randint(start + 1, blocks)
            bounds = {f"{name}{end}": Constant(f"{name}{end}", (1,), "int64", "", (16 * value,))
                      for end, value in (("start", start), ("stop", stop))}  # fmt: skip
            constants |= bounds
            channels[name] = 16 * (stop - start)
            layers.append(Layer(name, "Slice", (source, *bounds, "axis"), (name,)))
        else:
            last = layers[-1].inputs if layers[-1].op == "Concat" and rng.random() < 0.5 else ()
            parts = (*last, *rng.choices(made, k=rng.randint(1, 3)))[:6]
            channels[name] = sum(channels[p] for p in parts)
            layers.append(Layer(name, "Concat", tuple(parts), (name,), freeze_attrs({"axis": 1})))
    tensors = {n: Tensor(n, (1, c, 2, 2)) for n, c in channels.items()}
    return Graph(("x",), (layers[-1].outputs[0],), tuple(layers), tensors, constants)


@pytest.mark.parametrize("seed", range(150))
def test_random_joins_fit(seed: int) -> None:
    graph = random_graph(random.Random(seed))
    layouts = {n: "NCHW16c" for n in graph.tensors if n != "x"}
    templates = {x.id: VIEW if x.op == "Slice" and in_place(graph, x, "NCHW16c") else "t" for x in graph.layers}
    plan = Plan.sequential(graph.hash, [Block((x.id,), 1, templates[x.id]) for x in graph.layers], layouts)
    found = joins(graph, plan)
    values = {n: Value((t.elements,), "float32") for n, t in graph.tensors.items()}
    program = Program([Given("x", values["x"])])
    for layer in graph.layers:
        out = values[layer.outputs[0]]
        if layer.id in found:
            parts = []
            for part in found[layer.id].parts:
                parts.append(values[part.tensor])
                if part.copied:
                    parts[-1] = Value(parts[-1].shape, "float32")
                    program.ops.append(Call("copy", (values[part.tensor],), parts[-1]))
            program.ops.append(Join(tuple(parts), out))
        elif templates[layer.id] == VIEW:
            offset = offset_of(graph, layer, "NCHW16c")
            assert offset is not None
            program.ops.append(Slice(values[layer.inputs[0]], offset, out))
        else:
            program.ops.append(Call("f", tuple(values[n] for n in layer.inputs if n in values), out))
    program.results = [values[graph.outputs[0]]]
    homes_of(program)  # refuses what cannot be
    assert plan_memory(program).bytes > 0
