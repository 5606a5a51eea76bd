"""volumes-to-images: convolutions of volumes become those of images, one for each depth.

A volume [N, C, D, H, W] is seen as D * N images [D * N, C, H, W], for whose convolutions the kernels are ours. A window
that is deep reads several of them, which lie one behind the other in memory: cut out and put side by side they are the
channels of one image, so that one convolution sums over all. Pooling, concatenations and elementwise layers behind go
the same way, so that the Transposes between two convolutions vanish.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from tuner.graph.ir import AttrValue
from tuner.graph.passes.images import POOLS, Images, Shape, View
from tuner.graph.passes.replacing import Chain, replace
from tuner.graph.work import Node, Work

_GLOBAL = {"GlobalMaxPool": "MaxPool", "GlobalAveragePool": "AveragePool"}  # and what ends it, along the depth
_KEPT = ("ceil_mode", "count_include_pad")  # of a pooling's attributes, along the depth as well
_TO_IMAGES, _TO_VOLUME = (2, 0, 1, 3, 4), (1, 2, 0, 3, 4)  # [N, C, D, H, W] <-> [D, N, C, H, W]


@dataclass(frozen=True)
class _Depth:
    """How a window slides along the depth."""

    window: int
    stride: int
    dilation: int
    pads: tuple[int, int]
    count: int  # of results

    @property
    def still(self) -> bool:
        """Whether each image is read by itself."""
        return self.window == self.stride == 1 and self.pads == (0, 0)

    @property
    def padded(self) -> int:
        """Images that are read, or lie between, zeros included."""
        return (self.count - 1) * self.stride + (self.window - 1) * self.dilation + 1


def volumes_to_images(work: Work) -> None:
    """Volumes in float32; convolutions with constant weights."""
    images = Images(work, View(5, _to_images, _to_volume, _without_depth))
    replace(work, lambda work, node: _lowered(work, node, images))


def _to_images(made: Chain, shape: Shape) -> None:
    n, c, d, *image = shape
    if min(n * c, d) > 1:
        made.then("Transpose", (d, n, c, *image), perm=_TO_IMAGES)
    made.reshaped(d * n, c, *image)


def _to_volume(made: Chain, shape: Shape) -> None:
    n, c, d, *image = shape
    if min(n * c, d) > 1:
        made.reshaped(d, n, c, *image).then("Transpose", shape, perm=_TO_VOLUME)
    else:
        made.reshaped(*shape)


def _without_depth(array: np.ndarray) -> np.ndarray | None:
    """Where it is the same for all images."""
    if any(array.shape[-axis] != 1 for axis in (3, 5) if axis <= array.ndim):
        return None
    return array if array.ndim < 3 else np.squeeze(array, -3)


def _lowered(work: Work, node: Node, images: Images) -> list[Node]:
    """What stands for a node; nothing where it stays."""
    if node.domain or not node.only_output() or not images.may_be(node.outputs[0]):
        return []
    if node.op in ("Conv", "ConvTranspose"):
        constant = all(name in work.arrays for name in node.inputs[1:] if name)
        if not constant or not images.may_be(node.inputs[0]):
            return []
        return _convolution(work, node, images) if node.op == "Conv" else _transposed(work, node, images)
    if not any(name in images for name in node.inputs):
        return []
    if node.op in POOLS:
        return _pooling(work, node, images)
    if node.op in _GLOBAL:
        return _global_pooling(work, node, images)
    return images.alike(node)


def _convolution(work: Work, node: Node, images: Images) -> list[Node]:
    weights, bias = work.arrays[node.inputs[1]], [name for name in node.inputs[2:] if name]
    n, c, size, *image = work.types[node.inputs[0]].shape
    _, out, count, *result = work.types[node.outputs[0]].shape
    depth, shape, attrs = _depth(work, node, weights.shape[2]), (count * n, out, *result), _of_images(node)
    largest = 4 * n * c * prod(image) * max(depth.padded, depth.window * count)  # bytes
    if largest > work.sizes.tensor or min(depth.pads) < 0:
        return []
    source, before = images.begin(node, node.inputs[0])
    made = Chain(work, node, source)
    _put_zeros(work, made, n * depth.pads[0], n * max(depth.padded - depth.pads[0] - size, 0))
    source, taps = made.tensor, list[str]()
    for tap in range(depth.window):
        taps.append(_read(made.at(source), depth, tap, n).tensor)
    if depth.window == 1 or node.attr("group", 1) == 1:
        if depth.window > 1:
            made.joined((count * n, depth.window * c, *image), taps, axis=1)
        side_by_side = weights.swapaxes(1, 2).reshape(out, -1, *weights.shape[3:])
        return images.end(node, before, made.then("Conv", shape, side_by_side, *bias, **attrs))
    total = ""  # channels would have to be dealt out among the groups: rather a sum of convolutions
    for number, tap_read in enumerate(taps):
        made.at(tap_read).then("Conv", shape, weights[:, :, number], *(() if total else bias), **attrs)
        if total:
            made.then("Add", shape, total)
        total = made.tensor
    return images.end(node, before, made)


def _put_zeros(work: Work, made: Chain, before: int, behind: int) -> None:
    """Images of zeros, so many in front and behind."""
    if before or behind:
        number, *image = made.shape
        ends = [work.add_constant(f"{made.tensor}_zeros", np.zeros((k, *image), np.float32)) if k else ""
                for k in (before, behind)]  # fmt: skip
        made.joined((before + number + behind, *image), [name for name in (ends[0], made.tensor, ends[1]) if name], 0)


def _read(made: Chain, depth: _Depth, tap: int, n: int) -> Chain:
    """The images, ``n`` of each depth, that one number of a window's depth meets."""
    first, image = tap * depth.dilation, made.shape[1:]
    if depth.stride == 1:
        cut = np.array([first * n]), np.array([(first + depth.count) * n]), np.array([0])
        return made.then("Slice", (depth.count * n, *image), *cut)
    numbers = (first + depth.stride * np.arange(depth.count))[:, None] * n + np.arange(n)
    return made.then("Gather", (depth.count * n, *image), numbers.reshape(-1), axis=0)


def _transposed(work: Work, node: Node, images: Images) -> list[Node]:
    """Where windows touch along the depth, each image makes some of its own."""
    weights = work.arrays[node.inputs[1]]
    n, _, size, *_ = work.types[node.inputs[0]].shape
    _, out, count, *result = work.types[node.outputs[0]].shape
    depth = _depth(work, node, weights.shape[2])
    apart = depth.window == depth.stride and depth.pads == (0, 0) and count == size * depth.stride
    usual = node.attr("group", 1) == 1 and not node.attr("output_shape") and _mode(node) in ("NOTSET", "VALID")
    if not apart or not usual:
        return []
    behind = weights.swapaxes(1, 2).reshape(len(weights), -1, *weights.shape[3:])
    bias = [np.tile(work.arrays[name], depth.window) for name in node.inputs[2:] if name]
    source, before = images.begin(node, node.inputs[0])
    made = Chain(work, node, source)
    made.then("ConvTranspose", (size * n, depth.window * out, *result), behind, *bias, **_of_images(node))
    if n > 1:
        made.reshaped(size, n, depth.window, out, *result)
        made.then("Transpose", (size, depth.window, n, out, *result), perm=(0, 2, 1, 3, 4, 5))
    return images.end(node, before, made.reshaped(count * n, out, *result))


def _pooling(work: Work, node: Node, images: Images) -> list[Node]:
    """Of height and width first, then of the depth, as of an image with one channel that is all else wide.

    Averages may be taken so, too: the numbers in a window, without those beside the volume, are a product over axes.
    """
    depth = _depth(work, node, _whole(node.attr("kernel_shape"))[0])
    n, c, size, *_ = work.types[node.inputs[0]].shape
    result = work.types[node.outputs[0]].shape[3:]
    source, before = images.begin(node, node.inputs[0])
    made = Chain(work, node, source).then(node.op, (size * n, c, *result), **_of_images(node))
    if not depth.still:
        rest = n * c * prod(result)
        made.reshaped(1, 1, size, rest).then(node.op, (1, 1, depth.count, rest), **_of_depth(node, depth))
        made.reshaped(depth.count * n, c, *result)
    return images.end(node, before, made)


def _global_pooling(work: Work, node: Node, images: Images) -> list[Node]:
    n, c, size, *_ = work.types[node.inputs[0]].shape
    source, before = images.begin(node, node.inputs[0])
    made = Chain(work, node, source).then(node.op, (size * n, c, 1, 1)).reshaped(1, 1, size, n * c)
    made.then(_GLOBAL[node.op], (1, 1, 1, n * c), kernel_shape=(size, 1))
    return made.reshaped(n, c, 1, 1, 1).end(*before)


def _depth(work: Work, node: Node, window: int) -> _Depth:
    size, count = work.types[node.inputs[0]].shape[2], work.types[node.outputs[0]].shape[2]
    stride, dilation = (_whole(node.attr(name) or (1,))[0] for name in ("strides", "dilations"))
    mode, pads = _mode(node), _whole(node.attr("pads") or (0,) * 6)
    begin, end = pads[0], pads[3]
    if mode != "NOTSET":
        total = 0 if mode == "VALID" else max((count - 1) * stride + (window - 1) * dilation + 1 - size, 0)
        begin = total // 2 if mode == "SAME_UPPER" else total - total // 2
        end = total - begin
    return _Depth(window, stride, dilation, (begin, end), count)


def _of_images(node: Node) -> dict[str, AttrValue]:
    """The attributes without the depth."""
    found = dict(node.attrs)
    for name in ("kernel_shape", "strides", "dilations", "output_padding"):
        if found.get(name):
            found[name] = _whole(found[name])[1:]
    if found.get("pads"):
        pads = _whole(found["pads"])
        found["pads"] = (*pads[1:3], *pads[4:])
    return found


def _of_depth(node: Node, depth: _Depth) -> dict[str, AttrValue]:
    """The attributes of a window over [depth, all else]."""
    found: dict[str, AttrValue] = {name: node.attrs[name] for name in _KEPT if name in node.attrs}
    if depth.dilation > 1:
        found["dilations"] = (depth.dilation, 1)
    pads = (depth.pads[0], 0, depth.pads[1], 0)
    return {**found, "kernel_shape": (depth.window, 1), "strides": (depth.stride, 1), "pads": pads}


def _mode(node: Node) -> str:
    return str(node.attr("auto_pad") or "NOTSET")


def _whole(value: Any) -> tuple[int, ...]:
    return tuple(int(number) for number in value)
