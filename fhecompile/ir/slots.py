"""The slot graph: one node per ciphertext operation, typed by level and scale.

The meaning and typing of every operation is in `fhecompile.ckks.operations`. Constants are not in
the nodes but in four tables: `layouts`, `maps` (linear maps between two layouts, whose diagonals
`dot_plain` names by number), `vectors` (elementwise constants in a layout) and `series` (of
refreshes).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fhecompile.ckks.diagonals import Diagonal, DiagonalMap
from fhecompile.ckks.layout import Layout
from fhecompile.ckks.operations import OperationError, ValueType, result_type
from fhecompile.errors import InternalError


@dataclass(frozen=True, eq=False)
class SlotNode:
    """One operation; `layer` names the tensor-graph node it was lowered from."""

    id: int
    op: str
    inputs: tuple[int, ...]
    attributes: dict[str, Any]
    type: ValueType
    layer: str


@dataclass(frozen=True, eq=False)
class VectorConstant:
    """An elementwise constant: `values` broadcasts over the shape of `layout`."""

    values: NDArray[np.float64]
    layout: Layout


@dataclass(frozen=True, eq=False)
class SeriesConstant:
    """A Fourier series for |m| <= share; see `fhecompile.ckks.bootstrap.evaluate_series`."""

    coefficients: NDArray[np.float64]
    share: float


@dataclass(frozen=True, eq=False)
class MapConstant:
    """A linear map and the numbered diagonals of it that the program uses."""

    layer: str
    diagonal_map: DiagonalMap
    diagonals: list[Diagonal]


@dataclass(eq=False)
class SlotGraph:
    """Operations in execution order; ids are stable under passes, not consecutive.

    `results` are the ciphertexts of the values of the tensor graph, by its nodes' names. A value
    that a pass has dissolved has none.
    """

    prime_bits: int
    nodes: dict[int, SlotNode] = field(default_factory=dict)
    maps: list[MapConstant] = field(default_factory=list)
    vectors: list[VectorConstant] = field(default_factory=list)
    series: list[SeriesConstant] = field(default_factory=list)
    next_id: int = 0
    results: dict[str, list[int]] = field(default_factory=dict)

    def __iter__(self) -> Iterator[SlotNode]:
        return iter(self.nodes.values())

    def __getitem__(self, node_id: int) -> SlotNode:
        return self.nodes[node_id]

    def emit(self, op: str, inputs: tuple[int, ...], layer: str, **attributes: Any) -> int:
        """Appends an operation, types it, and returns its id."""
        operands = [self.nodes[i].type for i in inputs]
        try:
            value_type = result_type(op, operands, attributes, self.prime_bits)
        except OperationError as error:
            raise InternalError(f"slot graph: {layer}: {op} {error}") from error
        node = SlotNode(self.next_id, op, inputs, attributes, value_type, layer)
        self.nodes[node.id] = node
        self.next_id += 1
        return node.id

    def emptied(self) -> SlotGraph:
        """A graph with the same constants and no operations, for a pass to fill."""
        return SlotGraph(self.prime_bits, {}, self.maps, self.vectors, self.series, 0)

    def renamed_results(self, renamed: Mapping[int, int]) -> dict[str, list[int]]:
        """The results in a graph whose operations have other ids; those that are there at all."""
        return {
            name: [renamed[i] for i in ids]
            for name, ids in self.results.items()
            if all(i in renamed for i in ids)
        }


def verify(graph: SlotGraph) -> None:
    """Recomputes the type of every value and compares; raises InternalError at the first one."""
    nodes = list(graph)
    seen: set[int] = set()
    for position, node in enumerate(nodes):
        problem = ""
        missing = [i for i in node.inputs if i not in seen]
        if missing:
            problem = f"uses %{missing[0]} before it is made"
        else:
            try:
                found = result_type(
                    node.op,
                    [graph[i].type for i in node.inputs],
                    node.attributes,
                    graph.prime_bits,
                )
                if found != node.type:
                    problem = f"is typed {node.type} but computes {found}"
            except OperationError as error:
                problem = str(error)
        if problem:
            around = nodes[max(0, position - 5) : position + 5]
            lines = "\n".join(
                f"  %{n.id} = {n.op}{n.inputs} {n.type}{'   <--' if n is node else ''}"
                for n in around
            )
            raise InternalError(
                f"slot graph: %{node.id} = {node.op} of layer {node.layer} {problem}\n{lines}"
            )
        seen.add(node.id)
