"""Every kernel template keeps the contract of KernelTemplate: random workloads against plain numpy in float64."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from kernel_cases import GENERATORS, check, generate, machines_of, runs_here

from tuner.kernels.registry import TEMPLATES, serving
from tuner.precision import PRECISIONS, allowed_in
from tuner.types import Device

SEEDS = 20
BY_NAME = {t.name: t for t in TEMPLATES}


def few() -> Iterator[tuple[str, str, int]]:
    """Seeds shared out among the instruction sets that this processor has, the widest first."""
    for name in BY_NAME:
        here = [machine for machine, made in machines_of(name).items() if runs_here(made)]
        for seed in range(SEEDS if here else 0):
            yield name, here[-1 - seed % len(here)], seed


def test_every_template_has_a_generator_of_cases() -> None:
    assert BY_NAME.keys() <= GENERATORS.keys()


@pytest.mark.parametrize(("name", "machine", "seed"), list(few()))
def test_kernels_are_right(name: str, machine: str, seed: int) -> None:
    made = machines_of(name)[machine]
    check(BY_NAME[name], generate(name, made, seed), made)


@pytest.mark.parametrize("name", GENERATORS)
def test_every_template_that_accepts_a_case_is_asked(name: str) -> None:
    for machine in machines_of(name).values():
        for seed in range(20):
            case = generate(name, machine, seed)
            accepting = [t for t in TEMPLATES if t.accepts(case.workload, case.layouts, machine)]
            for precision in PRECISIONS:
                allowed = [t for t in accepting if t.precision in allowed_in(precision)]
                assert allowed == list(serving(case.workload, case.layouts, machine, precision))


@pytest.mark.slow
@pytest.mark.parametrize("part", range(10))
@pytest.mark.parametrize("name", BY_NAME)
def test_many_kernels_are_right(name: str, part: int) -> None:
    for machine in filter(runs_here, machines_of(name).values()):
        for seed in range(1000 + 20 * part, 1000 + 20 * (part + 1)):
            check(BY_NAME[name], generate(name, machine, seed), machine)


@pytest.mark.parametrize("name", BY_NAME)
def test_spaces_are_small_enough_to_hold_and_have_no_point_twice(name: str) -> None:
    machines: list[Device] = list(machines_of(name).values())
    for seed in range(12):
        machine = machines[seed % len(machines)]
        case = generate(name, machine, seed)
        space = BY_NAME[name].space(case.workload, case.layouts, machine)
        assert 1 <= len(space.points) <= space.bound < 100_000
        assert len({tuple(p.items()) for p in space.points}) == len(space.points)
        assert all(p in space for p in space.points)
        assert {"nothing": 1} not in space
        assert {**space.default, "more": 1} not in space
