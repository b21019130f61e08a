"""Parameters and their security, against examples worked out by hand."""

from __future__ import annotations

import pytest

from fhecompile.ckks.parameters import MAX_LOG_QP, Parameters

MIB = 1 << 20


def parameters(levels: int, digits: int, n: int = 1 << 16, security: int = 128) -> Parameters:
    return Parameters(n, levels, 59, 60, digits, security)


@pytest.mark.parametrize(
    ("levels", "digits", "special", "log_q", "log_qp", "key_mib"),
    [
        # 13 primes of Q in one digit of 60 + 12 * 59 = 768 bits: 13 special primes of 60 bits.
        # A key is 2 polynomials of 26 primes and 2^16 words of 8 bytes: 26 MiB.
        (12, 1, 13, 768, 768 + 780, 26),
        # Digits of at most 7 primes, 60 + 6 * 59 = 414 bits: 7 special primes; 2 * 20 MiB.
        (12, 2, 7, 768, 768 + 420, 40),
        # Digits of 5 primes, 60 + 4 * 59 + 5 > 300 bits: 6 special primes; 3 * 21 MiB.
        (14, 3, 6, 886, 886 + 360, 3 * 21),
        # One prime per digit: the largest has 60 bits, and 5 to spare.
        (12, 13, 2, 768, 768 + 120, 13 * 15),
        # No rescaling prime: only the first.
        (0, 1, 2, 60, 180, 3),
    ],
)
def test_sizes(
    levels: int, digits: int, special: int, log_q: int, log_qp: int, key_mib: int
) -> None:
    p = parameters(levels, digits)
    assert p.special_primes == special
    assert (p.log_q, p.log_qp) == (log_q, log_qp)
    assert p.key_bytes == key_mib * MIB
    assert p.slots == 1 << 15


def test_log_qp_of_the_example() -> None:
    assert parameters(12, 1).log_qp == 1548


def test_ciphertexts_shrink_with_their_level() -> None:
    p = parameters(12, 1)
    assert p.ciphertext_bytes() == 13 * MIB
    assert p.ciphertext_bytes(12) == MIB


@pytest.mark.parametrize(
    ("security", "log_n", "bound"),
    [
        *[(128, 10, 27), (128, 12, 109), (128, 13, 218), (128, 14, 438), (128, 15, 881)],
        *[(192, 10, 19), (192, 12, 75), (192, 13, 152), (192, 14, 305), (192, 15, 611)],
        *[(256, 10, 14), (256, 12, 58), (256, 13, 118), (256, 14, 237), (256, 15, 476)],
    ],
)
def test_bounds_of_the_standard(security: int, log_n: int, bound: int) -> None:
    """Homomorphic Encryption Standard 2018, table 1: ternary secret, classical attacks."""
    assert MAX_LOG_QP[security][1 << log_n] == bound


def test_bounds_grow_with_the_ring_and_fall_with_security() -> None:
    for bounds in MAX_LOG_QP.values():
        assert list(bounds) == [1 << k for k in range(10, 18)]
        assert list(bounds.values()) == sorted(set(bounds.values()))
    for n in MAX_LOG_QP[128]:
        assert MAX_LOG_QP[128][n] > MAX_LOG_QP[192][n] > MAX_LOG_QP[256][n]


def test_is_secure_keeps_the_bound() -> None:
    assert Parameters(1 << 15, 1, 59, 60, 1, 128).is_secure()
    at_bound = Parameters(1 << 16, 28, 57, 31, 29, 128)
    assert at_bound.log_qp == 31 + 28 * 57 + 60 == 1687
    assert Parameters(1 << 16, 29, 57, 34, 30, 128).log_qp == 1747  # primes above 2^57 exceed it
    assert not Parameters(1 << 16, 29, 57, 34, 30, 128).is_secure()
    assert Parameters(1 << 16, 29, 57, 33, 30, 128).is_secure()


@pytest.mark.parametrize(("levels", "digits", "all_used"), [(5, 4, False), (5, 3, True)])
def test_a_digit_without_a_prime(levels: int, digits: int, all_used: bool) -> None:
    """Six primes are two to a digit when there are four: three digits are filled."""
    assert Parameters(1 << 14, levels, 40, 60, digits, 128).uses_all_digits is all_used


def test_unknown_rings_are_not_secure() -> None:
    assert not Parameters(1 << 9, 0, 15, 15, 1, 128).is_secure()
    assert not Parameters(3 << 14, 0, 15, 15, 1, 128).is_secure()


@pytest.mark.parametrize(
    ("levels", "security", "digits"),
    [
        (12, 128, 1),  # 1548 <= 1747
        (20, 128, 3),  # 1 digit: 1240 + 1260, 2 digits: 1240 + 660, 3 digits: 1240 + 420
        (27, 128, None),  # 60 + 27 * 59 = 1653, and two special primes of 60 bits are too many
        (26, 128, 27),  # 1594 + 120: only single primes as digits
        (12, 192, 2),  # 1548 > 1220 >= 768 + 420
        (12, 256, 7),  # 6 digits: 768 + 240 > 951 >= 768 + 180
    ],
)
def test_fewest_secure_digits(levels: int, security: int, digits: int | None) -> None:
    made = [Parameters(1 << 16, levels, 59, 60, d, security) for d in range(1, levels + 2)]
    assert next((p.digits for p in made if p.is_secure()), None) == digits
