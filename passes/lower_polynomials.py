r"""Rewrites polynomials that are not one squaring into products, sums and linear maps.

What stays: degree 1 and 2 with one leading coefficient for all channels (a relabelled scale).

    degree 1, coefficients per channel    an affine node
    degree 2, leading a per channel       c + x (a x + b)
    degree d >= 3                         P = Q x^m + R,  m the largest power of two <= d,
                                          recursively, in depth ceil(log2(d + 1))

(Paterson, Stockmeyer 1973, in its depth-optimal form.)
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from fhecompile.ckks import linear_map
from fhecompile.ir.program import Pass, PassResult, Program
from fhecompile.ir.tensor import Add, Affine, Mul, Node, Poly

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class LowerPolynomials(Pass):
    """See the module docstring."""

    def run(self, program: Program) -> PassResult:
        nodes: list[Node] = []
        lowered = []
        for node in program.graph:
            if isinstance(node, Poly) and not _is_native(node):
                nodes.extend(_Expansion(node).nodes)
                lowered.append(f"{node.name} (degree {node.degree}) lowered to products")
            else:
                nodes.append(node)
        if not lowered:
            return PassResult(program, False)
        graph = program.graph.rebuilt(nodes)
        return PassResult(replace(program, graph=graph), True, tuple(lowered))


def _is_native(node: Poly) -> bool:
    return (
        node.degree in (1, 2)
        and node.leading_is_uniform()
        and bool(node.coefficients[-1].flat[0] != 0)
    )


class _Expansion:
    """The nodes that replace one polynomial; the last one carries its name."""

    def __init__(self, node: Poly) -> None:
        self.node = node
        self.nodes: list[Node] = []
        self.powers = {1: node.inputs[0]}
        self._evaluate(list(node.coefficients), node.name)

    def _evaluate(self, c: list[FloatArray], name: str) -> str:
        while len(c) > 1 and not np.any(c[-1]):
            c = c[:-1]
        degree = len(c) - 1
        if degree == 0:
            return self._affine(np.zeros(()), c[0], name)
        if degree == 1:
            return self._affine(c[1], c[0], name)
        candidate = self._poly(c, name)
        if _is_native(candidate):
            self.nodes.append(candidate)
            return name
        if degree == 2:
            inner = self._affine(c[2], c[1], f"{name}.slope")
            product = self._mul(inner, self.powers[1], f"{name}.product" if np.any(c[0]) else name)
            return self._shift(product, c[0], name) if np.any(c[0]) else product
        m = 1 << (degree.bit_length() - 1)
        high, low = c[m:], c[:m]
        power = self._power(m)
        has_low = any(np.any(x) for x in low)
        top = f"{name}.top" if has_low else name
        if len(high) == 1 and has_low and np.all(high[0] == 1.0):
            product = power
        elif len(high) == 1:
            product = self._affine(high[0], np.zeros(()), top, power)
        else:
            product = self._mul(self._evaluate(high, f"{name}.high"), power, top)
        if not has_low:
            return product
        rest = self._evaluate(low, f"{name}.low")
        self.nodes.append(
            Add(name=name, inputs=(product, rest), shape=self.node.shape, source=self.node.source)
        )
        return name

    def _power(self, m: int) -> str:
        if m not in self.powers:
            half = self._power(m // 2)
            one, zero = np.ones(()), np.zeros(())
            squared = self._poly([zero, zero, one], f"{self.node.name}.power{m}")
            self.nodes.append(replace(squared, inputs=(half,)))
            self.powers[m] = squared.name
        return self.powers[m]

    def _poly(self, c: list[FloatArray], name: str) -> Poly:
        return Poly(
            name=name,
            inputs=(self.powers[1],),
            shape=self.node.shape,
            source=self.node.source,
            coefficients=np.stack(np.broadcast_arrays(*c)),
        )

    def _affine(
        self, scale: FloatArray, shift: FloatArray, name: str, value: str | None = None
    ) -> str:
        full = np.asarray(scale, np.float64).reshape(
            (1,) * (len(self.node.shape) - scale.ndim) + scale.shape
        )
        self.nodes.append(
            Affine(
                name=name,
                inputs=(value or self.powers[1],),
                shape=self.node.shape,
                source=self.node.source,
                maps=(linear_map.diagonal(full, self.node.shape),),
                bias=np.asarray(shift),
            )
        )
        return name

    def _shift(self, value: str, shift: FloatArray, name: str) -> str:
        coefficients = np.stack(np.broadcast_arrays(shift, np.ones(())))
        self.nodes.append(
            replace(self._poly([shift], name), inputs=(value,), coefficients=coefficients)
        )
        return name

    def _mul(self, a: str, b: str, name: str) -> str:
        self.nodes.append(
            Mul(name=name, inputs=(a, b), shape=self.node.shape, source=self.node.source)
        )
        return name
