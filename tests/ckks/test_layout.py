"""Layouts: packing can be undone, replicas and holes are where they should be."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fhecompile.ckks.layout import Digit, Layout, next_power_of_two, vector_layout
from fhecompile.errors import InternalError

Layouts = Callable[..., st.SearchStrategy[Layout]]


def numbered(layout: Layout) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    """A tensor of the layout's shape with the elements 1, 2, 3, ..."""
    return np.arange(1.0, layout.size + 1).reshape(layout.shape)


@given(data=st.data(), is_complex=st.booleans())
def test_pack_and_unpack(layouts: Layouts, data: st.DataObject, is_complex: bool) -> None:
    layout = data.draw(layouts(is_complex=is_complex))
    layout.verify()
    x = numbered(layout)
    batch = np.stack([x, -2 * x])
    packed = layout.pack(batch)
    assert packed.shape == (2, layout.ciphertexts, layout.slots)
    assert np.iscomplexobj(packed) == layout.is_complex
    assert np.array_equal(layout.unpack(packed), batch)
    assert np.array_equal(layout.unpack(layout.pack(x)), x)


@given(data=st.data(), is_complex=st.booleans())
def test_every_replica_and_no_more(layouts: Layouts, data: st.DataObject, is_complex: bool) -> None:
    """Each element is found once per period, element by element as the docstring defines it."""
    layout = data.draw(layouts(is_complex=is_complex))
    expected = np.zeros((layout.ciphertexts, layout.slots), np.complex128)
    for flat, element in enumerate(np.ndindex(*layout.shape)):
        at = {"slot": 0, "ciphertext": 0, "complex": 0}
        for d in layout.digits:
            at[d.place] += element[d.axis] // d.divisor % d.radix * d.stride
        for replica in range(0, layout.slots, layout.period):
            expected[at["ciphertext"], at["slot"] + replica] += (flat + 1) * 1j ** at["complex"]
    assert np.array_equal(layout.pack(numbered(layout)), expected)


def test_pack_broadcasts() -> None:
    layout = Layout((2, 2), 4, 4, (Digit(0, 1, 2, "slot", 2), Digit(1, 1, 2, "slot", 1)))
    assert layout.pack(np.array([[3.0], [5.0]])).tolist() == [[3, 3, 5, 5]]
    assert layout.pack(np.ones(())).tolist() == [[1, 1, 1, 1]]


def test_verify_finds_collisions() -> None:
    collides = Layout((2, 2), 8, 8, (Digit(0, 1, 2, "slot", 1), Digit(1, 1, 2, "slot", 1)))
    with pytest.raises(InternalError) as raised:
        collides.verify()
    assert str(raised.value) == (
        "layout layout<2x2 in 8 period 8: 0/1%2@slot*1 1/1%2@slot*1> "
        "puts two elements into one position"
    )


def test_verify_finds_an_axis_without_digits() -> None:
    with pytest.raises(InternalError, match="puts two elements into one position"):
        Layout((2, 2), 8, 8, (Digit(0, 1, 2, "slot", 1),)).verify()


@pytest.mark.parametrize(
    "layout",
    [
        Layout((4,), 8, 2, (Digit(0, 1, 4, "slot", 1),)),
        Layout((2,), 8, 3, (Digit(0, 1, 2, "slot", 1),)),
    ],
    ids=["longer than the period", "a period that does not divide the slots"],
)
def test_verify_finds_bad_periods(layout: Layout) -> None:
    with pytest.raises(InternalError) as raised:
        layout.verify()
    assert str(raised.value) == f"layout {layout} does not fit its period {layout.period}"


@pytest.mark.parametrize(
    ("n", "parts", "period", "ciphertexts"),
    [
        *[(1, 1, 1, 1), (5, 1, 8, 1), (16, 1, 16, 1), (17, 1, 16, 2), (100, 1, 16, 7)],
        *[(2, 2, 1, 1), (5, 2, 4, 1), (32, 2, 16, 1), (33, 2, 16, 2)],
    ],
)
def test_vector_layout(n: int, parts: int, period: int, ciphertexts: int) -> None:
    layout = vector_layout((1, n), 16, parts)
    layout.verify()
    assert (layout.period, layout.ciphertexts) == (period, ciphertexts)
    assert layout.is_complex == (parts == 2)
    slots = layout.pack(numbered(layout)[None])[0].real.ravel()
    assert slots[: min(n, period)].tolist() == list(range(1, min(n, period) + 1))


def test_vector_layout_wants_a_vector() -> None:
    with pytest.raises(InternalError, match=r"vector layout of the tensor shape \(2, 3\)"):
        vector_layout((2, 3), 16)


@given(st.integers(1, 1 << 20))
def test_next_power_of_two(n: int) -> None:
    power = next_power_of_two(n)
    assert power & (power - 1) == 0
    assert power // 2 < n <= power


def test_text() -> None:
    digits = (Digit(1, 2, 3, "ciphertext", 1), Digit(0, 1, 2, "complex", 1))
    text = "layout<2x6 in 16 period 4: 1/2%3@ciphertext*1 0/1%2@complex*1>"
    assert str(Layout((2, 6), 16, 4, digits)) == text
