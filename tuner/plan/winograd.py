"""Winograd's minimal filtering F(m x m, r x r): matrices and the weight transform. Standard library and numpy only.

Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks" (2015): Y = A^T [(G g G^T) * (B^T d B)] A. The
matrices are Cook's and Toom's: m outputs of a filter with r taps come from the values of polynomials at m + r - 2
points and at infinity (Blahut, "Fast Algorithms for Signal Processing", 2010, chapter 5).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cache

import numpy as np

POINTS = tuple(Fraction(p) for p in (0, 1, -1, 2, -2, 0.5, -0.5))  # of which a transform takes the first
Matrix = tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class Matrices:
    """Of one dimension: A^T [m, a], B^T [a, a] and G [a, r], a = (m - 1) stride + r."""

    a_t: Matrix
    b_t: Matrix
    g: Matrix


def matrices(m: int, r: int, stride: int = 1) -> Matrices:
    """Those of F(m, r); with a stride of 2, of F(m, r) that leaves out every other output.

    That is the sum of two convolutions without a stride, of the even pixels with the taps 0, 2, ... and of the odd ones
    with those between. Its matrices are theirs side by side.
    """
    if stride == 1:
        return _toom(m, r)
    size = 2 * (m - 1) + r
    halves = [_toom(m, (r + 1) // 2), _toom(m, r // 2)]
    a_t = [left + right for left, right in zip(halves[0].a_t, halves[1].a_t, strict=True)]
    b_t = [_every_other(row, first, size) for first in (0, 1) for row in halves[first].b_t]
    g = [_every_other(row, first, r) for first in (0, 1) for row in halves[first].g]
    return Matrices(tuple(a_t), tuple(b_t), tuple(g))


def _every_other(row: Sequence[float], first: int, size: int) -> tuple[float, ...]:
    """The numbers at ``first`` and every other place from there, zeros between them."""
    return tuple(row[(k - first) // 2] if k % 2 == first else 0.0 for k in range(size))


@cache
def _toom(m: int, r: int) -> Matrices:
    """Those of F(m, r), m + r at most 9: the points beyond are not there.

    Row by row B^T holds the product of (x - q) over the other points q, for infinity over all; G the powers of the
    point over that product's value there. The first and the last row of B^T begin positive, as Lavin and Gray's do.
    """
    if r == 1:
        same = tuple(tuple(float(i == k) for k in range(m)) for i in range(m))
        return Matrices(same, same, ((1.0,),) * m)
    points = POINTS[: m + r - 2]
    b_t = [_product([q for q in points if q != p]) for p in points] + [_product(points)]
    scale = [1 / _value(row, p) for row, p in zip(b_t, points, strict=False)]
    signs = [1 if next(v for v in b_t[row] if v) > 0 else -1 for row in (0, -1)]
    a_t = [[*(p**i for p in points), Fraction(signs[1] * (i == m - 1))] for i in range(m)]
    g = [[p**k * s for k in range(r)] for p, s in zip(points, scale, strict=True)]
    g = [[v * signs[0] for v in g[0]], *g[1:], [Fraction(k == r - 1) for k in range(r)]]
    b_t = [[v * signs[0] for v in b_t[0]], *b_t[1:-1], [v * signs[1] for v in b_t[-1]]]
    size = m + r - 1
    return Matrices(_floats(a_t), _floats([row + [Fraction(0)] * (size - len(row)) for row in b_t]), _floats(g))


def transform_weights(weights: np.ndarray, m: int, stride: int = 1) -> np.ndarray:
    """[OC, IC, r, r] -> [OC, IC, a, a], computed in float64."""
    g = np.asarray(matrices(m, weights.shape[-1], stride).g, dtype=np.float64)
    return np.asarray(np.einsum("ui,ocij,vj->ocuv", g, weights.astype(np.float64), g, optimize=True), weights.dtype)


def _product(roots: Sequence[Fraction]) -> list[Fraction]:
    """Coefficients of the polynomial with these roots, the constant one first."""
    found = [Fraction(1)]
    for root in roots:
        found = [low - root * high for low, high in zip([Fraction(0), *found], [*found, Fraction(0)], strict=True)]
    return found


def _value(polynomial: Sequence[Fraction], x: Fraction) -> Fraction:
    return sum((c * x**i for i, c in enumerate(polynomial)), Fraction(0))


def _floats(rows: Sequence[Sequence[Fraction]]) -> Matrix:
    return tuple(tuple(float(v) for v in row) for row in rows)
