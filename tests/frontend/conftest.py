"""Builds small ONNX models and compares their tensor graph with ONNX Runtime."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from onnx import NodeProto, TensorProto, helper, numpy_helper

from fhecompile.frontend import import_model
from fhecompile.frontend.reference import run_reference_samples
from fhecompile.ir.evaluate import evaluate
from fhecompile.ir.tensor import Function, Input, Output, TensorGraph

Build = Callable[..., bytes]
Agrees = Callable[..., TensorGraph]
Reference = Callable[[bytes, Mapping[str, Any]], dict[str, Any]]


def build_bytes(
    nodes: NodeProto | Sequence[NodeProto],
    inputs: Mapping[str, Sequence[Any]],
    constants: Mapping[str, Any] | None = None,
    outputs: Sequence[str] = ("y",),
    opset: int = 17,
    dtype: int = TensorProto.FLOAT,
    **model_fields: Any,
) -> bytes:
    """The bytes of a model; `constants` become initialisers, float64 ones as float32."""
    nodes = [nodes] if isinstance(nodes, NodeProto) else list(nodes)
    tensors = []
    for name, value in (constants or {}).items():
        array = np.asarray(value)
        array = array.astype(np.float32) if array.dtype == np.float64 else array
        tensors.append(numpy_helper.from_array(array, name))
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info(n, dtype, s) for n, s in inputs.items()],
        [helper.make_tensor_value_info(n, dtype, None) for n in outputs],
        tensors,
    )
    opsets = [helper.make_opsetid("", opset), *model_fields.pop("opsets", [])]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8, **model_fields)
    return bytes(model.SerializeToString())


def node(kind: str, operands: str, output: str = "y", **attributes: object) -> NodeProto:
    return helper.make_node(kind, operands.split(), [output], name=output, **attributes)


def needed(graph: TensorGraph) -> list[str]:
    """`name: operation` of what the outputs need, a function by its own name."""
    live = graph.rebuilt(list(graph))
    return [
        f"{n.name}: {n.function if isinstance(n, Function) else n.op}"
        for n in live
        if not isinstance(n, Input | Output)
    ]


@pytest.fixture(scope="session")
def build() -> Build:
    return build_bytes


@pytest.fixture(scope="session")
def agrees() -> Agrees:
    """Imports a model, compares it with a reference on random samples, returns the graph.

    The tolerance is relative to the largest output (but at least 1): the reference is float32.
    """

    def check(
        nodes: NodeProto | Sequence[NodeProto],
        inputs: Mapping[str, Sequence[int]],
        constants: Mapping[str, Any] | None = None,
        outputs: Sequence[str] = ("y",),
        opset: int = 17,
        tolerance: float = 1e-5,
        reference: Reference = run_reference_samples,
    ) -> TensorGraph:
        blob = build_bytes(nodes, inputs, constants, outputs, opset)
        imported = import_model(blob)
        random = np.random.default_rng(1)
        samples = {n: random.uniform(-2, 2, (2, *s)).astype(np.float32) for n, s in inputs.items()}
        expected = reference(blob, samples)
        found = evaluate(imported.graph, samples)
        assert list(found) == list(outputs)
        for name, value in expected.items():
            assert found[name].shape == value.shape
            error = float(np.abs(found[name] - value).max(initial=0.0))
            assert error <= tolerance * max(1.0, float(np.abs(value).max(initial=0.0)))
        return imported.graph

    return check
