"""Thirteen real topologies with seeded random weights that keep activations alive, for examples, tests and benchmarks.

The onnx wheel ships nine without weights (ConstantOfShape); four are written in tuner.graph.topologies. Random weights
must be chosen with care: with careless ones activations vanish or explode and a saturated softmax hides every error.
Here each layer is scaled by what it does to a random image, one layer after the other (layer-sequential unit variance,
Mishkin and Matas 2015, arXiv 1511.06422).
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, TensorProto, numpy_helper

from tuner.errors import UserError
from tuner.graph.runtime import run_node
from tuner.graph.topologies import TOPOLOGIES

_MODELS = {
    "squeezenet": "SqueezeNet 1.0 (2016): fire modules of 1x1 and 3x3 convolutions, concatenated",
    "shufflenet": "ShuffleNet (2017): grouped 1x1 convolutions, channel shuffles, depthwise convolutions",
    "inception_v1": "GoogLeNet (2014): four parallel branches per module, local response normalisation",
    "inception_v2": "Inception v2 (2015): GoogLeNet with batch normalisation and factorised convolutions",
    "densenet121": "DenseNet-121 (2016): dense concatenation, batch normalisation before each convolution",
    "densenet264": "DenseNet-264 (2016): DenseNet-121 grown to nearly a thousand layers",
    "resnet18": "ResNet-18 (2015): basic blocks of two 3x3 convolutions with residual sums",
    "resnet50": "ResNet-50 (2015): bottleneck blocks with residual sums",
    "mobilenetv2": "MobileNetV2 (2018): inverted residuals, depthwise convolutions, linear bottlenecks",
    "efficientnet_b0": "EfficientNet-B0 (2019): MobileNetV2's blocks with swish, gated channels, 5x5 filters",
    "bvlc_alexnet": "AlexNet (2012): five convolutions, two of them grouped, three large fully connected layers",
    "zfnet512": "ZFNet-512 (2013): AlexNet with wider convolutions",
    "vgg19": "VGG-19 (2014): sixteen 3x3 convolutions, three large fully connected layers",
}
_LOGIT_STD = 2.0  # of what enters the softmax: images differ, no class is certain
_BRANCH = 0.5  # standard deviation of a residual branch, so that the sums of many blocks stay near 1


def names() -> tuple[str, ...]:
    """The zoo's models."""
    return tuple(_MODELS)


def describe(name: str) -> str:
    """One line about a model. Raises UserError for an unknown name."""
    _check(name)
    return _MODELS[name]


def write(name: str, path: Path, seed: int = 0) -> Path:
    """Write the model ``name`` with random weights to ``path``; equal seeds give equal bytes on one machine.

    Its one input is the image, float32 [1, 3, 224, 224], expected to be about N(0, 1). Raises UserError for an unknown
    name or a path that cannot be written.
    """
    _check(name)
    model = _topology(name)
    _Filler(model, seed).fill()
    try:
        with path.open("wb") as file:
            file.write(model.SerializeToString(deterministic=True))
    except OSError as error:
        raise UserError(f"'{path}' cannot be written: {error.strerror}.", code="unwritable") from error
    return path


def _topology(name: str) -> ModelProto:
    if name in TOPOLOGIES:
        return TOPOLOGIES[name]()
    folder = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"
    return onnx.load_model(str(folder / f"light_{name}.onnx"))


def _check(name: str) -> None:
    if name not in _MODELS:
        raise UserError(
            f"There is no model '{name}' in the zoo.", code="unknown-model", hint=f"Models: {', '.join(_MODELS)}."
        )


class _Filler:
    """Runs a model on one random image, node by node, and chooses the weights of each node when it is reached."""

    def __init__(self, model: ModelProto, seed: int) -> None:
        self.model = model
        self.graph = model.graph
        self.seed = seed
        self.opset = model.opset_import[0].version
        given = {t.name: numpy_helper.to_array(t) for t in self.graph.initializer}
        self.fixed = {n: a for n, a in given.items() if a.dtype != np.float32}  # shapes
        self.blank = {n: a.shape for n, a in given.items() if a.dtype == np.float32}  # parameters to choose
        for node in self.graph.node:
            if node.op_type == "ConstantOfShape":
                self.blank[node.output[0]] = tuple(self.fixed[node.input[0]].tolist())
        for node in self.graph.node:
            if node.op_type == "Reshape" and node.input[0] in self.blank:  # of a weight: choose it reshaped
                size = np.empty(self.blank[node.input[0]], dtype=np.bool_)
                self.blank[node.output[0]] = size.reshape(self.fixed[node.input[1]]).shape
        self.readers: dict[str, list[NodeProto]] = {}
        for node in self.graph.node:
            for name in node.input:
                self.readers.setdefault(name, []).append(node)
        self.chosen: dict[str, np.ndarray] = {}

    def fill(self) -> None:
        """Choose all parameters and store them as initializers; only the image stays an input."""
        image = next(i for i in self.graph.input if i.name not in self.fixed and i.name not in self.blank)
        shape = [d.dim_value for d in image.type.tensor_type.shape.dim]
        values = {image.name: self._normal("", tuple(shape))}
        nodes = [node for node in self.graph.node if node.output[0] not in self.blank]
        last: NodeProto | None = None
        for node in nodes:
            if node.op_type in ("Conv", "Gemm"):
                last = node
                outputs = [self._fill_linear(node, values)]
            elif node.op_type == "Softmax" and last is not None:
                self._scale_logits(last, values[node.input[0]])
                break
            else:
                self._fill_other(node, values)
                outputs = self._run(node, values)
            values |= zip(node.output, outputs, strict=False)
        else:
            if last is not None:
                self._scale_logits(last, values[self.graph.output[0].name])
        self._store(nodes, image)

    def _fill_linear(self, node: NodeProto, values: dict[str, np.ndarray]) -> np.ndarray:
        """Weights of a Conv or Gemm such that its output has standard deviation 1; returns that output."""
        weights = self._normal(node.input[1], self.blank[node.input[1]])
        axes = tuple(range(1, weights.ndim))
        if weights[0].size >= 9:
            # Inputs behind a relu have a common positive part. With all of it, images look alike at the end; with
            # none of it, sums cancel and rounding errors grow 40-fold on the way through ResNet-50 (2-fold like this).
            weights -= weights.mean(axis=axes, keepdims=True) / 2
        self.chosen[node.input[1]] = weights
        if len(node.input) > 2:
            self.chosen[node.input[2]] = np.zeros(self.blank[node.input[2]], dtype=np.float32)
        output = self._run(node, values)[0]
        factor = _rounded(1 / max(float(output.std()), 1e-6))
        weights *= factor
        output = output * factor
        if len(node.input) > 2:
            bias = 0.1 * self._normal(node.input[2], self.blank[node.input[2]])
            self.chosen[node.input[2]] = bias
            output = output + bias.reshape(-1, *[1] * (output.ndim - 2))
        return output

    def _fill_other(self, node: NodeProto, values: dict[str, np.ndarray]) -> None:
        """Parameters of everything else: batch norms, and constants that multiply or shift."""
        for position, name in enumerate(node.input):
            if name not in self.blank or name in self.chosen:
                continue
            shape = self.blank[name]
            role = node.op_type
            if role == "Unsqueeze":
                role = self.readers[node.output[0]][0].op_type
            near_one = np.exp(0.1 * self._normal(name, shape))
            small = 0.1 * self._normal(name, shape)
            if role == "BatchNormalization":
                scale = _BRANCH if position == 1 and self._ends_branch(node) else 1.0
                self.chosen[name] = near_one * np.float32(scale) if position in (1, 4) else small
            else:
                self.chosen[name] = near_one if role == "Mul" else small

    def _ends_branch(self, node: NodeProto) -> bool:
        return any(reader.op_type in ("Sum", "Add") for reader in self.readers.get(node.output[0], []))

    def _scale_logits(self, last: NodeProto, logits: np.ndarray) -> None:
        """Scale the last linear layer; what lies between it and the logits is positively homogeneous."""
        factor = _rounded(_LOGIT_STD / max(float(logits.std()), 1e-6))
        for name in last.input[1:]:
            self.chosen[name] = self.chosen[name] * factor

    def _run(self, node: NodeProto, values: dict[str, np.ndarray]) -> list[np.ndarray]:
        feeds = {n: self._value(n, values) for n in node.input if n}
        return run_node(node, self.opset, feeds)

    def _value(self, name: str, values: dict[str, np.ndarray]) -> np.ndarray:
        for known in (values, self.chosen, self.fixed):
            if name in known:
                return known[name]
        raise KeyError(name)

    def _normal(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
        """N(0, 1) numbers that depend on the seed and the tensor's name alone."""
        key = hashlib.sha256(f"{self.seed}/{name}".encode()).digest()
        bits = np.random.SFC64(int.from_bytes(key[:16], "little"))
        return np.random.Generator(bits).standard_normal(shape, dtype=np.float32)

    def _store(self, nodes: list[NodeProto], image: onnx.ValueInfoProto) -> None:
        read = dict.fromkeys(name for node in nodes for name in node.input)
        arrays: dict[str, np.ndarray] = {**self.fixed, **self.chosen}
        tensors: list[TensorProto] = [numpy_helper.from_array(arrays[n], n) for n in read if n in arrays]
        kept = [NodeProto.FromString(node.SerializeToString()) for node in nodes]
        kept_image = onnx.ValueInfoProto.FromString(image.SerializeToString())
        for field in (self.graph.node, self.graph.input, self.graph.initializer, self.graph.value_info):
            del field[:]
        self.graph.node.extend(kept)
        self.graph.input.append(kept_image)
        self.graph.initializer.extend(tensors)
        self.model.ir_version = max(4, self.model.ir_version)  # 4: the first where initializers need not be inputs


def _rounded(factor: float) -> np.float32:
    """To 1 part in 256: the last bits of a mean depend on the machine, the file should not."""
    mantissa, exponent = np.frexp(factor)
    return np.float32(np.ldexp(np.round(mantissa * 256) / 256, exponent))
