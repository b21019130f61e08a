"""Slots of refreshes: one number for all, or several where that saves time enough."""

from __future__ import annotations

from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fhecompile.ckks.bootstrap import LEAST_SLOTS, Bootstrap, refresh_rotations
from fhecompile.ckks.layout import Layout, vector_layout
from fhecompile.ckks.parameters import Parameters
from fhecompile.ckks.refresh_cost import refresh_plaintext_bytes, refresh_seconds
from fhecompile.ir.refresh_slots import choose_slots

PARAMETERS = Parameters(1 << 16, 25, 41, 42, 2, 128, bootstrap=Bootstrap(4, 3, 59))


def of_period(period: int) -> Layout:
    return vector_layout((period,), PARAMETERS.slots)


def cost(periods: list[int], chosen: set[int]) -> float:
    """Seconds times the root of bytes, written out."""
    b = PARAMETERS.bootstrap
    assert b is not None
    seconds, rotations, size = 0.0, set[int](), 0
    for p in periods:
        slots = min(s for s in chosen if s >= max(p, LEAST_SLOTS))
        seconds += refresh_seconds(PARAMETERS, slots, b.terms)
    for s in chosen:
        rotations |= refresh_rotations(b, s, PARAMETERS.slots)
        size += refresh_plaintext_bytes(PARAMETERS, s)
    return float(seconds * (size + len(rotations) * PARAMETERS.key_bytes) ** 0.5)


@given(st.lists(st.sampled_from([2**k for k in range(4, 16)]), min_size=1, max_size=8))
def test_no_other_set_of_one_more_or_less_is_better(periods: list[int]) -> None:
    found = choose_slots([of_period(p) for p in periods], PARAMETERS)
    assert set(found) == set(periods)
    assert all(slots >= p for p, slots in found.items())
    chosen = set(found.values())
    largest = max(LEAST_SLOTS, *periods)
    assert largest in chosen
    possible = {max(LEAST_SLOTS, p) for p in periods}
    least = cost(periods, chosen)
    assert least <= cost(periods, {largest}) * (1 + 1e-12)
    for (more,) in combinations(possible - chosen, 1):
        assert least <= cost(periods, chosen | {more}) * (1 + 1e-12)


def test_many_small_values_get_fewer_slots() -> None:
    periods = [1 << 15, *[256] * 40]
    found = choose_slots([of_period(p) for p in periods], PARAMETERS)
    assert found == {1 << 15: 1 << 15, 256: 256}


def test_few_small_values_share_the_slots_of_the_largest() -> None:
    periods = [*[1 << 14] * 7, *[1 << 13] * 6, *[1 << 12] * 6]  # ResNet-20's
    found = choose_slots([of_period(p) for p in periods], PARAMETERS)
    assert set(found.values()) == {1 << 14}


@pytest.mark.parametrize("period", [1, 16, LEAST_SLOTS])
def test_no_fewer_slots_than_the_least(period: int) -> None:
    assert choose_slots([of_period(period)], PARAMETERS) == {period: LEAST_SLOTS}


def test_nothing_is_refreshed() -> None:
    assert choose_slots([], PARAMETERS) == {}
