"""Equal diagonals: what is said to hold the same numbers does, and what repeats is noticed."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fhecompile.ckks.diagonals import Diagonal, DiagonalMap, Packing
from fhecompile.ckks.equal_diagonals import (
    first_equals,
    group_accumulators,
    repeats,
    shared_digits,
)
from fhecompile.ckks.layout import Digit, Layout
from fhecompile.ckks.linear_map import LinearMap, add, compose, dense, diagonal, selection, stack

SLOTS = 16


def samples_apart(count: int, size: int, stride: int = 1, rest: int = 1) -> Layout:
    """(count, size) with the samples at a stride of ciphertexts, the highest bits at another."""
    inner = size // (2 if rest > 1 or stride > 1 else 1)
    digits = [Digit(0, 1, count, "ciphertext", stride), Digit(1, 1, inner, "slot", 1)]
    if inner < size:
        digits.append(Digit(1, inner, 2, "ciphertext", rest))
    return Layout((count, size), SLOTS, inner, tuple(digits))


def random_dense(rows: int, columns: int, seed: int = 0) -> LinearMap:
    return dense(np.random.default_rng(seed).normal(size=(rows, columns)))


@given(
    count=st.sampled_from([2, 4]),
    source=st.sampled_from(["alone", "outer", "inner"]),
    target=st.sampled_from(["alone", "outer", "inner"]),
    packing=st.sampled_from(["real", "pair", "fold"]),
    window=st.sampled_from([0, 4]),
    seed=st.integers(0, 9),
)
def test_equal_diagonals_hold_the_same_numbers(
    count: int, source: str, target: str, packing: Packing, window: int, seed: int
) -> None:
    layouts = {
        "alone": samples_apart(count, 8),
        "outer": samples_apart(count, 16, stride=2, rest=1),
        "inner": samples_apart(count, 16, stride=1, rest=count),
    }
    before, after = layouts[source], layouts[target]
    block = random_dense(after.size // count, before.size // count, seed)
    m = stack([block] * count, shared_input=False)
    assert repeats(m, count)
    dm = DiagonalMap(m, before, after, packing, window)
    digits = shared_digits(before, after, packing)
    mixes = packing == "pair" and target in ("alone", "inner")
    assert len(digits) == (0 if mixes else 1)
    rows = dm.offsets
    firsts = first_equals(rows, digits, packing)
    known = {tuple(row): vector for row, vector in zip(rows.tolist(), expanded(dm), strict=True)}
    for row, first in zip(rows.tolist(), firsts.tolist(), strict=True):
        assert np.array_equal(known[tuple(row)], known[tuple(first)])
    distinct = len({tuple(row) for row in firsts.tolist()})
    assert distinct * (1 if mixes else count) == len(rows)


def expanded(dm: DiagonalMap) -> list[np.ndarray[tuple[int], np.dtype[np.complex128]]]:
    return list(dm.expand([Diagonal(*row) for row in dm.offsets.tolist()]))


def test_a_single_number_has_no_samples() -> None:
    number, apart = Layout((), SLOTS, 1, ()), samples_apart(2, 8)
    assert shared_digits(number, number, "real") == []
    assert shared_digits(apart, number, "real") == shared_digits(number, apart, "real") == []


def test_samples_in_slots_share_nothing() -> None:
    apart = samples_apart(2, 8)
    together = replace(
        apart, period=16, digits=(Digit(1, 1, 8, "slot", 1), Digit(0, 1, 2, "slot", 8))
    )
    assert shared_digits(apart, together, "real") == []
    assert shared_digits(together, together, "real") == []
    assert shared_digits(apart, samples_apart(4, 8), "real") == []
    scalar = Layout((), SLOTS, 1, ())
    assert shared_digits(scalar, scalar, "real") == []


@pytest.mark.parametrize(
    ("m", "expected"),
    [
        (stack([random_dense(4, 6)] * 2, shared_input=False), True),
        (stack([random_dense(4, 6), random_dense(4, 6, 1)], shared_input=False), False),
        (stack([random_dense(4, 6)] * 2, shared_input=True), False),
        (random_dense(8, 12), False),
        (selection(np.arange(12)[::-1], 12), False),
        (selection(np.array([3, 1, 1, 9, 7, 7]), 12), True),
        (selection(np.array([3, 1, 1, 9, 7, 8]), 12), False),
        (
            compose(
                stack([random_dense(3, 4, 2)] * 2, shared_input=False),
                stack([random_dense(4, 6)] * 2, shared_input=False),
            ),
            True,
        ),
        (
            add(
                [
                    stack([random_dense(6, 6)] * 2, shared_input=False),
                    diagonal(np.arange(12.0), (12,)),
                ]
            ),
            False,
        ),
    ],
)
def test_maps_that_repeat(m: LinearMap, expected: bool) -> None:
    assert repeats(m, 2) is expected
    matrix = m.apply(np.eye(m.in_size)).T
    half = [n // 2 for n in matrix.shape]
    blocks = matrix.reshape(2, half[0], 2, half[1]).swapaxes(1, 2)
    alike = np.array_equal(blocks[0, 0], blocks[1, 1])
    assert (alike and not blocks[0, 1].any() and not blocks[1, 0].any()) is expected


def test_one_sample_repeats_nothing() -> None:
    assert not repeats(random_dense(4, 4), 1)
    assert not repeats(random_dense(3, 4), 2)


@pytest.mark.parametrize(
    ("target", "packing", "expected"),
    [
        ("alone", "real", [[0, 1]]),
        ("alone", "pair", [[0]]),
        ("inner", "real", [[0, 1], [2, 3]]),
        ("outer", "real", [[0, 2], [1, 3]]),
        ("outer", "pair", [[0, 1]]),
    ],
)
def test_accumulators_with_equal_diagonals(
    target: str, packing: Packing, expected: list[list[int]]
) -> None:
    layouts = {
        "alone": samples_apart(2, 8),
        "outer": samples_apart(2, 16, stride=2, rest=1),
        "inner": samples_apart(2, 16, stride=1, rest=2),
    }
    source, after = layouts["alone"], layouts[target]
    m = stack([random_dense(after.size // 2, 8)] * 2, shared_input=False)
    dm = DiagonalMap(m, source, after, packing)
    assert group_accumulators(dm) == expected
    firsts = first_equals(dm.offsets, shared_digits(source, after, packing), packing)
    alike = {
        row[0]: first[0] for row, first in zip(dm.offsets.tolist(), firsts.tolist(), strict=True)
    }
    assert all(len({alike[a] for a in group}) == 1 for group in expected)


def test_accumulators_of_other_maps_stand_alone() -> None:
    layout = samples_apart(2, 8)
    dm = DiagonalMap(random_dense(16, 16), layout, layout, "real")
    assert group_accumulators(dm) == [[0], [1]]
