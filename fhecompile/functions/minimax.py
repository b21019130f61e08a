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
too few stretches to go on with.

The result is a sum of powers of u. Those of x would be large and cancel where the interval is far
from zero; of u, degree 15 loses five decimal digits, and double precision has ten left.
Coefficients too small to matter become zero: odd functions stay odd, and no tiny leading
coefficient asks for a large scale.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.polynomial import Polynomial, chebyshev
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
Function = Callable[[FloatArray], FloatArray]
Error = Callable[[FloatArray, FloatArray], FloatArray]

CONVERGED = 1e-6  # excess of the largest error over the best one
MOST_EXCHANGES = 40
UNEVEN = 0.1
GRID_PER_POINT = 64
REFINED = 33  # points of a finer grid around each extreme, twice
ZEROED = 2.0**-6  # share of the error that coefficients set to zero may add
ROUNDING = 2.0**-44  # or that may be added to any, as nothing here is that precise


@dataclass(frozen=True, eq=False)
class FittedPolynomial:
    """p(x) = sum_k coefficients[k] u^k, u = (x - centre) / radius.

    Args:
        centre, radius: of the interval.
        coefficients: at least two, the last one not zero unless there are two.
        error: the largest error found on the interval by evaluating exactly this polynomial.
        unit: what errors are divided by; None: |f|.
    """

    centre: float
    radius: float
    coefficients: FloatArray
    error: float
    unit: float | None

    @property
    def degree(self) -> int:
        """Highest power."""
        return len(self.coefficients) - 1

    def __call__(self, x: FloatArray) -> FloatArray:
        """Its values at `x`."""
        return _horner(self.coefficients, (np.asarray(x, np.float64) - self.centre) / self.radius)

    def largest_error(self, found: FloatArray, exact: FloatArray) -> float:
        """Of its values where the function's are `exact`, as `error`."""
        unit = np.abs(exact) if self.unit is None else self.unit
        return float(np.max(np.abs(found - exact) / unit, initial=0.0))


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

    grid = -np.cos(np.linspace(0.0, np.pi, GRID_PER_POINT * (degree + 2) + 1))

    least = float(np.abs(on_unit(grid)).min()) if unit is None else unit

    def error(p: FloatArray, u: FloatArray) -> FloatArray:
        """The error where the polynomial's values at u are p."""
        y = on_unit(u)
        return (p - y) / (np.abs(y) if unit is None else unit)

    def largest(c: FloatArray) -> float:
        return float(np.abs(error(_horner(c, fine), fine)).max())

    best = _exchange(on_unit, error, grid, degree, unit)
    trimmed = chebyshev.cheb2poly(_without_small(best, ROUNDING * least))
    powers = np.zeros(degree + 1)
    powers[: len(trimmed)] = trimmed
    fine = np.concatenate([np.linspace(-1.0, 1.0, 8 * len(grid) + 1), grid])
    kept = _without_small(powers, max(ZEROED * largest(powers), ROUNDING) * least)
    degree = max(1, int(np.flatnonzero(kept).max(initial=0)))
    kept = kept[: degree + 1]
    return FittedPolynomial(centre, radius, kept, largest(kept), unit)


def exact_polynomial(
    coefficients: Sequence[float], low: float, high: float, unit: float | None
) -> FittedPolynomial:
    """sum_k coefficients[k] x^k as a polynomial on [low, high], low < high, without error."""
    centre, radius = (low + high) / 2, (high - low) / 2
    found = Polynomial(coefficients)(Polynomial([centre, radius])).coef
    powers = np.zeros(max(2, len(found)))
    powers[: len(found)] = found
    return FittedPolynomial(centre, radius, powers, 0.0, unit)


def _without_small(c: FloatArray, allowed: float) -> FloatArray:
    """The coefficients with those set to zero that together are at most `allowed`."""
    return np.where(np.abs(c) <= allowed / len(c), 0.0, c)


def _horner(c: FloatArray, u: FloatArray) -> FloatArray:
    value = np.full(u.shape, c[-1])
    for coefficient in c[-2::-1]:
        value = value * u + coefficient
    return value


def _exchange(
    f: Function,
    error: Error,
    grid: FloatArray,
    degree: int,
    unit: float | None,
) -> FloatArray:
    """Chebyshev coefficients of the best polynomial found; the steps of the module docstring."""
    angles = np.linspace(0.0, np.pi, degree + 2)
    points: FloatArray = -np.cos(angles + UNEVEN * np.sin(angles))
    signs = (-1.0) ** np.arange(degree + 2)
    best: FloatArray = np.zeros(degree + 1)
    least = np.inf
    for _ in range(MOST_EXCHANGES):
        y = f(points)
        system = np.column_stack(
            [chebyshev.chebvander(points, degree), signs * (np.abs(y) if unit is None else unit)]
        )
        *a, h = np.linalg.solve(system, y)
        coefficients = np.asarray(a)
        extremes = _extremes(error, coefficients, grid)
        sizes = np.abs(error(chebyshev.chebval(extremes, coefficients), extremes))
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


def _extremes(error: Error, coefficients: FloatArray, grid: FloatArray) -> FloatArray:
    """Where the error is largest in every stretch of one sign, in order."""

    def e(u: FloatArray) -> FloatArray:
        return error(np.asarray(chebyshev.chebval(u, coefficients), np.float64), u)

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
