"""Where weights are found at each call: by their size, and by how long a call takes."""

from __future__ import annotations

from dataclasses import replace

from tests.unit.search.search_fakes import DEVICE
from tuner.graph.ir import Constant, Graph, Layer, Tensor
from tuner.residency import CACHE, DRAM, residency

MACHINE = replace(DEVICE, cores=2, lanes=16, l3=32 << 20)


def product(rows: int, wide: int) -> Graph:
    """A matrix product of ``rows`` with a square of weights."""
    tensors = {"x": Tensor("x", (rows, wide)), "y": Tensor("y", (rows, wide))}
    return Graph(("x",), ("y",), (Layer("a", "Gemm", ("x", "w"), ("y",)),), tensors,
                 {"w": Constant("w", (wide, wide), digest="w")})  # fmt: skip


def test_weights_that_outgrow_the_last_level_cache_come_from_memory() -> None:
    assert residency(product(1, 2048), MACHINE) == CACHE
    assert residency(product(1, 3072), MACHINE) == DRAM
    assert residency(product(1, 3072), replace(MACHINE, l3=64 << 20)) == CACHE


def test_so_do_those_of_a_call_that_takes_longer_than_the_cache_keeps_them() -> None:
    assert residency(product(512, 1024), MACHINE) == DRAM
    assert residency(product(512, 1024), replace(MACHINE, cores=16)) == CACHE
