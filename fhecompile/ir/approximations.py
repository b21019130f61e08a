"""Writes approximations of functions as nodes of the tensor graph."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from fhecompile.ckks import linear_map
from fhecompile.errors import InternalError
from fhecompile.functions.approximation import Approximation
from fhecompile.functions.composite import CompositeLines
from fhecompile.functions.minimax import FittedPolynomial
from fhecompile.functions.sign import CompositeSign
from fhecompile.functions.step import StepSign
from fhecompile.ir.fitted_functions import FittedFunction
from fhecompile.ir.tensor import Add, Affine, Chebyshev, Function, Mul, Node, Poly, node_depth

FloatArray = NDArray[np.float64]


def write_approximation(
    nodes: dict[str, Node],
    users: Mapping[str, Sequence[Node]],
    node: Function,
    fitted: Approximation,
) -> list[Node]:
    """Puts the approximation in the place of a function; returns the nodes that it is made of.

    Args:
        nodes: of the graph by name, which are changed: u is made by the linear map that makes the
            operand where nothing else reads it, and by one of its own elsewhere.
        users: of every value of the graph before.
        node: the function.
        fitted: what is taken for it.
    """
    operand = node.inputs[0]
    producer = nodes[operand]
    if isinstance(producer, Affine) and users[operand] == [node]:
        nodes[operand] = _centred(producer, fitted)
    else:
        one = linear_map.diagonal(np.ones(()), node.shape)
        operand = f"{node.name}.centred"
        made = Affine(
            name=operand,
            inputs=node.inputs,
            shape=node.shape,
            source=node.source,
            maps=(one,),
            bias=np.zeros(()),
        )
        nodes[operand] = _centred(made, fitted)
    found = approximation_nodes(node, operand, fitted)
    nodes |= {new.name: new for new in found}
    return found


def _centred(node: Affine, fitted: Approximation) -> Affine:
    """The map with (y - centre) / radius for its result y."""
    scale = np.full(node.size, 1.0 / fitted.radius)
    maps = tuple(linear_map.scale_outputs(m, scale) for m in node.maps)
    return replace(node, maps=maps, bias=(node.bias - fitted.centre) / fitted.radius)


def report_function(
    node: Function, fitted: Approximation, change: float, made: Iterable[Node] = ()
) -> FittedFunction:
    """What there is to say of a function; `made` are the nodes that it takes levels in."""
    return FittedFunction(
        node=node.name,
        source=node.source,
        function=node.function,
        low=fitted.centre - fitted.radius,
        high=fitted.centre + fitted.radius,
        degrees=fitted.degrees,
        depth=approximation_depth(made),
        error=fitted.error,
        change=change,
    )


def approximation_depth(nodes: Iterable[Node]) -> int:
    """Multiplicative depth of nodes in order, the first of which reads the operand."""
    depth: dict[str, int] = {}
    for node in nodes:
        depth[node.name] = max(depth.get(name, 0) for name in node.inputs) + node_depth(node)
    return max(depth.values(), default=0)


def approximation_nodes(node: Function, operand: str, fitted: Approximation) -> list[Node]:
    """The nodes that stand for the function, the last one called like it.

    Args:
        node: the function and its share.
        operand: the value u of the approximation.
        fitted: what is taken for the function.
    """
    match fitted:
        case FittedPolynomial():
            return [_polynomial(node, operand, fitted)]
        case CompositeLines():
            return _Composite(node, operand, fitted).nodes
        case StepSign():
            return _Step(node, operand, fitted).nodes
    raise InternalError(f"no nodes for {type(fitted).__name__}")


def _polynomial(node: Function, operand: str, fitted: FittedPolynomial) -> Node:
    own = _column(fitted.coefficients, node)
    x = np.zeros_like(own)
    x[0], x[1] = fitted.centre, fitted.radius
    kind = Chebyshev if fitted.chebyshev else Poly
    return kind(
        name=node.name,
        inputs=(operand,),
        shape=node.shape,
        source=node.source,
        coefficients=own if node.is_whole() else x + node.share * (own - x),
    )


class _Nodes:
    """Appends nodes of the function's shape."""

    def __init__(self, node: Function) -> None:
        self.node = node
        self.nodes: list[Node] = []

    def _sign(self, v: str, sign: CompositeSign, m: FloatArray, n: FloatArray, name: str) -> None:
        """m + n sign(v)."""
        *first, last = sign.polynomials
        for number, p in enumerate(first):
            v = self._chebyshev(v, _column(p, self.node), f"{name}.sign{number}")
        weighted = n * _column(last, self.node)
        weighted[0] += m
        self._chebyshev(v, weighted, name)

    def _chebyshev(self, v: str, coefficients: FloatArray, name: str) -> str:
        node = self.node
        self.nodes.append(
            Chebyshev(
                name=name,
                inputs=(v,),
                shape=node.shape,
                source=node.source,
                coefficients=coefficients,
            )
        )
        return name

    def _plus(self, v: str, constant: FloatArray, name: str) -> str:
        node = self.node
        one = np.ones(())
        stacked = np.stack(np.broadcast_arrays(constant, one))
        missing = len(node.shape) - (stacked.ndim - 1)
        stacked = stacked.reshape(2, *(1,) * missing, *stacked.shape[1:])
        self.nodes.append(
            Poly(name=name, inputs=(v,), shape=node.shape, source=node.source, coefficients=stacked)
        )
        return name

    def _pair(self, kind: type[Node], a: str, b: str, name: str) -> str:
        node = self.node
        self.nodes.append(kind(name=name, inputs=(a, b), shape=node.shape, source=node.source))
        return name


class _Step(_Nodes):
    """The sign's polynomials; of the last one the node's name."""

    def __init__(self, node: Function, operand: str, fitted: StepSign) -> None:
        super().__init__(node)
        if not node.is_whole():
            raise InternalError(f"the sign {node.name} has a share")
        self._sign(operand, fitted.sign, np.zeros(()), np.ones(()), node.name)


class _Composite(_Nodes):
    """Per kink the sign's polynomials, of which the last makes m + n s(v), and a product with v.

    With a share p, x + p (f(x) - x) is of the same form: x is centre + radius u.
    """

    def __init__(self, node: Function, operand: str, fitted: CompositeLines) -> None:
        super().__init__(node)
        share = node.share
        constant = fitted.centre + share * (fitted.lines.value - fitted.centre)
        terms = fitted.terms()
        total = ""
        for number, (k, m, n) in enumerate(terms):
            v = self._plus(operand, np.asarray(-k), f"{node.name}.from{number}") if k else operand
            line = 0.0 if number else fitted.radius * (1.0 - share)
            gate = f"{node.name}.gate{number}"
            self._sign(v, fitted.sign, line + share * m, share * n, gate)
            is_last = number == len(terms) - 1 and not np.any(constant)
            name = node.name if is_last and not total else f"{node.name}.part{number}"
            part = self._pair(Mul, gate, v, name)
            if total:
                part = self._pair(
                    Add, total, part, node.name if is_last else f"{node.name}.sum{number}"
                )
            total = part
        if np.any(constant):
            self._plus(total, np.asarray(constant), node.name)


def _column(coefficients: FloatArray, node: Node) -> FloatArray:
    """A polynomial's coefficients, to broadcast over the node's shape."""
    return coefficients.reshape(-1, *(1,) * len(node.shape))
