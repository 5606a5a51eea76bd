"""Programs: memory shared by tensors that never meet, and names and dependencies of calls."""

from __future__ import annotations

import pytest

from tests.unit.gpu.gpu_programs import chain, fork
from tuner.gpu.program import Program, buffers


def test_a_program_survives_json() -> None:
    program = fork(3)
    again = Program.from_json(program.to_json())
    assert again == program and again.hash == program.hash


def test_calls_of_one_function_have_names_of_their_own() -> None:
    assert chain(3).names == ("f", "f#1", "f#2")


def test_what_reads_a_view_needs_what_wrote_the_tensor() -> None:
    program = chain(3, viewed=True)
    assert program.needs == (frozenset(), frozenset({0}), frozenset({1}))


def test_a_chain_needs_memory_for_two_tensors_alone() -> None:
    program = chain(6)
    pieces, sizes = buffers(program, [[call] for call in range(6)])
    one = program.slots[program.calls[0].writes[0]].bytes
    assert len(pieces) == 6 and sizes == [one, one]


@pytest.mark.parametrize("together", [False, True])
def test_tensors_that_live_at_the_same_time_never_share_memory(together: bool) -> None:
    program = fork(3)
    stages = [[0], [1, 2, 3], [4]] if together else [[call] for call in range(5)]
    pieces, sizes = buffers(program, stages)
    when = {call: number for number, stage in enumerate(stages) for call in stage}
    lives = {}
    for call, known in enumerate(program.calls):
        for slot in known.writes:
            readers = [when[c] for c, other in enumerate(program.calls) if slot in other.reads]
            lives[slot] = (when[call], len(stages) if slot in program.outputs else max(readers))
            assert program.slots[slot].bytes <= sizes[pieces[slot]]
    for a, (begin, end) in lives.items():
        for b, (begin2, end2) in lives.items():
            if a != b and begin <= end2 and begin2 <= end:
                assert pieces[a] != pieces[b]


def test_outputs_are_kept_to_the_end() -> None:
    program = chain(4, kept=0)  # the first call's tensor is an output
    pieces, _ = buffers(program, [[call] for call in range(4)])
    first = pieces[program.calls[0].writes[0]]
    assert all(pieces[call.writes[0]] != first for call in program.calls[1:])
