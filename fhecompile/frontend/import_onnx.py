"""From an ONNX model to the tensor graph: one walk over the nodes the outputs need.

Per node: all operands constant -> folded; type in the table -> lowered; else noted as unsupported.
The walk goes on behind an unsupported node with the shape ONNX infers for it, so that one run
reports every node the user has to change.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir

from fhecompile.errors import FheCompileError
from fhecompile.frontend.fold_constants import evaluate_node, infer_shapes
from fhecompile.frontend.load import (
    STANDARD_DOMAINS,
    LoadedModel,
    check_finite,
    initializers,
    load_model,
)
from fhecompile.frontend.lowering import (
    GraphBuilder,
    NodeLowering,
    Tensor,
    UnsupportedNodeError,
    Value,
    describe,
    sanitise,
)
from fhecompile.frontend.maps import MAX_ELEMENTS
from fhecompile.frontend.operators import OPERATORS, kind_of, lower
from fhecompile.frontend.unsupported import ENDINGS, UnsupportedNodes
from fhecompile.ir.tensor import Input, TensorGraph
from fhecompile.ir.tensor_rules import verify

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ImportedModel:
    """An imported model.

    Args:
        graph: the tensor graph.
        sha256: of the ONNX file's bytes.
        opset: version of the standard operator set.
        input_dtypes: element type the ONNX model declares, by the name of the input node.
        name: of the model.
        input_names: name of the input node by ONNX input name; they differ only where the ONNX
            name has characters outside `[A-Za-z0-9_.]`.
    """

    graph: TensorGraph
    sha256: str
    opset: int
    input_dtypes: dict[str, str]
    name: str
    input_names: dict[str, str]


def import_model(
    source: str | Path | bytes | ir.Model,
    input_shapes: Mapping[str, Sequence[int]] | None = None,
    outputs: Sequence[str] = (),
) -> ImportedModel:
    """Reads an ONNX model into the tensor graph.

    Args:
        source: path of the file, its bytes, or an onnx-ir model.
        input_shapes: by input name, for inputs with symbolic dimensions.
        outputs: names of values to compute, in this order; empty: the model's outputs.

    Raises:
        FheCompileError: the file cannot be read or holds what cannot be compiled.
    """
    loaded = load_model(source, input_shapes)
    walk = _Walk(loaded, _find_outputs(loaded, outputs))
    walk.run()
    graph = walk.builder.graph
    verify(graph)
    log.info("imported %s: opset %d, %d nodes", loaded.place, loaded.opset, len(graph.nodes))
    return ImportedModel(
        graph=graph,
        sha256=loaded.sha256,
        opset=loaded.opset,
        input_dtypes={walk.names[n]: dtype for n, dtype in loaded.dtypes.items()},
        name=loaded.name,
        input_names=walk.names,
    )


class _Walk:
    """The values of all ONNX names while the nodes are visited."""

    def __init__(self, loaded: LoadedModel, outputs: Sequence[ir.Value]) -> None:
        self.loaded = loaded
        self.outputs = outputs
        self.place = loaded.place
        self.builder = GraphBuilder(loaded.name)
        self.unsupported = UnsupportedNodes()
        self.names: dict[str, str] = {}
        # None: the result of an unsupported node whose shape is not known.
        self.values: dict[str, Value | None] = {}
        # Names of what needs an unsupported node.
        self.blocked: set[str] = set()
        self.used: set[str] = set()

    def run(self) -> None:
        self._add_inputs()
        self.values.update(initializers(self.loaded.graph))
        needed = _needed_nodes(self.loaded.graph, self.outputs)
        self.used.update(str(v.name) for v in self.outputs)
        self.used.update(str(v.name) for node in needed for v in node.inputs if v is not None)
        for node in needed:
            self._visit(node)
        self.unsupported.raise_if_any(self.place, self._open_values(needed))
        for output in self.outputs:
            name = str(output.name)
            value = self.values.get(name)
            if not isinstance(value, Tensor):
                raise FheCompileError(
                    "output-not-encrypted",
                    f"output {name} does not depend on any input",
                    node=self.place,
                    hint="take this output off the exported model, it is a constant",
                )
            self.builder.add_output(value, name)

    def _add_inputs(self) -> None:
        taken: dict[str, str] = {}
        for name, shape in self.loaded.shapes.items():
            node = sanitise(name)
            if node in taken:
                raise FheCompileError(
                    "input-name-collision",
                    f"inputs {taken[node]} and {name} are both called {node} here",
                    node=self.place,
                    hint="rename one of them; letters, digits, '_' and '.' are kept",
                )
            if math.prod(shape) > MAX_ELEMENTS:
                raise FheCompileError(
                    "input-too-large",
                    f"input {name} has {math.prod(shape)} elements, the limit is {MAX_ELEMENTS}",
                    node=self.place,
                    hint="give a smaller shape, or cut the input before the network",
                )
            taken[node] = name
            self.names[name] = node
            self.values[name] = self.builder.add_input(node, shape)

    def _visit(self, node: ir.Node) -> None:
        for value in node.inputs:
            if value is not None and value.name not in self.values:
                raise FheCompileError(
                    "invalid-model",
                    f"{node.op_type}: input {value.name} is not made by any earlier node",
                    node=describe(node),
                    hint="check the file with onnx.checker.check_model and export it again",
                )
        operands = [None if v is None else self.values[str(v.name)] for v in node.inputs]
        opset = self.loaded.opset
        missing = any(
            value is not None and operand is None
            for value, operand in zip(node.inputs, operands, strict=True)
        )
        standard, kind = node.domain in STANDARD_DOMAINS, kind_of(node)
        blocked = any(v is not None and v.name in self.blocked for v in node.inputs)
        results: Sequence[Value | None] = [None] * len(node.outputs)
        try:
            if not standard and kind not in OPERATORS:
                raise UnsupportedNodeError("not supported")
            constants = [x for x in operands if not isinstance(x, Tensor)]
            first = operands[0] if operands else None
            if standard and len(constants) == len(operands) and not missing:
                results = evaluate_node(node, opset, constants)
                if node.op_type == "Constant":
                    check_finite(results[0], str(node.outputs[0].name))
            elif node.op_type in ("Shape", "Size") and isinstance(first, Tensor):
                results = evaluate_node(node, opset, [np.empty(first.shape, np.bool_)])
            elif kind not in OPERATORS:
                raise UnsupportedNodeError("not supported")
            elif not missing:
                results = lower(NodeLowering(node, opset, operands, self.builder))
                self._refuse_classes(kind, node, results)
        except (UnsupportedNodeError, MemoryError) as error:
            blocked = True
            reason = "a tensor too large" if isinstance(error, MemoryError) else str(error)
            self.unsupported.add(kind, reason, describe(node))
            shapes = infer_shapes(node, opset, operands) if standard and not missing else None
            if shapes is not None:
                results = [
                    self._placeholder(node, shape) if math.prod(shape) <= MAX_ELEMENTS else None
                    for shape in shapes
                ]
        for output, result in zip(node.outputs, results, strict=False):
            self.values[str(output.name)] = result
            if blocked:
                self.blocked.add(str(output.name))

    def _refuse_classes(self, kind: str, node: ir.Node, results: Sequence[Value | None]) -> None:
        """Notes outputs that cannot be computed, unless nothing needs them."""
        for output, result in zip(node.outputs, results, strict=False):
            if result is None and output.name in self.used:
                self.unsupported.add(kind, f"{output.name} is a class, not a score", describe(node))
                self.blocked.add(str(output.name))

    def _open_values(self, needed: Sequence[ir.Node]) -> list[str]:
        """Outputs that could be compiled alone; if none, what goes into the last refused nodes."""

        def is_open(value: ir.Value | None) -> bool:
            if value is None or value.name in self.blocked or value.producer() is None:
                return False
            return isinstance(self.values.get(str(value.name)), Tensor)

        if found := [str(v.name) for v in self.outputs if is_open(v)]:
            return found
        last = [n for n in needed if kind_of(n) in ENDINGS]
        return [str(v.name) for n in last for v in n.inputs if v is not None and is_open(v)][-1:]

    def _placeholder(self, node: ir.Node, shape: tuple[int, ...]) -> Tensor:
        """Stands for the result of an unsupported node; the graph is thrown away in the end."""
        return self.builder.add(Input(name=self.builder.unique_name(describe(node)), shape=shape))


def _find_outputs(loaded: LoadedModel, names: Sequence[str]) -> Sequence[ir.Value]:
    """The values of these names that nodes make; the model's outputs if there are no names."""
    if not names:
        return loaded.graph.outputs
    made = {str(v.name): v for node in loaded.graph for v in node.outputs}
    for number, name in enumerate(names):
        if name not in made or name in names[:number]:
            wrong = "is asked for twice" if name in made else "is made by no node of the model"
            declared = ", ".join(str(v.name) for v in loaded.graph.outputs)
            raise FheCompileError(
                "output-name",
                f"output {name} {wrong}",
                node=loaded.place,
                hint=f"the outputs are: {declared}; any other value of the model can be named",
            )
    return [made[name] for name in names]


def _needed_nodes(graph: ir.Graph, outputs: Sequence[ir.Value]) -> list[ir.Node]:
    """The nodes that outputs depend on, in topological order."""
    needed: set[ir.Node] = set()
    stack = [v.producer() for v in outputs]
    while stack:
        node = stack.pop()
        if node is not None and node not in needed:
            needed.add(node)
            stack.extend(v.producer() for v in node.inputs if v is not None)
    return [node for node in graph if node in needed]
