"""Keys as OpenFHE makes them."""

from __future__ import annotations

import pytest

from fhecompile.ckks.parameters import Parameters
from runtime.keys import generate_key_pair
from runtime.serialization import to_bytes

pytest.importorskip("openfhe", reason="OpenFHE is not installed")


@pytest.mark.parametrize("prime_bits", [45, 59])
@pytest.mark.parametrize(
    ("levels", "digits"), [(1, 1), (4, 1), (5, 1), (12, 1), (12, 2), (14, 3), (16, 5), (11, 12)]
)
def test_the_size_of_a_key(levels: int, digits: int, prime_bits: int) -> None:
    """What security and memory are computed from: the primes of Q P."""
    n = 1 << 12
    p = Parameters(n, levels, prime_bits, 60, digits, 128, insecure=True)
    secret = generate_key_pair(p)
    key = secret.context.EvalAutomorphismKeyGen(secret.secret_key, [5])
    found = len(to_bytes(key))
    assert p.key_bytes <= found < p.key_bytes * 1.03  # labels of its parts
