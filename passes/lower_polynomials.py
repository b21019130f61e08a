r"""Rewrites polynomials that are not one squaring into products, sums and linear maps.

What stays: degree 1 and 2 with one leading coefficient for all channels (a relabelled scale).

    degree 1, coefficients per channel    an affine node
    degree 2, leading a per channel       c + x (a x + b)
    degree d >= 3                         P = Q x^m + R,  m the largest power of two <= d,
                                          recursively, in depth ceil(log2(d + 1))

(Paterson, Stockmeyer 1973, in its depth-optimal form.) A sum of Chebyshev polynomials goes the same
way, in the same depth, with T_m for x^m (`fhecompile.functions.chebyshev`), from

    T_2k = 2 T_k^2 - 1,    T_2k+1 = 2 T_k T_k+1 - T_1.

R has a level more than Q. So a part of degree below 2^l becomes one affine node of T_1, T_2, ...
where there is room for it, which costs a level instead of products; of Q that is left at the end,
of degree 1, the factor only relabels a scale. Of l = 1, 2, 3, 4 the one with the fewest products is
taken: about 2 sqrt(d) of them.

A polynomial without odd powers but x, as those for |x|, relu or silu on [-r, r], is one of half the
degree in x^2, or in T_2, as T_2k(x) = T_k(T_2(x)): as deep, with about half the products,

    sum_k c_2k T_2k(x) + c_1 x = sum_k c_2k T_k(T_2(x)) + c_1 x.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, TypeGuard

import numpy as np
from numpy.typing import NDArray

from fhecompile.ckks import linear_map
from fhecompile.functions.chebyshev import divide_by_chebyshev
from fhecompile.ir.program import Pass, PassResult, Program
from fhecompile.ir.tensor import Add, Affine, Chebyshev, Mul, Node, Poly, node_depth

FloatArray = NDArray[np.float64]
LEAVES = (2, 4, 8, 16)  # 2^l


@dataclass(frozen=True)
class LoweredPolynomials:
    """Names of the nodes that have replaced a polynomial, by its name, which one of them has."""

    nodes: Mapping[str, frozenset[str]]


@dataclass(frozen=True)
class LowerPolynomials(Pass):
    """See the module docstring."""

    gives: ClassVar[tuple[type, ...]] = (LoweredPolynomials,)

    def run(self, program: Program) -> PassResult:
        nodes = list(program.graph)
        expanded = {node.name: _expanded(node) for node in nodes if _is_expanded(node)}
        made = {name: frozenset(n.name for n in found) for name, found in expanded.items()}
        program = program.having(LoweredPolynomials(made))
        if not expanded:
            return PassResult(program, False)
        graph = program.graph.rebuilt(new for n in nodes for new in expanded.get(n.name, [n]))
        remarks = [
            f"{node.name} (degree {node.degree}) lowered to products"
            for node in nodes
            if isinstance(node, Poly | Chebyshev) and node.name in expanded
        ]
        return PassResult(replace(program, graph=graph), True, tuple(remarks))


def lowered(nodes: Iterable[Node]) -> list[Node]:
    """The nodes with what replaces polynomials in their places."""
    found: list[Node] = []
    for node in nodes:
        found += _expanded(node) if _is_expanded(node) else [node]
    return found


def _is_expanded(node: Node) -> TypeGuard[Poly | Chebyshev]:
    return isinstance(node, Chebyshev) or (isinstance(node, Poly) and not _is_native(node))


def _expanded(node: Poly | Chebyshev) -> list[Node]:
    """The nodes that replace a polynomial; one of them carries its name."""
    if node.degree > 3 and not np.any(node.coefficients[3::2]):
        return _expand_even(node)
    if isinstance(node, Poly):
        return _PowerExpansion(node).nodes
    found = [_ChebyshevExpansion(node, leaf).nodes for leaf in LEAVES]
    return min(found, key=count_products)


def _expand_even(node: Poly | Chebyshev) -> list[Node]:
    """One without odd powers above the first."""
    square = np.array([-1.0, 0.0, 2.0] if isinstance(node, Chebyshev) else [0.0, 0.0, 1.0])
    ones = (1,) * len(node.shape)
    squared = Poly(
        name=f"{node.name}.square{node.degree}",
        inputs=node.inputs,
        shape=node.shape,
        source=node.source,
        coefficients=square.reshape(-1, *ones),
    )
    c = node.coefficients[1]
    name = f"{node.name}.even" if np.any(c) else node.name
    half = replace(node, name=name, inputs=(squared.name,), coefficients=node.coefficients[::2])
    found = [squared, *lowered([half])]
    if np.any(c):
        line = _Expansion(node)
        line._add(name, line._affine(c, np.zeros(()), f"{node.name}.line"), node.name)
        found += line.nodes
    return found


def count_products(nodes: Iterable[Node]) -> int:
    """Products of ciphertexts, squares included."""
    return sum(isinstance(n, Mul) or (isinstance(n, Poly) and n.degree > 1) for n in nodes)


def _is_native(node: Poly) -> bool:
    return (
        node.degree in (1, 2)
        and node.leading_is_uniform()
        and bool(node.coefficients[-1].flat[0] != 0)
    )


class _Expansion:
    """The nodes that replace one polynomial of the value `operand`."""

    def __init__(self, node: Poly | Chebyshev) -> None:
        self.node, self.operand = node, node.inputs[0]
        self.nodes: list[Node] = []

    def _poly(self, c: list[FloatArray], name: str, value: str | None = None) -> Poly:
        return Poly(
            name=name,
            inputs=(value or self.operand,),
            shape=self.node.shape,
            source=self.node.source,
            coefficients=np.stack(np.broadcast_arrays(*c)),
        )

    def _affine(
        self, scale: FloatArray, shift: FloatArray, name: str, value: str | None = None
    ) -> str:
        self.nodes.append(
            Affine(
                name=name,
                inputs=(value or self.operand,),
                shape=self.node.shape,
                source=self.node.source,
                maps=(linear_map.diagonal(self._full(scale), self.node.shape),),
                bias=np.asarray(shift),
            )
        )
        return name

    def _full(self, scale: FloatArray) -> FloatArray:
        """Of the rank of the node's shape."""
        missing = len(self.node.shape) - scale.ndim
        return np.asarray(scale, np.float64).reshape((1,) * missing + scale.shape)

    def _shift(self, value: str, shift: FloatArray, name: str) -> str:
        self.nodes.append(self._poly([shift, np.ones(())], name, value))
        return name

    def _mul(self, a: str, b: str, name: str) -> str:
        self.nodes.append(
            Mul(name=name, inputs=(a, b), shape=self.node.shape, source=self.node.source)
        )
        return name

    def _add(self, a: str, b: str, name: str) -> str:
        self.nodes.append(
            Add(name=name, inputs=(a, b), shape=self.node.shape, source=self.node.source)
        )
        return name


class _PowerExpansion(_Expansion):
    """In powers."""

    def __init__(self, node: Poly) -> None:
        super().__init__(node)
        self.powers = {1: self.operand}
        self._evaluate(list(node.coefficients), node.name)

    def _evaluate(self, c: list[FloatArray], name: str) -> str:
        c = _trimmed(c)
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
        return self._add(product, rest, name)

    def _power(self, m: int) -> str:
        if m not in self.powers:
            half = self._power(m // 2)
            one, zero = np.ones(()), np.zeros(())
            squared = self._poly([zero, zero, one], f"{self.node.name}.power{m}", half)
            self.nodes.append(squared)
            self.powers[m] = squared.name
        return self.powers[m]


class _ChebyshevExpansion(_Expansion):
    """In Chebyshev polynomials; parts of degree below `leaf` are affine where there is room."""

    def __init__(self, node: Chebyshev, leaf: int) -> None:
        super().__init__(node)
        self.leaf = leaf
        self.made = {1: self.operand}
        self._evaluate(list(node.coefficients), node_depth(node), node.name)

    def _evaluate(self, c: list[FloatArray], depth: int, name: str) -> str:
        """The sum with coefficients c, in that depth or less."""
        c = _trimmed(c)
        degree = len(c) - 1
        if degree == 0:
            return self._affine(np.zeros(()), c[0], name)
        if degree == 1:
            return self._affine(c[1], c[0], name)
        if degree == 2:
            candidate = self._poly([c[0] - c[2], c[1], 2.0 * c[2]], name)
            if _is_native(candidate):
                self.nodes.append(candidate)
                return name
        if degree < self.leaf and (degree - 1).bit_length() + 1 <= depth:
            return self._sum(c, name)
        m = 1 << (degree.bit_length() - 1)
        high, low = divide_by_chebyshev(c, m)
        has_low = any(np.any(x) for x in low)
        top = f"{name}.top" if has_low else name
        if len(high) == 1:
            product = self._affine(high[0], np.zeros(()), top, self._chebyshev(m))
        else:
            inner = self._evaluate(high, depth - 1, f"{name}.high")
            product = self._mul(inner, self._chebyshev(m), top)
        if not has_low:
            return product
        return self._add(product, self._evaluate(low, depth, f"{name}.low"), name)

    def _sum(self, c: list[FloatArray], name: str) -> str:
        terms = [k for k in range(1, len(c)) if np.any(c[k])]
        operands = [self._chebyshev(k) for k in terms]
        self.nodes.append(
            Affine(
                name=name,
                inputs=tuple(operands),
                shape=self.node.shape,
                source=self.node.source,
                maps=tuple(linear_map.diagonal(self._full(c[k]), self.node.shape) for k in terms),
                bias=np.asarray(c[0]),
            )
        )
        return name

    def _chebyshev(self, k: int) -> str:
        """The value of T_k."""
        if k not in self.made:
            name = f"{self.node.name}.t{k}"
            one, zero = np.ones(()), np.zeros(())
            half = self._chebyshev(k // 2)
            if k % 2 == 0:
                self.nodes.append(self._poly([-one, zero, 2.0 * one], name, half))
            else:
                product = self._mul(half, self._chebyshev(k // 2 + 1), f"{name}.product")
                twice = self._affine(2.0 * one, zero, f"{name}.twice", product)
                self._add(twice, self._affine(-one, zero, f"{name}.minus"), name)
            self.made[k] = name
        return self.made[k]


def _trimmed(c: list[FloatArray]) -> list[FloatArray]:
    """Without leading coefficients that are zero."""
    while len(c) > 1 and not np.any(c[-1]):
        c = c[:-1]
    return c
