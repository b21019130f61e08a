"""What refreshes are predicted to take: near what was measured, and more for more work."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fhecompile.ckks.bootstrap import Bootstrap
from fhecompile.ckks.cost import operation_seconds
from fhecompile.ckks.cost_table import MILLISECONDS, CostTable
from fhecompile.ckks.noise import LEAST_REFRESH_ERROR, refresh_error
from fhecompile.ckks.operations import ValueType
from fhecompile.ckks.parameters import Parameters
from fhecompile.ckks.refresh_cost import refresh_plaintext_bytes, refresh_seconds

MEASURED = Parameters(1 << 16, 24, 48, 49, 3, 128, bootstrap=Bootstrap(3, 3, 32))
SLOTS = 1 << 15


def test_seconds_are_those_that_were_measured() -> None:
    """25 to 34 on one thread, at 128 bits."""
    assert MEASURED.is_secure()
    assert 0.75 * 25 <= refresh_seconds(MEASURED, SLOTS, 32) <= 1.25 * 34


@pytest.mark.parametrize("slots", [1 << 11, 1 << 13])
def test_fewer_slots_take_less(slots: int) -> None:
    assert refresh_seconds(MEASURED, slots, 32) < refresh_seconds(MEASURED, 2 * slots, 32)


def test_more_terms_take_more() -> None:
    times = [refresh_seconds(MEASURED, SLOTS, terms) for terms in (1, 5, 13, 27, 59, 119)]
    assert times == sorted(set(times))
    assert times[-1] < 4.0 * times[0]


@pytest.mark.parametrize("levels", [25, 28, 34])
def test_more_primes_take_more(levels: int) -> None:
    more = replace(MEASURED, levels=levels)
    fewer = replace(MEASURED, levels=levels - 1)
    assert refresh_seconds(more, SLOTS, 32) > refresh_seconds(fewer, SLOTS, 32)
    assert refresh_plaintext_bytes(more, SLOTS) > refresh_plaintext_bytes(fewer, SLOTS)


def test_a_ring_twice_as_large_takes_a_little_more_than_twice_as_long() -> None:
    larger = refresh_seconds(replace(MEASURED, ring_dimension=1 << 17), SLOTS, 32)
    assert larger == pytest.approx(2 * 17 / 16 * refresh_seconds(MEASURED, SLOTS, 32), rel=1e-12)


def test_more_levels_have_fewer_diagonals() -> None:
    sizes = [
        refresh_plaintext_bytes(replace(MEASURED, bootstrap=Bootstrap(levels, 3, 32)), SLOTS)
        for levels in (2, 3, 4)
    ]
    assert sizes == sorted(sizes, reverse=True)
    radix_32 = 3 * (2**6 - 1)  # of both transforms, 2^15 slots in three stages
    words = radix_32 * (1 << 16) * 8
    special = MEASURED.special_primes
    # CoeffsToSlots on 25, 24 and 23 primes, SlotsToCoeffs on 4 rescaling ones and the first.
    assert sizes[1] == words * (24 + special) + words * (5 + special)


def test_it_is_the_cost_of_the_operation() -> None:
    """At every level alike, and in proportion to the machine's times."""
    attributes = {"series": 0, "slots": 512, "level": 18, "scale": 48.0}
    expected = refresh_seconds(MEASURED, 512, 32)
    for level in (0, 20):
        operand = [ValueType("ciphertext", level, 48.0)]
        assert operation_seconds("refresh", operand, attributes, MEASURED) == expected
    slow = CostTable({step: 2.0 * ms for step, ms in MILLISECONDS.items()})
    found = operation_seconds("refresh", operand, attributes, MEASURED, slow)
    assert found == pytest.approx(2.0 * expected, rel=1e-12)


@pytest.mark.parametrize("call", [refresh_plaintext_bytes, lambda p, s: refresh_seconds(p, s, 5)])
def test_parameters_without_refreshes(call: object) -> None:
    with pytest.raises(ValueError, match=r"^the parameters are without refreshes$"):
        call(replace(MEASURED, bootstrap=None), 512)  # type: ignore[operator]


def test_errors_of_refreshes() -> None:
    """Rounding halves with every bit of a prime, down to what its approximations err by."""
    assert refresh_error(1 << 16, 60) == pytest.approx(LEAST_REFRESH_ERROR, rel=1e-3)
    assert refresh_error(1 << 16, 38) == pytest.approx(2 * refresh_error(1 << 16, 39), rel=1e-3)
    assert refresh_error(1 << 17, 38) == pytest.approx(2 * refresh_error(1 << 16, 38), rel=1e-3)
    assert refresh_error(1 << 16, 44) == pytest.approx(1.1e-5, rel=0.05)
    errors = [refresh_error(1 << 16, q) for q in range(36, 60)]
    assert errors == sorted(errors, reverse=True)
