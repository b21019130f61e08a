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
from fhecompile.ckks.map_cost import MapCost, estimate_map, unpacking_seconds
from fhecompile.ckks.offsets import IndexParts

DiagonalMaps = Callable[..., st.SearchStrategy[DiagonalMap]]

COSTS = RotationCosts(
    hoist=3.0, baby=1.0, giant=4.0, key=0.0, product=0.5, down=2.0, rotate=5.0, unit=0.25
)
SLOTS = 32
EVEN = Layout((8,), SLOTS, 16, (Digit(0, 1, 8, "slot", 2),))
PLAIN = vector_layout((8,), SLOTS)


def estimated(dm: DiagonalMap) -> MapCost | None:
    parts = IndexParts.of(dm.linear_map, dm.target.shape, dm.source.shape)
    return estimate_map(parts, dm.source, dm.target, dm.packing, dm.copies, COSTS)


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
    found = estimated(dm)
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
    found = estimated(dm)
    assert found is not None and len(dm.with_window(split.window).diagonals) <= found.products


# ---------------------------------------------------------------------------- what does not apply


def map_between(source: Layout, target: Layout, packing: Packing = "real") -> DiagonalMap:
    return DiagonalMap(dense(np.ones((target.size, source.size))), source, target, packing)


def test_a_single_slot_cannot_be_folded() -> None:
    one = Layout((1,), SLOTS, 1, ())
    assert estimated(map_between(one, PLAIN, "real")) is not None
    assert estimated(map_between(one, PLAIN, "fold")) is None
    assert estimated(map_between(PLAIN, one, "fold")) is None
    two = Layout((1,), SLOTS, 2, ())
    assert estimated(map_between(PLAIN, two, "fold")) is not None


@pytest.mark.parametrize(
    ("packing", "period", "applies"),
    [("real", 2, False), ("real", 4, True), ("fold", 4, False), ("fold", 8, True)],
)
def test_spills_need_room(packing: Packing, period: int, applies: bool) -> None:
    """r = U / 2 + h with h < U / 2, U being K, or K / 2 with a fold."""
    small = Layout((1,), SLOTS, period, ())
    found = estimated(map_between(small, replace(EVEN, spill=1), packing))
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
    assert (estimated(dm) is not None) == applies


# ---------------------------------------------------------------------------- seconds


def test_without_rotations_only_products_cost() -> None:
    dm = DiagonalMap(identity(8), PLAIN, PLAIN, "real")
    assert estimated(dm) == MapCost(1, COSTS.product)


def test_with_rotations() -> None:
    """8 diagonals: products, 2 sqrt(P B G), one decomposition and one division by P."""
    found = estimated(map_between(PLAIN, PLAIN))
    assert found == MapCost(8, pytest.approx(8 * 0.5 + 2 * math.sqrt(8 * 1.0 * 4.0) + 3.0 + 2.0))


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
        found.append(estimated(DiagonalMap(LinearMap(tuple(terms), 8, 8), PLAIN, PLAIN, "real")))
    assert [cost.products for cost in found if cost] == list(range(1, 9))
    seconds = [cost.seconds for cost in found if cost]
    assert seconds == sorted(set(seconds))


def test_folds_spills_and_copies_halve_the_products() -> None:
    """A dense map of 8 slots has 8 diagonals; each of the three leaves half of them."""
    dm = map_between(EVEN, EVEN)
    plain = estimated(dm)
    assert plain is not None and plain.products == 8
    spilled = replace(dm, target=replace(EVEN, spill=1))
    copied = replace(spilled, copies=1)
    for changed, products in (
        (replace(dm, packing="fold"), 4),
        (spilled, 8),  # only every second slot of a product is of use
        (copied, 4),
        (replace(copied, packing="fold"), 2),
    ):
        found = estimated(changed)
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
