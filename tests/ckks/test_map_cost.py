"""Predicted costs of maps: products counted, choices refused, seconds by the formulas."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fhecompile.ckks.bsgs import RotationCosts, choose_split
from fhecompile.ckks.diagonals import DiagonalMap, Packing
from fhecompile.ckks.layout import Digit, Layout, vector_layout
from fhecompile.ckks.linear_map import LinearMap, LinearTerm, dense, identity
from fhecompile.ckks.map_cost import MapSize, MapSizes, measure_map, unpacking_seconds
from fhecompile.ckks.offsets import IndexParts

DiagonalMaps = Callable[..., st.SearchStrategy[DiagonalMap]]

COSTS = RotationCosts(
    hoist=3.0, baby=1.0, giant=4.0, key=0.0, product=0.5, down=2.0, rotate=5.0, unit=0.25
)
SLOTS = 32
EVEN = Layout((8,), SLOTS, 16, (Digit(0, 1, 8, "slot", 2),))
PLAIN = vector_layout((8,), SLOTS)


def measured(dm: DiagonalMap) -> MapSize | None:
    parts = IndexParts.of(dm.linear_map, dm.target.shape, dm.source.shape)
    return measure_map(parts, dm.source, dm.target, dm.packing, dm.copies)


def without_zeros(m: LinearMap) -> LinearMap:
    """The map with ones for all weights, less terms that are padding and nothing else."""
    terms = [
        LinearTerm(np.ones_like(t.values), t.out_index, t.in_index)
        for t in m.terms
        if np.any((t.out_index >= 0) & (t.in_index >= 0))
    ]
    return LinearMap(tuple(terms), m.out_size, m.in_size)


@given(data=st.data())
def test_products_are_the_diagonals_of_the_best_window(
    diagonal_maps: DiagonalMaps, data: st.DataObject
) -> None:
    drawn = data.draw(diagonal_maps(slots=data.draw(st.sampled_from([8, 32]))))
    dm = replace(drawn, linear_map=without_zeros(drawn.linear_map), window=0)
    found = measured(dm)
    assert found is not None
    counts = [len(dm.with_window(w).diagonals) for w in range(dm.modulus)]
    assert found.products in counts
    assert found.products <= min(counts[0], counts[dm.modulus // 2])
    if not (dm.fold_distance or dm.target.spill or dm.copies):
        assert found.products == min(counts) == max(counts)


@given(data=st.data())
def test_the_split_makes_about_as_many_products(
    diagonal_maps: DiagonalMaps, data: st.DataObject
) -> None:
    """When products are all that counts, the split finds no more than the estimate says."""
    drawn = data.draw(diagonal_maps())
    dm = replace(drawn, linear_map=without_zeros(drawn.linear_map), window=0)
    split = choose_split([dm], RotationCosts(0.0, 0.0, 0.0, 0.0, product=1.0))
    found = measured(dm)
    assert found is not None and len(dm.with_window(split.window).diagonals) <= found.products


# ---------------------------------------------------------------------------- what does not apply


def map_between(source: Layout, target: Layout, packing: Packing = "real") -> DiagonalMap:
    return DiagonalMap(dense(np.ones((target.size, source.size))), source, target, packing)


def test_a_single_slot_cannot_be_folded() -> None:
    one = Layout((1,), SLOTS, 1, ())
    assert measured(map_between(one, PLAIN, "real")) is not None
    assert measured(map_between(one, PLAIN, "fold")) is None
    assert measured(map_between(PLAIN, one, "fold")) is None
    two = Layout((1,), SLOTS, 2, ())
    assert measured(map_between(PLAIN, two, "fold")) is not None


@pytest.mark.parametrize(
    ("packing", "period", "applies"),
    [("real", 2, False), ("real", 4, True), ("fold", 4, False), ("fold", 8, True)],
)
def test_spills_need_room(packing: Packing, period: int, applies: bool) -> None:
    """r = U / 2 + h with h < U / 2, U being K, or K / 2 with a fold."""
    small = Layout((1,), SLOTS, period, ())
    found = measured(map_between(small, replace(EVEN, spill=1), packing))
    assert (found is not None) == applies


@pytest.mark.parametrize(
    ("packing", "copies", "applies"),
    [("real", 8, False), ("real", 4, True), ("fold", 4, False), ("pair", 4, True)],
)
def test_copies_need_room(packing: Packing, copies: int, applies: bool) -> None:
    """The copy must be nearer than the interval is long that offsets are brought to."""
    source = Layout((4,), SLOTS, 16, (Digit(0, 1, 4, "slot", 1),))
    dm = replace(map_between(source, PLAIN, packing), copies=copies)
    assert dm.modulus == 8
    assert (measured(dm) is not None) == applies


# ---------------------------------------------------------------------------- seconds


def test_without_rotations_only_products_cost() -> None:
    dm = DiagonalMap(identity(8), PLAIN, PLAIN, "real")
    found = measured(dm)
    assert found == MapSize(1, 1, 0, 0)
    assert found.seconds(COSTS) == COSTS.product


def test_with_rotations() -> None:
    """8 diagonals: products, 2 sqrt(P B G), one decomposition and one division by P."""
    found = measured(map_between(PLAIN, PLAIN))
    assert found == MapSize(8, 1, 1, 1)
    assert found.seconds(COSTS) == pytest.approx(8 * 0.5 + 2 * math.sqrt(8 * 1.0 * 4.0) + 3.0 + 2.0)


def test_seconds_grow_with_products() -> None:
    """Between the same layouts, with more and more cyclic diagonals."""
    index = np.arange(8)
    found = []
    for diagonals in range(1, 9):
        matrix = ((index[None, :] - index[:, None]) % 8 < diagonals).astype(float)
        terms = []
        for row, column in np.argwhere(matrix):
            where = np.array([row], np.int32), np.array([column], np.int32)
            terms.append(LinearTerm(np.ones(1), *where))
        found.append(measured(DiagonalMap(LinearMap(tuple(terms), 8, 8), PLAIN, PLAIN, "real")))
    assert [size.products for size in found if size] == list(range(1, 9))
    seconds = [size.seconds(COSTS) for size in found if size]
    assert seconds == sorted(set(seconds))


def test_folds_spills_and_copies_halve_the_products() -> None:
    """A dense map of 8 slots has 8 diagonals; each of the three leaves half of them."""
    dm = map_between(EVEN, EVEN)
    plain = measured(dm)
    assert plain is not None and plain.products == 8
    spilled = replace(dm, target=replace(EVEN, spill=1))
    copied = replace(spilled, copies=1)
    for changed, products in (
        (replace(dm, packing="fold"), 4),
        (spilled, 8),  # only every second slot of a product is of use
        (copied, 4),
        (replace(copied, packing="fold"), 2),
    ):
        found = measured(changed)
        assert found is not None and found.products == products


@given(data=st.data())
def test_undoing_the_packing(diagonal_maps: DiagonalMaps, data: st.DataObject) -> None:
    """One rotation per sum over replicas or spills; conjugations, and the products with i."""
    dm = data.draw(diagonal_maps())
    steps = {
        "real": 0.0,
        "direct": 0.0,
        "pair": COSTS.rotate + COSTS.unit,
        "fold": 2 * COSTS.rotate + COSTS.unit,
    }
    expected = dm.accumulators * (len(dm.sum_rotations()) * COSTS.rotate + steps[dm.packing])
    found = unpacking_seconds(dm.source, dm.target, dm.packing, COSTS)
    assert found == pytest.approx(expected)


def test_equal_maps_are_measured_once() -> None:
    """Weights may differ, but not where they are, between what shapes, or whether they repeat."""
    sizes, matrix = MapSizes(), np.ones((8, 8))
    first, second = dense(matrix), dense(2.0 * matrix)
    kept = sizes.parts(first, PLAIN, PLAIN)
    assert sizes.parts(second, PLAIN, EVEN) is kept
    assert sizes.measure(second, PLAIN, PLAIN, "real", 0) is sizes.measure(
        first, PLAIN, PLAIN, "real", 0
    )
    assert sizes.measure(first, PLAIN, PLAIN, "fold", 0) == measured(
        map_between(PLAIN, PLAIN, "fold")
    )
    assert sizes.parts(identity(8), PLAIN, PLAIN) is not kept
    other = Layout((2, 4), SLOTS, 8, (Digit(1, 1, 4, "slot", 1), Digit(0, 1, 2, "slot", 4)))
    assert sizes.parts(first, other, PLAIN) is not kept
    # The same for both samples, and not.
    block = np.arange(2, dtype=np.int32)[:, None] * 4 + np.zeros(4, np.int32)
    index = block + np.arange(4, dtype=np.int32)
    alike, different = (
        LinearMap((LinearTerm(w, index, index),), 8, 8)
        for w in (np.ones((2, 1)), np.array([[1.0], [2.0]]))
    )
    assert sizes.parts(alike, other, other).repeats
    assert not sizes.parts(different, other, other).repeats
