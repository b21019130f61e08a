r"""Products of several values are multiplied in the order that takes the least depth.

    (a b) c    becomes    a (b c)    where a is deeper than b and c

A product of products that nothing else reads is a multiset of factors. Multiplying the two
shallowest of them until one value is left gives the least depth there is (Golumbic 1976: Huffman's
algorithm with 1 + max in the place of the sum). Attention divides by its sums before it multiplies
with the values; these can be multiplied while the reciprocal is computed.

Declined where it saves nothing: the order of the network is kept then.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass, replace

from fhecompile.ir.depth import measure_depth
from fhecompile.ir.program import Pass, PassResult, Program
from fhecompile.ir.tensor import Mul, Node, TensorGraph


@dataclass(frozen=True)
class BalanceProducts(Pass):
    """See the module docstring."""

    def run(self, program: Program) -> PassResult:
        graph = program.graph
        remarks: list[str] = []
        # From the inputs on: what a product gains is gained by those that it is a factor of.
        for name in list(graph.nodes):
            found = self._balanced(graph, name)
            if found is not None:
                graph, saved = found
                remarks.append(f"{name} multiplied in another order, depth {saved} less")
        if not remarks:
            return PassResult(program, False)
        return PassResult(replace(program, graph=graph), True, tuple(remarks))

    def _balanced(self, graph: TensorGraph, name: str) -> tuple[TensorGraph, int] | None:
        root = graph.nodes[name]
        if not isinstance(root, Mul):
            return None
        users = graph.users()
        inner: list[Mul] = []
        factors = _factors(graph, root, users, inner)
        if not inner or any(graph[factor].size != root.size for factor in factors):
            return None
        depth = measure_depth(graph).depth
        heap = [(depth[factor], k, factor) for k, factor in enumerate(factors)]
        heapq.heapify(heap)
        order: list[tuple[str, str]] = []
        # The product of two comes after its factors; its own place is its position here.
        names = [*(node.name for node in inner), name]
        while len(heap) > 1:
            (_, _, a), (below, _, b) = heapq.heappop(heap), heapq.heappop(heap)
            heapq.heappush(heap, (below + 1, len(factors) + len(order), names[len(order)]))
            order.append((b, a))  # the deeper one first, as layouts follow the first operand
        saved = depth[name] - heap[0][0]
        if saved <= 0:
            return None
        nodes: dict[str, Node] = dict(graph.nodes)
        for product, pair in zip(names, order, strict=True):
            nodes[product] = replace(nodes[product], inputs=pair, source=root.source)
        return graph.rebuilt(nodes.values()), saved


def _factors(
    graph: TensorGraph, node: Mul, users: dict[str, list[Node]], inner: list[Mul]
) -> list[str]:
    """The factors of a product; appends the products among them that are taken apart."""
    found = []
    for name in node.inputs:
        operand = graph[name]
        # A square is read twice by one node, and stays whole.
        alone = len(users[name]) == 1 and node.inputs.count(name) == 1
        if isinstance(operand, Mul) and operand.shape == node.shape and alone:
            found += _factors(graph, operand, users, inner)
            inner.append(operand)
        else:
            found.append(name)
    return found
