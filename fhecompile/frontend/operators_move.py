r"""Operators that only move elements: every element of the result is one of an operand, or zero.

What they do is not written here. Every element of the operands that are moved gets a number, from 1
on, and the operator is evaluated on these numbers by ONNX's own reference: what comes out says
where each element of the result is from, 0 being what the operator itself puts there. Numbers of an
encrypted operand become a map, those of a constant one the bias. When one encrypted operand comes
out in its own order, the result is that operand seen in another shape, and no node is made.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from fhecompile.ckks.linear_map import LinearMap
from fhecompile.frontend import maps
from fhecompile.frontend.fold_constants import evaluate_node, input_names
from fhecompile.frontend.lowering import (
    Constant,
    NodeLowering,
    Shape,
    Tensor,
    UnsupportedNodeError,
    Value,
)

FLOATS = {ir.DataType.FLOAT, ir.DataType.DOUBLE, ir.DataType.FLOAT16, ir.DataType.BFLOAT16}
# Which operands are moved; the others say how, and must be constant. Not listed: the first one.
MOVED: dict[str, tuple[int, ...] | None] = {
    "Concat": None,  # all
    "Scatter": (0, 2),
    "ScatterElements": (0, 2),
    "ScatterND": (0, 2),
    "Where": (1, 2),
}


def lower_move(call: NodeLowering) -> list[Value]:
    """The operators of the module's docstring, with any number of outputs."""
    operands, numbered = _number_elements(call)
    results: list[Value] = []
    orders = evaluate_node(call.node, call.opset, numbered)
    for output, order in zip(call.node.outputs, orders, strict=True):
        results.append(_collect(call, str(output.name), order.astype(np.int64), operands))
    return results


def lower_gather_elements(call: NodeLowering) -> Value:
    """GatherElements; ONNX's reference refuses indices of fewer elements than the operand."""
    x = call.tensor(0)
    order = _named_elements(call, x.shape, call.constant(1, "indices"))
    return _collect(call, str(call.node.outputs[0].name), order, [(0, x)])


def _named_elements(call: NodeLowering, shape: Shape, indices: NDArray[Any]) -> NDArray[np.int64]:
    """Positions in a tensor of `shape` that the indices name along the attribute `axis`."""
    rank, axis = len(shape), call.attribute("axis", 0)
    if len(indices.shape) != rank or not -rank <= axis < rank:
        call.invalid(f"indices {indices.shape} along axis {axis} for an input {shape}")
    axis %= rank
    limits = [*indices.shape[:axis], shape[axis], *indices.shape[axis + 1 :]]
    beyond = np.any(abs(indices + 0.5) > shape[axis])
    if beyond or any(m > n for n, m in zip(shape, limits, strict=True)):
        call.invalid(f"indices {indices.shape} beyond an input {shape}")
    part = maps.positions(shape).astype(np.int64)[tuple(slice(n) for n in limits)]
    return np.take_along_axis(part, indices.astype(np.int64), axis)


def lower_scatter(call: NodeLowering) -> Value | list[Value]:
    """ScatterElements and ScatterND: what is written replaces elements, or is added to them."""
    reduction = call.attribute("reduction", "none")
    if reduction == "none":
        return lower_move(call)
    if reduction != "add":
        raise UnsupportedNodeError(f"reduction {reduction}")
    data, updates = call.value(0), call.value(2)
    indices = call.constant(1, "indices").astype(np.int64)
    if call.node.op_type == "ScatterElements":
        targets = _named_elements(call, data.shape, indices)
    else:
        limits = np.asarray(data.shape[: indices.shape[-1]])
        if len(limits) < indices.shape[-1] or np.any(abs(indices + 0.5) > limits):
            call.invalid(f"indices {indices.shape} beyond an input {data.shape}")
        places = np.moveaxis(indices, -1, 0)
        targets = maps.positions(data.shape).astype(np.int64)[tuple(places)]
    if targets.shape != updates.shape:
        call.invalid(f"updates {updates.shape} for {targets.shape} elements")
    terms: list[tuple[Tensor, LinearMap]] = []
    bias = np.zeros(data.shape)
    if isinstance(data, Tensor):
        terms.append((data, maps.scaling(data.shape, data.shape)))
    else:
        bias += np.asarray(data, np.float64)
    if isinstance(updates, Tensor):
        source = maps.positions(updates.shape)
        terms.append((updates, maps.placing(targets, source, bias.size, updates.size)))
    else:
        np.add.at(bias.reshape(-1), targets.ravel(), np.asarray(updates, np.float64).ravel())
    return call.affine(terms, data.shape, bias)


def lower_pad(call: NodeLowering) -> Value:
    """Pad of every mode; negative pads cut, and the padding value may be encrypted, too.

    numpy pads the numbers of the elements: ONNX's reference does not know negative pads.
    """
    x = call.tensor(0)
    rank = len(x.shape)
    mode = call.attribute("mode", "constant")
    if mode not in ("constant", "reflect", "edge", "wrap"):
        call.invalid(f"mode {mode}")
    by_attribute = "pads" in call.node.attributes
    given = (
        list(call.integers("pads", ()))
        if by_attribute
        else [int(n) for n in call.constant(1, "pads").ravel()]
    )
    fill: Value = np.asarray(call.attribute("value", 0.0)) if by_attribute else np.zeros(())
    if call.has_input(2):
        fill = call.value(2)
    if fill.size != 1:
        call.invalid(f"a padding value of shape {fill.shape}")
    axes = call.axes(3, rank) or tuple(range(rank))
    if len(given) != 2 * len(axes):
        call.invalid(f"{len(given)} pads for {len(axes)} axes")
    width = [(0, 0)] * rank
    for i, a in enumerate(axes):
        width[a] = (given[i], given[i + len(axes)])
    shape = tuple(n + begin + end for n, (begin, end) in zip(x.shape, width, strict=True))
    if min(shape, default=1) < 0:
        call.invalid(f"pads {given} for an input {x.shape}")
    maps.check_size(shape)
    kept = tuple(
        slice(max(0, -begin), n + min(0, end))
        for n, (begin, end) in zip(x.shape, width, strict=True)
    )
    cut = maps.positions(x.shape).astype(np.int64)[kept]
    added = [(max(0, begin), max(0, end)) for begin, end in width]
    if mode == "constant":
        order = np.pad(cut, added, constant_values=x.size)
    else:
        if not cut.size:
            call.invalid(f"pads {given} for an input {x.shape}")
        order = np.pad(cut, added, mode=mode)  # type: ignore[call-overload]
    name = str(call.node.outputs[0].name)
    return _collect(call, name, order, [(0, x), (x.size, fill)])


def _number_elements(
    call: NodeLowering,
) -> tuple[list[tuple[int, Value]], list[Constant | None]]:
    """The moved operands with the number of their first element, and what to evaluate on."""
    moved = MOVED.get(call.node.op_type, (0,))
    names = input_names(call.node.op_type, call.opset)
    operands: list[tuple[int, Value]] = []
    numbered: list[Constant | None] = []
    first = 1
    for i, value in enumerate(call.inputs):
        if value is None:
            numbered.append(None)
        elif moved is None or i in moved:
            operands.append((first, value))
            numbered.append(maps.positions(value.shape).astype(np.int64) + first)
            first += value.size
        else:
            numbered.append(call.constant(i, names[i] if i < len(names) else "parameter"))
    return operands, numbered


def _collect(
    call: NodeLowering, name: str, order: NDArray[np.int64], operands: Sequence[tuple[int, Value]]
) -> Value:
    """The value whose elements have these numbers."""
    terms: list[tuple[Tensor, LinearMap]] = []
    bias = np.zeros(order.shape)
    for first, value in operands:
        source = order - first
        inside = (source >= 0) & (source < value.size)
        if isinstance(value, Tensor):
            if order.size == value.size and np.array_equal(source.ravel(), np.arange(value.size)):
                return Tensor(value.node, order.shape)
            if inside.any():
                terms.append((value, _mover(source, inside, value.size)))
        else:
            bias[inside] = np.asarray(value, np.float64).ravel()[source[inside]]
    # Nothing encrypted may be left, as in an empty part of Split.
    return call.affine(terms, order.shape, bias, name=name) if terms else bias.astype(np.float32)


def _mover(source: NDArray[np.int64], inside: NDArray[np.bool_], in_size: int) -> LinearMap:
    """y[j] = x[source[j]] where `inside`, else zero; within the box that holds what is inside."""
    box = []
    for axis in range(source.ndim):
        others = tuple(a for a in range(source.ndim) if a != axis)
        used = np.flatnonzero(inside.any(axis=others))
        box.append(slice(int(used[0]), int(used[-1]) + 1))
    target = maps.positions(source.shape)[tuple(box)]
    kept = np.where(inside, source, -1)[tuple(box)]
    return maps.placing(target, kept, source.size, in_size)


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


def lower_cast_like(call: NodeLowering) -> Value:
    """Cast to the type of another value, which is a float when that is encrypted."""
    like = call.value(1)
    if not isinstance(like, Tensor) and like.dtype.kind != "f" and like.dtype.name != "bfloat16":
        raise UnsupportedNodeError("CastLike to a type that is not a float")
    return call.value(0)
