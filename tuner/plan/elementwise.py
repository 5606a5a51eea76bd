"""Which ONNX operators act element by element and may be fused behind another layer."""

from __future__ import annotations

ELEMENTWISE = frozenset(
    {
        "Add", "Sub", "Mul", "Div", "Sum", "Max", "Min", "Relu", "Clip", "Sigmoid", "Tanh", "Erf", "Exp", "Gelu",
        "HardSigmoid", "HardSwish", "LeakyRelu", "PRelu", "Elu", "Abs", "Neg", "Sqrt", "Reciprocal", "Floor", "Ceil",
        "Softplus", "Softsign", "Mish", "Selu", "Celu", "Identity", "Dropout", "BatchNormalization",
    }
)  # fmt: skip
