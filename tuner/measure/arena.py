"""Memory that kernels are measured on: weights, inputs and outputs that are as cold as in a running model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import prod

import numpy as np

_ALIGN = 64  # bytes: a cache line, and what kernels may assume
_MOST = 256 << 20  # bytes of an arena, however large the last-level cache
_COPIES = 4096  # of tiny arrays, beyond which keeping count costs more memory than they do
_NEAR = 8  # times what a core's own cache holds: what was in it has left it
_FAR = 4  # times what the last-level cache holds: next to nothing of it is still there


def residencies(l2: int, l3: int) -> dict[str, int]:
    """Bytes to touch between two uses of the same weights, by where they are to be found; from the caches' bytes.

    Last-level caches do not drop what was used longest ago: of twice their size that is gone round a part stays. On a
    Zen 4 with 32 MiB, 64 MiB were read at 39 GB/s in the median, 52 at best, 128 MiB and more at 34 to 36, at best 39.
    """
    return {"dram": max(_FAR * l3, 1 << 20), "cache": max(min(_NEAR * l2, l3 // 4), 1)}


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


class Arena:
    """Keeps arrays of one kernel in so many copies that going round them exceeds the caches.

    Which caches is up to the model: where all its weights fit into the last-level cache, a kernel finds its own there,
    but not in nearer ones, through which the other layers have passed since. Filling writes more than those caches
    hold, so that the copies written first have left them again when they are read. The copies, and whose turn it is,
    stay for the next candidate that wants the same arrays.
    """

    def __init__(self, sizes: Mapping[str, int], most: int = _COPIES) -> None:
        """``sizes`` in bytes, by residency: what to touch between two uses of one copy. ``most``: copies at most."""
        self._sizes = {name: min(size, _MOST) for name, size in sizes.items()}
        self._most = most
        self._memory = np.empty(0, np.uint8)
        self._key: tuple[str, str] | None = None
        self._copies: Copies

    def copies(self, key: str, make: Callable[[], list[np.ndarray]], residency: str) -> Copies:
        """Copies of the arrays that ``make()`` returns."""
        if self._key != (key, residency):
            self._key = None  # should make() raise, nothing valid is left
            self._copies = self._fill(make(), self._sizes[residency])
            self._key = (key, residency)
        return self._copies

    def forget(self) -> None:
        """Make the arrays anew when they are next wanted: somebody has written to what is only to be read."""
        self._key = None

    def _fill(self, arrays: list[np.ndarray], size: int) -> Copies:
        like, slot = [], 0
        for array in arrays:
            like.append((slot, array.shape, array.dtype))
            slot += -(-array.nbytes // _ALIGN) * _ALIGN
        count = min(max(1, -(-size // slot)), self._most) if slot else 1
        slots = self._room(count * slot)[: count * slot].reshape(count, slot)
        for (at, _, _), array in zip(like, arrays, strict=True):
            slots[0, at : at + array.nbytes] = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        slots[1:] = slots[0]
        return Copies(slots, like)

    def _room(self, size: int) -> np.ndarray:
        largest = max(self._sizes.values())
        usual = 2 * largest  # more is held only as long as somebody needs it
        if self._memory.size < size or self._memory.size > usual >= size:
            self._memory = np.empty(0, np.uint8)  # give the old block back before asking for the new one
            self._memory = aligned((max(size, largest),), np.dtype(np.uint8))
        return self._memory
