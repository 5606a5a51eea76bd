"""Register tiles of matrix products: ``reg_m`` rows times ``oc_t`` vectors of columns are summed in registers."""

from __future__ import annotations

from collections.abc import Mapping

from tuner.kernels.base import Knobs
from tuner.types import Device

_IN_FLIGHT = 8  # sums that two multiply-add units of four cycles each keep waiting for
_LOAD = 0.3  # a load's price in multiply-adds, where loads are not what limits
MOST = 14  # rows, or vectors, of a tile


def tile_knobs(rows: int, vectors: int) -> dict[str, list[int]]:
    """Heights and widths of a tile that may be good for so many rows and vectors of columns."""
    widths = [t for t in range(1, min(vectors, MOST) + 1) if t <= 4 or vectors % t == 0 or t % 2 == 0]
    heights = [r for r in range(1, min(rows, MOST) + 1) if rows % r == 0 or r >= 3]
    return {"oc_t": widths, "reg_m": heights}


def fits(knobs: Knobs, device: Device) -> bool:
    """Whether the sums of a tile leave a register for an operand."""
    return knobs["oc_t"] * knobs["reg_m"] < device.registers


def best_tile(knobs: Mapping[str, list[int]], rows: int, vectors: int, device: Device) -> dict[str, int]:
    """The tile that should take the fewest cycles: little computed twice, registers full but not spilled, few loads."""

    def cycles(tile: Knobs) -> float:
        t, r = tile["oc_t"], tile["reg_m"]
        once = max(t * r, t + r, _IN_FLIGHT) + _LOAD * (t + r)
        return once * -(-rows // r) * -(-vectors // t)

    tiles = [{"oc_t": t, "reg_m": r} for t in knobs["oc_t"] for r in knobs["reg_m"]]
    held = [p for p in tiles if p["oc_t"] * (p["reg_m"] + 1) + 1 < device.registers]
    return min(held, key=cycles)
