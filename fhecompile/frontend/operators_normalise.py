r"""Normalisation by mean and variance over axes, of what is encrypted itself.

    y = scale * (x - m) / sqrt(v + epsilon) + shift,    m = mean(x),  v = mean((x - m)^2)

The mean and its subtraction are linear maps; the square is a product of ciphertexts, the inverse
root a function for `passes.fit_functions`. `RMSNormalization` has m = 0.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from fhecompile.frontend import maps
from fhecompile.frontend.lowering import NodeLowering, Tensor, Value
from fhecompile.frontend.operators_function import multiply

EPSILON = 1e-5


def lower_layer_normalization(call: NodeLowering) -> list[Value]:
    """Over the axes from `axis` on; also the mean and the inverse deviation."""
    x = call.tensor(0)
    y, mean, inverse = _normalise(call, x, _last_axes(call, x), call.attribute("epsilon", EPSILON))
    return [_scale_and_shift(call, y), mean, inverse]


def lower_rms_normalization(call: NodeLowering) -> Tensor:
    """Over the axes from `axis` on, without a mean."""
    x = call.tensor(0)
    epsilon = call.attribute("epsilon", EPSILON)
    y, _, _ = _normalise(call, x, _last_axes(call, x), epsilon, centred=False)
    return _scale_and_shift(call, y)


def lower_instance_normalization(call: NodeLowering) -> Tensor:
    """Over the spatial axes, with one scale and shift per channel."""
    x = call.tensor(0)
    if len(x.shape) < 3:
        call.invalid(f"an input {x.shape} without spatial axes")
    spatial = range(2, len(x.shape))
    y, _, _ = _normalise(call, x, spatial, call.attribute("epsilon", EPSILON))
    view = (x.shape[1], *[1] * len(spatial))
    return _scale_and_shift(call, y, view)


def lower_group_normalization(call: NodeLowering) -> Tensor:
    """Over groups of channels; scale and shift per channel, per group before opset 21."""
    x = call.tensor(0)
    groups = call.attribute("num_groups", 0)
    if len(x.shape) < 2 or groups < 1 or x.shape[1] % groups:
        call.invalid(f"num_groups {groups} for an input {x.shape}")
    batch, channels, *spatial = x.shape
    grouped = Tensor(x.node, (batch, groups, channels // groups, *spatial))
    axes = range(2, len(grouped.shape))
    y, _, _ = _normalise(call, grouped, axes, call.attribute("epsilon", EPSILON))
    if call.opset >= 21:
        return _scale_and_shift(call, Tensor(y.node, x.shape), (channels, *[1] * len(spatial)))
    result = _scale_and_shift(call, y, (groups, 1, *[1] * len(spatial)))
    return Tensor(result.node, x.shape)


def lower_mean_variance_normalization(call: NodeLowering) -> Tensor:
    """Over `axes`, without scale, shift or epsilon."""
    x = call.tensor(0)
    axes = call.integers("axes", (0, 2, 3))
    if any(not -len(x.shape) <= a < len(x.shape) for a in axes):
        call.invalid(f"axes {axes} of a tensor of rank {len(x.shape)}")
    return _normalise(call, x, [a % len(x.shape) for a in axes], 0.0)[0]


def _last_axes(call: NodeLowering, x: Tensor) -> range:
    axis = call.attribute("axis", -1)
    if not -len(x.shape) <= axis < len(x.shape):
        call.invalid(f"axis {axis} of a tensor of rank {len(x.shape)}")
    return range(axis % len(x.shape), len(x.shape))


def centre(call: NodeLowering, x: Tensor, axes: Sequence[int]) -> tuple[Tensor, Tensor]:
    """x - m and m, the mean over the axes, which it keeps with length 1."""
    kept = tuple(1 if a in axes else n for a, n in enumerate(x.shape))
    averaging = maps.summing(x.shape, axes, 1.0 / math.prod(x.shape[a] for a in axes))
    mean = call.affine([(x, averaging)], kept, name=call.part("mean"))
    terms = [
        (x, maps.scaling(x.shape, x.shape)),
        (mean, maps.scaling(kept, x.shape, -1.0)),
    ]
    return call.affine(terms, x.shape, name=call.part("centred")), mean


def _normalise(
    call: NodeLowering, x: Tensor, axes: Sequence[int], epsilon: float, centred: bool = True
) -> tuple[Tensor, Tensor, Tensor]:
    """((x - m) / sqrt(v + epsilon), m, 1 / sqrt(v + epsilon)); m is taken as 0 if not `centred`."""
    kept = tuple(1 if a in axes else n for a, n in enumerate(x.shape))
    difference, mean = centre(call, x, axes) if centred else (x, x)
    square = call.multiply_values(difference, difference, x.shape, call.part("square"))
    averaging = maps.summing(x.shape, axes, 1.0 / math.prod(x.shape[a] for a in axes))
    variance = call.affine([(square, averaging)], kept, epsilon, name=call.part("variance"))
    inverse = call.function("inverse_sqrt", variance, call.part("inverse"))
    name = call.part("normalised")
    return multiply(call, difference, inverse, x.shape, name), mean, inverse


def _scale_and_shift(call: NodeLowering, y: Tensor, view: tuple[int, ...] | None = None) -> Tensor:
    """y times operand 1 plus operand 2, seen in the shape `view` and broadcast."""
    parameters: list[Value] = [np.ones(()), np.zeros(())]
    for i, role in ((0, "scale"), (1, "shift")):
        if call.has_input(i + 1):
            value = call.value(i + 1)
            value = value if isinstance(value, Tensor) else call.weights(i + 1, role)
            if view is not None and math.prod(value.shape) == math.prod(view):
                if isinstance(value, Tensor):
                    value = Tensor(value.node, view)
                else:
                    value = value.reshape(view)
            if call.broadcast_shape(value.shape, y.shape) != y.shape:
                call.invalid(f"{role} {value.shape} for an input {y.shape}")
            parameters[i] = value
    scale, shift = parameters
    if isinstance(scale, Tensor):
        y, scale = multiply(call, y, scale, y.shape, call.part("scaled")), np.ones(())
    terms = [(y, maps.scaling(y.shape, y.shape, scale))]
    if isinstance(shift, Tensor):
        terms.append((shift, maps.scaling(shift.shape, y.shape)))
        shift = np.zeros(())
    elif not scale.shape and scale == 1.0 and not np.any(shift):
        return y
    return call.affine(terms, y.shape, shift)
