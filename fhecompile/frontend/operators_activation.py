r"""Activations that are made of the functions of the table, and clamps.

Each is a function of `fhecompile.functions.table` with affine maps by one number before and after,
which cost nothing, or the weighted sum of the value and its function:

    min(max(x, a), b)        m + h clip((x - m) / h),  m = (a + b) / 2, h = (b - a) / 2
    max(x, a), min(x, b)     a + relu(x - a),  b - relu(b - x);  see also operators_maximum
    hard sigmoid             1/2 + 1/2 clip(2 (alpha x + beta) - 1)
    leaky relu, prelu        s x + (1 - s) relu(x),  s one slope or one per channel
    selu                     gamma elu(x)
    celu_a                   a elu(x / a)
    thresholded relu         a thresholded_relu(x / a)
    swish                    silu(a x) / a

A clamp that the calibration data never reach is found where ranges are known
(`passes.fit_functions`). Norms are clamped from below against division by zero; that is dropped
here where it changes nothing but values below `SMALLEST`.
"""

from __future__ import annotations

import logging
import math

import numpy as np

from fhecompile.frontend import maps
from fhecompile.frontend.lowering import (
    FloatArray,
    NodeLowering,
    Tensor,
    UnsupportedNodeError,
    Value,
)
from fhecompile.frontend.operators_function import apply_function
from fhecompile.functions.table import function_named
from fhecompile.ir.tensor import Add, Affine, Function, Mul, Poly, TensorGraph

log = logging.getLogger(__name__)

SMALLEST = 1e-6  # clamps from below by no more than this are dropped
LARGEST = 1e30  # bounds beyond it are none
# As ONNX has them, in single precision.
SELU_ALPHA, SELU_GAMMA = 1.67326319217681884765625, 1.05070102214813232421875


# ---------------------------------------------------------------------------- clamps


def lower_clip(call: NodeLowering) -> Value:
    """min(max(x, low), high); the bounds are attributes before opset 11."""
    low, high = -math.inf, math.inf
    if call.opset < 11:
        low, high = call.attribute("min", low), call.attribute("max", high)
    else:
        low, high = _bound(call, 1, "minimum", low), _bound(call, 2, "maximum", high)
    return clamped(call, call.tensor(0), low, high)


def _bound(call: NodeLowering, index: int, role: str, default: float) -> float:
    if not call.has_input(index):
        return default
    bound = call.weights(index, role)
    if bound.size != 1:
        call.invalid(f"the {role} has shape {bound.shape}, it must be a single number")
    return float(bound.item())


def clamped(call: NodeLowering, x: Tensor, low: float, high: float) -> Value:
    """min(max(x, low), high), infinite where there is no bound."""
    if low >= high:
        return np.full(x.shape, high, np.float32)  # as ONNX has it
    if _is_nonnegative(call.builder.graph, x.node) and low <= SMALLEST:
        if low > 0:
            log.info("%s: the clamp from below by %g is dropped", call.place, low)
        low = -math.inf
    if low > -LARGEST and high < LARGEST:
        middle, half = (low + high) / 2.0, (high - low) / 2.0
        return _around(call, "clip", x, (1.0 / half, -middle / half), (half, middle))
    if low > -LARGEST:
        return _around(call, "relu", x, (1.0, -low), (1.0, low))
    if high < LARGEST:
        return _around(call, "relu", x, (-1.0, high), (-1.0, high))
    return x


# ---------------------------------------------------------------------------- activations


def lower_gelu(call: NodeLowering) -> Tensor:
    """x times the normal distribution function, exactly or by tanh."""
    kinds = {"none": "gelu", "tanh": "gelu_tanh"}
    kind = call.attribute("approximate", "none")
    if kind not in kinds:
        call.invalid(f"attribute approximate is {kind}")
    return apply_function(call, kinds[kind], call.tensor(0))


def lower_swish(call: NodeLowering) -> Tensor:
    """x times the sigmoid of alpha x."""
    x, alpha = call.tensor(0), call.attribute("alpha", 1.0)
    if alpha == 0.0:
        return _affine(call, x, 0.5, 0.0)
    return _around(call, "silu", x, (alpha, 0.0), (1.0 / alpha, 0.0))


def lower_hard_sigmoid(call: NodeLowering) -> Value:
    """alpha x + beta, not below 0 nor above 1."""
    x, alpha, beta = call.tensor(0), call.attribute("alpha", 0.2), call.attribute("beta", 0.5)
    if alpha == 0.0:
        return np.full(x.shape, np.clip(beta, 0.0, 1.0), np.float32)
    return _around(call, "clip", x, (2.0 * alpha, 2.0 * beta - 1.0), (0.5, 0.5))


def lower_leaky_relu(call: NodeLowering) -> Tensor:
    """x, times alpha below 0."""
    return _sloped(call, np.asarray(call.attribute("alpha", 0.01)))


def lower_prelu(call: NodeLowering) -> Tensor:
    """x, times the slope of its place below 0."""
    x, slope = call.tensor(0), call.weights(1, "slope")
    if call.broadcast_shape(x.shape, slope.shape) != x.shape:
        call.invalid(f"a slope of shape {slope.shape} for an input of shape {x.shape}")
    return _sloped(call, slope)


def lower_elu(call: NodeLowering) -> Tensor:
    """x, below 0 alpha (exp(x) - 1)."""
    return _elu(call, call.attribute("alpha", 1.0), 1.0)


def lower_selu(call: NodeLowering) -> Tensor:
    """gamma times elu, with the constants of Klambauer et al. 2017 by default."""
    alpha, gamma = call.attribute("alpha", SELU_ALPHA), call.attribute("gamma", SELU_GAMMA)
    if gamma == 0.0:
        raise UnsupportedNodeError("Selu with gamma = 0")
    return _elu(call, alpha, gamma)


def lower_celu(call: NodeLowering) -> Tensor:
    """x, below 0 alpha (exp(x / alpha) - 1)."""
    alpha = call.attribute("alpha", 1.0)
    if alpha <= 0.0:
        raise UnsupportedNodeError(f"Celu with alpha = {alpha:g}, which is not above 0")
    return _around(call, "elu", call.tensor(0), (1.0 / alpha, 0.0), (alpha, 0.0))


def lower_thresholded_relu(call: NodeLowering) -> Tensor:
    """x above alpha, else 0."""
    x, alpha = call.tensor(0), call.attribute("alpha", 1.0)
    if alpha < 0.0:
        raise UnsupportedNodeError(f"ThresholdedRelu with alpha = {alpha:g}, which is below 0")
    if alpha == 0.0:
        return apply_function(call, "relu", x)
    return _around(call, "thresholded_relu", x, (1.0 / alpha, 0.0), (alpha, 0.0))


def _elu(call: NodeLowering, alpha: float, gamma: float) -> Tensor:
    function = {0.0: "relu", 1.0: "elu"}.get(alpha, f"elu({alpha:.9g})")
    return _around(call, function, call.tensor(0), (1.0, 0.0), (gamma, 0.0))


def _sloped(call: NodeLowering, slope: FloatArray) -> Tensor:
    x = call.tensor(0)
    if np.all(slope == 1.0):
        return x
    if slope.size == 1 and float(slope.item()) == 0.0:
        return apply_function(call, "relu", x)
    return call.function("relu", x, share=1.0 - slope)


def _around(
    call: NodeLowering,
    function: str,
    x: Tensor,
    before: tuple[float, float],
    after: tuple[float, float],
) -> Tensor:
    """c + w f(a x + b), where `before` is (a, b) and `after` (w, c)."""
    t = x if before == (1.0, 0.0) else _affine(call, x, *before, call.part("argument"))
    if after == (1.0, 0.0):
        return apply_function(call, function, t)
    return _affine(call, apply_function(call, function, t, call.part(function)), *after)


def _affine(
    call: NodeLowering, x: Tensor, weight: float, shift: float, name: str | None = None
) -> Tensor:
    return call.affine([(x, maps.scaling(x.shape, x.shape, weight))], x.shape, shift, name)


def _is_nonnegative(graph: TensorGraph, name: str) -> bool:
    """Whether the value is a sum of squares, a root or the like."""
    node = graph[name]

    def operands_are() -> bool:
        return all(_is_nonnegative(graph, operand) for operand in node.inputs)

    match node:
        case Function():
            return function_named(node.function).nonnegative and node.is_whole()
        case Mul():
            return node.inputs[0] == node.inputs[1] or operands_are()
        case Poly():
            even = not np.any(node.coefficients[1::2])
            return bool(np.all(node.coefficients >= 0.0)) and (even or operands_are())
        case Affine():
            weights = (t.values for m in node.maps for t in m.terms)
            positive = np.all(node.bias >= 0.0) and all(np.all(w >= 0.0) for w in weights)
            return bool(positive) and operands_are()
        case Add():
            return operands_are()
    return False
