r"""CKKS parameters and their security.

A ciphertext modulus Q of L + 1 primes (a first prime and L rescaling primes) and, for hybrid key
switching with d digits, special primes whose product P exceeds the largest digit by
`DIGIT_SPARE_BITS`, as OpenFHE 1.6 chooses them:

    digit size   ceil((L + 1) / d) primes
    key size     2 * d * (L + 1 + k) * N * 8 bytes,   k special primes

Security: log2(Q P) must not exceed the bound for the ring dimension N. The bounds are those of the
Homomorphic Encryption Standard (2018) for a ternary secret and classical attacks; N = 2^16 and
2^17 continue its tables the way OpenFHE's own check does.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from fhecompile.ckks.bootstrap import Bootstrap

FIRST_PRIME_BITS = 60
SPECIAL_PRIME_BITS = 60
DIGIT_SPARE_BITS = 5
MAX_PRIME_BITS = 60
WORD_BYTES = 8
RUNTIME_BYTES = 160 << 20  # of a process that runs a plan: interpreter, libraries, plan
AHEAD_BYTES = 1 << 30  # of constants that a run encodes ahead where memory is free, at most

MAX_LOG_QP: dict[int, dict[int, int]] = {
    128: {
        1 << 10: 27,
        1 << 11: 54,
        1 << 12: 109,
        1 << 13: 218,
        1 << 14: 438,
        1 << 15: 881,
        1 << 16: 1747,
        1 << 17: 3523,
    },
    192: {
        1 << 10: 19,
        1 << 11: 37,
        1 << 12: 75,
        1 << 13: 152,
        1 << 14: 305,
        1 << 15: 611,
        1 << 16: 1220,
        1 << 17: 2469,
    },
    256: {
        1 << 10: 14,
        1 << 11: 29,
        1 << 12: 58,
        1 << 13: 118,
        1 << 14: 237,
        1 << 15: 476,
        1 << 16: 951,
        1 << 17: 1938,
    },
}


@dataclass(frozen=True)
class Parameters:
    """Everything key generation needs.

    Args:
        ring_dimension: N; there are N / 2 slots.
        levels: L, the number of rescaling primes.
        prime_bits: size of a rescaling prime.
        first_prime_bits: size of the prime that is never dropped.
        digits: d, digits of hybrid key switching.
        security_bits: the bound that was applied.
        insecure: the bound does not hold; only for tests and demonstrations.
        bootstrap: how values are refreshed; None: they are not.
    """

    ring_dimension: int
    levels: int
    prime_bits: int
    first_prime_bits: int
    digits: int
    security_bits: int
    insecure: bool = False
    bootstrap: Bootstrap | None = None

    @property
    def slots(self) -> int:
        """Number of complex slots."""
        return self.ring_dimension // 2

    @property
    def special_primes(self) -> int:
        """Number of primes of P."""
        per_digit = math.ceil((self.levels + 1) / self.digits)
        bits = self.first_prime_bits + (per_digit - 1) * self.prime_bits + DIGIT_SPARE_BITS
        return math.ceil(bits / SPECIAL_PRIME_BITS)

    @property
    def deepest_operand(self) -> int:
        """The last level a value can be refreshed at; all levels where nothing is."""
        return self.levels - (self.bootstrap.operand_primes if self.bootstrap else 0)

    @property
    def uses_all_digits(self) -> bool:
        """Whether none of the digits is left without a prime, which OpenFHE refuses."""
        primes = self.levels + 1
        return math.ceil(primes / math.ceil(primes / self.digits)) == self.digits

    @property
    def log_q(self) -> int:
        """log2 Q."""
        return self.first_prime_bits + self.levels * self.prime_bits

    @property
    def log_qp(self) -> int:
        """log2 QP, the quantity the security bound limits."""
        return self.log_q + self.special_primes * SPECIAL_PRIME_BITS

    @property
    def key_bytes(self) -> int:
        """Size of one evaluation key in memory."""
        towers = self.levels + 1 + self.special_primes
        return 2 * self.digits * towers * self.ring_dimension * WORD_BYTES

    def ciphertext_bytes(self, level: int = 0) -> int:
        """Size of a ciphertext at a level."""
        return 2 * (self.levels + 1 - level) * self.ring_dimension * WORD_BYTES

    def is_secure(self) -> bool:
        """Whether log QP keeps the bound for `security_bits`.

        Primes lie on both sides of 2^size, so that Q may be a little above 2^log_q.
        """
        bound = MAX_LOG_QP[self.security_bits].get(self.ring_dimension, 0)
        return self.log_qp < bound
