"""The mathematics of galleries on plain slot vectors."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from fhecompile.ckks.gallery import (
    gallery_rotations,
    places,
    spreading_rotations,
    summing_rotations,
    template_layout,
)


@given(
    size=st.integers(1, 64),
    slots=st.sampled_from([64, 128, 1024]),
    stored=st.integers(1, 64),
    seed=st.integers(0, 1000),
)
def test_every_slot_holds_the_product_of_its_place(
    size: int, slots: int, stored: int, seed: int
) -> None:
    random = np.random.default_rng(seed)
    width = places(size, slots)
    templates = random.normal(size=(min(stored, width), size))
    probe = random.normal(size=size)
    layout = template_layout((1, size), slots)
    layout.verify()

    gallery = sum(np.roll(layout.pack(t[None])[0], place) for place, t in enumerate(templates))
    x = layout.pack(probe[None])[0]
    for offset in spreading_rotations(size, slots):
        x = x + np.roll(x, -offset)
    products = x * gallery
    for offset in summing_rotations(size, slots):
        products = products + np.roll(products, -offset)
    expected = np.zeros(width)
    expected[: len(templates)] = templates @ probe
    assert np.allclose(products.reshape(-1, width), expected, atol=1e-9)


@given(size=st.integers(1, 64))
def test_keys_are_powers_of_two(size: int) -> None:
    offsets = gallery_rotations(size, 64)
    assert len(offsets) <= 6 + 1
    assert all(0 < offset < 64 for offset in offsets)
    assert all(bin(min(offset, 64 - offset)).count("1") == 1 for offset in offsets)
