"""The numpy evaluator of the tensor graph: the oracle every pass is checked against."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from fhecompile.errors import InternalError
from fhecompile.functions.chebyshev import chebyshev_sum
from fhecompile.functions.table import function_named
from fhecompile.ir.tensor import (
    Add,
    Affine,
    Chebyshev,
    Function,
    Input,
    Mul,
    Node,
    Output,
    Poly,
    Refresh,
    TensorGraph,
)

FloatArray = NDArray[np.float64]
Substitutes = Mapping[str, Callable[[FloatArray], FloatArray]]  # by functions' and refreshes' names


def evaluate(graph: TensorGraph, inputs: Mapping[str, FloatArray]) -> dict[str, FloatArray]:
    """Outputs by label. Inputs and outputs carry one leading axis for independent samples.

    Args:
        graph: the graph.
        inputs: by name, each of shape (samples, *shape).
    """
    outputs: dict[str, FloatArray] = {}
    for node, value in walk(graph, inputs):
        if isinstance(node, Output):
            outputs[node.label] = value
    return outputs


def walk(graph: TensorGraph, inputs: Mapping[str, FloatArray]) -> Iterator[tuple[Node, FloatArray]]:
    """Yields every node with its value, freeing values after their last use."""
    for node, (value,) in walk_variants(graph, inputs, [{}]):
        yield node, value


def walk_variants(
    graph: TensorGraph, inputs: Mapping[str, FloatArray], variants: Sequence[Substitutes]
) -> Iterator[tuple[Node, list[FloatArray]]]:
    """Yields every node with its values in several variants of the graph, as `walk` does.

    A variant has other functions in the place of some. Where two variants do not differ their
    values are one array, computed once.
    """
    last_use = {operand: node.name for node in graph for operand in node.inputs}
    values: dict[str, list[FloatArray]] = {}
    for node in graph:
        made: dict[tuple[object, ...], FloatArray] = {}
        row = []
        for k, substitutes in enumerate(variants):
            operands = [values[name][k] for name in node.inputs]
            function = substitutes.get(node.name)
            key = (id(function), *map(id, operands))
            if key not in made:
                if isinstance(node, Input):
                    made[key] = node.read(inputs)
                elif function and isinstance(node, Function):
                    made[key] = node.shared(operands[0], function(operands[0]))
                elif function and isinstance(node, Refresh):
                    made[key] = function(operands[0])
                else:
                    made[key] = apply_node(node, operands)
            row.append(made[key])
        values[node.name] = row
        yield node, row
        for operand in set(node.inputs):
            if last_use[operand] == node.name:
                del values[operand]


def apply_node(node: Node, operands: list[FloatArray]) -> FloatArray:
    """The node's value for operands of shape (samples, *shape)."""
    samples = operands[0].shape[0]
    match node:
        case Affine():
            total: FloatArray = np.broadcast_to(node.bias, node.shape).reshape(1, -1)
            for m, x in zip(node.maps, operands, strict=True):
                total = total + m.apply(x.reshape(samples, -1))
            return total.reshape(samples, *node.shape)
        case Poly():
            x = operands[0]
            value = np.broadcast_to(node.coefficients[-1], x.shape)
            for coefficient in node.coefficients[-2::-1]:
                value = value * x + coefficient
            return np.array(value)
        case Chebyshev():
            return chebyshev_sum(node.coefficients, operands[0])
        case Function():
            return node.shared(operands[0], function_named(node.function)(operands[0]))
        case Refresh():
            return node.value(operands[0])
        case Mul():
            a, b = (_full(x, node) for x in operands)
            return a * b
        case Add():
            return operands[0] + operands[1]
        case Output():
            return operands[0].reshape(samples, *node.shape)
    raise InternalError(f"no evaluation rule for {node.op}")


def _full(x: FloatArray, node: Node) -> FloatArray:
    """A single element spread over the node's shape."""
    if x.shape[1:] == node.shape:
        return x
    return x.reshape(x.shape[0], *([1] * len(node.shape)))
