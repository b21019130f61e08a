r"""Folds per-element affine nodes (batch norm above all) into the linear map that produces them.

    x = M u + b,  y = s x + t   becomes   y = (diag(s) M) u + (s b + t)

Only when x has no other reader: otherwise M would be computed twice. Batch norms that feed
polynomials stay for `fuse_polynomials`, those in front of linear maps for `merge_affine`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from fhecompile.ckks import linear_map
from fhecompile.ir.program import Pass, PassResult, Program
from fhecompile.ir.tensor import Affine, Node, elementwise_scale


@dataclass(frozen=True)
class FoldBatchnorm(Pass):
    """See the module docstring."""

    def run(self, program: Program) -> PassResult:
        nodes: dict[str, Node] = dict(program.graph.nodes)
        users = program.graph.users()
        remarks: list[str] = []
        folded = 0
        for node in program.graph:
            scale = elementwise_scale(node)
            if scale is None:
                continue
            assert isinstance(node, Affine)
            producer = nodes[node.inputs[0]]
            if not isinstance(producer, Affine) or producer.shape != node.shape:
                continue
            if len(users[producer.name]) > 1:
                readers = ", ".join(u.name for u in users[producer.name] if u is not node)
                remarks.append(f"{node.name} kept: {producer.name} is also read by {readers}")
                continue
            flat = np.broadcast_to(scale, node.shape).ravel()
            nodes[node.name] = replace(
                node,
                inputs=producer.inputs,
                maps=tuple(linear_map.scale_outputs(m, flat) for m in producer.maps),
                bias=scale * producer.bias + node.bias,
                source=f"{producer.source} {node.source}".strip(),
            )
            folded += 1
        if not folded:
            return PassResult(program, False, tuple(remarks))
        graph = program.graph.rebuilt(nodes.values())
        return PassResult(replace(program, graph=graph), True, (f"{folded} folded", *remarks))
