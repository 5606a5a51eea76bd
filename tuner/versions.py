"""What decides a job's answer besides the question: versions of the templates, the plan and the way of measuring.

Readable without TVM, so that a server may ask. A test compares it with the templates themselves.
"""

from __future__ import annotations

from tuner.plan.plan import VERSION
from tuner.types import PROTOCOL, digest

REACH = 4  # raised when templates come to serve more, or plans are found that were not looked for before

# Name -> version of every kernel template; see KernelTemplate.version for when to raise one.
TEMPLATES = {
    "channels": 2,
    "concat": 2,
    "conv2d": 4,
    "conv2d_bf16": 1,
    "conv2d_dot": 2,
    "conv2d_grouped_dot": 1,
    "conv2d_int8": 1,
    "conv2d_pool": 2,
    "conv2d_pool_bf16": 1,
    "conv2d_prologue": 1,
    "conv2d_prologue_dot": 1,
    "conv2d_rows": 1,
    "conv2d_shuffle": 1,
    "conv_chain": 3,
    "dense": 2,
    "dense_bf16": 1,
    "depthwise": 1,
    "depth_to_space": 1,
    "design": 1,
    "elementwise": 2,
    "gather": 1,
    "inverted_residual": 1,
    "layer_norm": 1,
    "lrn": 1,
    "matmul": 2,
    "pool": 1,
    "resize": 1,
    "slice": 1,
    "softmax": 2,
    "transpose": 1,
    "winograd": 2,
}


def engine(
    protocol: str = PROTOCOL, plan: int = VERSION, templates: dict[str, int] = TEMPLATES, reach: int = REACH
) -> str:  # fmt: skip
    """One hash of them all: answers found by engines of different hashes need not be the same."""
    return digest([protocol, plan, sorted(templates.items()), reach])


ENGINE = engine()
