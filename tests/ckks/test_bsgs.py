"""Baby-step giant-step splits: they name every offset and reproduce the sum of diagonals."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from fhecompile.ckks.bsgs import RotationCosts, Split, choose_split, rotation_costs
from fhecompile.ckks.diagonals import DiagonalMap
from fhecompile.ckks.layout import vector_layout
from fhecompile.ckks.linear_map import dense
from fhecompile.ckks.parameters import Parameters

DiagonalMaps = Callable[..., st.SearchStrategy[DiagonalMap]]

COSTS = RotationCosts(hoist=1.0, baby=1.0, giant=1.4, key=0.2)

powers = st.integers(0, 8).map(lambda k: 1 << k)


@given(powers, st.integers(0, 255), st.integers(-1024, 1024), st.integers(0, 255))
def test_baby_and_giant_are_the_offset(n: int, shift: int, offset: int, window: int) -> None:
    split = Split(n, shift % n, 256, window)
    baby, giant = split.baby(offset), split.giant(offset)
    assert (baby + giant - offset) % 256 == 0
    assert -split.shift <= baby < n - split.shift
    assert -128 <= giant < 128


@given(data=st.data())
def test_products_of_the_split(diagonal_maps: DiagonalMaps, data: st.DataObject) -> None:
    """sum over g of rot_g(sum over b of rot_{-g}(d_{g+b}) rot_b(x)), see the module."""
    dm = data.draw(diagonal_maps())
    split = choose_split([dm], COSTS, frozenset(data.draw(st.sets(st.integers(1, 31)))))
    dm = dm.with_window(split.window)
    slots = dm.source.slots
    x = np.random.default_rng(0).integers(-4, 5, (dm.source.ciphertexts, slots)).astype(float)
    direct = np.zeros((dm.accumulators, slots), np.complex128)
    sums: dict[tuple[int, int], np.ndarray[tuple[int, ...], np.dtype[np.complex128]]] = {}
    for d, vector in zip(dm.diagonals, dm.expand(dm.diagonals), strict=True):
        direct[d.accumulator] += vector * np.roll(x[d.ciphertext], -d.offset)
        baby, giant = split.baby(d.offset), split.giant(d.offset)
        product = np.roll(vector, giant) * np.roll(x[d.ciphertext], -baby)
        key = (d.accumulator, giant)
        sums[key] = sums.get(key, np.zeros(slots, np.complex128)) + product
    stepped = np.zeros_like(direct)
    for (accumulator, giant), total in sums.items():
        stepped[accumulator] += np.roll(total, -giant)
    assert np.array_equal(stepped, direct)


def rotations(dm: DiagonalMap, split: Split) -> tuple[int, int]:
    """Numbers of babies and giants that are rotations."""
    offsets = [d.offset for d in dm.with_window(split.window).diagonals]
    babies = {split.baby(y) for y in offsets} - {0}
    giants = {split.giant(y) for y in offsets} - {0}
    return len(babies), len(giants)


def square_map(n: int) -> DiagonalMap:
    layout = vector_layout((1, n), n)
    return DiagonalMap(dense(np.ones((n, n))), layout, layout, "real")


def test_a_dense_map_takes_square_root_many_rotations() -> None:
    dm = square_map(256)
    babies, giants = rotations(dm, choose_split([dm], COSTS))
    assert (babies + 1) * (giants + 1) == 256
    assert babies + giants <= 16 + 16


def test_costs_move_the_split() -> None:
    dm = square_map(64)
    few_giants = choose_split([dm], RotationCosts(hoist=0, baby=1, giant=100, key=0))
    few_babies = choose_split([dm], RotationCosts(hoist=0, baby=100, giant=1, key=0))
    assert rotations(dm, few_giants)[1] < rotations(dm, few_babies)[1]


def test_keys_that_exist_cost_nothing() -> None:
    dm = square_map(64)
    costs = RotationCosts(hoist=0, baby=1, giant=1, key=1000)
    taken = frozenset(range(1, 32))
    split = choose_split([dm], costs, taken)
    offsets = [d.offset for d in dm.with_window(split.window).diagonals]
    used = {f(y) % 64 for y in offsets for f in (split.baby, split.giant)} - {0}
    assert len(used - taken) <= 1


def test_rotations_cost_less_at_deeper_levels() -> None:
    parameters = Parameters(1 << 16, 12, 59, 60, 1, 128)
    top, bottom = rotation_costs(parameters, 0), rotation_costs(parameters, 12)
    assert top.baby > bottom.baby > 0
    assert top.giant > bottom.giant > 0
    assert top.hoist > bottom.hoist > 0
    assert 0 < top.key < top.baby
