"""Views: logical indexing of buffers whatever their layout, for tensor expressions.

A channel index is kept as a ``Chan`` (block number, lane) as long as possible, so that reading a blocked buffer with a
blocked index needs no division.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import tvm
from tvm import te, tirx

from tuner.kernels import math as fast
from tuner.kernels.rounding import to_bf16
from tuner.plan.layout import block_of, is_narrow, physical_shape, stored_type

Expr = Any  # int or tirx expression


@dataclass(frozen=True)
class Chan:
    """Channel ``outer * block + inner`` with 0 <= inner < block."""

    outer: Expr
    inner: Expr
    block: int

    @property
    def expr(self) -> Expr:
        return self.outer * self.block + self.inner


def chan(index: Expr | Chan, block: int) -> Chan:
    """The channel as a ``Chan``; broadcasting makes that of a tensor with one channel a plain 0."""
    return index if isinstance(index, Chan) else Chan(0, index, block)


def flat(index: Expr) -> Expr:
    """The index as one expression."""
    return index.expr if isinstance(index, Chan) else index


@dataclass(frozen=True)
class View:
    """A buffer of logical ``shape`` held in ``layout``; ``at`` reads one element at logical indices.

    Elements of layouts in bfloat16 are read as float32; ``bits`` gives any element's bfloat16.
    """

    tensor: te.Tensor
    shape: tuple[int, ...]
    layout: str

    @staticmethod
    def placeholder(name: str, shape: Sequence[int], layout: str, dtype: str) -> View:
        shape = tuple(shape)
        kind = stored_type(dtype, layout)
        return View(te.placeholder(physical_shape(shape, layout), kind, name=name), shape, layout)

    def at(self, index: Sequence[Expr | Chan]) -> tvm.tirx.Expr:
        """Element at ``index``, broadcasting dimensions of extent 1 and leading dimensions that are missing.

        Padded channels (index >= shape[1] in a blocked index) read zero from a plain buffer.
        """
        element = self._element(index)
        return fast.from_bf16(element) if is_narrow(self.layout) else element

    def bits(self, index: Sequence[Expr | Chan]) -> tvm.tirx.Expr:
        """The element at ``index`` as the 16 bits of a bfloat16: rounded unless it is stored so."""
        element = self._element(index)
        return element if is_narrow(self.layout) else to_bf16(element)

    def _element(self, index: Sequence[Expr | Chan]) -> tvm.tirx.Expr:
        index = tuple(index)[len(index) - len(self.shape) :]
        index = tuple(0 if extent == 1 else i for i, extent in zip(index, self.shape, strict=True))
        block = block_of(self.layout)
        if not block:
            return self._plain(index)
        n, c, h, w = index
        if isinstance(c, Chan) and c.block == block:
            return self.tensor(n, c.outer, h, w, c.inner)
        c = flat(c)
        return self.tensor(n, c // block, h, w, c % block)

    def _plain(self, index: tuple[Expr | Chan, ...]) -> tvm.tirx.Expr:
        value = self.tensor(*(flat(i) for i in index)) if index else self.tensor()
        for i, extent in zip(index, self.shape, strict=True):
            if isinstance(i, Chan) and extent % i.block:
                value = tirx.if_then_else(i.expr < extent, value, tirx.const(0, self.tensor.dtype))
        return value


def output_index(shape: Sequence[int], layout: str) -> Any:
    """Function from a buffer's physical indices to logical ones, for the stage that writes an output."""
    block = block_of(layout)
    if not block:
        return lambda *p: p
    return lambda n, co, h, w, ci: (n, Chan(co, ci, block), h, w)
