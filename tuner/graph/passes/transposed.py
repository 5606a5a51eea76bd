"""conv-transpose-to-conv: a transposed convolution becomes a convolution, whose channels are the pixels of one step.

A transposed convolution with stride s makes, of each pixel, s x s pixels or more. All results whose places are alike
modulo s read the same pixels around theirs, through every s-th number of the window. They become channels of one
convolution with stride 1, s x s for each channel there was, and DepthToSpace deals them out (a Transpose, where strides
differ). Where padding makes places alike read other pixels, as many rows and columns as need be are computed too much,
and a Slice cuts them off: that is less work than a larger window, most of it zeros.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import numpy as np

from tuner.graph.passes.replacing import Chain, replace
from tuner.graph.work import Node, Type, Work

_LONGEST = 64  # stride; of a longer one, which no model has, each pixel makes a block that is mostly zeros
_OPSET = 11  # from which DepthToSpace has modes, and the bounds of a Slice are inputs


@dataclass(frozen=True)
class _Axis:
    """Height or width of the convolution. ``taps`` [stride, window]: which number of the window that there was each
    result within a step takes from each pixel; one beyond the last means none.
    """

    taps: np.ndarray
    pads: tuple[int, int]
    count: int  # results, each of which is ``stride`` pixels
    crop: int  # pixels to cut off at the beginning

    @property
    def work(self) -> int:
        """Products, up to what is the same for all."""
        return int(self.taps.shape[1]) * self.count


def conv_transpose_to_conv(work: Work) -> None:
    """Images in float32 with constant weights, without dilation, in one group or as many as there are channels."""
    replace(work, _replaced)


def _replaced(work: Work, node: Node) -> list[Node]:
    """What stands for a node; nothing where it stays."""
    axes = _axes(work, node)
    if not axes:
        return []
    kind, source = work.types[node.outputs[0]], work.type_of(node.inputs[0])
    array = work.arrays[node.inputs[1]]
    steps, places = [len(axis.taps) for axis in axes], [axis.count for axis in axes]
    wide = Type(kind.dtype, (kind.shape[0], kind.shape[1] * prod(steps), *places))
    grown = array.nbytes // prod(array.shape[2:]) * prod(axis.taps.size for axis in axes)
    if max(wide.bytes, grown) > work.sizes.tensor:
        return []
    weights, deep = _weights(array, axes, int(node.attr("group", 1)))
    given = [weights]
    if bias := node.input(2):
        given.append((np.tile if deep else np.repeat)(work.arrays[bias], prod(steps)))
    pads = tuple(axis.pads[end] for end in range(2) for axis in axes)
    group = source.shape[1] // weights.shape[1]
    made = Chain(work, node, node.inputs[0])
    made.then("Conv", wide.shape, *given, kernel_shape=weights.shape[2:], group=group, pads=pads)
    whole = (*kind.shape[:2], *(size * step for size, step in zip(places, steps, strict=True)))
    if steps[0] == steps[1] > 1:
        made.then("DepthToSpace", whole, blocksize=steps[0], mode="DCR" if deep else "CRD")
    elif max(steps) > 1:
        n, c = kind.shape[:2]
        split = (n, *steps, c, *places) if deep else (n, c, *steps, *places)
        perm = (0, 3, 4, 1, 5, 2) if deep else (0, 1, 4, 2, 5, 3)
        made.reshaped(*split)
        made.then("Transpose", tuple(split[axis] for axis in perm), perm=perm)
        made.reshaped(*whole)
    if made.shape != kind.shape:
        starts = np.array([axis.crop for axis in axes])
        made.then("Slice", kind.shape, starts, starts + kind.shape[2:], np.array([2, 3]))
    return made.end()


def _axes(work: Work, node: Node) -> list[_Axis]:
    """Of height and width; none if the node stays."""
    if node.op != "ConvTranspose" or node.domain or work.opset < _OPSET:
        return []
    if node.inputs[0] in work.arrays or any(name and name not in work.arrays for name in node.inputs[1:]):
        return []
    source, made, weights = work.type_of(node.inputs[0]), work.types[node.outputs[0]], work.arrays[node.inputs[1]]
    one_group = node.attr("group", 1) == 1 or weights.shape[1] == 1
    if made.dtype != "float32" or len(made.shape) != 4 or not one_group or 0 in (*source.shape, *made.shape):
        return []
    strides, dilations = (tuple(node.attr(name) or (1, 1)) for name in ("strides", "dilations"))
    if set(dilations) != {1}:
        return []
    sizes = zip(source.shape[2:], weights.shape[2:], strides, made.shape[2:], strict=True)
    more = tuple(node.attr("output_padding") or (0, 0))
    found = []
    for axis, (size, window, stride, out) in enumerate(sizes):
        pad = _padding(node, axis, stride * (size - 1) + more[axis] + window - out)
        if pad < 0 or stride > _LONGEST:
            return []
        crops = range(min(stride - 1, pad) + 1)
        found.append(min((_aligned(size, window, stride, pad, out, crop) for crop in crops), key=lambda a: a.work))
    return found


def _padding(node: Node, axis: int, total: int) -> int:
    """Pixels cut off at the beginning of an axis, of ``total`` at both ends: as ONNX has it."""
    mode = node.attr("auto_pad", "NOTSET")
    if mode == "NOTSET" and not node.attr("output_shape"):
        return int((node.attr("pads") or (0,) * 4)[axis])
    if total < 0:
        return -1
    return total // 2 if mode == "SAME_UPPER" else total - total // 2


def _aligned(size: int, window: int, stride: int, pad: int, out: int, crop: int) -> _Axis:
    """The axis if ``crop`` pixels in front are computed too much.

    Result o takes number k of the window from pixel i where i * stride + k = o + pad.
    """
    count = -(-(out + crop) // stride)
    pixel, first = np.divmod(np.arange(stride) + pad - crop, stride)  # the last one read, by its number ``first``
    least = pixel - np.maximum(-(-(window - first) // stride) - 1, 0)
    low, high = min(0, int(least.min())), max(int(pixel.max()), size - count)
    back = pixel[:, None] - np.arange(low, high + 1)
    number = first[:, None] + stride * back
    taps = np.where((back >= 0) & (number < window), number, window)
    return _Axis(taps, (-low, count - 1 + high - (size - 1)), count, crop)


def _weights(array: np.ndarray, axes: Sequence[_Axis], groups: int) -> tuple[np.ndarray, bool]:
    """Weights [out, in / groups, window, window], and whether what is dealt out lies channel by channel in each phase.

    Else all that becomes one channel lies together: so it must be where each has its group.

    Args:
        array: [in, out / groups, window, window].
    """
    filled = np.pad(array, ((0, 0), (0, 0), (0, 1), (0, 1)))
    chosen = filled[:, :, axes[0].taps][..., axes[1].taps]  # [in, out / groups, phase, window, phase, window]
    if groups == 1:
        chosen = chosen.transpose(2, 4, 1, 0, 3, 5)
    else:
        chosen = chosen.reshape(groups, -1, *chosen.shape[2:]).transpose(0, 2, 4, 1, 3, 5)
    ins, *window = chosen.shape[3:]
    return np.ascontiguousarray(chosen.reshape(-1, ins, *window)), groups == 1
