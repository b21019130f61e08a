"""The mask: its numbers against exact fractions, its polynomial against the canonical embedding."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from numpy.typing import NDArray

from fhecompile.ckks.slot_mask import (
    MAX_ORDER,
    convergent,
    mask_factor,
    mask_leak,
    mask_vector,
    order_for,
)

ORDERS = range(MAX_ORDER + 1)


def embedding(n: int) -> NDArray[np.complex128]:
    """Row j evaluates a polynomial of degree below n at zeta^(5^j), zeta = exp(i pi / n)."""
    powers = np.array([pow(5, j, 2 * n) for j in range(n // 2)])
    exponents = powers[:, None] * np.arange(n) % (2 * n)
    return np.exp(1j * np.pi * exponents / n)


def encoded(values: NDArray[np.float64], n: int) -> NDArray[np.float64]:
    """The real polynomial with these slots: the conjugate slots' rows complete a unitary matrix."""
    return np.asarray(2 * (embedding(n).conj().T @ values).real / n)


def test_convergents() -> None:
    assert [convergent(k) for k in range(5)] == [(1, 1), (3, 2), (7, 5), (17, 12), (41, 29)]


@pytest.mark.parametrize("order", ORDERS)
def test_convergents_are_best_approximations(order: int) -> None:
    """|a^2 - 2 b^2| = 1, which no a / b with a smaller b betters."""
    a, b = convergent(order)
    assert a * a - 2 * b * b == (-1) ** (order + 1)
    assert math.gcd(a, b) == 1
    assert abs(Fraction(a, b) ** 2 - 2) == Fraction(1, b * b)


@pytest.mark.parametrize("order", ORDERS)
def test_factor_and_leak(order: int) -> None:
    """Against a square root of 200 bits: the factor is a + b sqrt 2, the leak the quotient."""
    a, b = convergent(order)
    root = Fraction(math.isqrt(2 << 400), 1 << 200)
    assert mask_factor(order) == pytest.approx(float(a + b * root), rel=1e-15)
    exact = (a - b * root) / (a + b * root)
    assert mask_leak(order) == pytest.approx(float(exact), rel=1e-14)


def test_every_order_gains_two_and_a_half_bits() -> None:
    bits = -np.log2(np.abs([mask_leak(k) for k in ORDERS]))
    np.testing.assert_allclose(np.diff(bits), 2 * math.log2(1 + math.sqrt(2)), atol=1e-2)
    factors = np.log2([mask_factor(k) for k in ORDERS])
    np.testing.assert_allclose(np.diff(factors), math.log2(1 + math.sqrt(2)), rtol=0, atol=0.02)


@pytest.mark.parametrize("bits", [0, 4, 8, 14.5, 22, 40])
def test_smallest_order_for_a_leak(bits: float) -> None:
    order = order_for(2.0**-bits)
    assert abs(mask_leak(order)) <= 2.0**-bits
    assert order == 1 or abs(mask_leak(order - 1)) > 2.0**-bits


def test_order_for_less_than_any_leak() -> None:
    assert order_for(0.0) == MAX_ORDER


@pytest.mark.parametrize("order", [1, 2, 5, 9])
def test_even_slots_are_kept(order: int) -> None:
    a, b = convergent(order)
    vector = mask_vector(order, 16)
    assert vector.shape == (16,)
    np.testing.assert_array_equal(vector[::2], mask_factor(order))
    np.testing.assert_allclose(vector[1::2], a - b * math.sqrt(2), rtol=0, atol=1e-9 * a)


@pytest.mark.parametrize("n", [8, 32, 128])
@pytest.mark.parametrize("order", [0, 1, 2, 5, 9, 14])
def test_the_polynomial_has_three_integer_coefficients(n: int, order: int) -> None:
    a, b = convergent(order)
    polynomial = np.zeros(n)
    polynomial[0], polynomial[n // 4], polynomial[3 * n // 4] = a, b, -b
    vector = mask_vector(order, n // 2)
    slots = embedding(n) @ polynomial
    np.testing.assert_allclose(slots, vector, rtol=0, atol=1e-12 * a)
    np.testing.assert_allclose(encoded(vector, n), polynomial, rtol=0, atol=1e-12 * a)
