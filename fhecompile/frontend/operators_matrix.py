"""MatMul, Gemm, BatchNormalization.

A product of a matrix of constants and an encrypted one is one term over the axes (batch.., i, j, k)
of y[i, j] = sum over k of A[i, k] B[k, j]: the constants are stored once, also when batch axes
repeat them. Two encrypted ones are multiplied over these axes (`frontend.products`).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fhecompile.ckks.linear_map import LinearMap
from fhecompile.frontend import maps
from fhecompile.frontend.lowering import (
    NodeLowering,
    Shape,
    Tensor,
    UnsupportedNodeError,
    Value,
)
from fhecompile.frontend.products import sum_of_products


def _entries(value: Value, transposed: bool = False) -> NDArray[Any]:
    """The constants of a matrix, or the flat positions of an encrypted one."""
    matrix = maps.positions(value.shape) if isinstance(value, Tensor) else np.asarray(value, float)
    return matrix.swapaxes(-1, -2) if transposed else matrix


def _product(
    call: NodeLowering,
    values: tuple[Value, Value],
    entries: tuple[NDArray[Any], NDArray[Any]],
    alpha: float = 1.0,
) -> tuple[tuple[Tensor, LinearMap], Shape]:
    """alpha times the product, as a value with a map of it, and its shape.

    Args:
        call: the node.
        values: the operands, one of them encrypted at least.
        entries: theirs, (batch.., i, k) and (batch.., k, j).
        alpha: a factor.
    """
    left, right = entries
    batch = np.broadcast_shapes(left.shape[:-2], right.shape[:-2])
    shape = (*batch, left.shape[-2], right.shape[-1])
    rank = len(batch) + 3
    arranged = (
        maps.aligned(left[..., None, :], rank),
        maps.aligned(right.swapaxes(-1, -2)[..., None, :, :], rank),
    )
    operands, factors = [], np.full((1,) * rank, alpha)
    for value, array in zip(values, arranged, strict=True):
        if isinstance(value, Tensor):
            operands.append((value, array))
        else:
            factors = factors * array
    return sum_of_products(call, operands, factors, shape), shape


def lower_matmul(call: NodeLowering) -> Tensor:
    """MatMul with numpy's rules for ranks 1 and above 2."""
    a, b = call.value(0), call.value(1)
    if not a.shape or not b.shape:
        call.invalid("an operand is a scalar")
    left, right = _entries(a), _entries(b)
    left = left[None, :] if len(a.shape) == 1 else left
    right = right[:, None] if len(b.shape) == 1 else right
    batches = (left.shape[:-2], right.shape[:-2])
    if left.shape[-1] != right.shape[-2] or call.broadcast_shape(*batches) is None:
        call.invalid(f"shapes {a.shape} and {b.shape} do not fit")
    product, shape = _product(call, (a, b), (left, right))
    if len(a.shape) == 1:
        shape = (*shape[:-2], shape[-1])
    if len(b.shape) == 1:
        shape = shape[:-1]
    return call.affine([product], shape)


def lower_gemm(call: NodeLowering) -> Tensor:
    """alpha * A' @ B' + beta * C; any of them may be encrypted."""
    a, b = call.value(0), call.value(1)
    if len(a.shape) != 2 or len(b.shape) != 2:
        call.invalid(f"shapes {a.shape} and {b.shape} are not matrices")
    alpha, beta = call.attribute("alpha", 1.0), call.attribute("beta", 1.0)
    left = _entries(a, bool(call.attribute("transA", 0)))
    right = _entries(b, bool(call.attribute("transB", 0)))
    if left.shape[1] != right.shape[0]:
        call.invalid(f"shapes {a.shape} and {b.shape} do not fit")
    shape: Shape = (left.shape[0], right.shape[1])
    operands: list[tuple[Tensor, LinearMap]] = []
    bias: NDArray[Any] = np.zeros((1, 1))
    if isinstance(a, Tensor) or isinstance(b, Tensor):
        operands.append(_product(call, (a, b), (left, right), alpha)[0])
    else:
        bias = alpha * (left @ right)
    if call.has_input(2):
        c = call.value(2)
        if call.broadcast_shape(c.shape, shape) != shape:
            call.invalid(f"C of shape {c.shape} for a result of shape {shape}")
        if isinstance(c, Tensor):
            operands.append((c, maps.scaling(c.shape, shape, beta)))
        else:
            bias = bias + beta * np.asarray(c, float)
    return call.affine(operands, shape, bias)


def lower_batch_normalization(call: NodeLowering) -> Tensor:
    """y = scale * (x - mean) / sqrt(variance + epsilon) + shift per channel (axis 1)."""
    x = call.tensor(0)
    if call.attribute("training_mode", 0) or len(call.node.outputs) > 1:
        raise UnsupportedNodeError("training mode")
    names = ("scale", "shift", "mean", "variance")
    parameters = [call.weights(i + 1, name) for i, name in enumerate(names)]
    if len(x.shape) < 2 or any(p.shape != (x.shape[1],) for p in parameters):
        call.invalid(f"parameters {[p.shape for p in parameters]} for an input {x.shape}")
    view = (1, x.shape[1], *[1] * (len(x.shape) - 2))
    scale, shift, mean, variance = (p.reshape(view) for p in parameters)
    with np.errstate(all="ignore"):
        factor = scale / np.sqrt(variance + call.attribute("epsilon", 1e-5))
        bias = shift - mean * factor
    return call.affine([(x, maps.scaling(x.shape, x.shape, factor))], x.shape, bias)
