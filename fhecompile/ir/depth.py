"""Multiplicative depth of a tensor graph and its deepest path."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fhecompile.ir.tensor import Function, Mul, Poly, Refresh, TensorGraph, node_depth


@dataclass(frozen=True)
class DepthReport:
    """Depth after every node and the nodes that add depth on one deepest path.

    Paths go from an input or a refresh to an output or the next refresh.
    """

    depth: dict[str, int]
    path: tuple[str, ...]

    @property
    def total(self) -> int:
        """Depth of the deepest value."""
        return max(self.depth.values(), default=0)


def measure_depth(graph: TensorGraph) -> DepthReport:
    """Counts depth along every edge, in topological order."""
    depth: dict[str, int] = {}
    deepest: dict[str, str | None] = {}
    for node in graph:
        operand = max(node.inputs, key=lambda name: depth[name], default=None)
        depth[node.name] = (depth[operand] if operand else 0) + node_depth(node)
        deepest[node.name] = operand
        if isinstance(node, Refresh):
            depth[node.name], deepest[node.name] = 0, None
    ends = [n.name for n in graph.outputs()]
    ends += [n.inputs[0] for n in graph if isinstance(n, Refresh)]
    name: str | None = max(ends, key=depth.__getitem__, default=None)
    path: list[str] = []
    while name is not None:
        if node_depth(graph[name]):
            path.append(name)
        name = deepest[name]
    return DepthReport(depth, tuple(reversed(path)))


def measure_powers(graph: TensorGraph, classes: Mapping[str, Sequence[str]]) -> dict[str, int]:
    """Per value the most products of values on a path inside of its class.

    Args:
        classes: per value those that are connected with it by elementwise operations.
    """
    found: dict[str, int] = {}
    for node in graph:
        own = classes[node.name][0]
        inside = [found[name] for name in node.inputs if classes[name][0] == own]
        is_product = isinstance(node, Mul) or (isinstance(node, Poly) and node.degree > 1)
        found[node.name] = max(inside, default=0) + is_product
    return {name: max(found[other] for other in classes[name]) for name in found}


def describe_path(graph: TensorGraph) -> str:
    """The layers of a deepest path with the levels that each takes: `conv1 1, act1 6, ...`."""
    taken: dict[str, int] = {}
    for name in measure_depth(graph).path:
        place = graph[name].source or name
        taken[place] = taken.get(place, 0) + node_depth(graph[name])
    return ", ".join(f"{place} {levels}" for place, levels in taken.items())


def expect_depth(graph: TensorGraph, function_depth: int) -> int:
    """Depth of the deepest chain of functions, a polynomial of that depth standing for each.

    One more level is for the linear map in front of it; what has no function in it is not counted.
    """
    found: dict[str, int] = {}
    for node in graph:
        own = function_depth + 1 if isinstance(node, Function) else 0
        found[node.name] = max((found[name] for name in node.inputs), default=0) + own
    return max(found.values(), default=0)
