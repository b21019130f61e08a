r"""Functions that are no polynomials, and normalisation by them.

They become `function` nodes, for which `passes.fit_functions` finds polynomials. Fewer of them are
found where exporters write one function as several:

    1 / sqrt(t)                  inverse_sqrt(t), also with the root repeated in between (Expand)
    x sigmoid(c x)               silu(c x) / c
    x (1 + erf(x / sqrt(2)))     2 gelu(x)
    x (1 + clip(x / 3))          2 hard_swish(x), clip to -1 and 1
    x tanh(softplus(x))          mish(x)

A function of repeated elements is evaluated before they are repeated.
"""

from __future__ import annotations

import math

import numpy as np

from fhecompile.ckks.linear_map import LinearMap
from fhecompile.frontend import maps
from fhecompile.frontend.lowering import (
    NodeLowering,
    Shape,
    Tensor,
    UnsupportedNodeError,
)
from fhecompile.frontend.operators_reduce import reduce_axes
from fhecompile.ir.tensor import (
    Affine,
    Function,
    TensorGraph,
    uniform_identity_weight,
)

SAME = 1e-6  # relative difference of constants that are equal in single precision
COMPOSED = {  # outer and inner function
    ("reciprocal", "sqrt"): "inverse_sqrt",
    ("reciprocal", "inverse_sqrt"): "sqrt",
    ("sqrt", "reciprocal"): "inverse_sqrt",
    ("tanh", "softplus"): "tanh_softplus",
}
# What t f(t) is, and r t (1 + f(t)), half of it, with the factor r.
GATES = {"sigmoid": "silu", "tanh_softplus": "mish"}
GATES_WITH_ONE = {"clip": ("hard_swish", 3.0), "erf": ("gelu", math.sqrt(2.0))}
BY_TYPE = {
    "Abs": "abs",
    "Erf": "erf",
    "Exp": "exp",
    "HardSwish": "hard_swish",
    "Log": "log",
    "Mish": "mish",
    "Reciprocal": "reciprocal",
    "Relu": "relu",
    "Sigmoid": "sigmoid",
    "Sign": "sign",
    "Softplus": "softplus",
    "Softsign": "softsign",
    "Sqrt": "sqrt",
    "Tanh": "tanh",
}


def lower_function(call: NodeLowering) -> Tensor:
    """The operators of `BY_TYPE`."""
    return apply_function(call, BY_TYPE[call.node.op_type], call.tensor(0))


def lower_reduce_l2(call: NodeLowering) -> Tensor:
    """The root of the sum of squares over axes."""
    return apply_function(call, "sqrt", _sum_of_squares(call, call.tensor(0)))


def lower_reduce_sum_square(call: NodeLowering) -> Tensor:
    """The sum of squares over axes."""
    return _sum_of_squares(call, call.tensor(0), call.node.outputs[0].name)


def _sum_of_squares(call: NodeLowering, x: Tensor, name: str | None = None) -> Tensor:
    total = reduce_axes(call, _square(call, x), mean=False, name=name or call.part("sum"))
    if total is None:
        raise UnsupportedNodeError("no axes to reduce")
    return total


def _square(call: NodeLowering, x: Tensor) -> Tensor:
    return call.multiply_values(x, x, x.shape, call.part("square"))


def lower_lp_normalization(call: NodeLowering) -> Tensor:
    """x over its Euclidean norm along an axis."""
    x = call.tensor(0)
    p, axis = call.attribute("p", 2), call.attribute("axis", -1)
    if p != 2:
        raise UnsupportedNodeError(f"LpNormalization with p = {p}")
    if not -len(x.shape) <= axis < len(x.shape):
        call.invalid(f"axis {axis} of a tensor of rank {len(x.shape)}")
    axis %= len(x.shape)
    kept = tuple(1 if a == axis else n for a, n in enumerate(x.shape))
    total = call.affine(
        [(_square(call, x), maps.summing(x.shape, (axis,), 1.0))], kept, name=call.part("sum")
    )
    return multiply(call, x, call.function("inverse_sqrt", total, call.part("inverse")), x.shape)


def divide(call: NodeLowering, a: Tensor, b: Tensor, shape: Shape) -> Tensor:
    """a / b, broadcast to `shape`."""
    source, repeat = _before_repeating(call.builder.graph, b)
    inverse = _composed(call, "reciprocal", source, call.part("inverse"))
    if repeat is not None and source.size > 1:
        inverse = call.affine([(inverse, repeat)], b.shape, name=call.part("repeat"))
    elif source.size > 1:
        inverse = Tensor(inverse.node, b.shape)
    return multiply(call, a, inverse, shape)


def multiply(
    call: NodeLowering, a: Tensor, b: Tensor, shape: Shape, name: str | None = None
) -> Tensor:
    """a * b, broadcast to `shape`."""
    a, b = (x if x.size == 1 else call.expanded(x, shape) for x in (a, b))
    return call.multiply_values(a, b, shape, name)


def apply_function(call: NodeLowering, function: str, x: Tensor, name: str | None = None) -> Tensor:
    """The function of every element of x; called like the node's result without a name."""
    source, repeat = _before_repeating(call.builder.graph, x)
    if repeat is None:
        return Tensor(_composed(call, function, x, name).node, x.shape)
    inner = _composed(call, function, source, call.part("once"))
    return call.affine([(inner, repeat)], x.shape, name=name)


def _composed(call: NodeLowering, outer: str, x: Tensor, name: str | None) -> Tensor:
    """outer(x), as one function where x is one that it makes another known one with."""
    inner = call.builder.graph[x.node]
    if isinstance(inner, Function) and (outer, inner.function) in COMPOSED:
        operand = Tensor(inner.inputs[0], inner.shape)
        return call.function(COMPOSED[outer, inner.function], operand, name)
    return call.function(outer, x, name)


def _before_repeating(graph: TensorGraph, x: Tensor) -> tuple[Tensor, LinearMap | None]:
    """What x is elements of, if these are fewer, and the map that repeats them."""
    node = graph[x.node]
    if not isinstance(node, Affine) or len(node.maps) != 1 or np.any(node.bias):
        return x, None
    m, source = node.maps[0], graph[node.inputs[0]]
    if m.in_size >= m.out_size or sum(t.size for t in m.terms) != m.out_size:
        return x, None
    out, _, values = m.coordinates()
    if out.size != m.out_size or np.unique(out).size != m.out_size or np.any(values != 1.0):
        return x, None
    return Tensor(source.name, source.shape), m


def gated(call: NodeLowering, a: Tensor, b: Tensor) -> Tensor | None:
    """a * b where that is one function of one value; else None."""
    graph = call.builder.graph
    for x, gate in ((a, b), (b, a)):
        gate_node, weight, shift = _scaled_value(graph, gate)
        if x.shape != gate.shape or not isinstance(inner := graph[gate_node], Function):
            continue
        if inner.function in GATES and shift == 0.0:
            name, factor, argument = GATES[inner.function], weight, 1.0
        elif inner.function in GATES_WITH_ONE and abs(weight - shift) <= SAME * abs(weight):
            name, argument = GATES_WITH_ONE[inner.function]
            factor = 2.0 * weight
        else:
            continue
        operand = Tensor(inner.inputs[0], x.shape)
        base, w, c = _scaled_value(graph, operand)
        other, v, d = _scaled_value(graph, x)
        # The function's argument is t = argument (w base + c), and x = v base + d = ratio t.
        ratio = v / (argument * w)
        allowed = SAME * max(abs(d), SAME * abs(ratio))  # where d is 0, the rest is rounding
        if base != other or abs(d - ratio * argument * c) > allowed:
            continue
        t = x
        if abs(ratio - 1.0) > SAME:
            scale = maps.scaling(x.shape, x.shape, argument)
            t = operand
            if argument != 1.0:
                t = call.affine([(operand, scale)], x.shape, name=call.part("argument"))
            factor *= ratio
        if abs(factor - 1.0) <= SAME:
            return call.function(name, t)
        result = call.function(name, t, call.part(name))
        return call.affine([(result, maps.scaling(x.shape, x.shape, factor))], x.shape)
    return None


def _scaled_value(graph: TensorGraph, x: Tensor) -> tuple[str, float, float]:
    """node, w and c with x = w * node + c, through all uniform factors and shifts."""
    name, weight, shift = x.node, 1.0, 0.0
    while isinstance(node := graph[name], Affine) and np.all(node.bias == node.bias.flat[0]):
        factor = uniform_identity_weight(node)
        if factor is None:
            break
        shift += weight * float(node.bias.flat[0])
        name, weight = node.inputs[0], weight * factor
    return name, weight, shift
