"""Operators that only move elements, and reductions.

The element order of a moving operator is found by evaluating it on a tensor of positions. When the
order is unchanged the result is the operand seen in another shape, and no node is made.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from fhecompile.ckks.linear_map import LinearMap
from fhecompile.frontend import maps
from fhecompile.frontend.fold_constants import element_order
from fhecompile.frontend.lowering import (
    Constant,
    NodeLowering,
    Tensor,
    UnsupportedNodeError,
    Value,
)

FLOATS = {ir.DataType.FLOAT, ir.DataType.DOUBLE, ir.DataType.FLOAT16, ir.DataType.BFLOAT16}


def lower_move(call: NodeLowering) -> list[Value]:
    """Reshape, Transpose, Slice, Split, Gather, Expand, ...: all but the first operand constant."""
    x = call.tensor(0)
    others: list[Constant | None] = [
        call.constant(i, "parameter") if call.has_input(i) else None
        for i in range(1, len(call.inputs))
    ]
    results: list[Value] = []
    for number, order in enumerate(element_order(call.node, call.opset, x.shape, others)):
        if order.size == x.size and np.array_equal(order.ravel(), np.arange(x.size)):
            results.append(Tensor(x.node, order.shape))
            continue
        if not order.size:  # nothing is left of it: a constant
            results.append(np.zeros(order.shape, np.float32))
            continue
        name = call.node.outputs[number].name
        mover = maps.gathering(order, x.size)
        results.append(call.affine([(x, mover)], order.shape, name=name))
    return results


def lower_identity(call: NodeLowering) -> Value:
    """The operand itself."""
    return call.tensor(0)


def lower_dropout(call: NodeLowering) -> Value | list[Value]:
    """Dropout in inference: the operand and a mask of ones."""
    if call.has_input(2) and bool(np.any(call.constant(2, "training_mode"))):
        raise UnsupportedNodeError("training mode")
    x = call.tensor(0)
    mask: Constant = np.ones(x.shape, bool)
    return [x, mask]


def lower_cast(call: NodeLowering) -> Value:
    """Cast between float types changes nothing here: the arithmetic is that of CKKS."""
    target = call.attribute("to", 0)
    if target not in FLOATS:
        raise UnsupportedNodeError("Cast to a type that is not a float")
    return call.tensor(0)


def lower_concat(call: NodeLowering) -> Tensor:
    """Each operand is placed in its box of the result; constant operands go to the bias."""
    values = [call.value(i) for i in range(len(call.inputs))]
    rank = len(values[0].shape)
    axis = call.attribute("axis", 0)
    if not -rank <= axis < rank or any(
        len(v.shape) != rank
        or any(v.shape[a] != values[0].shape[a] for a in range(rank) if a != axis % rank)
        for v in values
    ):
        call.invalid(f"shapes {[v.shape for v in values]} along axis {axis}")
    axis %= rank
    total = sum(v.shape[axis] for v in values)
    shape = tuple(total if a == axis else n for a, n in enumerate(values[0].shape))
    target = maps.positions(shape)
    bias = np.zeros(shape)
    operands: list[tuple[Tensor, LinearMap]] = []
    start = 0
    for value in values:
        box = (slice(None),) * axis + (slice(start, start + value.shape[axis]),)
        start += value.shape[axis]
        if isinstance(value, Tensor):
            if value.size:
                source = maps.positions(value.shape)
                mover = maps.placing(target[box], source, target.size, value.size)
                operands.append((value, mover))
        else:
            bias[box] = value
    return call.affine(operands, shape, bias)


def lower_pad(call: NodeLowering) -> Value:
    """Constant padding; negative pads cut, and a padding value that is not zero is a bias."""
    x = call.tensor(0)
    mode = call.attribute("mode", "constant")
    if mode != "constant":
        raise UnsupportedNodeError(f"Pad with mode {mode}")
    rank = len(x.shape)
    given = [int(n) for n in call.constant(1, "pads").ravel()]
    fill = float(call.weights(2, "padding value").ravel()[0]) if call.has_input(2) else 0.0
    axes = call.axes(3, rank) or tuple(range(rank))
    if len(given) != 2 * len(axes):
        call.invalid(f"{len(given)} pads for {len(axes)} axes")
    begin, end = [0] * rank, [0] * rank
    for i, a in enumerate(axes):
        begin[a], end[a] = given[i], given[i + len(axes)]
    shape = tuple(n + b + e for n, b, e in zip(x.shape, begin, end, strict=True))
    if min(shape, default=1) < 0:
        call.invalid(f"pads {given} for an input {x.shape}")
    if shape == x.shape and not any(begin):
        return x
    kept = [(max(0, -b), n + min(0, e)) for n, b, e in zip(x.shape, begin, end, strict=True)]
    source = maps.positions(x.shape)[tuple(slice(*k) for k in kept)]
    box = tuple(slice(k + b, stop + b) for (k, stop), b in zip(kept, begin, strict=True))
    target = maps.positions(shape)[box]
    bias = np.full(shape, fill)
    bias[box] = 0.0
    mover = maps.placing(target, source, math.prod(shape), x.size)
    return call.affine([(x, mover)], shape, bias)


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
