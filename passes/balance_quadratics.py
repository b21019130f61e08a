r"""Moves the leading coefficients of quadratics into the linear maps around them.

With z = a x^2 + b x + c per channel, x = A u + d, and readers y = W z + e, take t = sqrt|a|:

    x' = t x = (diag(t) A) u + t d
    z' = x'^2 + sign(a) (b / t) x' + sign(a) c
    y  = (W diag(sign a)) z' + e

so that the activation is one squaring of depth 1 whatever the channels' coefficients are. Where
a = 0 the channel is linear: t = 1, the square of that channel is left out of the readers and they
read x' instead, y = W_z z' + (W diag(b)) x' + (e + W c), which is exact. |a| is taken as zero
where the square is below `negligible` times the other two terms over the calibrated range.

Declined, with a reason, when the producer is not affine or has other readers, or when a reader is
not affine (the outputs of a plan, a product).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from fhecompile.ckks import linear_map
from fhecompile.ir.program import Pass, PassResult, Program
from fhecompile.ir.tensor import Affine, Node, Poly
from passes.infer_ranges import Ranges


@dataclass(frozen=True)
class BalanceQuadratics(Pass):
    """See the module docstring."""

    negligible: float = 2.0**-24

    needs: ClassVar[tuple[type, ...]] = (Ranges,)

    def run(self, program: Program) -> PassResult:
        nodes: dict[str, Node] = dict(program.graph.nodes)
        users = program.graph.users()
        ranges = program.facts[Ranges]
        remarks: list[str] = []
        balanced: dict[str, float] = {}
        for node in program.graph:
            if not isinstance(node, Poly) or node.degree != 2 or _is_balanced(node):
                continue
            producer = nodes[node.inputs[0]]
            readers = [nodes[u.name] for u in users[node.name]]
            reason = ""
            if not isinstance(producer, Affine):
                reason = f"its operand is made by {producer.op} {producer.name}"
            elif len(users[producer.name]) > 1:
                reason = f"{producer.name} has other readers"
            elif not all(isinstance(r, Affine) for r in readers):
                reason = "it is read by something that is not a linear map"
            if reason or not isinstance(producer, Affine):
                remarks.append(f"{node.name} not balanced: {reason}")
                continue
            self._balance(node, producer, readers, nodes, ranges.largest[producer.name])
            balanced[node.name] = 1.0
        if not balanced:
            return PassResult(program, False, tuple(remarks))
        graph = program.graph.rebuilt(nodes.values())
        result = replace(program, graph=graph, facts=program.facts.having(ranges.stale()))
        return PassResult(result, True, (f"{len(balanced)} quadratics balanced", *remarks))

    def _balance(
        self,
        node: Poly,
        producer: Affine,
        readers: list[Node],
        nodes: dict[str, Node],
        largest: float,
    ) -> None:
        c, b, a = node.coefficients
        rest = np.maximum(np.abs(b) * largest, np.abs(c))
        linear = np.abs(a) * largest**2 <= self.negligible * rest
        a = np.where(linear, 0.0, a)
        t = np.where(linear, 1.0, np.sqrt(np.abs(a)))
        sign = np.where(linear, 0.0, np.sign(a))
        nodes[producer.name] = replace(
            producer,
            maps=tuple(linear_map.scale_outputs(m, _flat(node, t)) for m in producer.maps),
            bias=t * producer.bias,
        )
        new = np.stack(np.broadcast_arrays(sign * c, sign * b / t, np.ones(())))
        nodes[node.name] = replace(node, coefficients=new)
        for reader in readers:
            assert isinstance(reader, Affine)
            inputs = list(reader.inputs)
            maps, bias = list(reader.maps), np.asarray(reader.bias)
            # A reader may have the value as several operands (differences of its elements).
            for k in [k for k, name in enumerate(reader.inputs) if name == node.name]:
                w = maps[k]
                maps[k] = linear_map.scale_inputs(w, _flat(node, sign))
                if np.any(linear & (b != 0)):
                    inputs.append(producer.name)
                    maps.append(linear_map.scale_inputs(w, _flat(node, np.where(linear, b, 0.0))))
                if np.any(linear & (c != 0)):
                    moved = w.apply(_flat(node, np.where(linear, c, 0.0))[None, :])[0]
                    bias = bias + linear_map.collapse(moved.reshape(reader.shape))
            nodes[reader.name] = replace(reader, inputs=tuple(inputs), maps=tuple(maps), bias=bias)


def _is_balanced(node: Poly) -> bool:
    return node.leading_is_uniform() and bool(node.coefficients[-1].flat[0] > 0)


def _flat(node: Poly, array: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.broadcast_to(array, node.shape).ravel()
