r"""Functions of straight lines with kinks, by a composite sign at every kink.

With kinks t_1 < t_2 < ..., slope a before the first and jumps d_i of the slope,

    f(x) = f(t_1) + a (x - t_1) + sum_i d_i (x - t_i) (1 + sign(x - t_i)) / 2

(relu: a = 0, d = 1; abs: a = -1, d = 2). The approximation has s((x - t_i) / r) in the place of the
sign (`fhecompile.functions.sign`), with r the largest distance of a kink from an end of the
interval. It is as deep as s and one product, and off by sum_i |d_i| r / 2 times what u s(u) is off
from |u|: no polynomial of a degree that can be evaluated directly comes near that.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fhecompile.functions.approximation import Approximation
from fhecompile.functions.sign import CompositeSign, balanced_sign
from fhecompile.functions.table import ElementwiseFunction

FloatArray = NDArray[np.float64]

GRID = 32769


@dataclass(frozen=True)
class Lines:
    """The f of the module docstring: f(t_1), a, and (t_i, d_i)."""

    value: float
    slope: float
    kinks: tuple[tuple[float, float], ...]


@dataclass(frozen=True, eq=False)
class CompositeLines(Approximation):
    """See the module docstring; `centre` is t_1, `radius` r."""

    lines: Lines
    sign: CompositeSign

    @property
    def degrees(self) -> tuple[int, ...]:
        """Of the polynomials of the sign."""
        return tuple(len(p) - 1 for p in self.sign.polynomials)

    def terms(self) -> list[tuple[float, float, float]]:
        """(k, m, n) of every kink: the value is f(t_1) + sum (u - k) (m + n s(u - k))."""
        found = []
        for number, (kink, jump) in enumerate(self.lines.kinks):
            half = self.radius * jump / 2
            before = 0.0 if number else self.radius * self.lines.slope
            found.append(((kink - self.centre) / self.radius, before + half, half))
        return found

    def on_unit(self, u: FloatArray) -> FloatArray:
        """Its values at u."""
        value: FloatArray = np.full(np.shape(u), self.lines.value)
        for k, m, n in self.terms():
            value = value + (u - k) * (m + n * self.sign(u - k))
        return value


def lines_of(f: ElementwiseFunction, low: float, high: float) -> Lines | None:
    """The function on [low, high] as lines with kinks; None where it is something else there."""
    pieces = sorted((p for p in f.pieces if p.low < high and p.high > low), key=lambda p: p.low)
    if len(pieces) < 2 or any(len(p.coefficients) > 2 for p in pieces):
        return None
    slopes = [(*p.coefficients, 0.0)[1] for p in pieces]
    kinks = []
    for left, right, a, b in zip(pieces, pieces[1:], slopes, slopes[1:], strict=False):
        kink = right.low
        if left.high != kink or abs(_at(left.coefficients, kink) - _at(right.coefficients, kink)):
            return None
        kinks.append((kink, b - a))
    if pieces[0].low > low or pieces[-1].high < high:
        return None
    return Lines(_at(pieces[0].coefficients, kinks[0][0]), slopes[0], tuple(kinks))


def fit_composite(
    f: ElementwiseFunction, low: float, high: float, degrees: tuple[int, ...], unit: float
) -> CompositeLines:
    """The approximation on [low, high] by a sign of these degrees.

    Raises:
        ValueError: the function is not of lines with kinks there.
    """
    lines = lines_of(f, low, high)
    if lines is None:
        raise ValueError(f"{f.name} has no kinks between lines from {low:g} to {high:g}")
    ends = [abs(end - kink) for kink, _ in lines.kinks for end in (low, high)]
    centre, radius = lines.kinks[0][0], max(ends)
    sign = balanced_sign(degrees)
    fitted = CompositeLines(centre, radius, 0.0, unit, lines, sign)
    near = 2.0 * sign.gap * radius * np.linspace(-1.0, 1.0, GRID)
    x = np.concatenate([np.linspace(low, high, GRID), *(kink + near for kink, _ in lines.kinks)])
    x = x[(x >= low) & (x <= high)]
    return CompositeLines(centre, radius, fitted.largest_error(fitted(x), f(x)), unit, lines, sign)


def _at(coefficients: tuple[float, ...], x: float) -> float:
    constant, slope = (*coefficients, 0.0)[:2]
    return constant + slope * x
