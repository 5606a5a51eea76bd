"""The memory plan: nothing alive is written over, results keep their own memory, the warmest free storage is taken."""

from __future__ import annotations

import random
from itertools import combinations

import pytest

from tuner.build.memory import ALIGNMENT, Place, lives, most_alive, plan_memory
from tuner.build.program import Call, Foreign, Given, Join, Op, Program, Value, View


def value(size: int = 64) -> Value:
    """``size`` bytes."""
    return Value((size // 4,), "float32")


def chain(*sizes: int) -> tuple[Program, list[Value]]:
    """x -> v0 -> v1 ... each written by a kernel that reads the one before; the last is the result."""
    x = value()
    made = [value(size) for size in sizes]
    calls = [Call("f", (before,), out) for before, out in zip([x, *made], made, strict=False)]
    return Program([Given("x", x), *calls], [made[-1]]), made


def test_a_chain_takes_turns_in_two_storages_and_the_result_has_its_own() -> None:
    program, made = chain(640, 640, 640, 640, 64)
    memory = plan_memory(program)
    assert [memory.places[v].storage for v in made] == [0, 1, 0, 1, 2]
    assert memory.storages == (640, 640, 64)


def test_what_is_read_late_is_not_written_over() -> None:
    program, made = chain(640, 640, 640, 640)
    last = value()
    program.ops.append(Call("add", (made[0], made[-1]), last))
    program.results = [last]
    storage = plan_memory(program).places
    assert storage[made[0]].storage not in {storage[v].storage for v in made[1:]}


def test_a_small_value_takes_the_storage_read_last() -> None:
    """Of two free storages, the one whose reader ran just before."""
    x, a, b, c, d, small = (value(size) for size in (64, 6400, 640, 64, 64, 64))
    ops: list[Op] = [Given("x", x), Call("f", (x,), a), Call("f", (a,), b), Call("f", (b,), c), Call("f", (c,), d)]
    ops.append(Call("f", (d,), small))
    end = value()
    program = Program([*ops, Call("f", (small,), end)], [end])
    places = plan_memory(program).places
    assert places[c].storage == places[a].storage  # b's storage is still read
    assert places[d].storage == places[b].storage


def test_views_and_foreign_results_keep_what_they_may_lie_in() -> None:
    for between in (lambda v, w: View(v, w), lambda v, w: Foreign(lambda *_: [], (v,), (w,))):
        program, made = chain(640, 640, 640)
        seen = Value((10, 16), "float32")
        program.ops.insert(2, between(made[0], seen))
        last = value()
        program.ops.append(Call("add", (seen, made[-1]), last))
        program.results = [last]
        storage = plan_memory(program).places
        assert storage[made[0]].storage not in {storage[v].storage for v in made[1:]}


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
    base = memory.places[outer].storage
    assert [memory.places[v] for v in (a, b, c, inner, outer)] == [
        Place(base, o) for o in (192, 256, 0, 192, 0)
    ]  # fmt: skip
    assert memory.places[other].storage != base
    assert most_alive(program) == 384 * 2 + 64


@pytest.mark.parametrize("parts", [(60, 64), (64, 64, 64), "twice"])
def test_joins_that_cannot_be_are_refused(parts: object) -> None:
    x = value()
    made = [value(s) for s in ((64, 64) if parts == "twice" else parts)]  # type: ignore[attr-defined]
    joined = [Join((made[0], made[0]) if parts == "twice" else tuple(made), value(128))]
    with pytest.raises(ValueError, match="join"):
        plan_memory(Program([Given("x", x), *(Call("f", (x,), m) for m in made), *joined], []))


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
        if memory.places[a].storage == memory.places[b].storage:
            assert not first.meets(second)
            assert not first.kept
            assert not second.kept
    for v, place in memory.places.items():
        assert place.offset % ALIGNMENT == 0
        assert place.offset + v.bytes <= memory.storages[place.storage]
    assert most_alive(program) <= memory.bytes <= 2 * most_alive(program)
