r"""Maxima and minima of encrypted values: Max, Min, MaxPool, GlobalMaxPool, ReduceMax, ReduceMin.

    max(a, b) = (a + b) / 2 + |(a - b) / 2|,    min(a, b) = (a + b) / 2 - |(a - b) / 2|

in a tree: k values are ceil(k / 2) pairs, the last of which may share a value with the one before,
and so on, ceil(log2 k) levels of the function `abs`. What a window has in the padding is left out:
another element of the window takes its place, which changes no maximum.

A constant c is no leaf of the tree: max(x, c) = c + relu(x - c), min(x, c) = c - relu(c - x).
"""

from __future__ import annotations

import math
from functools import reduce

import numpy as np
from numpy.typing import NDArray

from fhecompile.ckks import linear_map
from fhecompile.frontend import maps
from fhecompile.frontend.lowering import (
    FloatArray,
    NodeLowering,
    Shape,
    Tensor,
    UnsupportedNodeError,
    Value,
)
from fhecompile.frontend.operators_activation import clamped
from fhecompile.frontend.windows import window_axes, window_sources

MAX_VALUES = 16  # of which one maximum is: four levels of `abs`


# ---------------------------------------------------------------------------- of several values


def lower_max(call: NodeLowering) -> Value:
    """The largest one of any number of values and constants."""
    return _of_values(call, 1.0)


def lower_min(call: NodeLowering) -> Value:
    """The smallest one of any number of values and constants."""
    return _of_values(call, -1.0)


def _of_values(call: NodeLowering, sign: float) -> Value:
    values = [call.value(i) for i in range(len(call.inputs))]
    shape = call.broadcast_shape(*(v.shape for v in values))
    if shape is None:
        call.invalid(f"shapes {[v.shape for v in values]} do not broadcast")
    tensors = [call.expanded(v, shape) for v in values if isinstance(v, Tensor)]
    constants = [np.asarray(v, np.float64) for v in values if not isinstance(v, Tensor)]
    _check_count(len(tensors))
    while len(tensors) > 1:
        last = len(tensors) == 2 and not constants
        tensors = [
            _of_two(call, a, b, sign, None if last else call.part("pair"))
            for a, b in zip(tensors[::2], tensors[1::2], strict=False)
        ] + tensors[len(tensors) // 2 * 2 :]
    if not constants:
        return tensors[0]
    return _bounded(
        call, tensors[0], reduce(np.maximum if sign > 0 else np.minimum, constants), sign
    )


def _of_two(call: NodeLowering, a: Tensor, b: Tensor, sign: float, name: str | None) -> Tensor:
    half, less = (maps.scaling(a.shape, a.shape, w) for w in (0.5, -0.5))
    mean = call.affine([(a, half), (b, half)], a.shape, name=call.part("mean"))
    difference = call.affine([(a, half), (b, less)], a.shape, name=call.part("difference"))
    return _joined(call, mean, difference, sign, name)


def _bounded(call: NodeLowering, x: Tensor, bound: FloatArray, sign: float) -> Value:
    """The larger one of x and the bound, or the smaller one."""
    if bound.size == 1:
        number = float(bound.item())
        return clamped(call, x, *((number, math.inf) if sign > 0 else (-math.inf, number)))
    above = maps.scaling(x.shape, x.shape, sign)
    excess = call.affine([(x, above)], x.shape, -sign * bound, name=call.part("argument"))
    return call.affine([(call.function("relu", excess, call.part("relu")), above)], x.shape, bound)


# ---------------------------------------------------------------------------- of elements of one


def lower_max_pool(call: NodeLowering) -> Tensor:
    """The largest element of every window, without its index."""
    if len(call.node.outputs) > 1 and call.node.outputs[1].name:
        raise UnsupportedNodeError("the indices of the largest elements")
    x = call.tensor(0)
    if len(x.shape) < 3:
        call.invalid(f"an input {x.shape} without spatial axes")
    batch, channels, *sizes = x.shape
    kernel = call.integers("kernel_shape", ())
    axes = window_axes(call, sizes, kernel)
    _check_count(math.prod(kernel))
    windows = [axis.windows for axis in axes]
    maps.check_size((math.prod(kernel), batch * channels, *windows))
    sources = window_sources(np.arange(batch * channels), axes)  # (plane, k.., p..)
    sources = np.moveaxis(sources, 0, len(axes)).reshape(-1, batch, channels, *windows)
    return _of_elements(call, x, sources, 1.0)


def lower_global_max_pool(call: NodeLowering) -> Tensor:
    """The largest element along all spatial axes."""
    x = call.tensor(0)
    if len(x.shape) < 3:
        call.invalid(f"an input {x.shape} without spatial axes")
    return _along_axes(call, x, tuple(range(2, len(x.shape))), True, 1.0)


def lower_reduce_max(call: NodeLowering) -> Tensor:
    """The largest element along axes."""
    return _reduced(call, 1.0)


def lower_reduce_min(call: NodeLowering) -> Tensor:
    """The smallest element along axes."""
    return _reduced(call, -1.0)


def _reduced(call: NodeLowering, sign: float) -> Tensor:
    x = call.tensor(0)
    axes = call.axes(1, len(x.shape)) or ()
    if not axes:
        if call.attribute("noop_with_empty_axes", 0):
            return x
        axes = tuple(range(len(x.shape)))
    return _along_axes(call, x, axes, bool(call.attribute("keepdims", 1)), sign)


def _along_axes(
    call: NodeLowering, x: Tensor, axes: tuple[int, ...], keep: bool, sign: float
) -> Tensor:
    others = [a for a in range(len(x.shape)) if a not in axes]
    count = math.prod(x.shape[a] for a in axes)
    _check_count(count)
    shape = (
        tuple(1 if a in axes else n for a, n in enumerate(x.shape))
        if keep
        else tuple(x.shape[a] for a in others)
    )
    sources = maps.positions(x.shape).transpose([*axes, *others]).reshape(count, *shape)
    return _of_elements(call, x, sources, sign)


def _of_elements(call: NodeLowering, x: Tensor, sources: NDArray[np.int32], sign: float) -> Tensor:
    """The extreme elements of x at sources[:, place] for every place; -1 is none.

    Raises:
        UnsupportedNodeError: all of a place are none.
    """
    shape: Shape = sources.shape[1:]
    sources = _filled(sources)
    while len(sources) > 2:
        firsts = np.minimum(np.arange((len(sources) + 1) // 2) * 2, len(sources) - 2)
        x = _of_pairs(call, x, sources[firsts], sources[firsts + 1], sign, call.part("pairs"))
        sources = maps.positions(x.shape)
    if len(sources) == 1:
        return call.affine(
            [(x, maps.placing(maps.positions(shape), sources[0], math.prod(shape), x.size))], shape
        )
    return _of_pairs(call, x, sources[0], sources[1], sign, None)


def _of_pairs(
    call: NodeLowering,
    x: Tensor,
    first: NDArray[np.int32],
    second: NDArray[np.int32],
    sign: float,
    name: str | None,
) -> Tensor:
    """The larger or smaller ones of x[first] and x[second], in their shape."""
    out, size = maps.positions(first.shape), math.prod(first.shape)

    def combined(weight: float, places: NDArray[np.bool_]) -> linear_map.LinearMap:
        halves = [
            maps.single_term(
                np.full((1,) * out.ndim, w), out, np.where(places, index, -1), size, x.size
            )
            for w, index in ((0.5, first), (weight, second))
        ]
        return linear_map.add(halves)

    everywhere = np.ones(first.shape, bool)
    mean = call.affine([(x, combined(0.5, everywhere))], first.shape, name=call.part("mean"))
    # Of an element and itself nothing is left, not even rounding errors.
    less = combined(-0.5, first != second)
    difference = call.affine([(x, less)], first.shape, name=call.part("difference"))
    return _joined(call, mean, difference, sign, name)


def _joined(
    call: NodeLowering, mean: Tensor, difference: Tensor, sign: float, name: str | None
) -> Tensor:
    """mean + sign |difference|: a sum of two values, so that `abs` is followed by no product."""
    distance = call.function("abs", difference, call.part("abs"))
    if sign < 0:
        scale = maps.scaling(distance.shape, distance.shape, sign)
        distance = call.affine([(distance, scale)], distance.shape, name=call.part("less"))
    return call.add_values(mean, distance, name)


def _filled(sources: NDArray[np.int32]) -> NDArray[np.int32]:
    """The sources with others of their place instead of those that are none."""
    counts = (sources >= 0).sum(axis=0)
    if not counts.min(initial=1):
        raise UnsupportedNodeError("a window that holds nothing but padding")
    ordered = np.take_along_axis(sources, np.argsort(sources < 0, axis=0, kind="stable"), axis=0)
    turns = np.arange(counts.max(initial=1)).reshape(-1, *(1,) * counts.ndim) % counts
    return np.take_along_axis(ordered, turns, axis=0)


def _check_count(count: int) -> None:
    if count > MAX_VALUES:
        raise UnsupportedNodeError(f"an extreme of {count} values, the limit is {MAX_VALUES}")
