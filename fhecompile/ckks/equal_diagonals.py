r"""Which diagonals of a map hold the same numbers, so that one encoded constant serves them all.

A map that does the same to each of n samples, M = I_n (x) M', and layouts that number ciphertexts
by a digit of the sample (axis 0) on both sides: the products of sample k are those of sample 0 with
all ciphertexts k strides further. Only their ciphertexts differ, not their plaintexts.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fhecompile.ckks.diagonals import DiagonalMap, Packing
from fhecompile.ckks.layout import Digit, Layout
from fhecompile.ckks.linear_map import IndexArray, LinearMap, LinearTerm

LARGEST_LISTED = 1 << 20  # points of a term whose form does not tell that are looked at one by one


def repeats(m: LinearMap, count: int) -> bool:
    """Whether each term of M is I_count (x) some block; of large ones only their form is read."""
    if count < 2 or m.out_size % count or m.in_size % count:
        return False
    return all(_repeats(t, count, m.out_size // count, m.in_size // count) for t in m.terms)


def _repeats(term: LinearTerm, count: int, outputs: int, inputs: int) -> bool:
    """Whether some axis of the iteration space only numbers samples, or the points come to that."""
    for axis in range(len(term.shape)):
        if (
            term.shape[axis] == count
            and term.values.shape[axis] == 1
            and _numbers_blocks(term.out_index, axis, outputs)
            and _numbers_blocks(term.in_index, axis, inputs)
        ):
            return True
    return term.size <= LARGEST_LISTED and _points_repeat(term, count, outputs, inputs)


def _points_repeat(term: LinearTerm, count: int, outputs: int, inputs: int) -> bool:
    out, inn, values = term.coordinates()
    sample = out // outputs
    if len(out) % count or not np.array_equal(sample, inn // inputs):
        return False
    order = np.lexsort((values, inn, out))  # by sample first, as out is
    columns = (a[order].reshape(count, -1) for a in (out % outputs, inn % inputs, values))
    return all(bool(np.all(column == column[0])) for column in columns)


def _numbers_blocks(index: IndexArray, axis: int, block: int) -> bool:
    """Whether along an axis the index is that of the first block, moved by a block each time."""
    if index.shape[axis] == 1:
        return False
    first = index.take([0], axis)
    steps = np.arange(index.shape[axis], dtype=np.int32) * np.int32(block)
    view = [1] * index.ndim
    view[axis] = -1
    moved = np.where(first >= 0, first + steps.reshape(view), np.int32(-1))
    return bool(np.all(first < block) and np.array_equal(moved, index))


def shared_digits(source: Layout, target: Layout, packing: Packing) -> list[tuple[Digit, Digit]]:
    """Digits (of the source, of the target) of axis 0 that number ciphertexts in both.

    The samples of two accumulators that are packed as one pair are not told apart by accumulators.
    """
    if source.shape[:1] != target.shape[:1]:  # of a single number it is empty
        return []
    ends = {(d.divisor, d.radix): d for d in target.digits if _numbers_samples(d)}
    found = [
        (d, ends[d.divisor, d.radix])
        for d in source.digits
        if _numbers_samples(d) and (d.divisor, d.radix) in ends
    ]
    return [pair for pair in found if packing != "pair" or pair[1].stride % 2 == 0]


def _numbers_samples(digit: Digit) -> bool:
    return digit.axis == 0 and digit.place == "ciphertext"


def first_equals(
    rows: NDArray[np.int64], digits: Sequence[tuple[Digit, Digit]], packing: Packing
) -> NDArray[np.int64]:
    """Per row (accumulator, input ciphertext, offset) that of the first sample: the same numbers.

    Args:
        rows: diagonals of a map that repeats, shape (n, 3).
        digits: what `shared_digits` found.
        packing: how accumulators are packed.
    """
    first = rows.copy()
    for before, after in digits:
        sample = rows[:, 1] // before.stride % before.radix
        first[:, 0] -= sample * _accumulator_stride(after, packing)
        first[:, 1] -= sample * before.stride
    return first


def group_accumulators(dm: DiagonalMap) -> list[list[int]]:
    """The accumulators of a map, together those that take products with equal diagonals."""
    digits = shared_digits(dm.source, dm.target, dm.packing)
    if not digits or not repeats(dm.linear_map, dm.source.shape[0]):
        return [[accumulator] for accumulator in range(dm.accumulators)]
    groups: dict[int, list[int]] = {}
    for accumulator in range(dm.accumulators):
        first = accumulator
        for _, after in digits:
            stride = _accumulator_stride(after, dm.packing)
            first -= accumulator // stride % after.radix * stride
        groups.setdefault(first, []).append(accumulator)
    return list(groups.values())


def _accumulator_stride(digit: Digit, packing: Packing) -> int:
    return digit.stride // 2 if packing == "pair" else digit.stride
