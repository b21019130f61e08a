r"""Copies of values are made before functions and products of them, not after: a level less each.

With S a map that only copies elements, y[i] = x[s_i], and f elementwise,

    y = S f(A u + b)             becomes   y = f((S A) u + S b)
    y = S ((A u) (B v))          becomes   y = ((S A) u) ((S B) v)

so that S is part of the linear maps A and B that were there anyway. A normalised row, a softmax and
a product of matrices all divide by, or multiply with, copies of what was summed. What is computed
on more elements costs nothing more while these fit the slots; so S may make at most `size` of them,
or no more than it is given. Where another linear map reads f, it reads one of the copies:

    z = C f(A u + b)             becomes   z = (C T) y,    T S = 1

Declined where something else than linear maps reads a value of which other numbers of elements
are needed, and where S A would have more than `allowance` non-zeros.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from fhecompile.ckks import linear_map
from fhecompile.ckks.linear_map import LinearMap
from fhecompile.ir.program import Pass, PassResult, Program
from fhecompile.ir.tensor import (
    Add,
    Affine,
    Function,
    Mul,
    Node,
    Poly,
    TensorGraph,
    elementwise_scale,
)

FloatArray = NDArray[np.float64]
IndexArray = NDArray[np.int32]


@dataclass(frozen=True)
class MoveCopies(Pass):
    """See the module docstring; `size` is what one ciphertext of the largest ring holds."""

    size: int = 1 << 15
    allowance: int = 3 << 22

    def run(self, program: Program) -> PassResult:
        graph, moved = program.graph, []
        while True:
            step = self._step(graph)
            if step is None:
                break
            graph, name = step
            moved.append(f"{name} is part of the maps before")
        if not moved:
            return PassResult(program, False)
        return PassResult(replace(program, graph=graph), True, tuple(moved))

    def _step(self, graph: TensorGraph) -> tuple[TensorGraph, str] | None:
        users = graph.users()
        for node in graph:
            if not isinstance(node, Affine):
                continue
            source = _copied_elements(node)
            if source is None or node.size > max(self.size, graph[node.inputs[0]].size):
                continue
            nodes = self._moved(graph, users, node, source)
            if nodes is not None:
                return graph.rebuilt(nodes.values()), node.name
        return None

    def _moved(
        self,
        graph: TensorGraph,
        users: dict[str, list[Node]],
        copies: Affine,
        source: IndexArray,
    ) -> dict[str, Node] | None:
        """The nodes with `copies` made part of the maps before it; None where it cannot be."""
        value = graph[copies.inputs[0]]
        if not _is_elementwise(value):
            return None
        inside: dict[str, Node] = {}  # what is computed on copies
        before: dict[str, Affine] = {}  # the maps that make them
        stack = [value]
        while stack:
            node = stack.pop()
            if node.name in inside:
                continue
            inside[node.name] = node
            for name in node.inputs:
                operand = graph[name]
                if _is_elementwise(operand) and operand.size == value.size:
                    stack.append(operand)
                elif isinstance(operand, Affine) and operand.size == value.size:
                    before[name] = operand
                elif not (isinstance(node, Mul) and operand.size == 1):
                    return None
        made = inside | before
        readers = {
            user.name
            for name in made
            for user in users[name]
            if user.name not in inside and user is not copies
        }
        readable = len(np.unique(source)) == value.size
        if readers and not (readable and all(isinstance(graph[r], Affine) for r in readers)):
            return None
        nodes: dict[str, Node] = dict(graph.nodes)
        for name, node in inside.items():
            nodes[name] = _on_copies(node, copies, source)
        for name, node in before.items():
            maps = tuple(linear_map.compose(copies.maps[0], m) for m in node.maps)
            if sum(m.multiply_accumulates() for m in maps) > self.allowance:
                return None
            bias = _constant_on_copies(node.bias, node, copies, source)
            nodes[name] = replace(node, maps=maps, bias=bias, shape=copies.shape)
        one_copy = np.zeros(value.size, np.int32)
        one_copy[source] = np.arange(source.size, dtype=np.int32)
        for name in readers:
            nodes[name] = _reading(nodes[name], set(made), one_copy, copies.size)
        del nodes[copies.name]
        for user in users[copies.name]:
            inputs = tuple(value.name if i == copies.name else i for i in nodes[user.name].inputs)
            nodes[user.name] = replace(nodes[user.name], inputs=inputs)
        return nodes


def _copied_elements(node: Affine) -> IndexArray | None:
    """Per element of the node which one of its operand it is; None if it is anything else."""
    if len(node.maps) != 1 or node.relayout or np.any(node.bias):
        return None
    m = node.maps[0]
    if sum(t.size for t in m.terms) != m.out_size:
        return None
    out, source, values = m.coordinates()
    if out.size != m.out_size or np.unique(out).size != out.size or np.any(values != 1.0):
        return None
    found = np.empty(out.size, np.int32)
    found[out] = source
    return found


def _is_elementwise(node: Node) -> bool:
    return isinstance(node, Add | Function | Mul | Poly) or elementwise_scale(node) is not None


def _on_copies(node: Node, copies: Node, source: IndexArray) -> Node:
    """An elementwise node in the shape of the copies."""
    shape = copies.shape
    match node:
        case Affine():
            scale = elementwise_scale(node)
            assert scale is not None
            full = _constant_on_copies(scale, node, copies, source)
            bias = _constant_on_copies(node.bias, node, copies, source)
            maps: tuple[LinearMap, ...] = (linear_map.diagonal(full, shape),)
            return replace(node, maps=maps, bias=bias, shape=shape)
        case Poly():
            rows = [_constant_on_copies(c, node, copies, source) for c in node.coefficients]
            return replace(node, coefficients=np.stack(np.broadcast_arrays(*rows)), shape=shape)
        case Function():
            share = _constant_on_copies(node.share, node, copies, source)
            return replace(node, share=share, shape=shape)
    return replace(node, shape=shape)


def _constant_on_copies(
    array: FloatArray, node: Node, copies: Node, source: IndexArray
) -> FloatArray:
    """A constant that broadcasts to the node as one that broadcasts to the copies."""
    if array.size == 1:
        return array.reshape((1,) * len(copies.shape))
    full = np.broadcast_to(array, node.shape).ravel()
    return linear_map.collapse(full[source].reshape(copies.shape))


def _reading(node: Node, made: set[str], one_copy: IndexArray, size: int) -> Node:
    """The linear map that reads one of the copies of every value in `made`."""
    assert isinstance(node, Affine)
    maps = tuple(
        linear_map.relabel_inputs(m, one_copy, size) if name in made else m
        for name, m in zip(node.inputs, node.maps, strict=True)
    )
    return replace(node, maps=maps)
