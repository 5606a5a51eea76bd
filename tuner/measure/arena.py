"""Memory that kernels are measured on: aligned buffers, and weights that are as cold as in a running model."""

from __future__ import annotations

from collections.abc import Callable
from math import prod

import numpy as np

_ALIGN = 64  # bytes: a cache line, and what kernels may assume
_MOST = 256 << 20  # bytes of an arena, however large the last-level cache


def aligned(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """An uninitialised array that starts on a cache line."""
    size = prod(shape) * dtype.itemsize
    raw = np.empty(size + _ALIGN, np.uint8)
    start = -raw.ctypes.data % _ALIGN
    return raw[start : start + size].view(dtype).reshape(shape)


class Copies:
    """Copies of one set of arrays inside one block of memory, gone round one after the other."""

    def __init__(self, slots: np.ndarray, like: list[tuple[int, tuple[int, ...], np.dtype]]) -> None:
        self._slots = slots  # [copies, bytes of one copy]
        self._like = like  # (offset, shape, dtype) per array
        self._turn = 0

    def __len__(self) -> int:
        return len(self._slots)

    def take(self) -> int:
        """Index of the copy whose turn it is: the one that was used longest ago."""
        turn = self._turn
        self._turn = (turn + 1) % len(self)
        return turn

    def arrays(self, index: int) -> list[np.ndarray]:
        """Views of one copy's arrays."""
        slot = self._slots[index]
        return [
            slot[at : at + prod(shape) * dtype.itemsize].view(dtype).reshape(shape) for at, shape, dtype in self._like
        ]


class WeightArena:
    """Keeps the packed weights of one kernel in so many copies that going round them exceeds the last-level cache.

    Filling writes more than that cache holds, so that the copies written first have left it again when they are read.
    The copies, and whose turn it is, stay for the next candidate that packs the same weights the same way.
    """

    def __init__(self, size: int) -> None:
        """``size`` in bytes: what to touch between two uses of one copy."""
        self._size = min(max(size, 1 << 20), _MOST)
        self._memory = np.empty(0, np.uint8)
        self._key: tuple[str, bool] | None = None
        self._copies: Copies

    def copies(self, key: str, make: Callable[[], list[np.ndarray]], *, cold: bool) -> Copies:
        """Copies of the arrays that ``make()`` returns; only one if they are to be found in the cache."""
        if self._key != (key, cold):
            self._key = None  # should make() raise, nothing valid is left
            self._copies = self._fill(make(), cold)
            self._key = (key, cold)
        return self._copies

    def _fill(self, arrays: list[np.ndarray], cold: bool) -> Copies:
        like, slot = [], 0
        for array in arrays:
            like.append((slot, array.shape, array.dtype))
            slot += -(-array.nbytes // _ALIGN) * _ALIGN
        count = max(1, -(-self._size // slot)) if cold and slot else 1
        slots = self._room(count * slot)[: count * slot].reshape(count, slot)
        for (at, _, _), array in zip(like, arrays, strict=True):
            slots[0, at : at + array.nbytes] = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        slots[1:] = slots[0]
        return Copies(slots, like)

    def _room(self, size: int) -> np.ndarray:
        usual = 2 * self._size  # more is held only as long as somebody needs it
        if self._memory.size < size or self._memory.size > usual >= size:
            self._memory = np.empty(0, np.uint8)  # give the old block back before asking for the new one
            self._memory = aligned((max(size, self._size),), np.dtype(np.uint8))
        return self._memory
