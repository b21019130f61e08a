"""Sums and means over axes, and running sums."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from fhecompile.frontend import maps
from fhecompile.frontend.lowering import NodeLowering, Tensor, Value


def lower_reduce_sum(call: NodeLowering) -> Value:
    """The sum over axes."""
    return reduce_axes(call, call.tensor(0), mean=False) or call.tensor(0)


def lower_reduce_mean(call: NodeLowering) -> Value:
    """The mean over axes."""
    return reduce_axes(call, call.tensor(0), mean=True) or call.tensor(0)


def reduce_axes(
    call: NodeLowering, x: Tensor, *, mean: bool, name: str | None = None
) -> Tensor | None:
    """Sum or mean of x over the axes the node names; None when it is to reduce none."""
    rank = len(x.shape)
    axes: Sequence[int] = call.axes(1, rank) or ()
    if not axes:
        if call.attribute("noop_with_empty_axes", 0):
            return None
        axes = range(rank)
    weight = 1.0 / math.prod(x.shape[a] for a in axes) if mean else 1.0
    kept = tuple(1 if a in axes else n for a, n in enumerate(x.shape))
    shape = (
        kept
        if call.attribute("keepdims", 1)
        else tuple(n for a, n in enumerate(x.shape) if a not in axes)
    )
    return call.affine([(x, maps.summing(x.shape, axes, weight))], shape, name=name)


def lower_cumulative_sum(call: NodeLowering) -> Tensor:
    """y_i = the sum of the x_j with j <= i, or < i, or from the other end."""
    x = call.tensor(0)
    rank = len(x.shape)
    given = call.constant(1, "axis")
    if given.size != 1 or not -rank <= (axis := int(given.ravel()[0])) < rank:
        call.invalid(f"axis {given} of a tensor of rank {rank}")
    axis %= rank
    n = x.shape[axis]
    maps.check_size((*x.shape, n))
    sums = np.tri(n, k=-1 if call.attribute("exclusive", 0) else 0, dtype=bool)
    if call.attribute("reverse", 0):
        sums = sums[::-1, ::-1]
    # Over the axes (.., i, .., j), j the summed one.
    positions = maps.positions(x.shape)
    source = np.where(
        sums.reshape(n, *[1] * (rank - axis - 1), n),
        np.moveaxis(positions, axis, -1)[(slice(None),) * axis + (None,)],
        -1,
    )
    ones = np.ones((1,) * source.ndim)
    mover = maps.single_term(ones, positions[..., None], source, x.size, x.size)
    return call.affine([(x, mover)], x.shape)
