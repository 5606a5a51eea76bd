"""Two small transformers as ONNX with seeded random weights, in the operators that exporters write.

ViT-Tiny/16: Dosovitskiy et al. 2020, arXiv 2010.11929; the size of Touvron et al. 2020, arXiv 2012.12877, table 1.
BERT-Mini: Devlin et al. 2018, arXiv 1810.04805; the size of Turc et al. 2019, arXiv 1908.08962; without a mask and
token types, the whole sequence being one text.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from onnx import ModelProto, TensorProto, helper, numpy_helper

_OPSET = 17
_TOKENS = 128  # of BERT's one text
_WORDS = 30_522  # of BERT's vocabulary


@dataclass(frozen=True)
class Size:
    """Of a transformer's encoder."""

    layers: int
    width: int
    heads: int
    hidden: int  # width of the layer between


VIT_TINY = Size(12, 192, 3, 768)
BERT_MINI = Size(4, 256, 4, 1024)


def vit_tiny(seed: int = 0) -> ModelProto:
    """float32 ``[1, 3, 224, 224]`` -> logits ``[1, 1000]``; normalises before attention and the layer between."""
    net, size = _Net(seed), VIT_TINY
    patches = (224 // 16) ** 2
    x = net.add("Conv", "image", net.weights(size.width, 3, 16, 16), net.zeros(size.width), strides=[16, 16])
    x = net.add("Transpose", net.reshape(x, 1, size.width, patches), perm=[0, 2, 1])
    x = net.add("Concat", net.normal(1, 1, size.width), x, axis=1)
    x = net.add("Add", x, net.normal(1, patches + 1, size.width, scale=0.1))
    for _ in range(size.layers):
        x = net.add("Add", x, net.attention(net.normalised(x, size.width), patches + 1, size))
        x = net.add("Add", x, net.between(net.normalised(x, size.width), size))
    first = net.add("Gather", net.normalised(x, size.width), net.whole(0), axis=1)
    logits = net.add("Gemm", first, net.weights(1000, size.width), net.zeros(1000), transB=1)
    return net.model("vit_tiny", ("image", TensorProto.FLOAT, [1, 3, 224, 224]), (logits, [1, 1000]))


def bert_mini(seed: int = 0) -> ModelProto:
    """int64 token ids ``[1, 128]`` -> ``[1, 256]``, what a classifier would read; normalises after each sum."""
    net, size = _Net(seed), BERT_MINI
    x = net.add("Gather", net.normal(_WORDS, size.width), "tokens", axis=0)
    x = net.normalised(net.add("Add", x, net.normal(1, _TOKENS, size.width)), size.width)
    for _ in range(size.layers):
        x = net.normalised(net.add("Add", net.attention(x, _TOKENS, size), x), size.width)
        x = net.normalised(net.add("Add", net.between(x, size), x), size.width)
    first = net.add("Gather", x, net.whole(0), axis=1)
    pooled = net.add("Gemm", first, net.weights(size.width, size.width), net.zeros(size.width), transB=1)
    pooled = net.add("Tanh", pooled)
    return net.model("bert_mini", ("tokens", TensorProto.INT64, [1, _TOKENS]), (pooled, [1, size.width]))


class _Net:
    """Appends operators one by one; every method gives the name of the tensor it made."""

    def __init__(self, seed: int) -> None:
        self._random = np.random.default_rng(seed)
        self._nodes: list[object] = []
        self._constants: list[TensorProto] = []

    def add(self, op: str, *inputs: str, **attributes: object) -> str:
        name = f"{op.lower()}_{len(self._nodes)}"
        self._nodes.append(helper.make_node(op, list(inputs), [name], name, **attributes))
        return name

    def linear(self, x: str, ic: int, oc: int) -> str:
        weights = self._constant(self._values(ic, oc) / np.float32(ic**0.5))
        return self.add("Add", self.add("MatMul", x, weights), self.normal(oc, scale=0.1))

    def attention(self, x: str, tokens: int, size: Size) -> str:
        each = size.width // size.heads

        def part(perm: list[int]) -> str:
            split = self.reshape(self.linear(x, size.width, size.width), 1, tokens, size.heads, each)
            return self.add("Transpose", split, perm=perm)

        query, key, value = part([0, 2, 1, 3]), part([0, 2, 3, 1]), part([0, 2, 1, 3])
        scores = self.add("Mul", self.add("MatMul", query, key), self._constant(np.float32(each**-0.5)))
        mixed = self.add("MatMul", self.add("Softmax", scores, axis=-1), value)
        joined = self.reshape(self.add("Transpose", mixed, perm=[0, 2, 1, 3]), 1, tokens, size.width)
        return self.linear(joined, size.width, size.width)

    def between(self, x: str, size: Size) -> str:
        x = self.linear(x, size.width, size.hidden)
        half, root, one = (self._constant(np.float32(v)) for v in (0.5, 2**0.5, 1.0))
        bent = self.add("Add", self.add("Erf", self.add("Div", x, root)), one)  # Gelu, as it is before opset 20
        return self.linear(self.add("Mul", self.add("Mul", x, bent), half), size.hidden, size.width)

    def normalised(self, x: str, width: int) -> str:
        scale = self._constant(np.exp(0.1 * self._values(width)))
        return self.add("LayerNormalization", x, scale, self.normal(width, scale=0.1), axis=-1, epsilon=1e-6)

    def reshape(self, x: str, *shape: int) -> str:
        return self.add("Reshape", x, self._constant(np.asarray(shape, dtype=np.int64)))

    def normal(self, *shape: int, scale: float = 1.0) -> str:
        return self._constant(np.float32(scale) * self._values(*shape))

    def weights(self, oc: int, *shape: int) -> str:
        """Such that inputs of variance 1 give outputs of variance 1."""
        return self.normal(oc, *shape, scale=float(np.prod(shape)) ** -0.5)

    def zeros(self, *shape: int) -> str:
        return self._constant(np.zeros(shape, dtype=np.float32))

    def whole(self, value: int) -> str:
        return self._constant(np.asarray(value, dtype=np.int64))

    def model(self, name: str, given: tuple[str, int, list[int]], output: tuple[str, list[int]]) -> ModelProto:
        outputs = [helper.make_tensor_value_info(output[0], TensorProto.FLOAT, output[1])]
        graph = helper.make_graph(self._nodes, name, [helper.make_tensor_value_info(*given)], outputs, self._constants)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=8)

    def _values(self, *shape: int) -> np.ndarray:
        return self._random.standard_normal(shape, dtype=np.float32)

    def _constant(self, values: np.ndarray | np.float32) -> str:
        name = f"constant_{len(self._constants)}"
        self._constants.append(numpy_helper.from_array(np.asarray(values), name))
        return name
