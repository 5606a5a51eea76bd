"""ONNX models that round what layers compute with to bfloat16, as kernels do that multiply or read such numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def rounding_operands(model: Any, operands: Mapping[str, Sequence[int]], switch: str = "") -> Any:
    """``model``, changed: layers round some of their operands.

    Args:
        model: an onnx.ModelProto.
        operands: a layer's first output -> which of its inputs it rounds.
        switch: name of a new input, a list of booleans in the order of ``operands``: which of them round.
            Empty: all do.
    """
    import onnx
    from onnx import TensorProto, helper

    number = {name: i for i, name in enumerate(operands)}
    nodes = []
    for node in model.graph.node:
        for place in operands.get(node.output[0], ()):
            operand, name = node.input[place], f"{node.output[0]}/operand{place}"
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


def _index(place: int) -> Any:
    import numpy as np

    return np.asarray([place], np.int64)
