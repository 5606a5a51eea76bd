"""Cold weights: copies, their order and their contents."""

from __future__ import annotations

import numpy as np

from tuner.measure.arena import WeightArena, aligned

MIB = 1 << 20


def weights(size: int, value: float = 1.0) -> list[np.ndarray]:
    return [np.full((size // 4,), value, np.float32), np.arange(3, dtype=np.float32)]


def test_buffers_start_on_a_cache_line() -> None:
    for size in (1, 3, 1000):
        assert aligned((size,), np.dtype(np.float32)).ctypes.data % 64 == 0


def test_cold_weights_exceed_the_size_before_one_comes_again() -> None:
    copies = WeightArena(4 * MIB).copies("k", lambda: weights(MIB // 2), cold=True)
    turns = [copies.take() for _ in range(2 * len(copies))]
    assert turns == [*range(len(copies))] * 2
    assert len(copies) * (MIB // 2) >= 4 * MIB - len(copies) * 64


def test_every_copy_holds_the_weights_on_cache_lines() -> None:
    copies = WeightArena(2 * MIB).copies("k", lambda: weights(MIB // 4, 7.0), cold=True)
    for index in range(len(copies)):
        large, small = copies.arrays(index)
        assert (large == 7.0).all() and small.tolist() == [0, 1, 2]
        assert large.ctypes.data % 64 == 0 and small.ctypes.data % 64 == 0


def test_warm_weights_and_huge_ones_exist_once() -> None:
    arena = WeightArena(MIB)
    assert len(arena.copies("k", lambda: weights(1024), cold=False)) == 1
    assert len(arena.copies("k", lambda: weights(3 * MIB), cold=True)) == 1


def test_the_same_weights_are_not_packed_again_and_go_on_where_they_were() -> None:
    arena = WeightArena(MIB)
    packed: list[int] = []

    def make() -> list[np.ndarray]:
        packed.append(1)
        return weights(MIB // 4)

    arena.copies("k", make, cold=True).take()
    assert arena.copies("k", make, cold=True).take() == 1
    assert len(packed) == 1
    arena.copies("other", make, cold=True)
    arena.copies("k", make, cold=True)
    assert len(packed) == 3


def test_a_kernel_without_constants_has_one_empty_copy() -> None:
    copies = WeightArena(MIB).copies("k", list, cold=True)
    assert copies.arrays(copies.take()) == []
