"""Linear maps between tensors of given shapes, in broadcast-coordinate form.

Every map here is one `LinearTerm` whose axes are named tensor axes, so that a later pass that
scales channels or composes maps finds per-channel factors as arrays with size-1 axes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fhecompile.ckks.linear_map import LinearMap, LinearTerm, collapse

FloatArray = NDArray[np.float64]
Shape = tuple[int, ...]

# Of one tensor, as a plan allows: hundreds of ciphertexts of the largest ring.
MAX_ELEMENTS = 2**24


def check_size(shape: Sequence[int]) -> None:
    """Raises MemoryError for a tensor of more than `MAX_ELEMENTS`."""
    if math.prod(shape) > MAX_ELEMENTS:
        raise MemoryError


def positions(shape: Sequence[int]) -> NDArray[np.int32]:
    """The flat index of every element of a tensor of `shape`, in that shape.

    Raises:
        MemoryError: there are more than `MAX_ELEMENTS`.
    """
    check_size(shape)
    return np.arange(math.prod(shape), dtype=np.int32).reshape(tuple(shape))


def aligned(array: NDArray[Any], rank: int) -> NDArray[Any]:
    """The array with leading axes of length 1 added up to `rank`."""
    return array.reshape((1,) * (rank - array.ndim) + array.shape)


def single_term(
    values: NDArray[Any],
    out_index: NDArray[Any],
    in_index: NDArray[Any],
    out_size: int,
    in_size: int,
) -> LinearMap:
    """The map of one term, arrays of equal rank; axes of length 1 in all three are dropped."""
    arrays = (values, out_index, in_index)
    keep = [a for a in range(values.ndim) if any(array.shape[a] > 1 for array in arrays)]
    shapes = [tuple(array.shape[a] for a in keep) or (1,) for array in arrays]
    term = LinearTerm(
        np.ascontiguousarray(values.reshape(shapes[0]), np.float64),
        np.ascontiguousarray(out_index.reshape(shapes[1]), np.int32),
        np.ascontiguousarray(in_index.reshape(shapes[2]), np.int32),
    )
    return LinearMap((term,), out_size, in_size)


def scaling(in_shape: Shape, out_shape: Shape, scale: FloatArray | float = 1.0) -> LinearMap:
    """y = scale * x with x (of `in_shape`) and scale broadcast to `out_shape`."""
    rank = len(out_shape)
    factor = np.asarray(scale, np.float64)
    if np.isfinite(factor).all():  # collapse() reads NaN as "any value"
        factor = collapse(factor)
    return single_term(
        aligned(factor, rank),
        positions(out_shape),
        aligned(positions(in_shape), rank),
        math.prod(out_shape),
        math.prod(in_shape),
    )


def placing(
    target: NDArray[np.integer], source: NDArray[np.integer], out_size: int, in_size: int
) -> LinearMap:
    """y[target[t]] = x[source[t]], both arrays of one shape; other elements of y are zero."""
    return single_term(np.ones((1,) * source.ndim), target, source, out_size, in_size)


def summing(in_shape: Shape, axes: Sequence[int], weight: float) -> LinearMap:
    """y = weight * (sum of x over `axes`), the axes kept with length 1."""
    kept = tuple(1 if a in axes else n for a, n in enumerate(in_shape))
    values = np.full((1,) * len(in_shape), weight)
    return single_term(
        values, positions(kept), positions(in_shape), math.prod(kept), math.prod(in_shape)
    )
