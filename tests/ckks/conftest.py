"""Random layouts and random linear maps between them, as strategies to draw from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from fhecompile.ckks.diagonals import DiagonalMap
from fhecompile.ckks.layout import Digit, Layout, Place, next_power_of_two, vector_layout
from fhecompile.ckks.linear_map import LinearMap, LinearTerm

Layouts = Callable[..., st.SearchStrategy[Layout]]
DiagonalMaps = Callable[..., st.SearchStrategy[DiagonalMap]]

WEIGHTS = st.integers(-3, 3).map(float)  # sums of small integers are exact


@st.composite
def draw_digits(draw: st.DrawFn, shape: tuple[int, ...]) -> list[tuple[int, int, int]]:
    """(axis, divisor, radix) of digits that name every element, in any order."""
    digits = []
    for axis, length in enumerate(shape):
        divisor = 1
        while divisor < length:
            radix = draw(st.integers(2, max(2, -(-length // divisor))))
            digits.append((axis, divisor, radix))
            divisor *= radix
    return draw(st.permutations(digits))


@st.composite
def draw_layout(draw: st.DrawFn, slots: int = 32, is_complex: bool = False) -> Layout:
    """Digits in any order with gaps; what does not fit into the slots takes ciphertexts.

    With `is_complex` one digit of radix 2, if there is one, chooses the imaginary part.
    """
    if not is_complex and draw(st.integers(0, 3)) == 0:
        return vector_layout((1, draw(st.integers(1, 3 * slots))), slots)
    shape = tuple(draw(st.lists(st.integers(1, 7), min_size=1, max_size=3)))
    digits: list[Digit] = []
    stride: dict[Place, int] = {"slot": 1, "ciphertext": 1, "complex": 1}
    for axis, divisor, radix in draw(draw_digits(shape)):
        place: Place = draw(st.sampled_from(["slot", "slot", "slot", "ciphertext"]))
        if is_complex and radix == 2 and stride["complex"] == 1:
            place = "complex"
        if place == "slot":
            stride["slot"] *= draw(st.integers(1, 3))
            if stride["slot"] * radix > slots:
                place = "ciphertext"
        digits.append(Digit(axis, divisor, radix, place, stride[place]))
        stride[place] *= radix
    reach = sum(d.stride * (d.radix - 1) for d in digits if d.place == "slot")
    smallest = next_power_of_two(reach + 1)
    powers = [p for p in (1 << k for k in range(slots.bit_length())) if smallest <= p <= slots]
    return Layout(shape, slots, draw(st.sampled_from(powers)), tuple(digits))


@st.composite
def draw_linear_map(draw: st.DrawFn, out_size: int, in_size: int) -> LinearMap:
    """A few scattered points, with padding and duplicates, and sometimes a dense block."""
    count = draw(st.integers(1, 12))
    found = [
        LinearTerm(
            draw(arrays(np.float64, count, elements=WEIGHTS)),
            draw(arrays(np.int32, count, elements=st.integers(-1, out_size - 1))),
            draw(arrays(np.int32, count, elements=st.integers(-1, in_size - 1))),
        )
    ]
    if draw(st.booleans()):
        rows, columns = draw(st.integers(1, out_size)), draw(st.integers(1, in_size))
        weights = np.random.default_rng(rows * columns).integers(-3, 4, (1, rows, columns))
        found.append(
            LinearTerm(
                weights.astype(np.float64),
                np.arange(rows, dtype=np.int32)[None, :, None],
                np.arange(-1, columns - 1, dtype=np.int32)[None, None, :],
            )
        )
    return LinearMap(tuple(found), out_size, in_size)


@st.composite
def draw_diagonal_map(draw: st.DrawFn, slots: int = 32) -> DiagonalMap:
    """A map between two layouts, with any packing that suits the target, any window, and spills
    and copies where there is room for them."""
    source = draw(draw_layout(slots))
    target = draw(draw_layout(slots, is_complex=draw(st.booleans())))
    packings = ["real", "pair"]
    if min(source.period, target.period) > 1:
        packings.append("fold")
    packing = "direct" if target.is_complex else draw(st.sampled_from(packings))
    linear = draw(draw_linear_map(target.size, source.size))
    if not target.is_complex:
        target = replace(target, spill=draw(st.sampled_from(spills(target))))
    dm = DiagonalMap(linear, source, target, packing)  # type: ignore[arg-type]
    if dm.reach <= target.spill:
        target = replace(target, spill=0)
        dm = replace(dm, target=target)
    copies = draw(st.sampled_from([0, *(c for c in unused_bits(source) if c < dm.reach)]))
    if not copies:
        dm = replace(dm, source=replace(source, spill=draw(st.sampled_from(spills(source)))))
    return replace(dm, window=draw(st.integers(0, dm.modulus - 1)), copies=copies)


def spills(layout: Layout) -> list[int]:
    """What the spill of a layout may be."""
    return [0, *unused_bits(layout)]


def unused_bits(layout: Layout) -> list[int]:
    """Strides below the period that no element's slot has."""
    used = int(np.bitwise_or.reduce(layout.positions[1]))
    return [1 << k for k in range(layout.period.bit_length() - 1) if not used >> k & 1]


@pytest.fixture(scope="session")
def layouts() -> Layouts:
    """layouts(slots=..., is_complex=...): layouts with gaps, replicas and several ciphertexts."""
    return draw_layout


@pytest.fixture(scope="session")
def diagonal_maps() -> DiagonalMaps:
    """diagonal_maps(slots=...): maps between such layouts, all packings and windows."""
    return draw_diagonal_map
