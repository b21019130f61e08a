"""Diagonals: rotated, multiplied, summed and unpacked they are the matrix product."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from fhecompile.ckks.diagonals import Diagonal, DiagonalMap
from fhecompile.ckks.layout import Digit, Layout, vector_layout
from fhecompile.ckks.linear_map import dense, selection

DiagonalMaps = Callable[..., st.SearchStrategy[DiagonalMap]]
Slots = NDArray[np.complex128]


def rotated(x: Slots, offset: int) -> Slots:
    """(rot_y x)[s] = x[s + y]."""
    return np.roll(x, -offset, axis=-1)


def accumulated(dm: DiagonalMap, x: Slots) -> Slots:
    """The sums over all diagonals, shape (accumulators, slots)."""
    total = np.zeros((dm.accumulators, dm.source.slots), np.complex128)
    for d, vector in zip(dm.diagonals, dm.expand(dm.diagonals), strict=True):
        total[d.accumulator] += vector * rotated(x[d.ciphertext], d.offset)
    return total


def unpacked(dm: DiagonalMap, total: Slots) -> Slots:
    """The output ciphertexts: replicas summed and the packing undone as build_slots does."""
    for offset in dm.sum_rotations():
        total = total + rotated(total, offset)
    if dm.packing == "pair":
        halves = np.stack([total + total.conj(), 1j * (total.conj() - total)], axis=1)
        return halves.reshape(-1, dm.source.slots)[: dm.target.ciphertexts]
    if dm.packing == "fold":
        folded = total - 1j * rotated(total, dm.fold_distance)
        return folded + folded.conj()
    return total


@given(data=st.data())
def test_sum_of_diagonals(diagonal_maps: DiagonalMaps, data: st.DataObject) -> None:
    """The result is the packed product: in every replica, and zero in every hole but spills."""
    dm = data.draw(diagonal_maps(slots=data.draw(st.sampled_from([8, 32]))))
    x = data.draw(arrays(np.float64, dm.source.size, elements=st.integers(-4, 4).map(float)))
    y = dm.linear_map.apply(x[None])[0]
    slots = dm.source.pack(x.reshape(dm.source.shape)).astype(np.complex128)
    if dm.copies:
        slots = slots + rotated(slots, -dm.copies)
    if dm.source.spill:
        spilled = np.arange(dm.source.slots) & dm.source.spill != 0
        slots[:, spilled] += 100.0  # no value of a spilled position may be read
    found = unpacked(dm, accumulated(dm, slots))
    kept = np.arange(dm.source.slots) & dm.target.spill == 0
    assert np.array_equal(found[:, kept], dm.target.pack(y.reshape(dm.target.shape))[:, kept])


@given(data=st.data())
def test_names_of_diagonals(diagonal_maps: DiagonalMaps, data: st.DataObject) -> None:
    dm = data.draw(diagonal_maps())
    named = dm.diagonals
    assert named == sorted(set(named))
    low, high = -dm.window - dm.target.spill, dm.reach - dm.window + dm.copies
    assert all(low <= d.offset < high for d in named)
    assert {d.accumulator for d in named} <= set(range(dm.accumulators))
    assert {d.ciphertext for d in named} <= set(range(dm.source.ciphertexts))
    assert len(named) <= len(dm.raw_offsets)


@given(data=st.data())
def test_expand_takes_any_selection(diagonal_maps: DiagonalMaps, data: st.DataObject) -> None:
    dm = data.draw(diagonal_maps())
    everything = dm.expand(dm.diagonals)
    assert everything.shape == (len(dm.diagonals), dm.source.slots)
    chosen = data.draw(
        st.lists(st.sampled_from(range(len(dm.diagonals))), unique=True)
        if dm.diagonals
        else st.just([])
    )
    some = dm.expand([dm.diagonals[k] for k in chosen])
    assert np.array_equal(some, everything[chosen])


@given(data=st.data())
def test_windows_cover_the_same_pairs(diagonal_maps: DiagonalMaps, data: st.DataObject) -> None:
    dm = data.draw(diagonal_maps())
    moved = dm.with_window(data.draw(st.integers(0, dm.modulus - 1)))
    fresh = DiagonalMap(dm.linear_map, dm.source, dm.target, dm.packing, moved.window, dm.copies)
    assert moved.diagonals == fresh.diagonals
    if not (dm.target.spill or dm.copies):
        assert len(moved.diagonals) == len(dm.diagonals)


def test_identity_has_one_diagonal() -> None:
    layout = vector_layout((1, 8), 16)
    dm = DiagonalMap(selection(np.arange(8), 8), layout, layout, "real")
    assert dm.diagonals == [Diagonal(0, 0, 0)]
    assert np.array_equal(dm.expand(dm.diagonals), np.ones((1, 16)))


def test_fold_halves_the_diagonals() -> None:
    layout = vector_layout((1, 16), 16)
    matrix = np.arange(1.0, 257).reshape(16, 16)
    real = DiagonalMap(dense(matrix), layout, layout, "real")
    fold = DiagonalMap(dense(matrix), layout, layout, "fold")
    assert (len(real.diagonals), len(fold.diagonals)) == (16, 8)


def test_pair_halves_the_accumulators() -> None:
    source = vector_layout((1, 8), 8)
    target = vector_layout((1, 24), 8)
    assert target.ciphertexts == 3
    dm = DiagonalMap(dense(np.ones((24, 8))), source, target, "pair")
    assert dm.accumulators == 2
    assert len(dm.diagonals) == 2 * 8


def test_a_narrow_target_sums_replicas() -> None:
    """From 64 inputs to 4 outputs: 4 diagonals and sums of distance 4, 8, 16, 32."""
    source, target = vector_layout((1, 64), 128), vector_layout((1, 4), 128)
    dm = DiagonalMap(dense(np.ones((4, 64))), source, target, "real")
    assert len(dm.diagonals) == 4
    assert dm.sum_rotations() == [4, 8, 16, 32]


def test_gaps_do_not_add_diagonals() -> None:
    """A strided output stays where its input was: one diagonal per kernel position."""
    source = Layout((16,), 16, 16, (Digit(0, 1, 16, "slot", 1),))
    target = Layout((8,), 16, 16, (Digit(0, 1, 8, "slot", 2),))
    every_other = selection(np.arange(0, 16, 2), 16)
    assert DiagonalMap(every_other, source, target, "real").diagonals == [Diagonal(0, 0, 0)]
