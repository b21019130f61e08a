r"""Standard deviations of CKKS errors, in slots, in units of the scaled integers.

An error polynomial with independent coefficients of standard deviation s gives every slot, which is
the polynomial at a root of unity, a complex error of standard deviation s sqrt(N): s sqrt(N / 2) in
the real and in the imaginary part. Divide by the scale for the error of the value. With a uniform
ternary secret (2N/3 non-zeros on average):

    encode       rounding of coefficients        s^2 = 1/12
    rescale      rounding of both polynomials    s^2 = (1 + 2N/3) / 12
    encrypt      e_0 + u e + s e_1               s^2 = sigma^2 (1 + 4N/3), sigma = 3.19
    key switch   sum over d digits of digit * e, divided by P, plus a rescale's rounding:
                 s^2 = d (N/12) sigma^2 (digit / P)^2 + (1 + 2N/3) / 12

A refresh adds to m, a value at scale 2^q, what its circuit was measured to add (N = 2^12 to 2^16,
q = 38 to 50): about `REFRESH_ERROR` N 2^-q, of rounding and of the primes' distances from 2^q, and
no less than `LEAST_REFRESH_ERROR`, of its approximations.

Scales take every prime for 2^q. Primes are 1 modulo 2N, 0.35 q 2N apart on average, and are taken
from both sides of 2^q, the nearest of them dropped first: the l-th is ceil(l / 2) 0.35 q 2N 2^-q
from 2^q, relatively, and above it where l is odd.

(Cheon, Kim, Kim, Song 2017, section 3; Gentry, Halevi, Smart 2012 for the canonical embedding.)
"""

from __future__ import annotations

import math

SIGMA = 3.19
# The largest of a few hundred normally distributed errors is about three and a half standard
# deviations; predicted ones are up to a third too small (measured: CryptoFaceNet4, with masks).
PEAK_TO_RMS = 5.0
REFRESH_ERROR = 3000.0
LEAST_REFRESH_ERROR = 4e-7
PRIME_GAP = 0.35  # ln 2 / 2, in q 2N


def encode_error(ring_dimension: int) -> float:
    """Of a plaintext's real part, from rounding its coefficients."""
    return math.sqrt(ring_dimension / 24)


def rescale_error(ring_dimension: int) -> float:
    """Of a ciphertext's real part, from one division by a prime (or by P)."""
    n = ring_dimension
    return math.sqrt((1 + 2 * n / 3) / 12 * n / 2)


def encrypt_error(ring_dimension: int) -> float:
    """Of a fresh public-key encryption's real part."""
    n = ring_dimension
    return SIGMA * math.sqrt((1 + 4 * n / 3) * n / 2)


def key_switch_error(ring_dimension: int, digits: int) -> float:
    """Of a key switch's real part, P at least as large as a digit."""
    n = ring_dimension
    spread = digits * n / 12 * SIGMA**2
    return math.sqrt(spread * n / 2 + rescale_error(n) ** 2)


def prime_distance(ring_dimension: int, prime_bits: int, number: int) -> float:
    """What dropping the prime `number` (1: the first) typically changes of a value, relatively."""
    distance = math.ceil(number / 2) * PRIME_GAP * prime_bits * 2 * ring_dimension
    return (-1.0) ** number * distance * 2.0**-prime_bits


def refresh_error(ring_dimension: int, prime_bits: int) -> float:
    """Of m, from a refresh."""
    return math.hypot(REFRESH_ERROR * ring_dimension * 2.0**-prime_bits, LEAST_REFRESH_ERROR)
