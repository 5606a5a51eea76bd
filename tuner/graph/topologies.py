"""Networks that the onnx package does not ship, written from their papers: ``name -> ModelProto``, weights all zero.

ResNet-18: He et al. 2015, arXiv 1512.03385, table 1. MobileNetV2: Sandler et al. 2018, arXiv 1801.04381, table 2.
EfficientNet-B0: Tan and Le 2019, arXiv 1905.11946, table 1. DenseNet-264: Huang et al. 2016, arXiv 1608.06993, table 1.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from onnx import ModelProto, TensorProto, helper, numpy_helper

_OPSET = 17


class _Net:
    """Appends layers one by one; every method gives the name of the tensor it made."""

    def __init__(self) -> None:
        self.nodes: list[object] = []
        self.parameters: list[TensorProto] = []

    def add(self, op: str, *inputs: str, **attributes: object) -> str:
        name = f"{op.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, list(inputs), [name], name, **attributes))
        return name

    def parameter(self, name: str, *shape: int) -> str:
        self.parameters.append(numpy_helper.from_array(np.zeros(shape, dtype=np.float32), name))
        return name

    def plain_conv(self, x: str, ic: int, oc: int, kernel: int, stride: int = 1, group: int = 1) -> str:
        """A convolution, its borders padded by half the kernel."""
        weights = self.parameter(f"conv_{len(self.nodes)}_w", oc, ic // group, kernel, kernel)
        sizes = {"kernel_shape": [kernel] * 2, "strides": [stride] * 2, "pads": [kernel // 2] * 4, "group": group}
        return self.add("Conv", x, weights, **sizes)

    def normalised(self, x: str, channels: int, number: int | None = None) -> str:
        """Batch normalisation. Its statistics are named by a number: the layer's own, or that of what it belongs to."""
        number = len(self.nodes) if number is None else number
        statistics = [self.parameter(f"bn_{number}_{part}", channels) for part in ("scale", "shift", "mean", "var")]
        return self.add("BatchNormalization", x, *statistics)

    def conv(self, x: str, ic: int, oc: int, kernel: int, stride: int = 1, group: int = 1) -> str:
        """A convolution with batch normalisation, its borders padded by half the kernel."""
        number = len(self.nodes)
        return self.normalised(self.plain_conv(x, ic, oc, kernel, stride, group), oc, number)

    def relu6(self, x: str) -> str:
        low, high = (
            self.add("Constant", value=numpy_helper.from_array(np.asarray(v, dtype=np.float32))) for v in (0, 6)
        )
        return self.add("Clip", x, low, high)

    def swish(self, x: str) -> str:
        return self.add("Mul", x, self.add("Sigmoid", x))

    def excite(self, x: str, channels: int, squeezed: int) -> str:
        """Scale each channel by what two 1x1 convolutions make of all channels' means (squeeze and excitation)."""
        gate = self.add("GlobalAveragePool", x)
        for number, (ic, oc) in enumerate(((channels, squeezed), (squeezed, channels))):
            name = f"gate_{len(self.nodes)}"
            weights, bias = self.parameter(f"{name}_w", oc, ic, 1, 1), self.parameter(f"{name}_b", oc)
            gate = self.add("Conv", gate, weights, bias, kernel_shape=[1, 1])
            gate = self.add("Sigmoid", gate) if number else self.swish(gate)
        return self.add("Mul", x, gate)

    def classifier(self, x: str, features: int) -> str:
        """Average over the image, a fully connected layer to 1000 classes, softmax."""
        x = self.add("Flatten", self.add("GlobalAveragePool", x))
        weights, bias = self.parameter("fc_w", 1000, features), self.parameter("fc_b", 1000)
        return self.add("Softmax", self.add("Gemm", x, weights, bias, transB=1), axis=1)

    def model(self, name: str, output: str) -> ModelProto:
        def info(tensor: str, *shape: int) -> object:
            return helper.make_tensor_value_info(tensor, TensorProto.FLOAT, shape)

        graph = helper.make_graph(
            self.nodes, name, [info("image", 1, 3, 224, 224)], [info(output, 1, 1000)], self.parameters
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=8)


def resnet18() -> ModelProto:
    """Eight basic blocks of two 3x3 convolutions; a 1x1 convolution where shape changes."""
    net, ic = _Net(), 64
    x = net.add("Relu", net.conv("image", 3, 64, 7, stride=2))
    x = net.add("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    for oc, first in ((64, 1), (128, 2), (256, 2), (512, 2)):
        for stride in (first, 1):
            branch = net.conv(net.add("Relu", net.conv(x, ic, oc, 3, stride)), oc, oc, 3)
            shortcut = x if (ic, stride) == (oc, 1) else net.conv(x, ic, oc, 1, stride)
            x = net.add("Relu", net.add("Add", branch, shortcut))
            ic = oc
    return net.model("resnet18", net.classifier(x, 512))


def mobilenetv2() -> ModelProto:
    """Inverted residuals: expand by 1x1, filter by depthwise 3x3, project by a 1x1 convolution without activation."""
    net, ic = _Net(), 32
    x = net.relu6(net.conv("image", 3, 32, 3, stride=2))
    stages = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
    for expansion, oc, repeats, first in stages:
        for stride in (first, *[1] * (repeats - 1)):
            wide = ic * expansion
            branch = x if expansion == 1 else net.relu6(net.conv(x, ic, wide, 1))
            branch = net.relu6(net.conv(branch, wide, wide, 3, stride, group=wide))
            branch = net.conv(branch, wide, oc, 1)
            x = net.add("Add", branch, x) if (ic, stride) == (oc, 1) else branch
            ic = oc
    return net.model("mobilenetv2", net.classifier(net.relu6(net.conv(x, 320, 1280, 1)), 1280))


def efficientnet_b0() -> ModelProto:
    """MobileNetV2's blocks with swish, 5x5 filters in places, and each expanded tensor's channels scaled by a gate."""
    net, ic = _Net(), 32
    x = net.swish(net.conv("image", 3, 32, 3, stride=2))
    stages = (  # expansion, channels, repeats, first stride, kernel
        (1, 16, 1, 1, 3), (6, 24, 2, 2, 3), (6, 40, 2, 2, 5), (6, 80, 3, 2, 3), (6, 112, 3, 1, 5), (6, 192, 4, 2, 5),
        (6, 320, 1, 1, 3),
    )  # fmt: skip
    for expansion, oc, repeats, first, kernel in stages:
        for stride in (first, *[1] * (repeats - 1)):
            wide = ic * expansion
            branch = x if expansion == 1 else net.swish(net.conv(x, ic, wide, 1))
            branch = net.swish(net.conv(branch, wide, wide, kernel, stride, group=wide))
            branch = net.conv(net.excite(branch, wide, ic // 4), wide, oc, 1)
            x = net.add("Add", branch, x) if (ic, stride) == (oc, 1) else branch
            ic = oc
    return net.model("efficientnet_b0", net.classifier(net.swish(net.conv(x, 320, 1280, 1)), 1280))


def densenet264() -> ModelProto:
    """Layers that read what all before them in their block made, normalised anew for each; halved between blocks."""
    net, channels, grown, wide = _Net(), 64, 32, 128

    def activated(x: str, channels: int) -> str:
        return net.add("Relu", net.normalised(x, channels))

    x = activated(net.plain_conv("image", 3, channels, 7, stride=2), channels)
    x = net.add("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    for block, repeats in enumerate((6, 12, 64, 48)):
        if block:
            x = net.plain_conv(activated(x, channels), channels, channels // 2, 1)
            x = net.add("AveragePool", x, kernel_shape=[2, 2], strides=[2, 2])
            channels //= 2
        for _ in range(repeats):
            new = net.plain_conv(activated(x, channels), channels, wide, 1)
            new = net.plain_conv(activated(new, wide), wide, grown, 3)
            x = net.add("Concat", x, new, axis=1)
            channels += grown
    return net.model("densenet264", net.classifier(activated(x, channels), channels))


TOPOLOGIES: dict[str, Callable[[], ModelProto]] = {
    "resnet18": resnet18, "mobilenetv2": mobilenetv2, "efficientnet_b0": efficientnet_b0,
    "densenet264": densenet264,
}  # fmt: skip
