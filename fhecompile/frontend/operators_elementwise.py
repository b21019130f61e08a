"""Add, Sub, Mul, Div, Neg, Pow with numpy's broadcasting."""

from __future__ import annotations

import numpy as np

from fhecompile.frontend import maps
from fhecompile.frontend import operators_function as functions
from fhecompile.frontend.lowering import (
    FloatArray,
    NodeLowering,
    Shape,
    Tensor,
    UnsupportedNodeError,
    Value,
)

MAX_POWER = 64
ROOTS = {0.5: "sqrt", -0.5: "inverse_sqrt", -1.0: "reciprocal"}


def _shape(call: NodeLowering) -> Shape:
    shapes = call.value(0).shape, call.value(1).shape
    shape = call.broadcast_shape(*shapes)
    if shape is None:
        call.invalid(f"shapes {shapes[0]} and {shapes[1]} do not broadcast")
    return shape


def _scaled(
    call: NodeLowering, x: Tensor, factor: FloatArray | float, bias: FloatArray | float
) -> Tensor:
    shape = _shape(call) if len(call.inputs) > 1 else x.shape
    return call.affine([(x, maps.scaling(x.shape, shape, factor))], shape, bias)


def _doubles(value: Value) -> FloatArray:
    return np.asarray(value, np.float64)


def lower_add(call: NodeLowering) -> Tensor:
    """a + b."""
    a, b = call.value(0), call.value(1)
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        shape = _shape(call)
        return call.add_values(call.expanded(a, shape), call.expanded(b, shape))
    if isinstance(a, Tensor):
        return _scaled(call, a, 1.0, _doubles(b))
    return _scaled(call, call.tensor(1), 1.0, _doubles(a))


def lower_sub(call: NodeLowering) -> Tensor:
    """a - b; of two values one affine node with maps 1 and -1."""
    a, b = call.value(0), call.value(1)
    shape = _shape(call)
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        terms = [(a, maps.scaling(a.shape, shape)), (b, maps.scaling(b.shape, shape, -1.0))]
        return call.affine(terms, shape)
    if isinstance(a, Tensor):
        return _scaled(call, a, 1.0, -_doubles(b))
    return _scaled(call, call.tensor(1), -1.0, _doubles(a))


def lower_mul(call: NodeLowering) -> Tensor:
    """a * b; silu and gelu where that is what it is."""
    a, b = call.value(0), call.value(1)
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return functions.gated(call, a, b) or functions.multiply(call, a, b, _shape(call))
    if isinstance(a, Tensor):
        return _scaled(call, a, _doubles(b), 0.0)
    return _scaled(call, call.tensor(1), _doubles(a), 0.0)


def lower_div(call: NodeLowering) -> Tensor:
    """a / b; a times the reciprocal where b is encrypted."""
    a, b = call.value(0), call.value(1)
    if isinstance(b, Tensor):
        if isinstance(a, Tensor):
            return functions.divide(call, a, b, _shape(call))
        inverse = functions.apply_function(call, "reciprocal", b, call.part("inverse"))
        return _scaled(call, inverse, _doubles(a), 0.0)
    with np.errstate(divide="ignore"):
        factor = 1.0 / call.weights(1, "divisor")
    return _scaled(call, call.tensor(0), factor, 0.0)


def lower_neg(call: NodeLowering) -> Tensor:
    """-a."""
    return _scaled(call, call.tensor(0), -1.0, 0.0)


def lower_sum(call: NodeLowering) -> Tensor:
    """The sum of any number of values."""
    return _total(call, 1.0)


def lower_mean(call: NodeLowering) -> Tensor:
    """The mean of any number of values."""
    return _total(call, 1.0 / len(call.inputs))


def _total(call: NodeLowering, weight: float) -> Tensor:
    values = [call.value(i) for i in range(len(call.inputs))]
    shape = call.broadcast_shape(*(v.shape for v in values))
    if shape is None:
        call.invalid(f"shapes {[v.shape for v in values]} do not broadcast")
    constants = [_doubles(v) for v in values if not isinstance(v, Tensor)]
    tensors = [call.expanded(v, shape) for v in values if isinstance(v, Tensor)]
    scaled = weight != 1.0 or bool(constants)
    total = tensors[0]
    for i, x in enumerate(tensors[1:], 2):
        last = i == len(tensors) and not scaled
        total = call.add_values(total, x, None if last else call.part(f"sum{i}"))
    if not scaled:
        return total
    bias = weight * sum(constants, np.zeros(()))
    return call.affine([(total, maps.scaling(shape, shape, weight))], shape, bias)


def lower_pow(call: NodeLowering) -> Value:
    """a ** n for a root or a negative integer, or elementwise for integers from 0 on."""
    if isinstance(call.value(1), Tensor):
        raise UnsupportedNodeError("Pow with an encrypted exponent")
    x = call.expanded(call.tensor(0), _shape(call))
    exponents = call.weights(1, "exponent")
    distinct = np.unique(exponents)
    if distinct.size == 1 and (root := ROOTS.get(float(distinct[0]))):
        return functions.apply_function(call, root, x)
    if distinct.size == 1 and -MAX_POWER <= distinct[0] < 0 and float(distinct[0]).is_integer():
        x = functions.apply_function(call, "reciprocal", x, call.part("inverse"))
        distinct = -distinct
        exponents = -exponents
    for exponent in distinct:
        if not (float(exponent).is_integer() and 0 <= exponent <= MAX_POWER):
            raise UnsupportedNodeError(f"Pow with exponent {exponent:g}")
    if not distinct.size or distinct[-1] == 0:
        return np.ones(x.shape, np.float32)
    if distinct.tolist() == [1]:
        return x
    exponents = maps.aligned(exponents, len(x.shape))
    return call.polynomial(x, [exponents == d for d in range(int(distinct[-1]) + 1)])
