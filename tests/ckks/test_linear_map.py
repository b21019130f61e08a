"""Sparse maps in broadcast form against dense matrices. Values are integers: all sums are exact."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from fhecompile.ckks import linear_map
from fhecompile.ckks.linear_map import LinearMap, LinearTerm

Matrix = NDArray[np.float64]

WEIGHTS = st.integers(-3, 3).map(float)
SIZES = st.integers(1, 7)


def matrix(m: LinearMap) -> Matrix:
    """The dense matrix, point by point as the module's docstring defines it."""
    dense = np.zeros((m.out_size, m.in_size))
    for term in m.terms:
        out, inn, values = np.broadcast_arrays(term.out_index, term.in_index, term.values)
        for t in itertools.product(*map(range, term.shape)):
            if out[t] >= 0 and inn[t] >= 0:
                dense[out[t], inn[t]] += values[t]
    return dense


@st.composite
def terms(draw: st.DrawFn, out_size: int, in_size: int) -> LinearTerm:
    """Any term: up to four axes, every array long or 1 along each, with padding and duplicates."""
    shape = tuple(draw(st.lists(st.integers(1, 3), max_size=4)))

    def compact() -> tuple[int, ...]:
        return tuple(draw(st.sampled_from([1, n])) for n in shape)

    return LinearTerm(
        draw(arrays(np.float64, compact(), elements=WEIGHTS)),
        draw(arrays(np.int32, compact(), elements=st.integers(-1, out_size - 1))),
        draw(arrays(np.int32, compact(), elements=st.integers(-1, in_size - 1))),
    )


@st.composite
def partitions(draw: st.DrawFn, out_size: int, in_size: int) -> LinearTerm:
    """A pooling: disjoint windows of one size, each summed into one output."""
    window = draw(st.integers(1, in_size))
    count = min(out_size, in_size // window)
    columns = np.array(draw(st.permutations(range(in_size))), np.int32)[: count * window]
    rows = np.array(draw(st.permutations(range(out_size))), np.int32)[:count]
    values = draw(arrays(np.float64, (1, window), elements=WEIGHTS))
    return LinearTerm(values, rows[:, None], columns.reshape(count, window))


@st.composite
def maps(draw: st.DrawFn, out_size: int, in_size: int) -> LinearMap:
    kinds = [terms(out_size, in_size), partitions(out_size, in_size)]
    kinds.append(
        arrays(np.float64, (out_size, in_size), elements=WEIGHTS).map(
            lambda m: linear_map.dense(m).terms[0]
        )
    )
    found = draw(st.lists(st.one_of(kinds), max_size=3))
    return LinearMap(tuple(found), out_size, in_size)


any_map = st.tuples(SIZES, SIZES).flatmap(lambda sizes: maps(*sizes))
chains = st.tuples(SIZES, SIZES, SIZES).flatmap(
    lambda n: st.tuples(maps(n[0], n[1]), maps(n[1], n[2]))
)


# ---------------------------------------------------------------------------- algebra


@given(any_map, st.data())
def test_apply(m: LinearMap, data: st.DataObject) -> None:
    batch = data.draw(st.integers(1, 3))
    x = data.draw(arrays(np.float64, (batch, m.in_size), elements=WEIGHTS))
    assert np.array_equal(m.apply(x), x @ matrix(m).T)
    assert np.array_equal(m.row_sums(), matrix(m).sum(axis=1))


@given(any_map)
def test_coordinates(m: LinearMap) -> None:
    out, inn, values = m.coordinates()
    dense = np.zeros((m.out_size, m.in_size))
    np.add.at(dense, (out, inn), values)
    assert np.array_equal(dense, matrix(m))
    assert m.multiply_accumulates() == np.count_nonzero(values)


@given(chains)
def test_compose(chain: tuple[LinearMap, LinearMap]) -> None:
    outer, inner = chain
    product = linear_map.compose(outer, inner)
    assert (product.out_size, product.in_size) == (outer.out_size, inner.in_size)
    assert np.array_equal(matrix(product), matrix(outer) @ matrix(inner))


def test_copies_of_a_dense_map_stay_compact() -> None:
    """(rows, copies, columns): the weights are stored once."""
    weights = np.arange(1.0, 21.0).reshape(4, 5)
    inner = linear_map.dense(weights)
    outer = linear_map.selection(np.repeat(np.arange(4), 3), 4)
    product = linear_map.compose(outer, inner)
    assert np.array_equal(matrix(product), np.repeat(weights, 3, axis=0))
    copies = np.arange(4)[:, None] * np.ones((1, 3), int)
    grid = linear_map.LinearTerm(
        np.ones((1, 1)), np.arange(12, dtype=np.int32).reshape(4, 3), copies.astype(np.int32)
    )
    (term,) = linear_map.compose(linear_map.LinearMap((grid,), 12, 4), inner).terms
    assert term.values.shape == (4, 1, 5)
    assert term.in_index.shape == (1, 1, 5)


@given(any_map, st.data())
def test_add(m: LinearMap, data: st.DataObject) -> None:
    other = data.draw(maps(m.out_size, m.in_size))
    assert np.array_equal(matrix(linear_map.add([m, other])), matrix(m) + matrix(other))


@given(any_map, st.data())
def test_scale(m: LinearMap, data: st.DataObject) -> None:
    rows = data.draw(arrays(np.float64, m.out_size, elements=WEIGHTS))
    columns = data.draw(arrays(np.float64, m.in_size, elements=WEIGHTS))
    assert np.array_equal(matrix(linear_map.scale_outputs(m, rows)), rows[:, None] * matrix(m))
    assert np.array_equal(matrix(linear_map.scale_inputs(m, columns)), matrix(m) * columns)


@given(any_map, st.data())
def test_relabel(m: LinearMap, data: st.DataObject) -> None:
    """Renaming is multiplying by a 0-1 matrix with at most one 1 per old name."""
    size = data.draw(SIZES)
    rows = data.draw(arrays(np.int64, m.out_size, elements=st.integers(-1, size - 1)))
    columns = data.draw(arrays(np.int64, m.in_size, elements=st.integers(-1, size - 1)))
    moved_rows = np.eye(size + 1)[:size, rows] @ matrix(m)
    moved_columns = matrix(m) @ np.eye(size + 1)[:size, columns].T
    assert np.array_equal(matrix(linear_map.relabel_outputs(m, rows, size)), moved_rows)
    assert np.array_equal(matrix(linear_map.relabel_inputs(m, columns, size)), moved_columns)


@given(any_map, st.data(), st.booleans())
def test_stack(m: LinearMap, data: st.DataObject, shared_input: bool) -> None:
    alike = LinearMap(
        tuple(LinearTerm(-t.values, t.out_index, t.in_index) for t in m.terms),
        m.out_size,
        m.in_size,
    )
    blocks = [m, alike, data.draw(st.one_of(maps(m.out_size, m.in_size), st.just(alike)))]
    dense = [matrix(block) for block in blocks]
    expected = np.zeros((3 * m.out_size, 3 * m.in_size))
    for k, block in enumerate(dense):
        rows = slice(k * m.out_size, (k + 1) * m.out_size)
        expected[rows, k * m.in_size : (k + 1) * m.in_size] = block
    if shared_input:
        expected = np.concatenate(dense)
    assert np.array_equal(matrix(linear_map.stack(blocks, shared_input)), expected)


def test_stack_keeps_common_parts_once() -> None:
    index = np.arange(6, dtype=np.int32)
    blocks = [linear_map.selection(index[::-1], 6, scale) for scale in (1.0, 2.0, 3.0)]
    (term,) = linear_map.stack(blocks, shared_input=True).terms
    assert (term.values.shape, term.in_index.shape) == ((3, 1), (1, 6))
    assert term.out_index.shape == (3, 6)


# ---------------------------------------------------------------------------- constructors


def test_constructors() -> None:
    assert np.array_equal(matrix(linear_map.identity(3)), np.eye(3))
    chosen = linear_map.selection(np.array([[2, -1], [0, 2]]), 3, scale=2.0)
    assert np.array_equal(matrix(chosen), [[0, 0, 2], [0, 0, 0], [2, 0, 0], [0, 0, 2]])
    scale = np.array([1.0, 2.0])[:, None]
    assert np.array_equal(matrix(linear_map.diagonal(scale, (2, 3))), np.diag([1.0, 1, 1, 2, 2, 2]))
    dense = np.arange(6.0).reshape(2, 3)
    assert np.array_equal(matrix(linear_map.dense(dense)), dense)


def test_constant_diagonal_is_one_number() -> None:
    (term,) = linear_map.diagonal(np.full((4, 1, 1), 3.0), (4, 5, 5)).terms
    assert term.values.size == 1


def test_a_weight_that_is_no_number_stays() -> None:
    """`collapse` takes NaN for "any value"; among weights it is a defect to be reported."""
    (term,) = linear_map.diagonal(np.array([1.0, np.nan, 1.0]), (3,)).terms
    assert np.array_equal(term.values, [1.0, np.nan, 1.0], equal_nan=True)


# ---------------------------------------------------------------------------- collapse


@given(
    st.lists(st.integers(1, 3), min_size=1, max_size=3).flatmap(
        lambda shape: arrays(np.float64, shape, elements=st.sampled_from([1.0, 2.0, np.nan]))
    )
)
def test_collapse(array: Matrix) -> None:
    """What is left broadcasts back to the array wherever the array says anything."""
    small = linear_map.collapse(array)
    assert not np.any(np.isnan(small))
    spread = np.broadcast_to(small, array.shape)
    known = ~np.isnan(array)
    assert np.array_equal(spread[known], array[known])
    for axis in range(array.ndim):
        along = np.moveaxis(array, axis, 0)
        if not np.isnan(array).any() and np.array_equal(
            along, np.broadcast_to(along[:1], along.shape)
        ):
            assert small.shape[axis] == 1


# ---------------------------------------------------------------------------- compactness


def convolution(kernel: Matrix, height: int, width: int, stride: int = 1) -> LinearMap:
    """A convolution with zero padding of one pixel, as the module's docstring stores it."""
    filters, channels, window, _ = kernel.shape
    rows = np.arange(0, height, stride)
    columns = np.arange(0, width, stride)
    y = rows[None, None, None, None, :, None] + np.arange(window)[None, None, :, None, None, None]
    x = columns + np.arange(window)[None, None, None, :, None, None]
    y, x = y - 1, x - 1
    inside = (y >= 0) & (y < height) & (x >= 0) & (x < width)
    c = np.arange(channels)[None, :, None, None, None, None]
    in_index = np.where(inside, (c * height + y) * width + x, -1).astype(np.int32)
    pixels = rows.size * columns.size
    out_index = np.arange(filters * pixels, dtype=np.int32)
    out_index = out_index.reshape(filters, 1, 1, 1, rows.size, columns.size)
    term = LinearTerm(kernel[..., None, None], out_index, in_index)
    return LinearMap((term,), filters * pixels, channels * height * width)


def pooling(channels: int, height: int, width: int) -> LinearMap:
    """Means of 2 x 2 windows."""
    index = np.arange(channels * height * width, dtype=np.int32)
    index = index.reshape(channels, height // 2, 2, width // 2, 2)
    out = np.arange(channels * height * width // 4, dtype=np.int32)
    out = out.reshape(channels, height // 2, 1, width // 2, 1)
    term = LinearTerm(np.full((1,) * 5, 0.25), out, index)
    return LinearMap((term,), out.size, index.size)


def weights_stored(m: LinearMap) -> int:
    return sum(term.values.size for term in m.terms)


@pytest.fixture(scope="module")
def kernel() -> Matrix:
    return np.random.default_rng(0).integers(1, 9, (4, 3, 3, 3)).astype(float)


@pytest.fixture(scope="module")
def conv(kernel: Matrix) -> LinearMap:
    return convolution(kernel, 8, 8)


def agrees(product: LinearMap, outer: LinearMap, inner: LinearMap) -> bool:
    return np.array_equal(matrix(product), matrix(outer) @ matrix(inner))


def test_scale_per_channel_after_convolution(conv: LinearMap, kernel: Matrix) -> None:
    scale = linear_map.diagonal(np.arange(1.0, 5)[:, None, None], (4, 8, 8))
    product = linear_map.compose(scale, conv)
    assert agrees(product, scale, conv)
    assert weights_stored(product) == kernel.size


def test_scale_per_channel_before_convolution(conv: LinearMap, kernel: Matrix) -> None:
    scale = linear_map.diagonal(np.arange(1.0, 4)[:, None, None], (3, 8, 8))
    product = linear_map.compose(conv, scale)
    assert agrees(product, conv, scale)
    assert weights_stored(product) == kernel.size


def test_scale_functions_keep_the_kernel(conv: LinearMap, kernel: Matrix) -> None:
    outputs = np.repeat(np.arange(1.0, 5), 64)
    inputs = np.repeat(np.arange(1.0, 4), 64)
    assert weights_stored(linear_map.scale_outputs(conv, outputs)) == kernel.size
    assert weights_stored(linear_map.scale_inputs(conv, inputs)) == kernel.size


def test_slice_before_convolution(conv: LinearMap, kernel: Matrix) -> None:
    image = np.arange(3 * 8 * 16).reshape(3, 8, 16)
    patch = linear_map.selection(image[:, :, 8:], image.size)
    product = linear_map.compose(conv, patch)
    assert agrees(product, conv, patch)
    assert weights_stored(product) == kernel.size


def test_slice_after_convolution(conv: LinearMap, kernel: Matrix) -> None:
    pixels = np.arange(4 * 8 * 8).reshape(4, 8, 8)
    crop = linear_map.selection(pixels[:, 2:6, 2:6], pixels.size)
    product = linear_map.compose(crop, conv)
    assert agrees(product, crop, conv)
    assert weights_stored(product) == kernel.size


def test_pooling_after_convolution(conv: LinearMap, kernel: Matrix) -> None:
    pool = pooling(4, 8, 8)
    product = linear_map.compose(pool, conv)
    assert agrees(product, pool, conv)
    assert weights_stored(product) == kernel.size


def test_pooling_before_dense(kernel: Matrix) -> None:
    pool = pooling(4, 8, 8)
    weights = np.random.default_rng(1).integers(1, 9, (5, 64)).astype(float)
    dense = linear_map.dense(weights)
    product = linear_map.compose(dense, pool)
    assert agrees(product, dense, pool)
    assert weights_stored(product) == weights.size


def test_overlapping_convolutions_are_multiplied_out(kernel: Matrix) -> None:
    first = convolution(kernel, 6, 6)
    second = convolution(np.swapaxes(kernel, 0, 1), 6, 6, stride=2)
    product = linear_map.compose(second, first)
    assert agrees(product, second, first)
    assert weights_stored(product) == np.count_nonzero(matrix(product))
