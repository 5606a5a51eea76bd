"""einsum-to-matmul: which equations become products, and that results stay."""

from __future__ import annotations

import pytest
from graph_models import check, model, node, ops

PASS = "einsum-to-matmul"
EXTENTS = {"b": 2, "h": 3, "i": 4, "j": 5, "k": 6, "l": 2}


def product(equation: str) -> dict[str, int]:
    """Operators that are left of it."""
    names = equation.replace(" ", "").split("->")[0].split(",")
    inputs = {name: [EXTENTS[i] for i in indices] for name, indices in zip("xz", names, strict=False)}
    proto = model([node("Einsum", list(inputs), "y", equation=equation)], inputs, ["y"])
    return ops(check(proto, PASS, rtol=1e-5))


@pytest.mark.parametrize(
    "equation",
    [
        "ij,jk->ik", "bij,jk->bik", "bij,bjk->bik", "bhik,bhjk->bhij", "bhij,bhjk->bihk", "bki,bkj->bij", "ij,kj->ki",
        "bijk,jkl->bil", "ij,jkl->ikl", "j,jk->k", "bj,bj->b", "hij, bjk -> bhik", "ijk,ijk->i", "bihk,bjhk->bhij",
    ],
)  # fmt: skip
def test_a_product_in_any_order(equation: str) -> None:
    found = product(equation)
    assert found["MatMul"] == 1 and found.keys() <= {"MatMul", "Transpose", "Reshape"}


def test_a_product_that_lies_right_is_nothing_else() -> None:
    assert product("bhij,bhjk->bhik") == {"MatMul": 1}
    assert product("bhik,bhjk->bhij") == {"MatMul": 1, "Transpose": 1}


@pytest.mark.parametrize("equation", ["ij->ji", "ij,jk", "ii,ij->j", "ij,kl->ijkl", "ij,jk->k", "ij,ij->ij"])
def test_others_stay(equation: str) -> None:
    assert product(equation) == {"Einsum": 1}


def test_indices_that_are_not_named_stay() -> None:
    inputs = {"x": [2, 4, 5], "z": [2, 5, 6]}
    proto = model([node("Einsum", ["x", "z"], "y", equation="...ij,...jk->...ik")], inputs, ["y"])
    assert ops(check(proto, PASS)) == {"Einsum": 1}
