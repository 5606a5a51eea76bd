"""ONNX models that round what weights are multiplied with to bfloat16, as kernels of precision "bf16-dot" do."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any


def rounding_operands(model: Any, weights: Collection[str], switch: str = "") -> Any:
    """``model``, changed: the first operand of layers whose second is one of ``weights`` is rounded.

    Args:
        model: an onnx.ModelProto.
        switch: name of a new input, a list of booleans in the order of ``weights``: which of these layers round at all.
            Empty: all do.
    """
    import onnx
    from onnx import TensorProto, helper

    place = {name: i for i, name in enumerate(weights)}
    nodes = []
    for node in model.graph.node:
        second = node.input[1] if len(node.input) > 1 else ""
        if second in place:
            operand, name = node.input[0], f"{node.output[0]}/operand"
            nodes += [
                helper.make_node("Cast", [operand], [f"{name}/bf16"], to=TensorProto.BFLOAT16),
                helper.make_node("Cast", [f"{name}/bf16"], [f"{name}/rounded"], to=TensorProto.FLOAT),
            ]
            if switch:
                model.graph.initializer.append(onnx.numpy_helper.from_array(_index(place[second]), f"{name}/place"))
                nodes += [
                    helper.make_node("Gather", [switch, f"{name}/place"], [f"{name}/chosen"]),
                    helper.make_node("Where", [f"{name}/chosen", f"{name}/rounded", operand], [f"{name}/used"]),
                ]
            node.input[0] = f"{name}/used" if switch else f"{name}/rounded"
        nodes.append(node)
    kept = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del model.graph.node[:]
    model.graph.node.extend(kept)
    if switch and place:
        model.graph.input.append(helper.make_tensor_value_info(switch, TensorProto.BOOL, [len(place)]))
    return model


def _index(place: int) -> Any:
    import numpy as np

    return np.asarray([place], np.int64)
