r"""Evaluates several samples in one set of ciphertexts, the sample as a new leading axis.

With `--batch B` every tensor of shape s becomes one of shape (B, *s) and every map M the block
diagonal diag(M, ..., M): layouts may then fill with another sample the slots that a small layer
leaves empty, and one product or rotation serves B samples. Weights that samples share are stored
once. A run takes as long as its ciphertexts ask for, however many samples they hold.

What the samples share one element of, e.g. the norm a vector is divided by, is one element per
sample afterwards, which does not broadcast over the batch: the affine node that made it makes a
copy per element instead.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from fhecompile.ckks import linear_map
from fhecompile.ir.program import Pass, PassResult, Program
from fhecompile.ir.tensor import Add, Affine, Input, Mul, Node, Poly, Shape, TensorGraph
from passes.infer_ranges import Calibration


@dataclass(frozen=True)
class BatchSamples(Pass):
    """See the module docstring."""

    needs: ClassVar[tuple[type, ...]] = (Calibration,)

    def run(self, program: Program) -> PassResult:
        count = program.options.batch
        if count == 1:
            return PassResult(program, False)
        batched = stack_samples(program.graph, count)
        calibration = program.facts[Calibration]
        inputs = {name: _grouped(x, count) for name, x in calibration.inputs.items()}
        after = replace(program, graph=batched).having(replace(calibration, inputs=inputs))
        return PassResult(after, True, (f"{count} samples share ciphertexts",))


def stack_samples(graph: TensorGraph, count: int) -> TensorGraph:
    """The graph for `count` samples along a new leading axis of every tensor."""
    spread = _spread_scalars(graph)
    return spread.rebuilt([_batched(node, count) for node in spread])


def _grouped(samples: NDArray[np.float64], count: int) -> NDArray[np.float64]:
    """Samples (n, *shape) as batches (ceil(n / count), count, *shape), the first ones again."""
    batches = -(-len(samples) // count)
    return np.resize(samples, (batches, count, *samples.shape[1:]))


def _batched(node: Node, count: int) -> Node:
    shape = (count, *node.shape)
    if isinstance(node, Affine):
        maps = tuple(linear_map.stack([m] * count, shared_input=False) for m in node.maps)
        return replace(node, shape=shape, maps=maps)  # a bias broadcasts over leading axes
    if isinstance(node, Poly):
        c = node.coefficients
        c = c.reshape(len(c), *(1,) * (len(shape) + 1 - c.ndim), *c.shape[1:])
        return replace(node, shape=shape, coefficients=c)
    if isinstance(node, Input) and node.elements is not None:
        size = math.prod(node.given_shape)
        starts = np.arange(count, dtype=np.int32).reshape(count, *(1,) * len(node.shape)) * size
        given = (count, *node.given_shape)
        return replace(node, shape=shape, given_shape=given, elements=starts + node.elements)
    return replace(node, shape=shape)


def _spread_scalars(graph: TensorGraph) -> TensorGraph:
    """The graph with one copy per element of what broadcasts over another operand."""
    nodes = dict(graph.nodes)

    def spread(name: str, shape: Shape) -> str:
        """The name of a value that has the one element of another everywhere."""
        copied = f"{name}.each{math.prod(shape)}"
        if copied in nodes:
            return copied
        node = graph[name]
        copies = linear_map.selection(np.zeros(shape, np.int64), 1)
        if isinstance(node, Affine):
            maps = tuple(linear_map.compose(copies, m) for m in node.maps)
            nodes[copied] = replace(node, name=copied, shape=shape, maps=maps)
        elif isinstance(node, Input):
            nodes[copied] = Affine(
                name=copied, inputs=(name,), shape=shape, maps=(copies,), bias=np.zeros(1)
            )
        else:
            operands = tuple(spread(operand, shape) for operand in node.inputs)
            nodes[copied] = replace(node, name=copied, shape=shape, inputs=operands)
        return copied

    for node in graph:
        if isinstance(node, Mul | Add) and node.size > 1:
            operands = tuple(
                spread(name, node.shape) if graph[name].size == 1 else name for name in node.inputs
            )
            nodes[node.name] = replace(node, inputs=operands)
    return graph.rebuilt(nodes.values())
