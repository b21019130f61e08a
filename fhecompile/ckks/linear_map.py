r"""Sparse linear maps in broadcast-coordinate form.

A map y = M x between flat vectors is a sum of *terms*. A term is three numpy arrays of equal rank
that broadcast to one iteration space T:

    y[out_index[t]] += values[t] * x[in_index[t]]        for every t in T,

an index of -1 meaning "outside" (zero padding, dropped output): that t contributes nothing. It is
the coordinate format of sparse matrices, O(non-zeros) and never O(slots^2), but broadcasting keeps
it small: a convolution has T = (o, c, kh, kw, h, w), its values have shape (o, c, kh, kw, 1, 1),
its in_index (1, c, kh, kw, h, w) and its out_index (o, 1, 1, 1, h, w), so the kernel is stored once
and not once per pixel.

Composition of B after A needs, for each t of B, the row of A that produces its input. If every row
of A has at most k non-zeros (k = 1: scaling, slicing, transposing; k = window size: pooling), B's
iteration space gets one new axis of length k and the result is again compact; likewise with A and
B exchanged, over the columns of B. So it is for any k where no two products fall together, because
B only copies (one non-zero per row) or A reads every input once. Other maps that overlap on both
sides are multiplied out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from fhecompile.errors import InternalError

AnyScalar = TypeVar("AnyScalar", bound=np.generic)
FloatArray = NDArray[np.float64]
IndexArray = NDArray[np.int32]


@dataclass(frozen=True, eq=False)
class LinearTerm:
    """One term; see the module docstring. Arrays have equal rank and broadcast together."""

    values: FloatArray
    out_index: IndexArray
    in_index: IndexArray

    @property
    def shape(self) -> tuple[int, ...]:
        """The iteration space T."""
        return np.broadcast_shapes(self.values.shape, self.out_index.shape, self.in_index.shape)

    @property
    def size(self) -> int:
        """Number of points of T, padding included."""
        return int(np.prod(self.shape, dtype=np.int64))

    def coordinates(self) -> tuple[IndexArray, IndexArray, FloatArray]:
        """All non-padding points as flat arrays (out, in, value)."""
        shape = self.shape
        out = np.broadcast_to(self.out_index, shape).ravel()
        inn = np.broadcast_to(self.in_index, shape).ravel()
        val = np.broadcast_to(self.values, shape).ravel()
        valid = (out >= 0) & (inn >= 0)
        return (out, inn, val) if valid.all() else (out[valid], inn[valid], val[valid])

    def multiply_accumulates(self) -> int:
        """Number of points that are not padding and have a non-zero value."""
        return self._nonzeros

    @cached_property
    def _nonzeros(self) -> int:  # counted once: many parameters are compared for one graph
        valid = (self.out_index >= 0) & (self.in_index >= 0) & (self.values != 0)
        return int(np.broadcast_to(valid, self.shape).sum())


@dataclass(frozen=True, eq=False)
class LinearMap:
    """A sum of terms from a vector of `in_size` to a vector of `out_size` elements."""

    terms: tuple[LinearTerm, ...]
    out_size: int
    in_size: int

    def multiply_accumulates(self) -> int:
        """Non-zeros, counted with multiplicity."""
        return sum(term.multiply_accumulates() for term in self.terms)

    def coordinates(self) -> tuple[IndexArray, IndexArray, FloatArray]:
        """All non-zeros of all terms as flat arrays (out, in, value)."""
        parts = [term.coordinates() for term in self.terms]
        if not parts:
            empty = np.zeros(0, np.int32)
            return empty, empty, np.zeros(0)
        out, inn, val = (np.concatenate(column) for column in zip(*parts, strict=True))
        return out, inn, val

    def apply(self, x: FloatArray) -> FloatArray:
        """y = M x for x of shape (batch, in_size); returns (batch, out_size)."""
        padded = np.zeros((self.in_size + 1, len(x)))
        padded[:-1] = x.T
        y: FloatArray = np.zeros((self.out_size + 1, len(x)))
        for term in self.terms:
            _apply_term(term, padded, y)
        return np.ascontiguousarray(y[:-1].T)

    def row_sums(self) -> FloatArray:
        """M applied to the all-ones vector, shape (out_size,)."""
        sums: FloatArray = self.apply(np.ones((1, self.in_size)))[0]
        return sums


def _apply_term(term: LinearTerm, padded: FloatArray, y: FloatArray) -> None:
    """Adds one term to y; `padded` and y have an element per row, a sample per column.

    What varies along an axis of T says what it counts: all three arrays products of matrices (as
    branches do), values and output their rows, input and output their columns; values and input are
    contracted. Axes of one array alone are summed over, or copied to.
    """
    axes = range(len(term.shape))
    varying = [
        (term.values.shape[a] > 1, term.in_index.shape[a] > 1, term.out_index.shape[a] > 1)
        for a in axes
    ]
    products = [a for a in axes if varying[a] == (True, True, True)]
    rows = [a for a in axes if varying[a] == (True, False, True)]
    columns = [a for a in axes if varying[a] == (False, True, True)]
    contracted = [a for a in axes if varying[a] == (True, True, False)]

    def grouped(array: NDArray[AnyScalar], *groups: list[int]) -> NDArray[AnyScalar]:
        """One axis per group and a last one for all others."""
        order = [a for group in groups for a in group]
        sizes = [math.prod(array.shape[a] for a in group) for group in groups]
        others = [a for a in axes if a not in order]
        sizes.append(math.prod(array.shape[a] for a in others))
        return array.transpose([*order, *others]).reshape(sizes)

    matrices = grouped(term.values, products, rows, contracted).sum(axis=-1)
    vectors = padded[grouped(term.in_index, products, contracted, columns)]
    if vectors.shape[-2] > 1:  # a sum over one element would copy
        vectors = vectors.sum(axis=-2)
    found = matrices @ vectors.reshape(*vectors.shape[:2], -1)
    target = grouped(term.out_index, products, rows, columns)
    found = found.reshape(*target.shape[:3], 1, y.shape[1])
    found = np.broadcast_to(found, (*target.shape, y.shape[1])).reshape(-1, y.shape[1])
    places = target.ravel()
    if np.unique(places[places >= 0]).size == int((places >= 0).sum()):
        y[places] += found
    else:
        np.add.at(y, places, found)


# ---------------------------------------------------------------------------- constructors


def identity(size: int) -> LinearMap:
    """y = x."""
    return selection(np.arange(size), size)


def selection(source: NDArray[np.integer], in_size: int, scale: float = 1.0) -> LinearMap:
    """y[j] = scale * x[source[j]]; source -1 gives zero. y has source.size elements."""
    index = np.ascontiguousarray(source, dtype=np.int32).ravel()
    out = np.arange(index.size, dtype=np.int32)
    return LinearMap((LinearTerm(np.full((1,), float(scale)), out, index),), index.size, in_size)


def diagonal(scale: FloatArray, shape: Sequence[int]) -> LinearMap:
    """y = scale * x elementwise for tensors of `shape`; scale broadcasts to it."""
    shape = tuple(shape)
    full = np.asarray(scale, np.float64).reshape((1,) * (len(shape) - scale.ndim) + scale.shape)
    size = int(np.prod(shape, dtype=np.int64))
    index = np.arange(size, dtype=np.int32).reshape(shape)
    return LinearMap((_tidy(LinearTerm(full, index, index)),), size, size)


def dense(matrix: FloatArray) -> LinearMap:
    """y = matrix @ x for matrix of shape (out_size, in_size)."""
    rows, columns = matrix.shape
    term = LinearTerm(
        np.asarray(matrix, np.float64),
        np.arange(rows, dtype=np.int32)[:, None],
        np.arange(columns, dtype=np.int32)[None, :],
    )
    return LinearMap((term,), rows, columns)


# ---------------------------------------------------------------------------- algebra


def add(maps: Iterable[LinearMap]) -> LinearMap:
    """Sum of maps between the same two spaces."""
    maps = list(maps)
    terms = tuple(term for m in maps for term in m.terms)
    return LinearMap(terms, maps[0].out_size, maps[0].in_size)


def scale_outputs(m: LinearMap, scale: FloatArray) -> LinearMap:
    """diag(scale) M for a flat scale of out_size elements."""
    return _map_terms(m, lambda t: _scaled(t, scale, t.out_index), m.out_size, m.in_size)


def scale_inputs(m: LinearMap, scale: FloatArray) -> LinearMap:
    """M diag(scale) for a flat scale of in_size elements."""
    return _map_terms(m, lambda t: _scaled(t, scale, t.in_index), m.out_size, m.in_size)


def _scaled(term: LinearTerm, scale: FloatArray, index: IndexArray) -> LinearTerm:
    factor = collapse(np.where(index >= 0, scale[index], np.nan))
    return _tidy(LinearTerm(term.values * factor, term.out_index, term.in_index))


def _map_terms(
    m: LinearMap, function: Callable[[LinearTerm], LinearTerm], out_size: int, in_size: int
) -> LinearMap:
    return LinearMap(tuple(function(term) for term in m.terms), out_size, in_size)


def relabel_inputs(m: LinearMap, table: NDArray[np.integer], in_size: int) -> LinearMap:
    """The map with input j renamed to table[j] of a space of in_size elements (-1 drops it)."""
    padded = np.append(np.asarray(table, np.int32), np.int32(-1))
    return _map_terms(
        m, lambda t: LinearTerm(t.values, t.out_index, padded[t.in_index]), m.out_size, in_size
    )


def relabel_outputs(m: LinearMap, table: NDArray[np.integer], out_size: int) -> LinearMap:
    """The map with output j renamed to table[j] of a space of out_size elements (-1 drops it)."""
    padded = np.append(np.asarray(table, np.int32), np.int32(-1))
    return _map_terms(
        m, lambda t: LinearTerm(t.values, padded[t.out_index], t.in_index), out_size, m.in_size
    )


def compose(outer: LinearMap, inner: LinearMap) -> LinearMap:
    """The map x -> outer(inner(x)), kept compact where one side has short rows or columns."""
    terms: list[LinearTerm] = []
    for b in outer.terms:
        for a in inner.terms:
            terms.append(_compose_terms(b, a, outer.out_size, outer.in_size, inner.in_size))
    terms = [t for t in terms if t.size and np.any(t.values)]
    return LinearMap(tuple(terms), outer.out_size, inner.in_size)


def _compose_terms(
    b: LinearTerm, a: LinearTerm, out_size: int, mid_size: int, in_size: int
) -> LinearTerm:
    points_of_a = a.coordinates()
    out, between, val = b.coordinates()
    rows, columns = _longest_list(points_of_a[0], mid_size), _longest_list(between, mid_size)
    by_rows = b.size * rows if rows else None
    by_columns = a.size * columns if columns else None
    short = by_rows == b.size or by_columns == a.size
    disjoint = False
    if rows and not short:
        used = a.in_index[a.in_index >= 0]
        partitioned = a.size == used.size == np.unique(used).size
        disjoint = partitioned or b.size == out.size == np.unique(out).size
    if not (short or disjoint):
        return _sparse_product(b, a, out_size, mid_size, in_size)
    if rows and by_columns != a.size and (by_rows == b.size or disjoint or columns is None):
        out, inn, factor = _follow(b.in_index, *_padded_lists(*points_of_a, mid_size, rows))
        return _tidy(LinearTerm(b.values[..., None] * factor, b.out_index[..., None], inn))
    if columns is None:
        raise InternalError("composition of linear maps found no short side")
    inn, out, factor = _follow(a.out_index, *_padded_lists(between, out, val, mid_size, columns))
    return _tidy(LinearTerm(a.values[..., None] * factor, out, a.in_index[..., None]))


def _follow(
    index: IndexArray, members: IndexArray, weights: FloatArray
) -> tuple[IndexArray, IndexArray, FloatArray]:
    """(index with a new last axis, members of each index, their weights collapsed)."""
    valid = index[..., None] >= 0
    found = np.where(valid, members[index], np.int32(-1))
    factor = collapse(np.where(found >= 0, weights[index], np.nan))
    return index[..., None], found, factor


def _longest_list(keys: IndexArray, size: int) -> int | None:
    """How often the most frequent of the keys below `size` is there, 1 at least.

    None when they are so uneven that lists of that length would more than quadruple them.
    """
    longest = max(1, int(np.bincount(keys, minlength=size).max(initial=0)))
    return None if longest > 1 and longest * size > 4 * keys.size else longest


def _padded_lists(
    keys: IndexArray, others: IndexArray, val: FloatArray, size: int, longest: int
) -> tuple[IndexArray, FloatArray]:
    """Per key its list of (other index, value), padded with -1 to shape (size, longest)."""
    counts = np.bincount(keys, minlength=size)
    order = np.argsort(keys, kind="stable")
    keys, others, val = keys[order], others[order], val[order]
    position = np.arange(keys.size) - np.repeat(np.cumsum(counts) - counts, counts)
    members = np.full((size, longest), -1, np.int32)
    weights = np.zeros((size, longest))
    members[keys, position] = others
    weights[keys, position] = val
    return members, weights


def _sparse_product(
    b: LinearTerm, a: LinearTerm, out_size: int, mid_size: int, in_size: int
) -> LinearTerm:
    from scipy import sparse

    bo, bi, bv = b.coordinates()
    ao, ai, av = a.coordinates()
    product = (
        sparse.csr_matrix((bv, (bo, bi)), shape=(out_size, mid_size))
        @ sparse.csr_matrix((av, (ao, ai)), shape=(mid_size, in_size))
    ).tocoo()
    return LinearTerm(
        np.asarray(product.data, np.float64),
        product.row.astype(np.int32),
        product.col.astype(np.int32),
    )


# ---------------------------------------------------------------------------- compaction


def collapse(array: FloatArray) -> FloatArray:
    """Reduces every axis along which `array` is constant to length 1. NaN means "any value"."""
    for axis in range(array.ndim):
        if array.shape[axis] <= 1:
            continue
        with np.errstate(invalid="ignore"):
            low = np.fmin.reduce(array, axis=axis, keepdims=True)
            high = np.fmax.reduce(array, axis=axis, keepdims=True)
        if np.array_equal(low, high, equal_nan=True):
            array = low
    return np.nan_to_num(array, nan=0.0)


def _tidy(term: LinearTerm) -> LinearTerm:
    """Collapses constant axes of the three arrays and drops axes that are 1 in all of them."""
    values = _collapse_constant(term.values)  # not `collapse`: a NaN among weights must stay
    out, inn = _collapse_constant(term.out_index), _collapse_constant(term.in_index)
    shape = term.shape
    lost = [
        axis
        for axis in range(len(shape))
        if shape[axis] > 1 and values.shape[axis] == out.shape[axis] == inn.shape[axis] == 1
    ]
    if lost:  # the same contribution repeated: keep it once, with its multiplicity
        values = values * float(np.prod([shape[axis] for axis in lost]))
    keep = [
        axis
        for axis in range(len(shape))
        if max(values.shape[axis], out.shape[axis], inn.shape[axis]) > 1
    ]
    return LinearTerm(_squeezed(values, keep), _squeezed(out, keep), _squeezed(inn, keep))


def _squeezed(array: NDArray[AnyScalar], keep: list[int]) -> NDArray[AnyScalar]:
    return array.reshape([array.shape[axis] for axis in keep])


def _collapse_constant(array: NDArray[AnyScalar]) -> NDArray[AnyScalar]:
    """Reduces every axis along which `array` is constant to length 1."""
    for axis in range(array.ndim):
        if array.shape[axis] > 1:
            first = array.take([0], axis=axis)
            if np.array_equal(np.broadcast_to(first, array.shape), array):
                array = first
    return array.copy(order="C")


def stack(maps: Sequence[LinearMap], shared_input: bool) -> LinearMap:
    """Maps of equal sizes side by side: output block b is maps[b] of input block b.

    With `shared_input` all of them read the same vector. Terms that agree in shape become one term
    with a new leading axis, so that what the blocks have in common stays stored once.
    """
    out_size, in_size = maps[0].out_size, maps[0].in_size
    moved = []
    for b, m in enumerate(maps):
        out_table = np.arange(out_size) + b * out_size
        m = relabel_outputs(m, out_table, out_size * len(maps))
        if not shared_input:
            m = relabel_inputs(m, np.arange(in_size) + b * in_size, in_size * len(maps))
        moved.append(m)
    total_in = in_size if shared_input else in_size * len(maps)
    shapes = [[tuple(a.shape for a in _arrays(t)) for t in m.terms] for m in moved]
    if any(s != shapes[0] for s in shapes):
        terms = tuple(t for m in moved for t in m.terms)
        return LinearMap(terms, out_size * len(maps), total_in)
    stacked = []
    for group in zip(*(m.terms for m in moved), strict=True):
        arrays = [np.stack(column) for column in zip(*map(_arrays, group), strict=True)]
        stacked.append(_tidy(LinearTerm(*arrays)))
    return LinearMap(tuple(stacked), out_size * len(maps), total_in)


def _arrays(term: LinearTerm) -> tuple[FloatArray, IndexArray, IndexArray]:
    return term.values, term.out_index, term.in_index
