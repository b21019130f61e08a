"""Drops dead nodes, folds affine renamings of single values, merges equal nodes.

- An affine node that is the identity (y = x up to shape, no bias) disappears; its readers read x.
- Two nodes of one kind with the same operands and the same constants become one (common
  subexpressions). Parallel branches have different constants and so stay separate.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from fhecompile.ir.program import Pass, PassResult, Program
from fhecompile.ir.tensor import (
    Affine,
    Chebyshev,
    Function,
    Input,
    Mul,
    Node,
    Output,
    Poly,
    uniform_identity_weight,
)


@dataclass(frozen=True)
class CleanGraph(Pass):
    """See the module docstring."""

    def run(self, program: Program) -> PassResult:
        graph = program.graph
        renamed: dict[str, str] = {}
        seen: dict[tuple[object, ...], str] = {}
        kept: list[Node] = []
        shapes = {node.name: node.shape for node in graph}
        users = graph.users()
        for node in graph:
            node = replace(node, inputs=tuple(renamed.get(i, i) for i in node.inputs))
            if isinstance(node, Affine) and _is_identity(node):
                source = node.inputs[0]
                flat_readers = all(isinstance(u, Affine | Output) for u in users[node.name])
                if flat_readers or shapes[source] == node.shape:
                    renamed[node.name] = source
                    continue
            key = _key(node)
            if key is not None:
                if key in seen:
                    renamed[node.name] = seen[key]
                    continue
                seen[key] = node.name
            kept.append(node)
        cleaned = graph.rebuilt(kept)
        dropped = len(graph.nodes) - len(cleaned.nodes)
        remarks = (f"{dropped} of {len(graph.nodes)} nodes dropped",) if dropped else ()
        return PassResult(replace(program, graph=cleaned), bool(dropped), remarks)


def _is_identity(node: Affine) -> bool:
    return not np.any(node.bias) and uniform_identity_weight(node) == 1.0


def _key(node: Node) -> tuple[object, ...] | None:
    """Equal keys mean equal values; None for what is never merged."""
    match node:
        case Input() | Output():
            return None
        case Affine():
            maps = tuple(
                tuple(
                    (a.shape, a.tobytes())
                    for t in m.terms
                    for a in (t.values, t.out_index, t.in_index)
                )
                for m in node.maps
            )
            return ("affine", node.inputs, node.shape, maps, node.full_bias().tobytes())
        case Poly() | Chebyshev():
            c = node.coefficients
            return (node.op, node.inputs, node.shape, c.shape, c.tobytes())
        case Function():
            share = (node.share.shape, node.share.tobytes())
            return ("function", node.inputs, node.shape, node.function, share)
        case Mul():
            return ("mul", tuple(sorted(node.inputs)), node.shape)
    return (node.op, tuple(sorted(node.inputs)), node.shape)
