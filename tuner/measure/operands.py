"""ONNX models that round what layers compute with, as kernels do: to bfloat16, or to whole steps of a grid in int8."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

NO_GRIDS: Mapping[str, Sequence[float]] = MappingProxyType({})


def rounding_operands(
    model: Any, operands: Mapping[str, Sequence[int]], switch: str = "",
    grids: Mapping[str, Sequence[float]] = NO_GRIDS,
) -> Any:  # fmt: skip
    """``model``, changed: layers round some of their operands.

    Args:
        model: an onnx.ModelProto.
        operands: a layer's first output -> which of its inputs it rounds.
        switch: name of a new input, a list of booleans in the order of ``operands``: which of them round.
            Empty: all do.
        grids: of an operand's numbers (``tuner.plan.int8.grid``), by its name; others become bfloat16.
    """
    import onnx
    from onnx import TensorProto, helper

    number = {name: i for i, name in enumerate(operands)}
    nodes = []
    for node in model.graph.node:
        for place in operands.get(node.output[0], ()):
            operand, name = node.input[place], f"{node.output[0]}/operand{place}"
            if operand in grids:
                nodes += _stepped(model, operand, name, grids[operand])
            else:
                nodes += [
                    helper.make_node("Cast", [operand], [f"{name}/bf16"], to=TensorProto.BFLOAT16),
                    helper.make_node("Cast", [f"{name}/bf16"], [f"{name}/rounded"], to=TensorProto.FLOAT),
                ]
            if switch:
                index = onnx.numpy_helper.from_array(_index(number[node.output[0]]), f"{name}/place")
                model.graph.initializer.append(index)
                nodes += [
                    helper.make_node("Gather", [switch, f"{name}/place"], [f"{name}/chosen"]),
                    helper.make_node("Where", [f"{name}/chosen", f"{name}/rounded", operand], [f"{name}/used"]),
                ]
            node.input[place] = f"{name}/used" if switch else f"{name}/rounded"
        nodes.append(node)
    kept = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del model.graph.node[:]
    model.graph.node.extend(kept)
    if switch and number:
        model.graph.input.append(helper.make_tensor_value_info(switch, TensorProto.BOOL, [len(number)]))
    return model


def _stepped(model: Any, operand: str, name: str, grid: Sequence[float]) -> list[Any]:
    """Nodes that put an operand on a grid, with the operations of ``tuner.plan.int8.on_grid``."""
    import numpy as np
    from onnx import helper, numpy_helper

    numbers = dict(zip(("inverse", "step", "first", "last"), grid, strict=True))
    for what, value in numbers.items():
        model.graph.initializer.append(numpy_helper.from_array(np.asarray(value, np.float32), f"{name}/{what}"))
    return [
        helper.make_node("Mul", [operand, f"{name}/inverse"], [f"{name}/multiple"]),
        helper.make_node("Round", [f"{name}/multiple"], [f"{name}/whole"]),
        helper.make_node("Clip", [f"{name}/whole", f"{name}/first", f"{name}/last"], [f"{name}/steps"]),
        helper.make_node("Mul", [f"{name}/steps", f"{name}/step"], [f"{name}/rounded"]),
    ]


def _index(place: int) -> Any:
    import numpy as np

    return np.asarray([place], np.int64)
