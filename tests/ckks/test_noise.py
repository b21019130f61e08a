"""Standard deviations of errors against drawn polynomials, evaluated at the roots of unity."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from fhecompile.ckks import noise

TRIALS = 400
RINGS = [64, 512]
Random = np.random.Generator


def slots(coefficients: NDArray[np.floating]) -> NDArray[np.complex128]:
    """The polynomials at all primitive 2N-th roots of unity, along the last axis."""
    n = coefficients.shape[-1]
    return np.fft.fft(coefficients * np.exp(1j * np.pi * np.arange(n) / n))


def rounding(random: Random, n: int) -> NDArray[np.complex128]:
    """Errors of rounding every coefficient to an integer."""
    return slots(random.uniform(-0.5, 0.5, (TRIALS, n)))


def ternary(random: Random, n: int) -> NDArray[np.complex128]:
    return slots(random.integers(-1, 2, (TRIALS, n)))


def gaussian(random: Random, n: int) -> NDArray[np.complex128]:
    return slots(random.normal(0, noise.SIGMA, (TRIALS, n)))


def agrees(errors: NDArray[np.complex128], predicted: float) -> None:
    """Real and imaginary parts have the predicted deviation, to 5 %."""
    assert np.std(errors.real) == pytest.approx(predicted, rel=0.05)
    assert np.std(errors.imag) == pytest.approx(predicted, rel=0.05)


@pytest.fixture
def random() -> Random:
    return np.random.default_rng(0)


@pytest.mark.parametrize("n", RINGS)
def test_encode(random: Random, n: int) -> None:
    """Rounding what encoding really rounds: the coefficients of given slots."""
    agrees(rounding(random, n), noise.encode_error(n))
    values = random.uniform(-1, 1, (TRIALS, n))
    exact = values * 2.0**20
    agrees(slots(np.round(exact) - exact), noise.encode_error(n))


@pytest.mark.parametrize("n", RINGS)
def test_rescale(random: Random, n: int) -> None:
    """Both polynomials are rounded, the second is multiplied by the secret."""
    errors = rounding(random, n) + rounding(random, n) * ternary(random, n)
    agrees(errors, noise.rescale_error(n))


@pytest.mark.parametrize("n", RINGS)
def test_encrypt(random: Random, n: int) -> None:
    """e_0 + u e + s e_1."""
    errors = gaussian(random, n)
    errors += ternary(random, n) * gaussian(random, n)
    errors += ternary(random, n) * gaussian(random, n)
    agrees(errors, noise.encrypt_error(n))


@pytest.mark.parametrize("n", RINGS)
@pytest.mark.parametrize("digits", [1, 3])
def test_key_switch(random: Random, n: int, digits: int) -> None:
    """Digits uniform below P times key errors, divided by P, which rounds like a rescale."""
    errors = rounding(random, n) + rounding(random, n) * ternary(random, n)
    for _ in range(digits):
        errors += rounding(random, n) * gaussian(random, n)
    agrees(errors, noise.key_switch_error(n, digits))


def test_primes_on_both_sides_of_a_power_of_two() -> None:
    """Against the primes that are 1 modulo 2N: of 40, the distances on average, all signs."""
    n, bits = 64, 22
    sieve = np.ones(1 << (bits + 1), bool)
    for p in range(2, 1 << (bits // 2 + 1)):
        sieve[p * p :: p] = False
    primes = [p for p in range(1, len(sieve), 2 * n) if sieve[p]]
    below, above = ([p for p in primes if (p > 1 << bits) == side] for side in (False, True))
    dropped = [p for pair in zip(above, below[::-1], strict=False) for p in pair][:40]
    found = np.array([(1 << bits) / p - 1 for p in dropped])
    expected = [noise.prime_distance(n, bits, k) for k in range(1, 41)]
    assert np.array_equal(np.sign(found), np.sign(expected))
    assert np.abs(found).sum() == pytest.approx(np.abs(expected).sum(), rel=0.2)


def test_slots_are_values_at_roots_of_unity() -> None:
    n, coefficients = 8, np.arange(8.0)
    roots = np.exp(1j * np.pi * (1 - 2 * np.arange(n)) / n)
    expected = np.polynomial.polynomial.polyval(roots, coefficients)
    assert np.allclose(slots(coefficients), expected)
