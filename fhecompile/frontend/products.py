r"""Sums of products of encrypted tensors, as of matrices.

    y[o] = sum over s of  K[o, s] x_1[o, s] ... x_r[o, s]

The axes (o.., s..) are common to all operands; one that does not vary along an axis has length 1
there. Every operand is copied to the axes that the encrypted ones have together, which is a map of
zeros and ones, the copies are multiplied elementwise, and one map, with the weights K, sums over s:

    attention scores    y[i, j] = sum over d of q[i, d] k[j, d],    axes (i, j, d)

Copies and sums are linear, so that `passes.merge_affine` makes them part of the projections before
and after: a product of two matrices then has a depth of 1. Where only one operand varies along a
summed axis, the copying map sums over it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fhecompile.ckks.linear_map import LinearMap
from fhecompile.frontend import maps
from fhecompile.frontend.lowering import (
    FloatArray,
    NodeLowering,
    Shape,
    Tensor,
    UnsupportedNodeError,
)

IndexArray = NDArray[np.integer]

MAX_PRODUCTS = 2**20  # 32 ciphertexts of the largest ring: tens of seconds for one operator


def sum_of_products(
    call: NodeLowering,
    operands: Sequence[tuple[Tensor, IndexArray]],
    factors: FloatArray,
    shape: Shape,
) -> tuple[Tensor, LinearMap]:
    """A value and the map of it that gives y.

    Args:
        call: the node.
        operands: the encrypted operands, one or more, and which of their elements is x_k[o, s].
        factors: K, of the same rank as the indices.
        shape: of y, the first axes.
    """
    out = maps.positions(shape).reshape(shape + (1,) * (factors.ndim - len(shape)))
    if len(operands) == 1:
        x, index = operands[0]
        # Where x does not vary along a summed axis, the factors are summed.
        once = [a for a in range(len(shape), factors.ndim) if index.shape[a] == 1]
        factors = factors.sum(axis=tuple(once), keepdims=True)
        return x, maps.single_term(factors, out, index, math.prod(shape), x.size)
    common = tuple(
        1 if a >= len(shape) and _varying(operands, a) < 2 and factors.shape[a] == 1 else n
        for a, n in enumerate(np.broadcast_shapes(*(index.shape for _, index in operands)))
    )
    count = math.prod(common)
    if count > MAX_PRODUCTS:
        raise UnsupportedNodeError(
            f"{count} products of encrypted elements, the limit is {MAX_PRODUCTS}"
        )
    copies = [_copied(call, x, index, common) for x, index in operands]
    total = copies[0]
    for x in copies[1:]:
        total = call.multiply_values(total, x, common, call.part("products"))
    index = maps.positions(common)
    return total, maps.single_term(factors, out, index, math.prod(shape), count)


def _varying(operands: Sequence[tuple[Tensor, IndexArray]], axis: int) -> int:
    return sum(index.shape[axis] > 1 for _, index in operands)


def _copied(call: NodeLowering, x: Tensor, index: IndexArray, shape: Shape) -> Tensor:
    """x[index] summed over the axes where `shape` has length 1, copied to the others."""
    if x.size == 1 and index.size == 1:
        return x
    if index.shape == shape and np.array_equal(index.ravel(), np.arange(x.size)):
        return Tensor(x.node, shape)
    out, ones = maps.positions(shape), np.ones((1,) * index.ndim)
    copying = maps.single_term(ones, out, index, math.prod(shape), x.size)
    return call.affine([(x, copying)], shape, name=call.part("copies"))
