"""Pictures of layouts, and that they say where elements are."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fhecompile.ckks.layout import Digit, Layout, vector_layout
from fhecompile.report.layouts import (
    axis_names,
    draw_layout,
    fill,
    place_cells,
    place_text,
    shape_text,
    slot_cells,
)

FACE = Layout(
    (1, 3, 8, 8),
    512,
    128,
    (
        Digit(3, 1, 2, "ciphertext", 1),
        Digit(3, 2, 4, "slot", 1),
        Digit(2, 1, 8, "slot", 4),
        Digit(1, 1, 4, "slot", 32),
    ),
)
SPILLED = Layout(
    (2, 1, 2, 2, 2),
    64,
    32,
    (Digit(0, 1, 2, "slot", 16), *(Digit(k, 1, 2, "slot", 32 >> k) for k in (2, 3, 4))),
    1,
)


@pytest.mark.parametrize(
    ("layout", "text"),
    [
        (FACE, "= = | c1 c0 | h2 h1 h0 | w2 w1 | ciphertext: w0"),
        (SPILLED, "= | p0 | c0 | h0 | w0 | *"),
        (vector_layout((1, 10), 16, 2), "= | f2 f1 f0 | imaginary: f3"),
        (vector_layout((1, 40), 16), "f3 f2 f1 f0 | ciphertext: f5 f4"),
        (vector_layout((6,), 16), "= | a0.2 a0.1 a0.0"),
        (Layout((1,), 8, 1, ()), "= = ="),
        # An axis shorter than its digit leaves holes.
        (
            Layout((1, 2, 4), 16, 16, (Digit(1, 1, 4, "slot", 1), Digit(2, 1, 4, "slot", 4))),
            "l1 l0 | . | c0",
        ),
        # No powers of two.
        (
            Layout((1, 3, 5), 16, 16, (Digit(1, 1, 3, "slot", 5), Digit(2, 1, 5, "slot", 1))),
            "c/1%3*5 l/1%5*1, period 16",
        ),
        (
            Layout((1, 12), 8, 4, (Digit(1, 3, 4, "slot", 1), Digit(1, 1, 3, "ciphertext", 1))),
            "f/3%4*1, period 4 | ciphertext: f/1%3*1",
        ),
        (
            Layout((1, 12), 8, 4, (Digit(1, 1, 4, "slot", 1), Digit(1, 4, 3, "ciphertext", 1))),
            "= | f1 f0 | ciphertext: f/4%3*1",
        ),
        # Two digits in one bit, the second never 1 together with the first.
        (
            Layout((1, 3), 8, 4, (Digit(1, 1, 2, "slot", 1), Digit(1, 2, 2, "slot", 1))),
            "f/1%2*1 f/2%2*1, period 4",
        ),
    ],
)
def test_pictures(layout: Layout, text: str) -> None:
    assert draw_layout(layout) == text


def test_names_of_axes() -> None:
    assert axis_names(5) == ("p", "n", "c", "h", "w")
    assert axis_names(3) == ("n", "c", "l")
    assert axis_names(6) == ("a0", "a1", "a2", "a3", "a4", "a5")
    assert axis_names(0) == ()
    assert shape_text(FACE) == "n=1 c=3 h=8 w=8"


def test_fill() -> None:
    assert fill(FACE) == 0.75
    assert fill(vector_layout((1, 10), 16, 2)) == 10 / 16
    assert place_text(FACE, "complex") == ""


@st.composite
def layouts(draw: st.DrawFn) -> Layout:
    """Bits of a tensor's indices dealt to slot bits and ciphertexts in any order."""
    sizes = draw(st.lists(st.integers(1, 9), min_size=1, max_size=4))
    bits = [(a, b) for a, n in enumerate(sizes) for b in range((n - 1).bit_length())]
    holes = draw(st.integers(0, 2))
    order = draw(st.permutations([*bits, *[None] * holes]))
    cut = draw(st.integers(0, len(order)))
    digits = [
        Digit(
            bit[0], 1 << bit[1], 2, *(("slot", 1 << k) if k < cut else ("ciphertext", 1 << k - cut))
        )
        for k, bit in enumerate(order)
        if bit is not None
    ]
    period = 1 << cut
    return Layout(tuple(sizes), period << draw(st.integers(0, 2)), period, tuple(digits))


@given(layouts())
def test_a_picture_says_where_every_element_is(layout: Layout) -> None:
    layout.verify()
    rank = len(layout.shape)
    index = dict(zip(axis_names(rank), np.indices(layout.shape).reshape(rank, -1), strict=True))
    found = {}
    for place, cells in (("slot", slot_cells(layout)), ("ct", place_cells(layout, "ciphertext"))):
        assert cells is not None
        found[place] = np.zeros(layout.size, np.int64)
        for cell in cells:
            bit = index[cell.axis] >> cell.bit & 1 if cell.kind == "axis" else 0
            found[place] = 2 * found[place] + bit
    assert np.array_equal(found["slot"], layout.positions[1])
    assert np.array_equal(found["ct"], layout.positions[0])
