"""The fourteen models of the comparison: those of the zoo, and two transformers."""

from __future__ import annotations

from pathlib import Path

from tuner.graph import zoo

TRANSFORMERS = ("vit_tiny", "bert_mini")
MODELS = (
    "bvlc_alexnet", "densenet121", "inception_v1", "inception_v2", "resnet50", "shufflenet", "squeezenet", "vgg19",
    "zfnet512", "mobilenetv2", "efficientnet_b0", "resnet18", *TRANSFORMERS,
)  # fmt: skip
CONVOLUTIONAL = tuple(name for name in MODELS if name not in TRANSFORMERS)


def write(name: str, path: Path) -> Path:
    """Write a model with seeded random weights. Raises UserError for an unknown name."""
    if name not in TRANSFORMERS:
        return zoo.write(name, path)
    from bench.peers import transformers

    path.write_bytes(getattr(transformers, name)().SerializeToString(deterministic=True))
    return path
