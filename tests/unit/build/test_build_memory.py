"""The memory plan: nothing alive is written over, results keep their own memory, the warmest free place is taken."""

from __future__ import annotations

import random
from itertools import combinations

import pytest

from tuner.build.memory import ALIGNMENT, Memory, Place, lives, most_alive, plan_memory
from tuner.build.program import Call, Foreign, Given, Join, Lane, Op, Program, Slice, Together, Value, View


def value(size: int = 64) -> Value:
    """``size`` bytes."""
    return Value((size // 4,), "float32")


def chain(*sizes: int) -> tuple[Program, list[Value]]:
    """x -> v0 -> v1 ... each written by a kernel that reads the one before; the last is the result."""
    x = value()
    made = [value(size) for size in sizes]
    calls = [Call("f", (before,), out) for before, out in zip([x, *made], made, strict=False)]
    return Program([Given("x", x), *calls], [made[-1]]), made


def overlap(memory: Memory, a: Value, b: Value) -> bool:
    p, q = memory.places[a], memory.places[b]
    return p.storage == q.storage and p.offset < q.offset + b.bytes and q.offset < p.offset + a.bytes


def test_a_chain_takes_turns_in_two_places_and_the_result_has_its_own() -> None:
    program, made = chain(640, 640, 640, 640, 64)
    memory = plan_memory(program)
    assert [memory.places[v] for v in made] == [Place(0, 0), Place(0, 640), Place(0, 0), Place(0, 640), Place(1, 0)]
    assert memory.storages == (1280, 64)


def test_what_is_read_late_is_not_written_over() -> None:
    program, made = chain(640, 640, 640, 640)
    last = value()
    program.ops.append(Call("add", (made[0], made[-1]), last))
    program.results = [last]
    memory = plan_memory(program)
    assert not any(overlap(memory, made[0], v) for v in made[1:])


def test_a_small_value_takes_the_place_read_last() -> None:
    """Of the free ones, that whose reader ran just before, not the first that fits."""
    program, made = chain(640, 1280, 6400, 64, 64, 64)
    memory = plan_memory(program)
    small = made[-2]
    assert overlap(memory, small, made[2])
    assert memory.places[small].offset == memory.places[made[2]].offset


def test_small_ones_lie_side_by_side_where_a_large_one_was() -> None:
    x, large, a, b, end = (value(size) for size in (64, 6400, 640, 640, 64))
    ops: list[Op] = [Given("x", x), Call("f", (x,), large)]
    middle = value(64)
    ops += [Call("f", (large,), middle), Call("f", (middle,), a), Call("f", (middle,), b), Call("f", (a, b), end)]
    memory = plan_memory(Program(ops, [end]))
    assert overlap(memory, a, large)
    assert overlap(memory, b, large)
    assert memory.storages == (6464, 64)


def test_views_and_foreign_results_keep_what_they_may_lie_in() -> None:
    for between in (lambda v, w: View(v, w), lambda v, w: Foreign(lambda *_: [], (v,), (w,))):
        program, made = chain(640, 640, 640)
        seen = Value((10, 16), "float32")
        program.ops.insert(2, between(made[0], seen))
        last = value()
        program.ops.append(Call("add", (seen, made[-1]), last))
        program.results = [last]
        memory = plan_memory(program)
        assert not any(overlap(memory, made[0], v) for v in made[1:])


def test_a_view_as_the_result_keeps_its_memory() -> None:
    program, made = chain(640, 640, 640)
    seen = Value((10, 16), "float32")
    program.ops.append(View(made[0], seen))
    program.results = [seen]
    found = lives(program)
    assert [found[v].kept for v in made] == [True, False, False]


def test_joined_parts_lie_one_behind_the_other() -> None:
    x, a, b, c, inner, outer = (value(size) for size in (64, 64, 128, 192, 192, 384))
    ops: list[Op] = [Given("x", x), Call("f", (x,), a), Call("f", (a,), b), Join((a, b), inner), Call("f", (inner,), c)]
    other = value(384)
    end = value()
    ops += [Join((c, inner), outer), Call("f", (outer,), other), Call("f", (other,), end)]
    program = Program(ops, [end])
    memory = plan_memory(program)
    base = memory.places[outer]
    offsets = [memory.places[v].offset - base.offset for v in (a, b, c, inner, outer)]
    assert offsets == [192, 256, 0, 192, 0]
    assert not overlap(memory, other, outer)
    assert most_alive(program) == 384 * 2 + 64


@pytest.mark.parametrize("parts", [(60, 64), (64, 64, 64), "twice"])
def test_joins_that_cannot_be_are_refused(parts: object) -> None:
    x = value()
    made = [value(s) for s in ((64, 64) if parts == "twice" else parts)]  # type: ignore[attr-defined]
    joined = [Join((made[0], made[0]) if parts == "twice" else tuple(made), value(128))]
    with pytest.raises(ValueError, match="join"):
        plan_memory(Program([Given("x", x), *(Call("f", (x,), m) for m in made), *joined], []))


def test_a_slice_lies_in_what_it_is_of_and_both_live_as_long() -> None:
    x, wide, part, last, end = value(), value(192), value(64), value(64), value()
    ops: list[Op] = [Given("x", x), Call("f", (x,), wide), Slice(wide, 128, part), Call("f", (x,), last)]
    memory = plan_memory(Program([*ops, Call("f", (part, last), end)], [end]))
    assert memory.places[part].offset == memory.places[wide].offset + 128
    assert not overlap(memory, wide, last)


@pytest.mark.parametrize("first", [True, False])
def test_a_slice_that_is_a_part_as_well_joins_both_wholes(first: bool) -> None:
    """|  wide | part |            or |         | part | wide  |
    |       | part | other |       | other   | part |       |"""
    x, wide, part, other, joined, end = (value(size) for size in (64, 192, 64, 128, 192, 64))
    ops: list[Op] = [Given("x", x), Call("f", (x,), wide), Slice(wide, 128 if first else 0, part)]
    parts = (part, other) if first else (other, part)
    ops += [Call("f", (x,), other), Join(parts, joined), Call("f", (joined,), end)]
    program = Program(ops, [end])
    memory = plan_memory(program)
    base = min(memory.places[v].offset for v in (wide, joined))
    offsets = [memory.places[v].offset - base for v in (wide, part, other, joined)]
    assert offsets == ([0, 128, 192, 128] if first else [128, 128, 0, 0])
    assert memory.storages == (320, 64)
    assert most_alive(program) == 384


def test_what_would_be_written_over_is_refused() -> None:
    x, wide, a, b, one, two = (value(size) for size in (64, 192, 64, 64, 128, 128))
    ops: list[Op] = [Given("x", x), Call("f", (x,), wide), Slice(wide, 64, a), Call("f", (x,), b)]
    with pytest.raises(ValueError, match="write over"):
        plan_memory(Program([*ops, Join((a, b), one)], []))
    c = value()
    with pytest.raises(ValueError, match="write over"):
        plan_memory(Program([Given("x", x), *(Call("f", (x,), v) for v in (a, b, c)), Join((a, b), one),
                             Join((a, c), two)], []))  # fmt: skip
    for offset in (32, 160):
        with pytest.raises(ValueError, match="slice"):
            plan_memory(Program([Given("x", x), Call("f", (x,), wide), Slice(wide, offset, a)], []))


@pytest.mark.parametrize("seed", range(30))
def test_no_two_that_are_alive_share_memory(seed: int) -> None:
    rng = random.Random(seed)
    made = [value()]
    program = Program([Given("x", made[0])])
    joined: set[Value] = set()
    for _ in range(40):
        if rng.random() < 0.2 and len(free := [v for v in made[1:] if v not in joined]) > 2:
            parts = tuple(rng.sample(free, 2))
            joined.update(parts)
            out = value(sum(p.bytes for p in parts))
            program.ops.append(Join(parts, out))
        else:
            out = value(64 * rng.randint(1, 20))
            program.ops.append(Call("f", tuple(rng.sample(made, min(2, len(made)))), out))
        made.append(out)
    program.results = made[-2:]
    memory, found = plan_memory(program), lives(program)
    for (a, first), (b, second) in combinations(found.items(), 2):
        if overlap(memory, a, b):
            assert not first.meets(second)
        if memory.places[a].storage == memory.places[b].storage:
            assert not first.kept
            assert not second.kept
    for v, place in memory.places.items():
        assert place.offset % ALIGNMENT == 0
        assert place.offset + v.bytes <= memory.storages[place.storage]
    assert most_alive(program) <= memory.bytes <= 1.5 * most_alive(program)


def test_what_lanes_read_and_write_is_alive_at_the_same_time() -> None:
    """Also what passes from kernel to kernel within one of them: the others are at work meanwhile."""
    x, a, b, c, y = value(), value(640), value(640), value(640), value(640)
    lanes = Lane((Call("f", (a,), b), Call("f", (b,), c)), 1), Lane((Call("g", (a,), y),), 1)
    z, out = value(640), value()
    program = Program([Given("x", x), Call("f", (x,), a), Together("t", lanes), Call("add", (c, y), z),
                       Call("h", (z,), out)], [out])  # fmt: skip
    memory = plan_memory(program)
    assert not any(overlap(memory, p, q) for p, q in combinations((a, b, c, y), 2))
    assert any(overlap(memory, z, v) for v in (a, b))
    assert memory.storages == (4 * 640, 64)
    assert most_alive(program) == 4 * 640 + 64
