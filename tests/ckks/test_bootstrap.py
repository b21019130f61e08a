"""What refreshes take is what OpenFHE says of its own: levels, rotations, and values."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fhecompile.ckks.bootstrap import (
    SERIES_TERMS,
    Bootstrap,
    evaluate_series,
    refresh_rotations,
    series_levels,
    split_stage,
    stage_bits,
)


@pytest.mark.parametrize("terms", range(1, SERIES_TERMS[-1] + 1))
def test_levels_of_a_series(terms: int) -> None:
    levels = series_levels(terms)
    assert terms <= SERIES_TERMS[levels]
    assert levels == 0 or terms > SERIES_TERMS[levels - 1]


def test_longer_series_are_refused() -> None:
    with pytest.raises(ValueError, match=r"^a series of 120 terms, 119 are the most$"):
        series_levels(120)


def test_what_operands_and_results_have() -> None:
    b = Bootstrap(3, 2, 27)
    assert (b.output_level, b.operand_primes) == (10 + 3 + 5, 3)


@given(st.integers(0, 16), st.integers(1, 5))
def test_stages_take_all_bits_on_as_many_levels_at_most(log_slots: int, levels: int) -> None:
    bits = stage_bits(1 << log_slots, levels)
    assert sum(bits) == max(1, log_slots)
    assert min(bits) >= 1
    assert bits == sorted(bits, reverse=True)
    assert len(set(bits[:-1])) <= 1
    for stage in bits:
        babies, giants = split_stage(stage)
        assert babies * giants >= 2 ** (stage + 1) - 1


@given(
    st.lists(st.complex_numbers(max_magnitude=1.0), min_size=1, max_size=30),
    st.lists(st.floats(-1.0, 1.0), min_size=1, max_size=5),
)
def test_values_of_a_series(c: list[complex], m: list[float]) -> None:
    found = evaluate_series(np.array([[z.real for z in c], [z.imag for z in c]]), np.array(m))
    expected = [
        2
        * sum(
            z.real * math.cos(math.pi * j * x) - z.imag * math.sin(math.pi * j * x)
            for j, z in enumerate(c)
        )
        for x in m
    ]
    assert found == pytest.approx(expected, abs=1e-11)


def test_a_series_keeps_the_shape() -> None:
    cosine = np.array([[0.0, 0.5], [0.0, 0.0]])
    m = np.linspace(-1, 1, 12).reshape(3, 4)
    assert np.allclose(evaluate_series(cosine, m), np.cos(np.pi * m), atol=1e-15)
    assert evaluate_series(cosine, np.zeros(())).shape == ()


@given(st.integers(0, 11), st.integers(1, 4), st.integers(1, 4))
def test_rotations_are_offsets(log_slots: int, encode: int, decode: int) -> None:
    offsets = refresh_rotations(Bootstrap(encode, decode, 27), 1 << log_slots, 1 << 11)
    assert all(0 < offset < 1 << 11 for offset in offsets)


# ---------------------------------------------------------------------------- OpenFHE's own


@pytest.fixture(scope="module")
def openfhe() -> Any:
    return pytest.importorskip("openfhe", reason="OpenFHE is not installed")


@pytest.fixture(params=[12, 13])
def context(openfhe: Any, request: pytest.FixtureRequest) -> Iterator[Any]:
    """A context of 2,048 or 4,096 slots with two digits, which forgets its keys in the end."""
    p = openfhe.CCParamsCKKSRNS()
    p.SetSecretKeyDist(openfhe.SecretKeyDist.SPARSE_ENCAPSULATED)
    p.SetSecurityLevel(openfhe.SecurityLevel.HEStd_NotSet)
    p.SetRingDim(1 << request.param)
    p.SetNumLargeDigits(2)
    p.SetScalingModSize(50)
    p.SetFirstModSize(51)
    p.SetScalingTechnique(openfhe.ScalingTechnique.FIXEDMANUAL)
    p.SetMultiplicativeDepth(25)
    p.SetBatchSize(1 << (request.param - 1))
    p.SetCKKSDataType(openfhe.CKKSDataType.COMPLEX)
    context = openfhe.GenCryptoContext(p)
    for feature in ("PKE", "KEYSWITCH", "LEVELEDSHE", "ADVANCEDSHE", "FHE"):
        context.Enable(getattr(openfhe, feature))
    yield context
    context.ClearEvalAutomorphismKeys()
    context.ClearBootstrapPrecom()


@pytest.mark.parametrize("terms", sorted({t + d for t in SERIES_TERMS for d in (0, 1)} - {120}))
@pytest.mark.parametrize("first_prime_bits", [39, 51, 57])
def test_depth_is_openfhes(openfhe: Any, terms: int, first_prime_bits: int) -> None:
    """Of the longest series that has so many levels, and of the shortest."""
    coefficients = [complex(1.0, 0.5)] * (terms + 1)
    secret = openfhe.SecretKeyDist.SPARSE_ENCAPSULATED
    for encode, decode in ((2, 2), (3, 4)):
        depth = openfhe.CryptoContext.GetFEFBTDepth(
            [encode, decode], coefficients, secret, first_prime_bits
        )
        assert Bootstrap(encode, decode, terms).output_level + decode == depth


@pytest.mark.parametrize(
    ("slots", "encode", "decode"),
    [(256, 4, 3), (256, 3, 3), (512, 3, 3), (512, 2, 3), (1024, 2, 4), (2048, 3, 3)],
)
def test_rotations_are_openfhes(context: Any, slots: int, encode: int, decode: int) -> None:
    context.EvalFEFuncBootstrapSetup([encode, decode], [0, 0], slots)
    keys = context.KeyGen()
    context.EvalBootstrapKeyGen(keys.secretKey, slots)
    order = 2 * context.GetRingDimension()
    offsets = {pow(5, r, order): r for r in range(order // 4)}
    held = context.GetExistingEvalAutomorphismKeyIndices(keys.secretKey.GetKeyTag())
    wanted = {offsets[index] for index in held if index in offsets}
    found = refresh_rotations(Bootstrap(encode, decode, 27), slots, order // 4)
    assert len(wanted) > 10
    assert found >= wanted
    if (encode, decode) == (3, 3):
        assert found == wanted
