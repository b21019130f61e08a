r"""How the axes of a linear map's output follow the axes of its input.

A convolution of stride 2 moves two rows in its input when its output index moves one row; a patch
network's branch index moves 32 columns in the image. Such a *relation*

    output axis a, in steps of `divisor`, `count` of them  ->  input axis b moves by `step`

lets the output take over the placement of the input's axis, so that rows and columns stay where
they are and rotation offsets do not depend on the position. Relations are read off the index arrays
of the map's terms: along each axis of the iteration space both the output and the input index must
change by constants. An axis whose change is constant only in two digits (index = high * m + low)
gives two relations.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fhecompile.ckks.linear_map import LinearMap, LinearTerm
from fhecompile.ir.tensor import Shape


@dataclass(frozen=True)
class Relation:
    """See the module docstring."""

    out_axis: int
    divisor: int
    count: int
    in_axis: int
    step: int


def relations(m: LinearMap, out_shape: Shape, in_shape: Shape) -> list[Relation]:
    """The relations of the first term that has any."""
    if not out_shape or not in_shape:
        return []
    for term in m.terms:
        found = _term_relations(term, out_shape, in_shape)
        if found:
            return found
    return []


def keeps_apart(m: LinearMap, relation: Relation, out_shape: Shape, in_shape: Shape) -> bool:
    """Whether the map is block diagonal: both indices are equal along the relation's axes."""
    out, inn, _ = m.coordinates()
    a = np.unravel_index(out, out_shape)[relation.out_axis]
    b = np.unravel_index(inn, in_shape)[relation.in_axis]
    return bool(np.array_equal(a, b))


def _term_relations(term: LinearTerm, out_shape: Shape, in_shape: Shape) -> list[Relation]:
    found = []
    for axis in range(len(term.shape)):
        out_length, in_length = term.out_index.shape[axis], term.in_index.shape[axis]
        if out_length <= 1 or in_length <= 1:
            continue
        found += _axis_relations(term, axis, out_length, out_shape, in_shape)
    return found


def _axis_relations(
    term: LinearTerm, axis: int, length: int, out_shape: Shape, in_shape: Shape
) -> list[Relation]:
    whole = _relation(term, axis, 1, length, length, out_shape, in_shape)
    if whole is not None:
        return [whole]
    for low in range(2, length):
        if length % low == 0:
            inner = _relation(term, axis, 1, low, length, out_shape, in_shape)
            outer = _relation(term, axis, low, length // low, length, out_shape, in_shape)
            if inner is not None and outer is not None:
                return [inner, outer]
    return []


def _relation(
    term: LinearTerm,
    axis: int,
    distance: int,
    count: int,
    length: int,
    out_shape: Shape,
    in_shape: Shape,
) -> Relation | None:
    """The relation of moving by `distance` along `axis`, inside runs of distance * count."""
    starts: NDArray[np.int64] = np.arange(length - distance)
    starts = starts[(starts // distance) % count < count - 1]
    if not starts.size:
        return None
    out_change = _change(term.out_index, axis, starts, distance, out_shape)
    in_change = _change(term.in_index, axis, starts, distance, in_shape)
    if out_change is None or in_change is None:
        return None
    (out_axis, out_step), (in_axis, step) = out_change, in_change
    if out_step < 1 or step < 1:
        return None
    return Relation(out_axis, out_step, count, in_axis, step)


def _change(
    index: NDArray[np.int32], axis: int, starts: NDArray[np.int64], distance: int, shape: Shape
) -> tuple[int, int] | None:
    """(tensor axis, steps) by which all valid pairs differ; None if they do not agree."""
    before, after = index.take(starts, axis), index.take(starts + distance, axis)
    valid = (before >= 0) & (after >= 0)
    if not valid.any():
        return None
    a = np.stack(np.unravel_index(before[valid], shape))
    b = np.stack(np.unravel_index(after[valid], shape))
    difference = b - a
    if np.any(difference != difference[:, :1]):
        return None
    moved = np.flatnonzero(difference[:, 0])
    if moved.size != 1:
        return None
    return int(moved[0]), int(difference[moved[0], 0])
