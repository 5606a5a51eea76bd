"""What counts as spilling: registers that wait in memory between products, not those of what runs once per tile."""

from __future__ import annotations

from tuner.build.linking import spills

MOVES = "\tvmovaps\t%zmm3, 64(%rsp)\n\tvmovups\t-128(%rbp), %zmm7\n"
PRODUCTS = (
    "\tvfmadd231ps\t(%rax), %zmm0, %zmm1\n\tvfmadd231ps\t(%rax), %zmm2, %zmm3\n\tvdpbf16ps\t%zmm1, %zmm2, %zmm3\n"
)
SUMS = "\tvaddps\t%zmm1, %zmm2, %zmm3\n\tvsubps\t%zmm1, %zmm2, %zmm3\n"


FRAME = "kernel:\n\tpushq\t%rbp\n\tmovq\t%rsp, %rbp\n"


def test_moves_between_products_count() -> None:
    assert spills(f"{FRAME}.LBB0_1:\n{PRODUCTS}{MOVES}\tjne\t.LBB0_1\n") == 2
    assert spills(f"{FRAME}.LBB0_1:\n{PRODUCTS}{MOVES}.LBB0_2:\n{PRODUCTS}{MOVES}") == 4


def test_sums_of_integers_that_wait_count_as_well() -> None:
    products = "\tvpdpbusd\t%zmm1, %zmm2, %zmm3\n" * 3
    moves = "\tvmovdqa64\t%zmm3, 64(%rsp)\n\tvmovdqu64\t-128(%rbp), %zmm7\n\tvmovdqu64\t(%rax), %zmm7\n"
    assert spills(f"{FRAME}.LBB0_1:\n{products}{moves}") == 2


def test_the_frame_pointer_is_the_stack_only_where_a_frame_begins_at_it() -> None:
    loop = f".LBB0_1:\n{PRODUCTS}{MOVES}"
    assert spills(f"kernel:\n{loop}") == 1  # the other move is of weights, whose address the register holds
    assert spills(f"{FRAME}{loop}\t.cfi_endproc\nother:\n{loop}\t.cfi_endproc\n") == 3


def test_moves_in_transforms_and_between_loops_do_not() -> None:
    assert spills(f".LBB0_1:\n{PRODUCTS}{SUMS}{SUMS}{MOVES}") == 0  # a transform multiplies and adds about as often
    assert spills(f".LBB0_1:\n{PRODUCTS}.LBB0_2:\n{MOVES}") == 0


def test_only_whole_vectors_on_the_stack_count() -> None:
    others = "\tvmovaps\t%xmm3, 64(%rsp)\n\tvmovaps\t%zmm3, 64(%rdi)\n\tvmovaps\t%zmm3, %zmm4\n"
    assert spills(f".LBB0_1:\n{PRODUCTS}{others}") == 0
