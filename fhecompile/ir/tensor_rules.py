"""What a tensor graph must be: every node's operands made before it, and of shapes that fit it."""

from __future__ import annotations

import math

import numpy as np

from fhecompile.errors import InternalError
from fhecompile.functions.table import is_function
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
    Shape,
    TensorGraph,
)


def verify(graph: TensorGraph) -> None:
    """Recomputes every shape from the operands; raises InternalError with the node's name."""
    seen: set[str] = set()
    for name, node in graph.nodes.items():
        problem = _problem(graph, node, seen)
        if name != node.name:
            problem = f"is stored under the name {name}"
        if problem:
            raise InternalError(f"tensor graph {graph.name}: {node.op} {node.name} {problem}")
        seen.add(name)


def _bad_elements(node: Input) -> str:
    if node.elements is None:
        return ""
    fits = node.elements.min(initial=0) >= 0 and (
        node.elements.max(initial=-1) < math.prod(node.given_shape)
    )
    return "" if fits and node.elements.shape == node.shape else "has elements that do not fit"


def _problem(graph: TensorGraph, node: Node, seen: set[str]) -> str:
    for operand in node.inputs:
        if operand not in seen:
            return f"uses {operand} before it is made"
    shapes = [graph[o].shape for o in node.inputs]
    match node:
        case Input():
            return "has operands" if node.inputs else _bad_elements(node)
        case Affine():
            if len(node.maps) != len(node.inputs) or not node.maps:
                return f"has {len(node.maps)} maps for {len(node.inputs)} operands"
            for m, shape in zip(node.maps, shapes, strict=True):
                if (m.out_size, m.in_size) != (node.size, math.prod(shape)):
                    return f"has a map {m.out_size}x{m.in_size} for {shape} -> {node.shape}"
                for t in m.terms:
                    if (
                        max(
                            t.out_index.max(initial=-1) - m.out_size,
                            t.in_index.max(initial=-1) - m.in_size,
                        )
                        >= 0
                    ):
                        return "has a map with an index past its end"
                    if not np.all(np.isfinite(t.values)):
                        return "has weights that are not finite"
            return _does_not_broadcast(node.bias.shape, node.shape)
        case Poly() | Chebyshev():
            if len(shapes) != 1 or shapes[0] != node.shape:
                return f"maps {shapes} to {node.shape}"
            return _does_not_broadcast(node.coefficients.shape[1:], node.shape)
        case Function():
            if not is_function(node.function):
                return f"has the unknown function {node.function}"
            if len(shapes) != 1 or shapes[0] != node.shape:
                return f"maps {shapes} to {node.shape}"
            return _does_not_broadcast(node.share.shape, node.shape)
        case Refresh():
            if len(shapes) != 1 or shapes[0] != node.shape:
                return f"maps {shapes} to {node.shape}"
            if max(abs(node.low), abs(node.high)) * node.unit >= 1.0:
                return f"refreshes values from {node.low:g} to {node.high:g} at {node.unit:g}"
            return "" if node.coefficients.shape[:1] == (2,) else "has no pairs of coefficients"
        case Mul() | Add():
            if len(shapes) != 2:
                return f"has {len(shapes)} operands"
            fits = all(
                s == node.shape or (isinstance(node, Mul) and math.prod(s) == 1) for s in shapes
            )
            return "" if fits else f"maps {shapes} to {node.shape}"
        case Output():
            if len(shapes) != 1 or math.prod(shapes[0]) != node.size:
                return f"maps {shapes} to {node.shape}"
            return ""
    return "is of an unknown kind"


def _does_not_broadcast(given: Shape, shape: Shape) -> str:
    fits = len(given) <= len(shape) and all(
        a in (1, b) for a, b in zip(reversed(given), reversed(shape), strict=False)
    )
    return "" if fits else f"has constants of shape {given} for a value of shape {shape}"
