"""Which kernels a model can afford within a limit on its memory: Winograd's weights, say, are up to four times as many.

Of each block the fastest known kernel of every template takes part. A price per byte of packed weights decides between
them, the lowest at which all fit (the knapsack's Lagrange multiplier: Everett, Operations Research 11, 1963); what the
blocks leave is then spent on what saves most time for its bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from math import inf

from tuner.search.questions import Answer, Asked, Question
from tuner.types import Candidate

Weigh = Callable[[Candidate], int]  # bytes of a kernel's packed constants
LEAST = 1e-18  # seconds per byte: a price that decides nothing
STEPS = 60  # in which the price is found


@dataclass(frozen=True)
class Option:
    """One way to answer a question: seconds and bytes for all blocks that ask it."""

    answer: Answer
    seconds: float
    bytes: int


def affordable(
    asked: Asked, excess: int, weigh: Weigh, without: Collection[str] = ()
) -> Mapping[tuple[str, ...], Answer] | None:  # fmt: skip
    """An answer by block such that all packed weights take ``excess`` bytes less than with the fastest answers.

    None where that is more than can be saved.
    """
    questions = list({id(question): question for question in asked.values()}.values())
    options = [_options(question, weigh, without, sum(q is question for q in asked.values())) for question in questions]
    room = _bytes(_priced(options, 0.0)) - excess
    cheap, dear = LEAST, 1.0  # seconds per byte
    if _bytes(_priced(options, dear)) > room:
        return None
    for _ in range(STEPS):
        middle = (cheap * dear) ** 0.5
        cheap, dear = (cheap, middle) if _bytes(_priced(options, middle)) <= room else (middle, dear)
    chosen = _spent(options, _priced(options, dear), room)
    by_question = {id(question): option.answer for question, option in zip(questions, chosen, strict=True)}
    return {layers: by_question[id(question)] for layers, question in asked.items()}


def _options(question: Question, weigh: Weigh, without: Collection[str], uses: int) -> list[Option]:
    found = []
    for (name, cores), search in question.searches.items():
        if search.best and name not in without:
            knobs, seconds = search.best
            answer = Answer(name, knobs, cores, seconds)
            found.append(Option(answer, uses * seconds, uses * weigh(search.with_knobs(knobs))))
    if found:
        return found
    answer = question.unmeasured(without)
    search = next(s for (name, _), s in question.searches.items() if name == answer.template)
    return [Option(answer, 0.0, uses * weigh(search.with_knobs(answer.knobs)))]


def _priced(options: Sequence[Sequence[Option]], price: float) -> list[Option]:
    return [min(each, key=lambda o: (o.seconds + price * o.bytes, o.bytes)) for each in options]


def _spent(options: Sequence[Sequence[Option]], chosen: list[Option], room: int) -> list[Option]:
    """``chosen`` with faster options as long as there is room for one, the best bargain first."""
    while True:
        left = room - _bytes(chosen)
        bargains = [
            ((now.seconds - other.seconds) / max(other.bytes - now.bytes, 1), i, other)
            for i, (now, each) in enumerate(zip(chosen, options, strict=True))
            for other in each
            if other.seconds < now.seconds and other.bytes - now.bytes <= left
        ]
        _, i, other = max(bargains, key=lambda b: b[:2], default=(-inf, 0, None))
        if other is None:
            return chosen
        chosen = [*chosen[:i], other, *chosen[i + 1 :]]


def _bytes(chosen: Sequence[Option]) -> int:
    return sum(option.bytes for option in chosen)
