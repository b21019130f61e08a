r"""Refreshes: how OpenFHE 1.6 makes a ciphertext with few primes left one with many again.

A value is refreshed as m in slots, |m| < 1, at scale 2^q, q the bits of a prime, and comes out as a
Fourier series of m:

    SlotsToCoeffs, to the last prime, which is 2^(q + 1)    `decode_levels` primes
    the same integers modulo all primes: m + 2 k, k whole
    CoeffsToSlots                                            `encode_levels`
    e = exp(i pi (m + 2 k)) = exp(i pi m)                    `EXPONENTIAL_LEVELS`
    2 Re (c_0 + sum_{j=1..n} c_j e^j)                        `series_levels(n)`

so that any function of m costs no more than the refresh, and m itself is one of them. (OpenFHE's
other bootstrapping has a polynomial for the remainder modulo the last prime. At q = 50, N = 2^12 it
is off by 2^-12.5 in the root mean square, this by 2^-26.7 from a series of relu with 64 terms.)

The first levels are those of the new modulus. With L rescaling primes operands may come down to
level L - decode_levels - 1, and results are at the same level whatever L is.

Secrets are encapsulated: ternary like all others, switched to a sparse one for the time that m + 2k
is computed, modulo the last prime and one more, where a sparse one is secure; k stays below 16
(Bossuat, Troncoso-Pastoriza, Hubaux 2022). Series of e: Alexandru, Kim, Polyakov 2024.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]

EXPONENTIAL_LEVELS = 10
# The highest term of a series that so many levels suffice for, from 0 on.
SERIES_TERMS = (1, 2, 4, 5, 13, 27, 59, 119)
# |m| at the ends of the range a function is fitted on; at 1 it wraps around.
FUNCTION_SHARE = 0.8
LEAST_SLOTS = 256  # of a refresh: with fewer, stages of one bit rotate by other offsets


@dataclass(frozen=True)
class Bootstrap:
    """How values of one plan are refreshed.

    Args:
        encode_levels, decode_levels: primes that CoeffsToSlots and SlotsToCoeffs take.
        terms: the highest term of any series.
    """

    encode_levels: int
    decode_levels: int
    terms: int

    @property
    def output_level(self) -> int:
        """Level of refreshed values."""
        return EXPONENTIAL_LEVELS + self.encode_levels + series_levels(self.terms)

    @property
    def operand_primes(self) -> int:
        """Rescaling primes that an operand must have left."""
        return self.decode_levels + 1


def series_levels(terms: int) -> int:
    """Levels of a Fourier series whose highest term is `terms`; ValueError above the last one."""
    for levels, most in enumerate(SERIES_TERMS):
        if terms <= most:
            return levels
    raise ValueError(f"a series of {terms} terms, {SERIES_TERMS[-1]} are the most")


def stage_bits(slots: int, levels: int) -> list[int]:
    """Bits of the radix of every stage of CoeffsToSlots, as OpenFHE cuts them: the last has less.

    There may be fewer stages than levels.
    """
    bits = max(1, int(math.log2(slots)))
    each = math.ceil(bits / levels)
    if math.ceil(bits / each) < levels:
        each -= 1
    each = max(1, each)
    stages = [each] * (bits // each)
    return [*stages, bits % each] if bits % each else stages


def split_stage(bits: int) -> tuple[int, int]:
    """Babies and giants of a stage of radix 2^bits, which has 2^(bits + 1) - 1 diagonals."""
    babies = 1 << (bits // 2 + (2 if bits > 2 else 1))
    return babies, max(1, 2 ** (bits + 1) // babies)


def refresh_rotations(bootstrap: Bootstrap, slots: int, all_slots: int) -> set[int]:
    """Offsets in [1, all_slots) that refreshes of values of period `slots` rotate by.

    The narrow stage of CoeffsToSlots is next to the slots, that of SlotsToCoeffs far from them;
    replicas of the period are summed up in the end.
    """
    offsets: set[int] = set()
    for stages in (
        stage_bits(slots, bootstrap.encode_levels)[::-1],
        stage_bits(slots, bootstrap.decode_levels),
    ):
        stride = 1
        for bits in stages:
            babies, giants = split_stage(bits)
            offsets.update(stride * k for k in range(1, babies + 1))
            offsets.update(stride * babies * k for k in range(1, max(2, giants - 1)))
            stride <<= bits
    if slots < all_slots:
        offsets.add(slots + 1)
        replica = slots
        while replica < all_slots:
            offsets.add(replica)
            replica *= 2
        quarter = slots  # of replicas that are summed up at once
        while 4 * quarter <= all_slots:
            offsets.add(3 * quarter)
            quarter *= 4
    return {offset % all_slots for offset in offsets} - {0}


def evaluate_series(coefficients: FloatArray, m: FloatArray) -> FloatArray:
    """2 Re sum_j c_j exp(i pi j m), the rows of `coefficients` being the real and imaginary parts.

    Args:
        coefficients: (2, terms + 1).
        m: of any shape.
    """
    exponential = np.exp(1j * np.pi * np.asarray(m, np.float64))
    c = coefficients[0] + 1j * coefficients[1]
    value = np.full(exponential.shape, c[-1])
    for coefficient in c[-2::-1]:
        value *= exponential
        value += coefficient
    total: FloatArray = 2.0 * value.real
    return total
