"""The cleaning passes by name, in the order they run. Plain names and texts: nothing here needs ONNX."""

from __future__ import annotations

from collections.abc import Collection

from tuner.errors import UserError

DESCRIPTIONS: dict[str, str] = {
    "upgrade-opset": "models below opset 17 are raised to it where ONNX's converter can",
    "fold-constants": "operators with constant inputs are computed once; shapes become numbers",
    "eliminate-nop": "operators that change nothing go: Identity, Dropout, empty Cast, Reshape, Transpose, Pad, Slice",
    "unroll-recurrence": "LSTM, GRU and RNN over short sequences become the products and gates of their steps",
    "sum-to-add": "Sum becomes Add",
    "pow-to-mul": "small constant powers become products, Sqrt or Reciprocal",
    "bypass-expand": "what broadcasts anyway reads the operand of an Expand",
    "split-to-slices": "the parts of a Split become Slices",
    "space-to-depth-to-slices": "SpaceToDepth becomes Slices in steps, one behind the other",
    "einsum-to-matmul": "Einsum over two operands becomes MatMul, with Transposes around it",
    "batch-norm-to-scale-shift": "BatchNormalization with constant parameters becomes Mul and Add",
    "fuse-layer-norm": "ReduceMean, Sub, Pow, Sqrt and Div that normalise become LayerNormalization",
    "matmul-to-gemm": "MatMul by a constant plus a bias becomes Gemm, where both are of rank 2",
    "fold-scale-shift": "constant Mul, Add, Sub and Div go into the layer before them, or into each other",
    "fold-padding": "zeros that Pad puts around an image are put there by the convolution that reads it",
    "sequences-to-images": "convolutions of sequences, and what follows them, become those of images of one row",
    "volumes-to-images": "convolutions of volumes, and what follows them, become those of images, one for each depth",
    "conv-transpose-to-conv": "ConvTranspose becomes Conv, with a channel for each pixel of a step, and DepthToSpace",
    "scales-to-sizes": "Resize by scales that give whole sizes becomes Resize to these sizes",
    "instance-norm-to-layer-norm": "InstanceNormalization becomes LayerNormalization of each channel, Mul and Add",
    "merge-reshapes": "chains of Reshape, Flatten, Squeeze and Unsqueeze become one Reshape",
    "flatten-concat": "a Concat that only feeds a Concat on the same axis joins it",
    "eliminate-common-subexpressions": "equal operators on equal inputs are computed once",
    "sink-shuffles": "channel shuffles move behind depthwise convolutions and activations, to be read in passing",
    "merge-siblings": "convolutions alike that read one tensor become one, their results slices of its result",
    "eliminate-dead": "what no output needs goes",
}
NAMES: tuple[str, ...] = tuple(DESCRIPTIONS)
SLICING = (
    "merge-siblings",
    "split-to-slices",
    "space-to-depth-to-slices",
)  # their Slices cost nothing only where our memory plan lays them out: on CPUs
CHAINING = ("fuse-chains",)  # no cleaning, but switched off in the same way: tuner.gpu.chains


def check_names(names: Collection[str]) -> None:
    """UserError when one of ``names`` is no pass."""
    for name in names:
        if name not in (*NAMES, *CHAINING):
            known = ", ".join((*NAMES, *CHAINING))
            raise UserError(f"There is no cleaning pass '{name}'.", code="unknown-pass", hint=f"Passes: {known}.")
