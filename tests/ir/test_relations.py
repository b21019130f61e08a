"""Relations between axes, read off the maps a network has."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from fhecompile.ckks.linear_map import (
    LinearMap,
    LinearTerm,
    compose,
    dense,
    diagonal,
    identity,
    selection,
    stack,
)
from fhecompile.ir.relations import Relation, keeps_apart, relations


def convolution(
    channels: int, filters: int, size: int, window: int, stride: int, padding: int
) -> tuple[LinearMap, tuple[int, ...], tuple[int, ...]]:
    """(map, output shape, input shape) of a convolution of a square image."""
    rows = np.arange((size + 2 * padding - window) // stride + 1) * stride - padding
    y = rows[:, None] + np.arange(window)[:, None, None, None]
    x = rows[None, :] + np.arange(window)[:, None, None]
    inside = (y >= 0) & (y < size) & (x >= 0) & (x < size)
    c = np.arange(channels)[:, None, None, None, None]
    in_index = np.where(inside, (c * size + y) * size + x, -1)[None].astype(np.int32)
    out = np.arange(filters * rows.size**2, dtype=np.int32)
    values = np.random.default_rng(0).normal(size=(filters, channels, window, window, 1, 1))
    term = LinearTerm(values, out.reshape(filters, 1, 1, 1, rows.size, rows.size), in_index)
    out_shape, in_shape = (filters, rows.size, rows.size), (channels, size, size)
    return LinearMap((term,), out.size, channels * size * size), out_shape, in_shape


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize(("window", "padding"), [(3, 0), (3, 1), (5, 2)])
def test_convolution(stride: int, window: int, padding: int) -> None:
    """Rows follow rows and columns columns; filters follow nothing."""
    m, out_shape, in_shape = convolution(2, 4, 12, window, stride, padding)
    count = out_shape[1]
    assert relations(m, out_shape, in_shape) == [
        Relation(1, 1, count, 1, stride),
        Relation(2, 1, count, 2, stride),
    ]


def test_elementwise_follows_every_axis() -> None:
    scale = np.arange(1.0, 4)[:, None, None]
    m = diagonal(scale, (3, 4, 5))
    assert relations(m, (3, 4, 5), (3, 4, 5)) == [
        Relation(0, 1, 3, 0, 1),
        Relation(1, 1, 4, 1, 1),
        Relation(2, 1, 5, 2, 1),
    ]


def columns(index: NDArray[np.int64]) -> LinearMap:
    """The selection of `index`, its iteration space shaped like the output."""
    out = np.arange(index.size, dtype=np.int32).reshape(index.shape)
    ones = np.ones((1,) * index.ndim)
    return LinearMap((LinearTerm(ones, out, index.astype(np.int32)),), index.size, index.size)


def test_transpose_exchanges_axes() -> None:
    image = np.arange(4 * 6).reshape(4, 6)
    assert relations(columns(image.T), (6, 4), (4, 6)) == [
        Relation(0, 1, 6, 1, 1),
        Relation(1, 1, 4, 0, 1),
    ]


def test_reversed_axes_follow_nothing() -> None:
    image = np.arange(4 * 6).reshape(4, 6)
    assert relations(columns(image[:, ::-1]), (4, 6), (4, 6)) == [Relation(0, 1, 4, 0, 1)]


def patch_network(size: int, patch: int) -> LinearMap:
    """The same convolution on every patch of an image, the patches' results stacked."""
    conv, _, _ = convolution(1, 2, patch, 3, 1, 1)
    image = np.arange(size * size).reshape(size, size)
    branches = []
    for row in range(0, size, patch):
        for column in range(0, size, patch):
            cut = selection(image[row : row + patch, column : column + patch], size * size)
            branches.append(compose(conv, cut))
    return stack(branches, shared_input=True)


def test_patches_relate_branches_to_columns_and_rows() -> None:
    """Branch = 3 * row of patches + column of patches: two digits, 4 columns and 4 rows each."""
    m = patch_network(12, 4)
    found = relations(m, (9, 2, 4, 4), (1, 12, 12))
    assert found == [
        Relation(0, 1, 3, 2, 4),
        Relation(0, 3, 3, 1, 4),
        Relation(2, 1, 4, 1, 1),
        Relation(3, 1, 4, 2, 1),
    ]


def test_patches_in_one_row_are_one_relation() -> None:
    conv, _, _ = convolution(1, 2, 4, 3, 1, 1)
    image = np.arange(4 * 12).reshape(4, 12)
    branches = [compose(conv, selection(image[:, at : at + 4], 48)) for at in range(0, 12, 4)]
    found = relations(stack(branches, shared_input=True), (3, 2, 4, 4), (1, 4, 12))
    assert found[0] == Relation(0, 1, 3, 2, 4)


@pytest.mark.parametrize(
    ("m", "out_shape", "in_shape"),
    [
        (dense(np.ones((6, 8))), (6,), (8,)),
        (dense(np.ones((6, 8))), (2, 3), (2, 2, 2)),
        (selection(np.array([3, 0, 5, 1]), 6), (4,), (6,)),
        (LinearMap((), 4, 4), (4,), (4,)),
    ],
    ids=["dense", "dense of tensors", "shuffle", "zero"],
)
def test_no_relation(m: LinearMap, out_shape: tuple[int, ...], in_shape: tuple[int, ...]) -> None:
    assert relations(m, out_shape, in_shape) == []


def test_a_value_without_axes_has_no_relation() -> None:
    one = LinearMap(
        (LinearTerm(np.ones(1), np.arange(3, dtype=np.int32), np.zeros(3, np.int32)),), 3, 1
    )
    assert relations(one, (3,), ()) == relations(one, (3,), (1,)) == []


def test_flattening_keeps_the_last_axis_only_where_it_is_one_axis() -> None:
    """A flat selection does not say what its axes were; along its one axis only `identity` moves
    by one step of one axis everywhere."""
    assert relations(identity(6), (6,), (6,)) == [Relation(0, 1, 6, 0, 1)]


def test_the_first_term_with_relations_counts() -> None:
    m, out_shape, in_shape = convolution(2, 4, 6, 3, 1, 1)
    matrix = dense(np.ones((m.out_size, m.in_size)))
    both = LinearMap((*matrix.terms, *m.terms), m.out_size, m.in_size)
    assert relations(both, out_shape, in_shape) == relations(m, out_shape, in_shape)


def test_what_a_map_keeps_apart() -> None:
    """Branches side by side are; rows and columns of a window are not, of one pixel they are."""
    conv, out_shape, in_shape = convolution(2, 4, 6, 3, 1, 1)
    branches = stack([conv] * 3, shared_input=False)
    found = relations(branches, (3, *out_shape), (3, *in_shape))
    apart = {r.in_axis: keeps_apart(branches, r, (3, *out_shape), (3, *in_shape)) for r in found}
    assert apart == {0: True, 2: False, 3: False}
    pixel, out_shape, in_shape = convolution(2, 4, 6, 1, 1, 0)
    found = relations(pixel, out_shape, in_shape)
    assert [keeps_apart(pixel, r, out_shape, in_shape) for r in found] == [True, True]
