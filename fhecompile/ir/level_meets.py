"""Operand sets that several nodes share, as nodes of their own.

A node's level is at most the least of its operands' availabilities, and a refresh raises a value's
availability for all of its users. So where w reads all that v reads, and more, as in a network of
dense blocks,

    l_v <= m = min {a_u : v reads u}        l_w <= min(m, a_u for the other u)

with one variable m, a node that costs nothing and whose value is never refreshed. Of n nodes that
each read all values before them, which are a complete graph, this makes a chain of triangles, which
is series-parallel.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from fhecompile.ir.level_problem import LevelNode, LevelProblem


def share_operands(problem: LevelProblem) -> LevelProblem:
    """The problem with a node for every set of operands that other nodes read too.

    Plans of either have the same levels and costs on the nodes of both.
    """
    read = Counter(frozenset(node.inputs) for node in problem.nodes)
    several = sorted((s for s in read if len(s) > 1), key=lambda s: (len(s), sorted(s)))
    shared = [s for s in several if read[s] > 1 or any(s < other for other in several)]
    highest = max([problem.primes, *(node.fresh or 0 for node in problem.nodes)])
    meets: dict[frozenset[str], str] = {}
    nodes: list[LevelNode] = []

    def cover(operands: frozenset[str]) -> tuple[str, ...]:
        """Few values whose availability together is that of the operands."""
        names: list[str] = []
        for s in reversed(shared):
            if s in meets and s <= operands:
                names.append(meets[s])
                operands -= s
        return (*names, *sorted(operands))

    for node in problem.nodes:
        operands = frozenset(node.inputs)
        for s in shared:
            if s not in meets and s <= operands:
                inputs = cover(s)
                meets[s] = f"\0meet {len(meets)}"  # like no name of a layer
                nodes.append(LevelNode(meets[s], inputs, seconds=(0.0,) * (highest + 1)))
        nodes.append(node.changed(inputs=cover(operands)))
    return replace(problem, nodes=tuple(nodes))
