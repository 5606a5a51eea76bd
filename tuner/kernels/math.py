"""Elementary functions as vectorisable float32 expressions (LLVM would call libm lane by lane).

exp: range reduction to |r| <= ln2/2 and a degree-6 minimax-like Taylor polynomial (Cephes' scheme), relative error
below 3e-7 on the whole range. erf: Abramowitz & Stegun 7.1.26 refined by a rational form, absolute error below 5e-7.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tvm import tirx

Expr = Any


def const(value: float) -> Expr:
    return tirx.const(float(value), "float32")


def let(value: Expr, body: Callable[[Expr], Expr]) -> Expr:
    """``body`` of ``value``, computed once: in a tree, a value used eight times is eight trees."""
    name = tirx.Var("v", "float32")
    return tirx.Let(name, value, body(name))


def exp(x: Expr) -> Expr:
    """e**x; saturates at about 1.6e38 and flushes to about 1e-38."""

    def reduced(x: Expr) -> Expr:
        return let(
            tirx.floor(x * const(1.4426950408889634) + const(0.5)),
            lambda n: let(x - n * const(0.693359375) - n * const(-2.12194440e-4), lambda r: polynomial(r) * power(n)),
        )

    def polynomial(r: Expr) -> Expr:
        p = const(1.9875691500e-4)
        for c in (1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1):
            p = p * r + const(c)
        return p * r * r + r + const(1.0)

    def power(n: Expr) -> Expr:
        return tirx.reinterpret("float32", (n.astype("int32") + tirx.const(127, "int32")) << tirx.const(23, "int32"))

    return let(tirx.max(tirx.min(x, const(88.0)), const(-87.3)), reduced)


def sigmoid(x: Expr) -> Expr:
    return const(1.0) / (const(1.0) + exp(const(0.0) - x))


def tanh(x: Expr) -> Expr:
    """Odd polynomial below 0.625 (Cephes), 1 - 2/(e^2x + 1) above: relative error below 1e-6 everywhere."""

    def both(x: Expr) -> Expr:
        a = tirx.abs(x)

        def polynomial(z: Expr) -> Expr:
            p = const(-5.70498872745e-3)
            for c in (2.06390887954e-2, -5.37397155531e-2, 1.33314422036e-1, -3.33332819422e-1):
                p = p * z + const(c)
            return p * z * x + x

        small = let(x * x, polynomial)
        big = let(const(1.0) - const(2.0) / (exp(a * const(2.0)) + const(1.0)), lambda y: _signed(x, y))
        return tirx.Select(a < const(0.625), small, big)

    return let(x, both)


def erf(x: Expr) -> Expr:
    """Maclaurin polynomial below 0.5, complement with exp above (Numerical Recipes' erfc, Chebyshev fit)."""

    def tail(a: Expr) -> Expr:
        def fitted(t: Expr) -> Expr:
            p = const(0.17087277)
            for c in (-0.82215223, 1.48851587, -1.13520398, 0.27886807, -0.18628806, 0.09678418, 0.37409196,
                      1.00002368, -1.26551223):  # fmt: skip
                p = p * t + const(c)
            return const(1.0) - t * exp(p - a * a)

        return let(const(1.0) / (const(1.0) + const(0.5) * a), fitted)

    def head(z: Expr) -> Expr:
        q = const(8.0e-5)  # terms of 2/sqrt(pi) * (1 - z/3 + z^2/10 - z^3/42 + z^4/216 - ...)
        for c in (-8.548327023e-4, 5.2239776254e-3, -2.6866170645e-2, 1.1283791671e-1, -3.7612638903e-1, 1.1283791671):
            q = q * z + const(c)
        return q

    def both(x: Expr) -> Expr:
        a = tirx.abs(x)
        big = let(let(a, tail), lambda y: _signed(x, y))
        return tirx.Select(a < const(0.5), let(x * x, head) * x, big)

    return let(x, both)


def _signed(x: Expr, magnitude: Expr) -> Expr:
    return tirx.Select(x < const(0.0), const(0.0) - magnitude, magnitude)


def log(x: Expr) -> Expr:
    return tirx.log(x)
