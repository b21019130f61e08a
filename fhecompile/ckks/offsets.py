r"""Which rotation offsets a linear map needs between two layouts, without visiting its non-zeros.

A term of a convolution runs over (o, c, kh, kw, h, w), but its rows depend on (kh, h) alone, its
columns on (kw, w), its channels on o and on c. Positions are sums over digits, so the offset

    slot(i) - slot(o) = rows(kh, h) + columns(kw, w) + channels_in(c) - channels_out(o)

is a sum of independent parts, and the set of offsets is the sumset of the sets of the parts: a few
thousand additions instead of millions. That is what makes it possible to compare thousands of
layouts. `IndexParts` finds the parts of a map once; `offsets` combines them for two layouts. Zero
weights are not looked at, so the set may hold a few offsets that the map does not need.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from fhecompile.ckks.equal_diagonals import repeats
from fhecompile.ckks.layout import Layout
from fhecompile.ckks.linear_map import LinearMap, LinearTerm

Int64Array = NDArray[np.int64]
Shape = tuple[int, ...]

_CIPHERTEXT_BITS = 12  # of either index in one key; more ciphertexts than 2^12 do not fit memory


@dataclass(frozen=True, eq=False)
class IndexPart:
    """Some axes of a term's iteration space that no other axis interacts with.

    `output` and `input` hold, per tensor axis that depends on this part, the index of every
    combination that occurs: {axis: (n,)}.
    """

    output: dict[int, Int64Array]
    input: dict[int, Int64Array]


@dataclass(frozen=True, eq=False)
class IndexParts:
    """The independent parts of every term of a map between tensors of two shapes.

    `repeats` is what `repeats_axis` says of the map.
    """

    out_shape: Shape
    in_shape: Shape
    terms: tuple[tuple[IndexPart, ...], ...]
    repeats: bool = False
    known: dict[tuple[object, ...], Int64Array] = field(default_factory=dict)

    @staticmethod
    def of(m: LinearMap, out_shape: Shape, in_shape: Shape) -> IndexParts:
        """Takes a map apart; what is not separable stays one part."""
        terms = [_parts(term, out_shape, in_shape) for term in m.terms if _touches(term)]
        return IndexParts(out_shape, in_shape, tuple(terms), repeats_axis(m, out_shape, in_shape))

    def offsets(self, source: Layout, target: Layout) -> Int64Array:
        """(output ciphertext, input ciphertext, slot(i) - slot(o)) of all pairs, shape (n, 3)."""
        pair_of_layouts = (source.digits, target.digits)
        if pair_of_layouts not in self.known:
            self.known[pair_of_layouts] = self._offsets(source, target)
        return self.known[pair_of_layouts].copy()

    def _offsets(self, source: Layout, target: Layout) -> Int64Array:
        found = [_combined(parts, source, target) for parts in self.terms]
        keys = np.unique(np.concatenate(found)) if found else np.zeros(0, np.int64)
        pair, offset = np.divmod(keys + source.slots, 2 * source.slots)
        out, inn = np.divmod(pair, 1 << _CIPHERTEXT_BITS)
        return np.stack([out, inn, offset - source.slots], axis=1)


def index_structure(m: LinearMap) -> tuple[object, ...]:
    """Equal for maps that differ in the values of their weights and nothing else."""
    terms = []
    for term in m.terms:
        arrays = (term.out_index, term.in_index)
        indices = [(a.shape, hashlib.sha256(a.tobytes()).digest()) for a in arrays]
        terms.append((term.shape, *indices))
    return m.out_size, m.in_size, *terms


def repeats_axis(m: LinearMap, out_shape: Shape, in_shape: Shape) -> bool:
    """Whether the map does the same along axis 0 (`fhecompile.ckks.equal_diagonals`)."""
    return out_shape[:1] == in_shape[:1] and repeats(m, out_shape[0])


def _combined(parts: tuple[IndexPart, ...], source: Layout, target: Layout) -> Int64Array:
    total: Int64Array = np.zeros(1, np.int64)
    for part in parts:
        key: Int64Array = np.zeros((), np.int64)
        for axis, index in part.input.items():
            tables = _axis_positions(source, axis)
            key = key + tables[0][index] * (2 * source.slots) + tables[1][index]
        for axis, index in part.output.items():
            tables = _axis_positions(target, axis)
            width = (2 * source.slots) << _CIPHERTEXT_BITS
            key = key + tables[0][index] * width - tables[1][index]
        total = np.unique(total[:, None] + np.unique(key)[None, :])
    return total


def _axis_positions(layout: Layout, axis: int) -> tuple[Int64Array, Int64Array]:
    """What an index along one axis adds to the ciphertext number and to the slot."""
    index = np.arange(layout.shape[axis], dtype=np.int64)
    ciphertext, slot = np.zeros_like(index), np.zeros_like(index)
    for d in layout.digits:
        if d.axis == axis:
            value = (index // d.divisor) % d.radix * d.stride
            if d.place == "slot":
                slot += value
            elif d.place == "ciphertext":
                ciphertext += value
    return ciphertext, slot


# ---------------------------------------------------------------------------- taking terms apart


def _touches(term: LinearTerm) -> bool:
    """Whether any point of the term is not padding."""
    return bool(np.any((term.out_index >= 0) & (term.in_index >= 0)))


def _parts(term: LinearTerm, out_shape: Shape, in_shape: Shape) -> tuple[IndexPart, ...]:
    rank = len(term.shape)
    valid = (term.out_index >= 0) & (term.in_index >= 0)
    axes = {
        **{("out", a): t for a, t in _tensor_axes(term.out_index, valid, out_shape).items()},
        **{("in", a): t for a, t in _tensor_axes(term.in_index, valid, in_shape).items()},
    }
    groups = _connected(rank, [_varying(table) for table in axes.values()])
    if not _separable(valid, groups):
        groups = [tuple(range(rank))]
    made = []
    for group in groups:
        others = tuple(a for a in range(rank) if a not in group)
        shape = tuple(term.shape[a] if a in group else 1 for a in range(rank))
        kept = np.broadcast_to(valid.any(axis=others, keepdims=True), shape).ravel()
        tables: dict[str, dict[int, Int64Array]] = {"out": {}, "in": {}}
        for (side, axis), table in axes.items():
            if set(_varying(table)) & set(group):
                tables[side][axis] = np.broadcast_to(table, shape).ravel()[kept]
        made.append(IndexPart(tables["out"], tables["in"]))
    fixed: dict[str, dict[int, Int64Array]] = {"out": {}, "in": {}}
    for (side, axis), table in axes.items():
        if not _varying(table):
            fixed[side][axis] = table.ravel()
    if fixed["out"] or fixed["in"]:
        made.append(IndexPart(fixed["out"], fixed["in"]))
    return tuple(made)


def _tensor_axes(
    index: NDArray[np.int32], valid: NDArray[np.bool_], shape: Shape
) -> dict[int, Int64Array]:
    """Per tensor axis its index over the iteration space, length 1 along axes it ignores."""
    tables = {}
    flat = np.where(index >= 0, index, 0)
    shape = shape or (1,)  # numpy unravels no arrays of indices into a scalar
    for axis, table in enumerate(np.unravel_index(flat, shape)):
        if shape[axis] > 1:
            tables[axis] = _collapsed(np.asarray(table, np.int64), index >= 0)
    return tables


def _collapsed(table: Int64Array, valid: NDArray[np.bool_]) -> Int64Array:
    """Reduces the axes along which all valid entries agree; invalid ones may become anything."""
    low = np.where(valid, table, np.iinfo(np.int64).max)
    high = np.where(valid, table, -1)
    for axis in range(table.ndim):
        if low.shape[axis] > 1:
            lowest, highest = low.min(axis, keepdims=True), high.max(axis, keepdims=True)
            if np.all((lowest == highest) | (highest < 0)):
                low, high = lowest, highest
    found: Int64Array = np.maximum(high, 0)
    return found


def _varying(table: Int64Array) -> tuple[int, ...]:
    return tuple(a for a in range(table.ndim) if table.shape[a] > 1)


def _connected(rank: int, links: list[tuple[int, ...]]) -> list[tuple[int, ...]]:
    """The axes, grouped so that axes of one link are in one group; unlinked axes are left out."""
    groups: list[set[int]] = []
    for link in links:
        if link:
            touching = [g for g in groups if g & set(link)]
            groups = [g for g in groups if not g & set(link)]
            groups.append(set(link).union(*touching))
    return [tuple(sorted(g)) for g in groups]


def _separable(valid: NDArray[np.bool_], groups: list[tuple[int, ...]]) -> bool:
    """Whether a point is valid exactly when its part in every group is."""
    product: NDArray[np.bool_] = np.ones((1,) * valid.ndim, bool)
    for group in groups:
        others = tuple(a for a in range(valid.ndim) if a not in group)
        product = product & valid.any(axis=others, keepdims=True)
    return bool(np.array_equal(np.broadcast_to(product, valid.shape), valid))
