r"""Recognises polynomials: whatever adds, multiplies and scales one tensor becomes one `poly`.

Every value is written as a polynomial in an earlier value, its *base*, with coefficients that
broadcast over the tensor:

    x itself        base x, coefficients (0, 1)
    s v + t         scales all coefficients of v and adds t to the constant
    v + w, v * w    sum and product of coefficient lists, when both have the same base
    p(v)            substitution

The graph is evaluated symbolically, so the order in which an exporter wrote the nodes does not
matter; three batch norms of a Hermite expansion become a x^2 + b x + c. A value is replaced when it
is read by something that is not part of the same polynomial. Multiplying out must not cost depth
((x^2)^2 has depth 2, a general quartic 3), so a deeper polynomial keeps its inner value as base.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from fhecompile.ckks.linear_map import collapse
from fhecompile.ir.program import Pass, PassResult, Program
from fhecompile.ir.tensor import (
    Add,
    Affine,
    Mul,
    Node,
    Poly,
    Shape,
    map_elementwise_scale,
    node_depth,
)

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class _Form:
    """A value as polynomial in `base`; `depth` is what the nodes since the base cost unfused."""

    base: str
    coefficients: list[FloatArray]
    depth: int


@dataclass(frozen=True)
class FusePolynomials(Pass):
    """See the module docstring."""

    def run(self, program: Program) -> PassResult:
        graph = program.graph
        forms: dict[str, _Form] = {}
        for node in graph:
            form = self._form(node, forms, graph.nodes)
            if form is not None:
                fused = _poly(node, form)
                if fused.degree > 1 and node_depth(fused) > form.depth:
                    form = self._form(node, {}, graph.nodes)
            forms[node.name] = form or _itself(node.name)

        users = graph.users()
        nodes: dict[str, Node] = dict(graph.nodes)
        fused_names = []
        for node in graph:
            form = forms[node.name]
            if form.base == node.name or len(form.coefficients) < 3:
                continue
            inner = all(
                forms[u.name].base == form.base and u.name != form.base for u in users[node.name]
            )
            if not inner:
                nodes[node.name] = _poly(node, form)
                if not isinstance(node, Poly):
                    fused_names.append(node.name)
        if not fused_names:
            return PassResult(program, False)
        result = replace(program, graph=graph.rebuilt(nodes.values()))
        return PassResult(result, True, (f"{len(fused_names)} polynomials fused",))

    def _form(self, node: Node, forms: dict[str, _Form], nodes: dict[str, Node]) -> _Form | None:
        """The node as a polynomial of its operands' common base; None if it is none."""
        operands = [forms.get(name) or _itself(name) for name in node.inputs]
        if not operands or any(o.base != operands[0].base for o in operands):
            return None
        if any(nodes[name].shape != node.shape for name in node.inputs):
            return None
        base = operands[0].base
        depth = max(o.depth for o in operands) + node_depth(node)
        match node:
            case Affine():
                scales = [map_elementwise_scale(m, node.shape) for m in node.maps]
                total = [np.asarray(node.bias)]
                for scale, operand in zip(scales, operands, strict=True):
                    if scale is None:
                        return None
                    total = _sum(total, [scale * c for c in operand.coefficients])
                return _Form(base, total, depth)
            case Add():
                return _Form(base, _sum(*(o.coefficients for o in operands)), depth)
            case Mul():
                return _Form(base, _product(*(o.coefficients for o in operands)), depth)
            case Poly():
                inner = operands[0].coefficients
                total = [np.asarray(node.coefficients[-1])]
                for c in node.coefficients[-2::-1]:
                    total = _sum(_product(total, inner), [np.asarray(c)])
                return _Form(base, total, depth)
        return None


def _itself(name: str) -> _Form:
    return _Form(name, [np.zeros(()), np.ones(())], 0)


def _sum(a: list[FloatArray], b: list[FloatArray]) -> list[FloatArray]:
    short, long = sorted((a, b), key=len)
    return [x + y for x, y in zip(short, long, strict=False)] + long[len(short) :]


def _product(a: list[FloatArray], b: list[FloatArray]) -> list[FloatArray]:
    total: list[FloatArray] = [np.zeros(())] * (len(a) + len(b) - 1)
    for i, x in enumerate(a):
        for j, y in enumerate(b):
            total[i + j] = total[i + j] + x * y
    return total


def _poly(node: Node, form: _Form) -> Poly:
    shape: Shape = np.broadcast_shapes(*(c.shape for c in form.coefficients))
    shape = (1,) * (len(node.shape) - len(shape)) + shape
    stacked = np.stack([np.broadcast_to(c, shape) for c in form.coefficients])
    while stacked.shape[0] > 2 and not np.any(stacked[-1]):
        stacked = stacked[:-1]
    reduced = [collapse(c) for c in stacked]
    common = np.broadcast_shapes(*(c.shape for c in reduced))
    coefficients = np.stack([np.broadcast_to(c, common) for c in reduced])
    return Poly(
        name=node.name,
        inputs=(form.base,),
        shape=node.shape,
        source=node.source,
        coefficients=coefficients,
    )
