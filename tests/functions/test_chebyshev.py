"""Sums of Chebyshev polynomials, against numpy's."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from numpy.polynomial import chebyshev

from fhecompile.functions.chebyshev import chebyshev_sum, divide_by_chebyshev

coefficients = st.lists(st.floats(-4.0, 4.0), min_size=1, max_size=40).map(np.array)
X = np.linspace(-1.0, 1.0, 101)


@given(coefficients)
def test_sum(c: np.ndarray) -> None:
    assert np.allclose(chebyshev_sum(c, X), chebyshev.chebval(X, c), rtol=0, atol=1e-12 * len(c))


def test_coefficients_broadcast() -> None:
    c = np.random.default_rng(0).normal(size=(6, 3, 1))
    found = chebyshev_sum(c, np.broadcast_to(X, (2, 3, 101)))
    for k in range(3):
        assert np.allclose(found[:, k], chebyshev.chebval(X, c[:, k, 0]), rtol=0, atol=1e-14)


@given(coefficients)
def test_division(c: np.ndarray) -> None:
    m = 1 << (len(c).bit_length() - 1)
    if m == len(c):
        m //= 2
    if m == 0:
        return
    quotient, rest = divide_by_chebyshev(list(c), m)
    assert len(quotient) + m == len(c) and len(rest) == m
    product = chebyshev.chebmul(quotient, np.eye(m + 1)[m])
    assert np.allclose(chebyshev.chebadd(product, rest)[: len(c)], c, rtol=0, atol=1e-13)
