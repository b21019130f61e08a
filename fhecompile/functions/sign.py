r"""The sign of u as a composition of odd polynomials.

On [-1, -g] and [g, 1], g the gap, p_1 is the odd polynomial of a degree that is nearest to the
sign: |p_1(u) - 1| <= e_1 on [g, 1]. Its values there, divided by their largest, lie in

    [g_2, 1],    g_2 = (1 - e_1) / (1 + e_1),

on which the next one is nearest to 1, and so on; the last one is not divided. Of all compositions
of polynomials of these degrees this one is nearest to the sign (Lee, Lee, No, Kim, "Minimax
approximation of sign function by composite polynomial for homomorphic comparison", IEEE TDSC 2021,
theorem 1). It needs far fewer products than one polynomial of the same precision, and its
coefficients are small.

u s(u) is to stand for |u|. It is off by |u| (1 - s(u)), by at most e_k outside of the gap and by a
share of g inside, where s rises from 0 to 1. As g grows e_k falls: `balanced_sign` takes the g at
which the largest of both is least.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.polynomial import chebyshev
from numpy.typing import NDArray

from fhecompile.functions.chebyshev import chebyshev_sum
from fhecompile.functions.minimax import exchange

FloatArray = NDArray[np.float64]

GRID = 256
SMALLEST_GAP = 2.0**-20
ROUNDING = 2.0**-40
STEPS = 16  # of the search for a gap


@dataclass(frozen=True, eq=False)
class CompositeSign:
    """s = p_k(... p_1(u)), Chebyshev coefficients of each; odd ones only are not zero.

    Args:
        polynomials: the coefficients; every p but the last stays in [-1, 1] on [-1, 1].
        gap: g of the module docstring.
        error: largest |s(u) - 1| on [g, 1].
    """

    polynomials: tuple[FloatArray, ...]
    gap: float
    error: float

    def __call__(self, u: FloatArray) -> FloatArray:
        """Its values at u in [-1, 1]."""
        for p in self.polynomials:
            u = chebyshev_sum(p, u)
        return u


def composite_sign(degrees: Sequence[int], gap: float) -> CompositeSign:
    """The nearest composition of odd polynomials of these degrees, 0 < gap < 1.

    Of fewer of them, where these are as near as rounding lets one see.
    """
    polynomials: list[FloatArray] = []
    low = gap
    for number, degree in enumerate(degrees, 1):
        p, error = _nearest_to_one(degree, low)
        low = (1.0 - error) / (1.0 + error)
        if number == len(degrees) or error < ROUNDING:
            return CompositeSign((*polynomials, p), gap, error)
        polynomials.append(p / (1.0 + error))
        low = (1.0 - error) / (1.0 + error)
    raise ValueError("a composition has at least one polynomial")


@cache
def balanced_sign(degrees: tuple[int, ...]) -> CompositeSign:
    """The composition for which u s(u) is nearest to |u| on [-1, 1]."""
    low, high = SMALLEST_GAP, 0.5

    def excess(gap: float) -> float:
        """What is off outside of the gap less what is off inside; falls as the gap grows."""
        s = composite_sign(degrees, gap)
        u = np.asarray(np.linspace(0.0, gap, 257), np.float64)
        return s.error - float((u * (1.0 - s(u))).max())

    for _ in range(STEPS):
        middle = float(np.sqrt(low * high))
        low, high = (middle, high) if excess(middle) > 0.0 else (low, middle)
    return composite_sign(degrees, high)


def _nearest_to_one(degree: int, low: float) -> tuple[FloatArray, float]:
    """The odd polynomial nearest to 1 on [low, 1], and how far it is from 1."""
    functions = (degree + 1) // 2

    def basis(u: FloatArray) -> FloatArray:
        return np.asarray(chebyshev.chebvander(u, degree)[..., 1::2], np.float64)

    def spread(count: int) -> FloatArray:
        turn = np.cos(np.linspace(0.0, np.pi, count))
        return np.asarray((1.0 + low) / 2 - (1.0 - low) / 2 * turn, np.float64)

    grid = np.union1d(spread(GRID), np.geomspace(low, 1.0, GRID)[1:-1])
    c = exchange(basis, np.ones_like, grid, spread(functions + 1), 1.0)
    p = np.zeros(degree + 1)
    p[1::2] = c
    return p, float(np.abs(chebyshev_sum(p, grid) - 1.0).max())
