"""Elementary functions as vectorisable float32 expressions (LLVM would call libm lane by lane).

exp: range reduction to |r| <= ln2/2 and a degree-6 minimax-like Taylor polynomial (Cephes' scheme), relative error
below 3e-7 on the whole range. sigmoid: 2**f on [-1/2, 1/2] of degree 5, least squares reweighted towards minimax. erf:
one rational function, absolute error below 5e-7. log(1 + z) / z on [0, 1]: of degree 8, fitted alike.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tvm import tirx

Expr = Any
_EXP = (1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1)
_EXP2 = (1.327647129e-3, 9.675541893e-3, 5.550713093e-2, 2.402212024e-1, 6.931469440e-1, 1.000000119)
_LOG1P = (
    5.231683516e-3, -2.950053438e-2, 7.821706391e-2, -1.366236872e-1, 1.910552329e-1, -2.484283508e-1, 3.331907409e-1,
    -4.999949170e-1, 9.999999697e-1,
)  # fmt: skip
_ERF_ABOVE = (2.050393547e-6, 2.874571511e-4, 3.836859756e-3, 5.296686664e-2, 1.919405917e-1, 1.128379032)
_ERF_BELOW = (3.823080231e-5, 1.181731012e-3, 1.510917053e-2, 1.147580332e-1, 5.034346986e-1, 1.0)


def const(value: float) -> Expr:
    return tirx.const(float(value), "float32")


def from_bf16(bits: Expr) -> Expr:
    """The float32 whose upper half these 16 bits are."""
    return tirx.reinterpret("float32", bits.astype("uint32") << tirx.const(16, "uint32"))


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
        return _horner(_EXP, r) * r * r + r + const(1.0)

    def power(n: Expr) -> Expr:
        return tirx.reinterpret("float32", (n.astype("int32") + tirx.const(127, "int32")) << tirx.const(23, "int32"))

    return let(tirx.max(tirx.min(x, const(88.0)), const(-87.3)), reduced)


def exp_below_one(x: Expr) -> Expr:
    """e**x for x <= 0; flushes to about 1e-38. Relative error as ``exp``'s, with fewer steps.

    Adding 1.5 * 2**23 rounds to a whole number and leaves it in the lowest bits, from where it goes into the exponent.
    """
    magic = const(12582912.0)

    def bits(value: Expr) -> Expr:
        return tirx.reinterpret("int32", value)

    def reduced(x: Expr) -> Expr:
        return let(x * const(1.4426950408889634) + magic, lambda t: let(t - magic, lambda n: scaled(x, n, t)))

    def scaled(x: Expr, n: Expr, t: Expr) -> Expr:
        r = x - n * const(0.693359375) - n * const(-2.12194440e-4)
        power = let(r, lambda v: let(_horner((*_EXP, 1.0, 1.0), v), bits))
        return tirx.reinterpret("float32", power + (bits(t) << tirx.const(23, "int32")))

    return let(tirx.max(x, const(-87.3)), reduced)


def sigmoid(x: Expr) -> Expr:
    """1 / (1 + e**-x); relative error below 1.3e-6 from -87 on, below which it stays at about 1.6e-38.

    Without fused multiply-adds the error grows with -x, up to 4e-6.

    e**-x is 2**n * 2**f, with the whole number n rounded and put into the exponent as in ``exp_below_one``.
    """
    magic, rate = const(12582912.0), const(-1.4426950408889634)

    def bits(value: Expr) -> Expr:
        return tirx.reinterpret("int32", value)

    def reduced(x: Expr) -> Expr:
        return let(x * rate + magic, lambda n: let(x * rate - (n - magic), lambda f: scaled(f, n)))

    def scaled(f: Expr, n: Expr) -> Expr:
        power = bits(_horner(_EXP2, f)) + (bits(n) << tirx.const(23, "int32"))
        return const(1.0) / (const(1.0) + tirx.reinterpret("float32", power))

    return let(tirx.max(tirx.min(x, const(87.0)), const(-87.0)), reduced)


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


def softplus(x: Expr) -> Expr:
    """log(1 + e**x) as max(x, 0) + log(1 + e**-|x|): relative error below 1e-6 from -87 on."""
    return let(
        x,
        lambda v: (
            tirx.max(v, const(0.0)) + let(exp_below_one(const(0.0) - tirx.abs(v)), lambda z: z * _horner(_LOG1P, z))
        ),
    )


def erf(x: Expr) -> Expr:
    """x P(x^2) / Q(x^2) on [-3.9, 3.9], beyond which erf is 1 to 4e-8; least squares, reweighted towards minimax."""

    def rational(x: Expr) -> Expr:
        return let(x * x, lambda z: x * _horner(_ERF_ABOVE, z) / _horner(_ERF_BELOW, z))

    return let(tirx.max(tirx.min(x, const(3.9)), const(-3.9)), rational)


def _horner(coefficients: Sequence[float], z: Expr) -> Expr:
    """The polynomial with these coefficients, the highest power's first."""
    value = const(coefficients[0])
    for c in coefficients[1:]:
        value = value * z + const(c)
    return value


def _signed(x: Expr, magnitude: Expr) -> Expr:
    return tirx.Select(x < const(0.0), const(0.0) - magnitude, magnitude)


def log(x: Expr) -> Expr:
    return tirx.log(x)
