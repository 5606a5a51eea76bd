"""Layouts: how a logical tensor lies in memory. Numpy only.

"plain" is row-major as in ONNX. "NCHW16c" (any block size) is for rank-4 tensors: ``[N, ceil(C/16), H, W, 16]``, the
last channel block padded with zeros (or with whatever the activation makes of zero; always finite).
"NCHW16c-bf16" is the same with every float32 number rounded to bfloat16, whose bits are held as uint16.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from tuner.errors import UserError
from tuner.plan import bf16, int8
from tuner.plan.winograd import transform_weights

PLAIN = "plain"
_NARROW = "-bf16"  # behind the names of layouts of rounded numbers
_OF = "#"  # in names of constants that are made of others
RANGE = "range"  # of a tensor's numbers: (low, high), float32
_BLOCKED = re.compile(rf"NCHW(\d+)c({_NARROW})?")


def blocked(block: int, *, narrow: bool = False) -> str:
    """Name of the channel-blocked layout with this block size; ``narrow``: of rounded numbers."""
    return f"NCHW{block}c{_NARROW if narrow else ''}"


@dataclass(frozen=True)
class Images:
    """How the images of a Graph lie in blocks of channels; those of tensors in ``narrow`` as bfloat16."""

    lanes: int
    narrow: Collection[str] = frozenset()

    def layout(self, tensor: str) -> str:
        return blocked(self.lanes, narrow=tensor in self.narrow)


def is_narrow(layout: str) -> bool:
    """Whether numbers are stored as bfloat16."""
    return layout.endswith(_NARROW)


def widened(layout: str) -> str:
    """The same layout of float32 numbers."""
    return layout.removesuffix(_NARROW)


def stored_type(dtype: str, layout: str) -> str:
    """Type of the elements of the buffer that holds a tensor of ``dtype`` in ``layout``."""
    return "uint16" if is_narrow(layout) else dtype


@cache
def block_of(layout: str) -> int:
    """Channels per block; 0 for "plain". Raises UserError for an unknown name."""
    if layout == PLAIN:
        return 0
    match = _BLOCKED.fullmatch(layout)
    if not match or int(match[1]) < 1:
        known = f"'{PLAIN}', 'NCHW<block>c' or 'NCHW<block>c{_NARROW}'"
        raise UserError(f"Unknown layout {layout!r}: use {known}.", code="bad-layout")
    return int(match[1])


def element_bytes(layout: str) -> int:
    """Of a float32 tensor's elements in this layout."""
    return 2 if is_narrow(layout) else 4


def physical_shape(shape: tuple[int, ...], layout: str) -> tuple[int, ...]:
    """Shape of the buffer that holds a tensor of logical ``shape`` in ``layout``."""
    block = block_of(layout)
    if not block:
        return tuple(shape)
    n, c, h, w = shape
    return (n, -(-c // block), h, w, block)


def to_physical(array: np.ndarray, layout: str) -> np.ndarray:
    """The logical array as it lies in memory (a contiguous array of ``physical_shape``)."""
    block = block_of(layout)
    if not block:
        return np.asarray(array, order="C")  # ascontiguousarray would give a scalar a dimension
    n, c, h, w = array.shape
    padded = np.pad(bf16.stored(array) if is_narrow(layout) else array, [(0, 0), (0, -c % block), (0, 0), (0, 0)])
    return np.ascontiguousarray(padded.reshape(n, -1, block, h, w).transpose(0, 1, 3, 4, 2))


def to_logical(array: np.ndarray, layout: str, shape: tuple[int, ...]) -> np.ndarray:
    """Inverse of ``to_physical``: drops the padding, and widens rounded numbers."""
    if not block_of(layout):
        return array.reshape(shape)
    n, c, h, w = shape
    logical = np.ascontiguousarray(array.transpose(0, 1, 4, 2, 3).reshape(n, -1, h, w)[:, :c])
    return bf16.widened(logical) if is_narrow(layout) else logical


_INT8: Mapping[str, Callable[[np.ndarray], np.ndarray]] = {
    "int8": int8.codes, "int8-scales": int8.scales, "int8-sums": int8.sums, "int8-grid": int8.grid
}  # fmt: skip


def derived(name: str, what: str) -> str:
    """Name of what is made of a constant, or of what is known of a tensor's numbers (its "range")."""
    return f"{name}{_OF}{what}"


def source_of(constant: str, constants: Collection[str], names: Mapping[str, str] | None = None) -> str:
    """Name of the array that a kernel's constant is packed from: of a weight, or of a tensor's range.

    Args:
        constants: of the workload.
        names: what the workload's names stand for in a model; by default themselves.
    """
    name = constant.partition(_OF)[0]
    real = name if names is None else names[name]
    return real if name in constants else derived(real, RANGE)


@dataclass(frozen=True)
class Pack:
    """How a constant is laid out for one kernel: numpy steps as data, applied once at build time.

    Each step is ("pad", widths) | ("reshape", shape) | ("transpose", axes) | ("take", axis, indices) | ("gather",
    indices, shape) | ("winograd", m[, stride]) | ("bf16",) | ("int8",) | ("int8-scales",) | ("int8-sums",) |
    ("int8-grid",), where gather reads the flat array at ``indices`` and writes zero where the index is -1, winograd
    transforms weights for output tiles of m x m, and bf16 rounds to bfloat16 and keeps its bits as uint16. Of weights
    of a convolution int8 makes 8-bit integers, int8-scales and int8-sums what they are multiples of and their sums, by
    output channel; int8-grid makes of a tensor's range (low, high) the numbers that ``tuner.plan.int8.grid`` gives.
    """

    steps: tuple[tuple[Any, ...], ...] = ()

    def __call__(self, array: np.ndarray) -> np.ndarray:
        for name, *args in self.steps:
            if name == "pad":
                array = np.pad(array, args[0])
            elif name == "reshape":
                array = array.reshape(args[0])
            elif name == "transpose":
                array = array.transpose(args[0])
            elif name == "take":
                array = np.take(array, args[1], axis=args[0])
            elif name == "gather":
                index = np.asarray(args[0])
                array = np.where(index >= 0, array.reshape(-1)[np.maximum(index, 0)], 0).reshape(args[1])
            elif name == "winograd":
                array = transform_weights(array, *args)
            elif name == "bf16":
                array = bf16.stored(array)
            elif name in _INT8:
                array = _INT8[name](array)
            else:
                raise UserError(f"Unknown packing step {name!r}.", code="bad-pack")
        return np.ascontiguousarray(array)

    def to_json(self) -> list[Any]:
        return [list(step) for step in self.steps]

    @staticmethod
    def from_json(data: list[Any]) -> Pack:
        return Pack(tuple(tuple(step) for step in data))
