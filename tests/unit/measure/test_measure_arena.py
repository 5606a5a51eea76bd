"""Cold weights and activations: copies, their order and their contents."""

from __future__ import annotations

import numpy as np

from tuner.measure.arena import Arena, aligned, residencies

MIB = 1 << 20


def weights(size: int, value: float = 1.0) -> list[np.ndarray]:
    return [np.full((size // 4,), value, np.float32), np.arange(3, dtype=np.float32)]


def test_buffers_start_on_a_cache_line() -> None:
    for size in (1, 3, 1000):
        assert aligned((size,), np.dtype(np.float32)).ctypes.data % 64 == 0


def test_cold_weights_exceed_the_size_before_one_comes_again() -> None:
    copies = Arena({"dram": 4 * MIB}).copies("k", lambda: weights(MIB // 2), "dram")
    turns = [copies.take() for _ in range(2 * len(copies))]
    assert turns == [*range(len(copies))] * 2
    assert len(copies) * (MIB // 2) >= 4 * MIB - len(copies) * 64


def test_every_copy_holds_the_weights_on_cache_lines() -> None:
    copies = Arena({"dram": 2 * MIB}).copies("k", lambda: weights(MIB // 4, 7.0), "dram")
    for index in range(len(copies)):
        large, small = copies.arrays(index)
        assert (large == 7.0).all() and small.tolist() == [0, 1, 2]
        assert large.ctypes.data % 64 == 0 and small.ctypes.data % 64 == 0


def test_weights_in_the_last_cache_have_left_the_nearer_ones() -> None:
    sizes = residencies(l2=MIB // 2, l3=32 * MIB)
    assert sizes["dram"] > 32 * MIB > sizes["cache"] > 2 * MIB // 2
    arena = Arena(sizes)
    assert len(arena.copies("k", lambda: weights(MIB), "cache")) * MIB >= sizes["cache"] - MIB
    assert len(arena.copies("k", lambda: weights(MIB), "dram")) * MIB >= sizes["dram"] - MIB


def test_huge_weights_exist_once() -> None:
    arena = Arena({"dram": MIB, "cache": MIB // 4})
    assert len(arena.copies("k", lambda: weights(3 * MIB), "dram")) == 1


def test_the_same_weights_are_not_packed_again_and_go_on_where_they_were() -> None:
    arena = Arena({"dram": MIB, "cache": MIB // 4})
    packed: list[int] = []

    def make() -> list[np.ndarray]:
        packed.append(1)
        return weights(MIB // 4)

    arena.copies("k", make, "dram").take()
    assert arena.copies("k", make, "dram").take() == 1
    assert len(packed) == 1
    arena.copies("other", make, "dram")
    arena.copies("k", make, "dram")
    assert len(packed) == 3


def test_a_kernel_without_constants_has_one_empty_copy() -> None:
    copies = Arena({"dram": MIB, "cache": MIB // 4}).copies("k", list, "dram")
    assert copies.arrays(copies.take()) == []
