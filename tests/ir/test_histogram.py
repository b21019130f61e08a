"""Histograms of operands against the values themselves."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import special

from fhecompile.ir.histogram import BINS, Histogram

VALUES = np.random.default_rng(0).normal(size=20000)


def histogram(values: np.ndarray, parts: int = 3) -> Histogram:
    found = Histogram.empty(float(values.min()), float(values.max()))
    for part in np.array_split(values, parts):
        found = found.having(part)
    return found


def test_counts_are_numpy_s() -> None:
    found = histogram(VALUES)
    counts, edges = np.histogram(VALUES, BINS)
    assert np.abs(found.counts - counts).sum() <= 2  # values on an edge
    assert found.edges == pytest.approx(edges)
    assert found.total == 20000
    assert found.nearest == np.abs(VALUES).min()


def test_density() -> None:
    found = histogram(special.ndtri((np.arange(20000) + 0.5) / 20000))
    x = np.linspace(-2.0, 2.0, 9)
    width = found.high - found.low
    normal = np.exp(-(x**2) / 2) / math.sqrt(2 * math.pi)
    assert found.density(x) / width == pytest.approx(normal, abs=0.004)
    assert not np.any(found.density(np.array([found.low - 1e-9, found.high + 1e-9])))
    assert histogram(np.linspace(0.0, 1.0, 6400)).density(x[4:7]) == pytest.approx(1.0, rel=0.02)


@given(st.floats(0.5, 1.0))
def test_central(share: float) -> None:
    found = histogram(VALUES)
    low, high = found.central(share)
    inside = np.mean((low <= VALUES) & (high >= VALUES))
    assert share <= inside + 1e-12
    assert inside <= share + 4 * found.counts.max() / 20000
    assert found.outside(low, high) >= 20000 * (1 - inside) - 1e-6
    assert found.outside(low, high) <= 20000 * (1 - share) + 1


def test_everything_is_the_whole_range() -> None:
    found = histogram(VALUES)
    assert found.central(1.0) == (found.low, found.high)
    assert found.outside(found.low, found.high) == 0
    assert found.outside(found.low + 1e-9, found.high) == found.counts[0]


def test_one_value() -> None:
    found = histogram(np.zeros(5), 1)
    assert (found.total, found.nearest) == (5, math.inf)
    assert found.central(1.0) == (0.0, 0.0)
