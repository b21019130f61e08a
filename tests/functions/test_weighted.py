"""Polynomials that are nearest where values are frequent."""

from __future__ import annotations

import numpy as np
import pytest

from fhecompile.functions.minimax import fit_minimax
from fhecompile.functions.table import FUNCTIONS
from fhecompile.functions.weighted import FLOOR, fit_weighted

RELU = FUNCTIONS["relu"]


def normal(x: np.ndarray) -> np.ndarray:
    """Of deviation 1, relative to even values on [-4, 4]."""
    return 8.0 * np.exp(-(x**2) / 2) / np.sqrt(2 * np.pi)


def everywhere(x: np.ndarray) -> np.ndarray:
    return np.ones_like(x)


@pytest.mark.parametrize("degree", [7, 15, 31, 63])
def test_mean_squares_fall_below_those_of_the_best_polynomial(degree: int) -> None:
    weighted = fit_weighted(RELU, -4.0, 4.0, degree, 1.0, normal)
    best = fit_minimax(RELU, -4.0, 4.0, degree, 1.0)
    x = np.random.default_rng(0).normal(size=100_000)
    x = x[np.abs(x) < 4.0]
    squares = [float(np.mean((p(x) - RELU(x)) ** 2)) for p in (weighted, best)]
    assert squares[0] <= {7: 0.75, 15: 0.6, 31: 0.42, 63: 0.25}[degree] * squares[1]
    assert best.error < weighted.error <= 3.0 * best.error
    fine = np.linspace(-4.0, 4.0, 40001)
    assert np.abs(weighted(fine) - RELU(fine)).max() == pytest.approx(weighted.error, rel=1e-3)


@pytest.mark.parametrize("degree", [2, 5, 15, 31])
def test_even_density_gives_the_chebyshev_series(degree: int) -> None:
    """2 / pi (1/2 + sum (-1)^k+1 T_2k / (4 k^2 - 1)) is |x|."""
    found = fit_weighted(np.abs, -1.0, 1.0, degree, 1.0, everywhere)
    u = np.linspace(-1.0, 1.0, 301)
    series = np.full_like(u, 2 / np.pi)
    for k in range(1, degree // 2 + 1):
        series += 4 / np.pi * (-1) ** (k + 1) / (4 * k**2 - 1) * np.cos(2 * k * np.arccos(u))
    assert np.abs(found(u) - series).max() <= 2e-3 / degree + 0.02 * found.error


def test_relative_errors_are_weighted_like_the_function() -> None:
    f = FUNCTIONS["reciprocal"]
    found = fit_weighted(f, 1.0, 20.0, 7, None, everywhere)
    x = np.linspace(1.0, 20.0, 2001)
    assert np.abs(found(x) * x - 1.0).max() == pytest.approx(found.error, rel=0.01)
    assert found.error <= 3.0 * fit_minimax(f, 1.0, 20.0, 7, None).error


def test_where_no_values_are_it_stays_near() -> None:
    def left(x: np.ndarray) -> np.ndarray:
        return np.where(x < 0.0, 2.0, 0.0)

    found = fit_weighted(FUNCTIONS["tanh"], -4.0, 4.0, 9, 1.0, left)
    best = fit_minimax(FUNCTIONS["tanh"], -4.0, 4.0, 9, 1.0)
    x = np.linspace(-4.0, 0.0, 1001)
    inside, other = (np.sqrt(np.mean((p(x) - np.tanh(x)) ** 2)) for p in (found, best))
    assert inside < 0.6 * other
    assert best.error < found.error <= 2.0 * inside / np.sqrt(FLOOR)
