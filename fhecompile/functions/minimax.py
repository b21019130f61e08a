r"""The best polynomial of a degree on an interval: Remez' exchange, in double precision.

With u = (x - c) / r in [-1, 1], c and r centre and half width of the interval, and a weight w
(constant, or 1 / |f| for relative errors), the polynomial of degree n that minimises max |e|,
e(u) = w(u) (p(u) - f(u)), is the one whose error takes its largest magnitude at n + 2 points with
alternating signs (Chebyshev). From points u_i near the extremes of a Chebyshev polynomial,

    1. solve  sum_k a_k T_k(u_i) + (-1)^i h / w(u_i) = f(u_i)  for a_0..a_n and h
    2. take the largest |e| of every stretch of one sign; keep n + 2 of them in a row
    3. repeat until max |e| = |h| (de la Vallée Poussin: the best error is between the two)

(Remez 1934; Trefethen, Approximation Theory and Approximation Practice, chapter 10.) The first
points lie unevenly: at symmetric ones an even function has h = 0, and the error of its interpolant
too few stretches to go on with. They are less uneven for high degrees, as the density of points
decides how fast interpolants grow with the degree.

Up to degree 15 the result is a sum of powers of u. Those of x would be large and cancel where the
interval is far from zero; of u, degree 15 loses five decimal digits, and double precision has ten
left. Above, it is a sum of Chebyshev polynomials of u, which lose none. Coefficients too small to
matter become zero: odd functions stay odd, and no tiny leading coefficient asks for a large scale.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.polynomial import Polynomial, chebyshev
from numpy.typing import NDArray

from fhecompile.functions.approximation import Approximation
from fhecompile.functions.chebyshev import chebyshev_sum

FloatArray = NDArray[np.float64]
Function = Callable[[FloatArray], FloatArray]

HIGHEST_POWER = 15  # degree up to which the result is in powers
CONVERGED = 1e-6  # excess of the largest error over the best one
MOST_EXCHANGES = 40
UNEVEN = 0.1
GRID_PER_POINT = 64
REFINED = 33  # points of a finer grid around each extreme, twice
ZEROED = 2.0**-6  # share of the error that coefficients set to zero may add
ROUNDING = 2.0**-44  # or that may be added to any, as nothing here is that precise


@dataclass(frozen=True, eq=False)
class FittedPolynomial(Approximation):
    """p(x) = sum_k coefficients[k] u^k, or T_k(u) for u^k with `chebyshev`.

    Args:
        coefficients: at least two, the last one not zero unless there are two.
        chebyshev: whether they are of Chebyshev polynomials.
    """

    coefficients: FloatArray
    chebyshev: bool = False

    @property
    def degree(self) -> int:
        """Highest power."""
        return len(self.coefficients) - 1

    @property
    def degrees(self) -> tuple[int, ...]:
        """The degree."""
        return (self.degree,)

    def on_unit(self, u: FloatArray) -> FloatArray:
        """Its values at u."""
        return _values(self.coefficients, self.chebyshev, u)


def fit_minimax(
    f: Function, low: float, high: float, degree: int, unit: float | None
) -> FittedPolynomial:
    """The polynomial of least error of at most `degree` on [low, high].

    Args:
        f: finite on the interval; not zero there when errors are relative.
        low, high: the interval, low < high.
        degree: at least 1.
        unit: what |p - f| is divided by, above zero; None: |f|.
    """
    centre, radius = (low + high) / 2, (high - low) / 2

    def on_unit(u: FloatArray) -> FloatArray:
        return f(centre + radius * u)

    per_point = GRID_PER_POINT if degree <= HIGHEST_POWER else GRID_PER_POINT // 4
    grid = -np.cos(np.linspace(0.0, np.pi, per_point * (degree + 2) + 1))
    angles = np.linspace(0.0, np.pi, degree + 2)
    points = -np.cos(angles + min(UNEVEN, 2.0 / degree) * np.sin(angles))

    def basis(u: FloatArray) -> FloatArray:
        return np.asarray(chebyshev.chebvander(u, degree), np.float64)

    return polynomial_on_unit(f, low, high, exchange(basis, on_unit, grid, points, unit), unit)


def polynomial_on_unit(
    f: Function, low: float, high: float, coefficients: FloatArray, unit: float | None
) -> FittedPolynomial:
    """Of Chebyshev coefficients, without small ones, and how far it is from f on [low, high]."""
    centre, radius = (low + high) / 2, (high - low) / 2
    degree = len(coefficients) - 1
    in_chebyshev = degree > HIGHEST_POWER
    count = GRID_PER_POINT * (degree + 2)
    turns = -np.cos(np.linspace(0.0, np.pi, count // 4 + 1))
    fine = np.concatenate([np.linspace(-1.0, 1.0, 2 * count + 1), turns])
    exact = f(centre + radius * fine)
    units = np.abs(exact) if unit is None else np.asarray(unit)
    least = float(units.min())

    def largest(c: FloatArray) -> float:
        return float((np.abs(_values(c, in_chebyshev, fine) - exact) / units).max())

    found = _without_small(coefficients, ROUNDING * least)
    if not in_chebyshev:
        powers = chebyshev.cheb2poly(found)
        found = np.append(powers, np.zeros(degree + 1 - len(powers)))
    kept = _without_small(found, max(ZEROED * largest(found), ROUNDING) * least)
    degree = max(1, int(np.flatnonzero(kept).max(initial=0)))
    kept = kept[: degree + 1]
    return FittedPolynomial(centre, radius, largest(kept), unit, kept, in_chebyshev)


def exact_polynomial(
    coefficients: Sequence[float], low: float, high: float, unit: float | None
) -> FittedPolynomial:
    """sum_k coefficients[k] x^k as a polynomial on [low, high], low < high, without error."""
    centre, radius = (low + high) / 2, (high - low) / 2
    found = Polynomial(coefficients)(Polynomial([centre, radius])).coef
    powers = np.zeros(max(2, len(found)))
    powers[: len(found)] = found
    return FittedPolynomial(centre, radius, 0.0, unit, powers)


def _without_small(c: FloatArray, allowed: float) -> FloatArray:
    """The coefficients with those set to zero that together are at most `allowed`."""
    return np.where(np.abs(c) <= allowed / len(c), 0.0, c)


def _values(c: FloatArray, in_chebyshev: bool, u: FloatArray) -> FloatArray:
    if in_chebyshev:
        return chebyshev_sum(c, u)
    value = np.full(u.shape, c[-1])
    for coefficient in c[-2::-1]:
        value = value * u + coefficient
    return value


def exchange(
    basis: Function, f: Function, grid: FloatArray, points: FloatArray, unit: float | None
) -> FloatArray:
    """Coefficients of the best sum of basis functions; the steps of the module docstring.

    Args:
        basis: their values at points (...), as (..., functions); no sum of them but zero may have
            as many zeros on the grid's interval as there are functions.
        f: the function.
        grid: points of the interval, in order, dense enough to see the error's stretches.
        points: one more than functions, in order.
        unit: what errors are divided by; None: |f|.
    """
    signs = (-1.0) ** np.arange(len(points))
    best: FloatArray = np.zeros(len(points) - 1)
    least = np.inf
    for _ in range(MOST_EXCHANGES):
        y = f(points)
        system = np.column_stack([basis(points), signs * (np.abs(y) if unit is None else unit)])
        *a, h = np.linalg.solve(system, y)
        coefficients = np.asarray(a)

        def error(u: FloatArray, c: FloatArray = coefficients) -> FloatArray:
            exact = f(u)
            return (basis(u) @ c - exact) / (np.abs(exact) if unit is None else unit)

        # With the points the error alternates on the grid, however near two of them are.
        extremes = _extremes(error, np.union1d(grid, points))
        sizes = np.abs(error(extremes))
        if sizes.max() < least:
            best, least = coefficients, float(sizes.max())
        # Fewer extremes: the error is rounding, as f is a polynomial as far as can be seen.
        if sizes.max() <= (1.0 + CONVERGED) * abs(h) or len(extremes) < len(points):
            break
        first, last = 0, len(extremes)
        while last - first > len(points):
            if sizes[first] < sizes[last - 1]:
                first += 1
            else:
                last -= 1
        points = extremes[first:last]
    return best


def _extremes(e: Function, grid: FloatArray) -> FloatArray:
    """Where the error e is largest in every stretch of one sign, in order."""
    values = e(grid)
    positive = values > 0.0
    starts = np.flatnonzero(np.concatenate([[True], positive[1:] != positive[:-1]]))
    places = [
        start + int(np.argmax(np.abs(stretch)))
        for start, stretch in zip(starts, np.split(values, starts[1:]), strict=True)
    ]
    at = np.array(places)
    low, high = grid[np.maximum(at - 1, 0)], grid[np.minimum(at + 1, len(grid) - 1)]
    found: FloatArray = grid[at]
    wanted = np.where(positive[at], 1.0, -1.0)
    for _ in range(2):
        around = np.linspace(low, high, REFINED, axis=1)
        largest = np.argmax(wanted[:, None] * e(around), axis=1)
        rows = np.arange(len(places))
        found = around[rows, largest]
        low = around[rows, np.maximum(largest - 1, 0)]
        high = around[rows, np.minimum(largest + 1, REFINED - 1)]
    return found
