r"""Resize and Upsample: along each axis, every element of the result is a weighted mean.

    y[i_1, .., i_r] = sum over t_1, .., t_r of  w_1[i_1, t_1] .. w_r[i_r, t_r] x[s_1, .., s_r],

with s_a = s_a[i_a, t_a].

Element i of an axis is the place u(i) of the operand's axis, which `coordinate_transformation_mode`
defines; with z = floor(u), f = u - z and a kernel h, t counts the neighbours s = z + t of weight

    nearest   one neighbour, f rounded as `nearest_mode` says
    linear    h(d) = max(1 - |d|, 0),                                  t = 0, 1
    cubic     h(d) = (a+2)|d|^3 - (a+3)|d|^2 + 1         for |d| < 1,  t = -1 .. 2
                     a|d|^3 - 5a|d|^2 + 8a|d| - 4a       for |d| < 2

at d = t - f. With `antialias` and a scale c < 1, h(c d) takes the place of h(d) and the weights of
an element are divided by their sum. Neighbours outside are those at the edge, or are left out, with
the others' weights raised to a sum of 1 (`exclude_outside`). Axes that stay as they are have no t.
Definition: ONNX operator Resize, opset 19.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import cast

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from fhecompile.ckks.linear_map import collapse
from fhecompile.frontend import maps
from fhecompile.frontend.lowering import (
    FloatArray,
    NodeLowering,
    Tensor,
    UnsupportedNodeError,
    Value,
)

NEAREST: dict[str, Callable[[NDArray[np.float32]], NDArray[np.float32]]] = {
    "round_prefer_floor": lambda u: np.ceil(u - np.float32(0.5)),
    "round_prefer_ceil": lambda u: np.floor(u + np.float32(0.5)),
    "floor": np.floor,
    "ceil": np.ceil,
}


def lower_upsample(call: NodeLowering) -> Value:
    """Upsample, which Resize has replaced: asymmetric coordinates, nearest below."""
    x = call.tensor(0)
    if call.has_input(1):
        scales = _numbers(call, 1, "scales")
    else:
        attribute = call.node.attributes.get("scales")
        known = attribute is not None and attribute.type == ir.AttributeType.FLOATS
        scales = list(attribute.as_floats()) if attribute is not None and known else []
    if len(scales) != len(x.shape):
        call.invalid(f"{len(scales)} scales for an input {x.shape}")
    axes = [
        _Axis(call, n, _length(n, s), s, "asymmetric", "floor")
        for n, s in zip(x.shape, scales, strict=True)
    ]
    return _resize(call, x, axes, 0.0)


def lower_resize(call: NodeLowering) -> Value:
    """Resize in every mode and of any number of axes."""
    x = call.tensor(0)
    rank = len(x.shape)
    old = call.opset < 11  # operands: the tensor and its scales
    given = call.integers("axes", range(rank))
    if any(not -rank <= a < rank for a in given):
        call.invalid(f"axes {given} of a tensor of rank {rank}")
    chosen = [a % rank for a in given]
    scales = _numbers(call, 1 if old else 2, "scales")
    sizes = [] if old else [int(n) for n in _numbers(call, 3, "sizes")]
    roi = [] if old else _numbers(call, 1, "roi")
    if len(sizes or scales) != len(chosen) or min([*scales, *sizes, 1.0]) <= 0:
        call.invalid(f"scales {scales} and sizes {sizes} for {len(chosen)} axes")
    if sizes:
        scales = [n / x.shape[a] for n, a in zip(sizes, chosen, strict=True)]
        policy = call.attribute("keep_aspect_ratio_policy", "stretch")
        if policy != "stretch":
            scale = (min if policy == "not_larger" else max)(scales)
            scales = [scale] * len(chosen)
            sizes = [math.floor(scale * x.shape[a] + 0.5) for a in chosen]
    else:
        sizes = [_length(x.shape[a], s) for s, a in zip(scales, chosen, strict=True)]
    coordinates = "asymmetric" if old else "half_pixel"
    coordinates = call.attribute("coordinate_transformation_mode", coordinates)
    rounding = call.attribute("nearest_mode", "floor" if old else "round_prefer_floor")
    cropped = coordinates == "tf_crop_and_resize"
    if rounding not in NEAREST or (cropped and len(roi) != 2 * len(chosen)):
        call.invalid(f"nearest_mode {rounding}, roi {roi}")
    axes = [_Axis(call, n, n, 1.0, coordinates, rounding) for n in x.shape]
    for i, a in enumerate(chosen):
        window = (roi[i], roi[i + len(chosen)]) if cropped else (0.0, 1.0)
        axes[a] = _Axis(call, x.shape[a], sizes[i], scales[i], coordinates, rounding, window)
    return _resize(call, x, axes, call.attribute("extrapolation_value", 0.0))


def _numbers(call: NodeLowering, index: int, role: str) -> list[float]:
    return call.weights(index, role).ravel().tolist() if call.has_input(index) else []


def _length(size: int, scale: float) -> int:
    """In single precision, in which 5 * 2.6 is 13."""
    return math.floor(np.float32(size) * np.float32(scale))


class _Axis:
    """Sources and weights, each (length of the result, neighbours), and which elements are outside.

    `outside` is what tf_crop_and_resize reads beyond the operand.
    """

    def __init__(
        self,
        call: NodeLowering,
        size: int,
        length: int,
        scale: float,
        coordinates: str,
        rounding: str,
        window: tuple[float, float] = (0.0, 1.0),
    ) -> None:
        if length < 1:
            call.invalid(f"nothing is left of an axis of {size} elements")
        maps.check_size((length,))
        place = _places(call, size, length, scale, coordinates, window)
        cropped = coordinates == "tf_crop_and_resize"
        self.outside = cropped & ((place < 0) | (place > size - 1))
        mode = call.attribute("mode", "nearest")
        if mode == "nearest":
            source: FloatArray = NEAREST[rounding](place).astype(np.float64)[:, None]
            weight: FloatArray = np.ones((length, 1))
        elif mode in ("linear", "cubic"):
            source, weight = _neighbours(call, mode, place.astype(np.float64), scale)
        else:
            call.invalid(f"mode {mode}")
        if call.attribute("exclude_outside", 0):
            weight = np.where((source < 0) | (source > size - 1), 0.0, weight)
            weight = weight / weight.sum(axis=1, keepdims=True)
        self.size, self.length = size, length
        self.source = np.clip(source, 0, size - 1).astype(np.int32)
        self.weight = np.where(self.outside[:, None], 0.0, weight)

    @property
    def unchanged(self) -> bool:
        """Whether the axis is that of the operand."""
        moved = self.source != np.arange(self.length)[:, None]
        same = self.size == self.length and not self.outside.any()
        return same and not np.any(self.weight[moved])


def _places(
    call: NodeLowering,
    size: int,
    length: int,
    scale: float,
    coordinates: str,
    window: tuple[float, float],
) -> NDArray[np.float32]:
    """u(i). In single precision, as ONNX Runtime has it: half-way places round the same way."""
    i = np.arange(length, dtype=np.float32)
    c, one, half = np.float32(scale), np.float32(1.0), np.float32(0.5)
    exact = scale * size  # the length before it was cut to a whole number
    if coordinates in ("align_corners", "tf_crop_and_resize") and abs(exact - length) > 1e-3:
        # ONNX's cases divide by the exact length, ONNX Runtime and PyTorch by the whole one.
        raise UnsupportedNodeError(f"{coordinates} with a scale that gives {exact:g} elements")
    begin, end = np.float32(window[0]), np.float32(window[1])
    match coordinates:
        case "half_pixel":
            place = (i + half) / c - half
        case "pytorch_half_pixel":
            place = (i + half) / c - half if length > 1 else 0.0 * i
        case "half_pixel_symmetric":
            shift = np.float32(size / 2) * (one - np.float32(length / exact))
            place = shift + (i + half) / c - half
        case "asymmetric":
            place = i / c
        case "tf_half_pixel_for_nn":
            place = (i + half) / c
        case "align_corners":
            place = i * np.float32(size - 1) / np.float32(length - 1) if length > 1 else 0.0 * i
        case "tf_crop_and_resize" if length > 1:
            step = (end - begin) * np.float32(size - 1) / np.float32(length - 1)
            place = begin * np.float32(size - 1) + i * step
        case "tf_crop_and_resize":
            place = 0.0 * i + half * (begin + end) * np.float32(size - 1)
        case _:
            call.invalid(f"coordinate_transformation_mode {coordinates}")
    return cast("NDArray[np.float32]", np.asarray(place, np.float32))


def _neighbours(
    call: NodeLowering, mode: str, place: FloatArray, scale: float
) -> tuple[FloatArray, FloatArray]:
    """Neighbours (as floats, outside ones too) and weights, before edges are looked at."""
    smooth = bool(call.attribute("antialias", 0)) and scale < 1.0
    shrink = scale if smooth else 1.0
    reach = math.ceil((1 if mode == "linear" else 2) / shrink)
    source = np.floor(place)[:, None] + np.arange(1 - reach, reach + 1)
    d = np.abs(source - place[:, None]) * shrink
    if mode == "linear":
        weight = np.maximum(1.0 - d, 0.0)
    else:
        a = call.attribute("cubic_coeff_a", -0.75)
        near = ((a + 2) * d - (a + 3)) * d**2 + 1
        far = ((a * d - 5 * a) * d + 8 * a) * d - 4 * a
        weight = np.where(d < 1, near, np.where(d < 2, far, 0.0))
    if smooth:
        weight = weight / weight.sum(axis=1, keepdims=True)
    return source, weight


def _resize(call: NodeLowering, x: Tensor, axes: Sequence[_Axis], fill: float) -> Value:
    """One term over (i_1 .., t_1 ..) of the axes that change, and the others."""
    changed = [a for a, axis in enumerate(axes) if not axis.unchanged]
    if not changed:
        return x
    rank, count = len(axes), len(changed)
    shape = tuple(axis.length for axis in axes)
    maps.check_size(shape)
    maps.check_size([n for a in changed for n in axes[a].source.shape])
    index = np.zeros((1,) * (rank + count), np.int64)
    values = np.ones((1,) * (rank + count))
    for a, axis in enumerate(axes):
        view = [1] * (rank + count)
        view[a] = axis.length
        source: NDArray[np.int32] = np.arange(axis.length, dtype=np.int32)
        if a in changed:
            view[rank + changed.index(a)] = axis.source.shape[1]
            source = axis.source
            values = values * axis.weight.reshape(view)
        index = index * axis.size + source.reshape(view)
    # Neighbours without weight are none: a copy of rows and columns stays one.
    index = np.where(values != 0, index, -1)
    outside = np.zeros((1,) * rank, bool)
    for a, axis in enumerate(axes):
        outside = outside | axis.outside.reshape([-1 if b == a else 1 for b in range(rank)])
    out = maps.positions(shape).reshape(*shape, *[1] * count)
    values = collapse(values)
    term = maps.single_term(values, out, index, math.prod(shape), x.size)
    return call.affine([(x, term)], shape, fill * outside)
