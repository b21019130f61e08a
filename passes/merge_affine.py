r"""Chains and sums of linear maps become one linear map: a level saved for each one merged.

    y = M (A u + b) + c        becomes   y = (M A) u + (M b + c)
    y = (A u + b) + h          becomes   y = A u + 1 h + b

The first when the inner value has no other reader, or when the inner map only picks and scales
elements (slices, batch norms), which costs nothing to repeat, or when the product has at most
`repeat` multiply-accumulates and is on a deepest path (a residual sum that is normalised): little
work is done twice then, and everything is done at a lower level. On paths a function counts as a
polynomial of depth 3. The second when h is not deeper than
u, so that the identity's product costs no depth. A product that has more than `growth` times the
multiply-accumulates of its factors, and more than `allowance` in all, is not made (a narrow layer
between two wide ones).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from fhecompile.ckks import linear_map
from fhecompile.ckks.linear_map import LinearMap
from fhecompile.ir.depth import measure_depth
from fhecompile.ir.program import Pass, PassResult, Program
from fhecompile.ir.tensor import (
    Add,
    Affine,
    Function,
    Node,
    TensorGraph,
    is_product_free,
    node_depth,
)

FUNCTION_DEPTH = 3


@dataclass(frozen=True)
class MergeAffine(Pass):
    """See the module docstring."""

    growth: float = 4.0
    allowance: int = 3 << 22
    repeat: int = 1 << 19

    def run(self, program: Program) -> PassResult:
        graph = program.graph
        remarks: list[str] = []
        merged = 0
        while True:
            step = self._step(graph, remarks)
            if step is None:
                break
            graph, count = step
            merged += count
        if not merged:
            return PassResult(program, False, tuple(remarks))
        return PassResult(
            replace(program, graph=graph), True, (f"{merged} maps merged", *dict.fromkeys(remarks))
        )

    def _step(self, graph: TensorGraph, remarks: list[str]) -> tuple[TensorGraph, int] | None:
        """One sweep in topological order; None when nothing merged."""
        nodes: dict[str, Node] = dict(graph.nodes)
        users = graph.users()
        depth = measure_depth(graph).depth
        deepest = _on_deepest_paths(graph, users)
        count = 0
        for node in graph:
            current = nodes[node.name]
            if isinstance(current, Add):
                opened = self._open_add(current, nodes, users, depth)
                if opened is None:
                    continue
                current = nodes[node.name] = opened
            if not isinstance(current, Affine):
                continue
            for name in current.inputs:
                inner = nodes[name]
                if not isinstance(inner, Affine):
                    continue
                repeated = len(users[name]) > 1 and not _only_picks(inner)
                if repeated and (is_product_free(inner) or not {node.name, name} <= deepest):
                    continue
                before = _macs(current.maps) + _macs(inner.maps)
                if repeated and before > self.repeat:
                    continue
                candidate = self._merge(current, inner)
                after = _macs(candidate.maps)
                if repeated and after > self.repeat:
                    continue
                if after > self.growth * before and after > self.allowance:
                    remarks.append(
                        f"{node.name} kept apart from {name}: their product has "
                        f"{after / before:.1f} times the multiplications"
                    )
                    continue
                nodes[node.name] = current = candidate
                count += 1
        return (graph.rebuilt(nodes.values()), count) if count else None

    def _open_add(
        self,
        node: Add,
        nodes: dict[str, Node],
        users: dict[str, list[Node]],
        depth: dict[str, int],
    ) -> Affine | None:
        """The sum as a two-input affine node if that lets an operand merge at no depth."""
        for name, other in (node.inputs, node.inputs[::-1]):
            inner, beside = nodes[name], nodes[other]
            if not isinstance(inner, Affine) or len(users[name]) > 1 or is_product_free(inner):
                continue
            if depth[other] <= max(depth[i] for i in inner.inputs) or (
                isinstance(beside, Affine)
                and len(users[other]) == 1
                and not is_product_free(beside)
            ):
                one = linear_map.diagonal(np.ones(()), node.shape)
                return Affine(
                    name=node.name,
                    inputs=node.inputs,
                    shape=node.shape,
                    source=node.source,
                    maps=(one, one),
                    bias=np.zeros((1,) * len(node.shape)),
                )
        return None

    def _merge(self, outer: Affine, inner: Affine) -> Affine:
        """`outer` with its input `inner` replaced by inner's own inputs."""
        inputs: dict[str, list[LinearMap]] = {}
        bias = np.asarray(outer.bias)
        for name, m in zip(outer.inputs, outer.maps, strict=True):
            if name != inner.name:
                inputs.setdefault(name, []).append(m)
                continue
            for deeper, a in zip(inner.inputs, inner.maps, strict=True):
                inputs.setdefault(deeper, []).append(linear_map.compose(m, a))
            if np.any(inner.bias):
                moved = m.apply(inner.full_bias()[None, :])[0].reshape(outer.shape)
                bias = bias + linear_map.collapse(moved)
        return replace(
            outer,
            inputs=tuple(inputs),
            maps=tuple(linear_map.add(maps) for maps in inputs.values()),
            bias=bias,
            source=" ".join(dict.fromkeys(f"{inner.source} {outer.source}".split())),
        )


def _on_deepest_paths(graph: TensorGraph, users: dict[str, list[Node]]) -> set[str]:
    """The nodes on a path of the largest depth from an input to an output."""
    own = {n.name: FUNCTION_DEPTH if isinstance(n, Function) else node_depth(n) for n in graph}
    above: dict[str, int] = {}
    for node in graph:
        above[node.name] = own[node.name] + max((above[i] for i in node.inputs), default=0)
    below: dict[str, int] = {}
    for node in reversed(list(graph)):
        below[node.name] = max((own[u.name] + below[u.name] for u in users[node.name]), default=0)
    total = max(above.values(), default=0)
    return {name for name in above if above[name] + below[name] == total}


def _macs(maps: tuple[LinearMap, ...]) -> int:
    return sum(m.multiply_accumulates() for m in maps)


def _only_picks(node: Affine) -> bool:
    """Whether every output element is one scaled input element at most."""
    if len(node.maps) != 1 or sum(t.size for t in node.maps[0].terms) > node.size:
        return False
    out, _, _ = node.maps[0].coordinates()
    return bool(np.unique(out).size == out.size)
