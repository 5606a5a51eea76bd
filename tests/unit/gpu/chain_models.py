"""Small models of convolutions one behind the other, and the chains that a GPU's lowering finds in them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tuner.gpu.chains import Chain, find_chains
from tuner.gpu.cuda import target_of
from tuner.gpu.lower import Lowered, lower
from tuner.gpu.spec import GPUS
from tuner.graph.load import ImportedModel, import_model
from tuner.graph.passes.registry import SLICING

SPEC = GPUS["rtx3090"]


@dataclass(frozen=True)
class Conv:
    """One layer: output channels, window, stride; ``depthwise`` keeps the channels it is given."""

    channels: int
    kernel: int = 1
    stride: int = 1
    depthwise: bool = False
    act: str = "Relu"  # "" for none


@dataclass(frozen=True)
class Case:
    """A model that is one chain; ``residual`` adds its input to its result."""

    name: str
    size: tuple[int, int]  # height, width
    inner: int  # channels of the input
    convs: tuple[Conv, ...]
    residual: bool = False


INVERTED = Case("inverted", (14, 14), 16, (Conv(32), Conv(32, 3, 1, True), Conv(16, act="")), residual=True)
CASES = (
    INVERTED,
    Case("strided", (15, 13), 8, (Conv(24), Conv(24, 5, 2, True, "HardSwish"), Conv(12))),
    Case("separable", (13, 17), 12, (Conv(12, 3, 2, True), Conv(20))),
    Case("expansion", (11, 10), 8, (Conv(16, act="HardSwish"), Conv(16, 5, 1, True))),
    Case("dense", (9, 12), 8, (Conv(8, 3), Conv(12, 1, act=""))),
    Case("windowed", (10, 9), 6, (Conv(8), Conv(8, 3, 2))),
)


def write_case(path: Path, case: Case, extra: str = "") -> Path:
    """``extra``: "reader" reads the first image once more, "output" makes it a result of the model."""
    random = np.random.default_rng(3)
    weights: dict[str, np.ndarray] = {}
    nodes, last, given = [], "x", case.inner
    height, width = case.size
    sizes = []
    for number, conv in enumerate(case.convs):
        shape = (conv.channels, 1 if conv.depthwise else given, conv.kernel, conv.kernel)
        weights[f"w{number}"] = (random.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32)
        weights[f"b{number}"] = random.standard_normal(conv.channels).astype(np.float32)
        nodes.append(helper.make_node(
            "Conv", [last, f"w{number}", f"b{number}"], [f"c{number}"], pads=[conv.kernel // 2] * 4,
            strides=[conv.stride] * 2, group=conv.channels if conv.depthwise else 1,
        ))  # fmt: skip
        last, given = f"c{number}", conv.channels
        if conv.act:
            nodes.append(helper.make_node(conv.act, [last], [f"a{number}"]))
            last = f"a{number}"
        height, width = -(-height // conv.stride), -(-width // conv.stride)
        sizes.append((1, given, height, width))
    if case.residual:
        nodes.append(helper.make_node("Add", [last, "x"], ["y"]))
    else:
        nodes.append(helper.make_node("Identity", [last], ["y"]))
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, sizes[-1])]
    if extra == "reader":
        nodes.append(helper.make_node("GlobalAveragePool", ["a0"], ["z"]))
        outputs.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, [1, sizes[0][1], 1, 1]))
    elif extra == "output":
        outputs.append(helper.make_tensor_value_info("a0", TensorProto.FLOAT, sizes[0]))
    graph = helper.make_graph(
        nodes, case.name, [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, case.inner, *case.size])], outputs,
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )  # fmt: skip
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(path))
    return path


def lowered_case(
    folder: Path, case: Case, precision: str = "fp32", extra: str = ""
) -> tuple[ImportedModel, Lowered]:  # fmt: skip
    model = import_model(write_case(folder / f"{case.name}{extra}.onnx", case, extra), disabled=SLICING)
    return model, lower(model.graph, model.weights, target_of(SPEC.device()), precision)


def longest(lowered: Lowered) -> Chain:
    """The chain that has the most convolutions, whatever it should save."""
    return max(find_chains(lowered, SPEC, least=-1.0), key=lambda chain: len(chain.parts))
