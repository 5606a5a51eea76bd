"""What a model can afford: packed weights against seconds, block by block. Kernels and their sizes are made up."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from search_fakes import SMALL, question, trial

from tuner.search.affording import affordable
from tuner.search.knobs import KnobSearch
from tuner.search.questions import Asked, Question
from tuner.types import Candidate

HEAVY, LIGHT = "winograd", "conv2d"


def choice(heavy: float, light: float, uses: int = 1) -> Question:
    """A question with two answers, and what each takes in seconds."""
    made = question(SMALL, uses=uses)
    plain = made.searches[LIGHT, 4]
    candidate = replace(plain.candidate, template=HEAVY)
    made.searches[HEAVY, 4] = KnobSearch(candidate, plain.workload, SMALL, plain.device)
    for (name, _), search in made.searches.items():
        search.tell(trial(search.with_knobs(SMALL.default), heavy if name == HEAVY else light))
    return made


def blocks(*questions: Question) -> Asked:
    """Each question asked by as many blocks as it is used."""
    return {(f"{i}.{n}",): q for i, q in enumerate(questions) for n in range(q.uses)}


def weigh(candidate: Candidate) -> int:
    return 400 if candidate.template == HEAVY else 100


def taken(asked: Asked, excess: int) -> list[str] | None:
    found = affordable(asked, excess, weigh)
    return None if found is None else [found[layers].template for layers in asked]


def test_who_gains_least_for_its_bytes_gives_way_first() -> None:
    asked = blocks(choice(1e-4, 9e-4), choice(1e-4, 2e-4), choice(1e-4, 5e-4))
    assert taken(asked, 0) == [HEAVY] * 3
    assert taken(asked, 1) == taken(asked, 300) == [HEAVY, LIGHT, HEAVY]
    assert taken(asked, 301) == [HEAVY, LIGHT, LIGHT]
    assert taken(asked, 900) == [LIGHT] * 3
    assert taken(asked, 901) is None


def test_blocks_that_share_a_question_give_way_together() -> None:
    asked = blocks(choice(1e-4, 3e-4, uses=2), choice(1e-4, 2.5e-4))
    assert taken(asked, 300) == [HEAVY, HEAVY, LIGHT]
    assert taken(asked, 600) == [LIGHT, LIGHT, HEAVY]


def test_a_template_that_the_plan_does_without_is_no_option() -> None:
    asked = blocks(choice(1e-4, 2e-4))
    found = affordable(asked, 0, weigh, without=[HEAVY])
    assert found is not None and [a.template for a in found.values()] == [LIGHT]
    assert affordable(asked, 1, weigh, without=[HEAVY]) is None


def test_what_nobody_measured_keeps_its_default_and_its_weight() -> None:
    unknown = question(SMALL, uses=1)
    asked = blocks(choice(1e-4, 2e-4), unknown)
    assert taken(asked, 300) == [LIGHT, LIGHT]
    assert taken(asked, 301) is None


@pytest.mark.parametrize("seed", range(20))
def test_it_fits_and_is_near_the_best_that_fits(seed: int) -> None:
    random = np.random.default_rng(seed)
    times = [
        (float(t), float(t * r)) for t, r in zip(random.uniform(1e-4, 1e-3, 7), random.uniform(1.05, 3, 7), strict=True)
    ]
    sizes = {t: (int(w), int(w * 4)) for t, w in zip(times, random.integers(50, 500, 7), strict=True)}
    asked = blocks(*(choice(*t) for t in times))
    by_time = {seconds: size for t in times for seconds, size in zip(t, reversed(sizes[t]), strict=True)}

    def of_its_own(candidate: Candidate) -> int:
        searches = (s for q in asked.values() for s in q.searches.values())
        search = next(s for s in searches if s.candidate.template == candidate.template and id(s) not in seen)
        seen.add(id(search))
        assert search.best is not None
        return by_time[search.best[1]]

    full = sum(size[1] for size in sizes.values())
    excess = int(random.uniform(0.1, 0.9) * (full - sum(size[0] for size in sizes.values())))
    seen: set[int] = set()
    found = affordable(asked, excess, of_its_own)
    assert found is not None
    seconds = sum(a.seconds or 0.0 for a in found.values())
    assert sum(by_time[a.seconds or 0.0] for a in found.values()) <= full - excess
    every = (picks for picks in product((0, 1), repeat=7)
             if sum(sizes[t][1 - p] for t, p in zip(times, picks, strict=True)) <= full - excess)  # fmt: skip
    best = min(sum(t[p] for t, p in zip(times, picks, strict=True)) for picks in every)
    assert best <= seconds <= 1.15 * best
