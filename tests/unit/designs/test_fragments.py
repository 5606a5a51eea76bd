"""The registers of ``mma.sync.m16n8k8`` in tf32, against what the PTX ISA says of them; and rounding to tf32."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tests.unit.designs.tf32_tools import round_tf32
from tuner.designs.fragments import LANES, A, B, C, Fragment
from tuner.designs.tf32 import PITCHES

Registers = list[list[float]]  # [lane][register]


def instruction(a: Registers, b: Registers, c: Registers) -> Registers:
    """``mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32`` for one warp, register by register.

    Written from the PTX ISA, "Matrix Fragments for mma.m16n8k8": groupID = lane >> 2, threadID_in_group = lane % 4.
    a0: (groupID, thread), a1: (groupID + 8, thread), a2: (groupID, thread + 4), a3: (groupID + 8, thread + 4);
    b0: (thread, groupID), b1: (thread + 4, groupID);
    c0: (groupID, 2 thread), c1: (groupID, 2 thread + 1), c2: (groupID + 8, 2 thread), c3: (groupID + 8, 2 thread + 1).
    """
    left, right = np.full((16, 8), np.nan), np.full((8, 8), np.nan)
    for lane in range(32):
        group, thread = lane >> 2, lane % 4
        left[group, thread], left[group + 8, thread] = a[lane][0], a[lane][1]
        left[group, thread + 4], left[group + 8, thread + 4] = a[lane][2], a[lane][3]
        right[thread, group], right[thread + 4, group] = b[lane]
    product = left @ right
    out = []
    for lane in range(32):
        group, thread = lane >> 2, lane % 4
        places = [(group, 2 * thread), (group, 2 * thread + 1), (group + 8, 2 * thread), (group + 8, 2 * thread + 1)]
        out.append([c[lane][k] + product[place] for k, place in enumerate(places)])
    return out


def held(fragment: Fragment, matrix: np.ndarray) -> Registers:
    return [[matrix[fragment.element(lane, r)] for r in range(fragment.registers)] for lane in range(LANES)]


def multiplied(a: Fragment, b: Fragment, c: Fragment, stored_b: np.ndarray, left: np.ndarray) -> np.ndarray:
    zeros: Registers = [[0.0] * c.registers for _ in range(LANES)]
    out = instruction(held(a, left), held(b, stored_b), zeros)
    found = np.full((c.rows, c.columns), np.nan)
    for lane in range(LANES):
        for register in range(c.registers):
            found[c.element(lane, register)] = out[lane][register]
    return found


@pytest.mark.parametrize("fragment", [A, B, B.swapped(), C], ids=["a", "b", "b transposed", "c"])
def test_every_element_has_one_register(fragment: Fragment) -> None:
    places = {fragment.place(i, j) for i in range(fragment.rows) for j in range(fragment.columns)}
    assert places == {(lane, r) for lane in range(LANES) for r in range(fragment.registers)}
    assert all(fragment.place(*fragment.element(*place)) == place for place in places)


def test_what_lanes_load_and_store_is_the_product() -> None:
    random = np.random.default_rng(0)
    left, right = random.standard_normal((16, 8)), random.standard_normal((8, 8))
    np.testing.assert_allclose(multiplied(A, B, C, right, left), left @ right)
    np.testing.assert_allclose(multiplied(A, B.swapped(), C, right.T, left), left @ right)


@pytest.mark.parametrize("wrong", ["a", "b", "c"])
def test_a_wrong_index_is_seen(wrong: str) -> None:
    fragments = {"a": A, "b": B, "c": C}
    right_one = fragments[wrong]
    fragments[wrong] = replace(right_one, element=lambda lane, r: right_one.element(lane ^ 1, r))
    random = np.random.default_rng(0)
    left, right = random.standard_normal((16, 8)), random.standard_normal((8, 8))
    found = multiplied(fragments["a"], fragments["b"], fragments["c"], right, left)
    assert not np.allclose(found, left @ right)


@pytest.mark.parametrize("times", range(1, 9))
@pytest.mark.parametrize(("fragment", "of"), [(A, "load_a"), (B, "load_b"), (B.swapped(), "load_b_trans")])
def test_loads_meet_no_bank_twice(fragment: Fragment, of: str, times: int) -> None:
    """32 lanes, 32 banks, at every pitch of rows that ``lay_out`` makes."""
    modulus, rest = PITCHES[of]
    pitch = times * modulus + rest
    for register in range(fragment.registers):
        cells = [fragment.element(lane, register) for lane in range(LANES)]
        assert len({(row * pitch + column) % 32 for row, column in cells}) == LANES


def test_rounding_is_to_nearest_with_ties_away_from_zero() -> None:
    step = 2.0**-10
    given = np.array([1 + step / 2, -1 - step / 2, 1 + step * 0.49, 1 + step * 0.51, 3.0, 0.0], np.float32)
    assert round_tf32(given).tolist() == [1 + step, -1 - step, 1.0, 1 + step, 3.0, 0.0]
