"""Evaluates nodes whose operands are known at compile time, one by one, by ONNX's own reference.

The same evaluator, run on a tensor of element positions, gives the element order of every operator
that only moves elements (`operators_move`).
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx import TensorProto, defs, helper, numpy_helper, shape_inference
from onnx.reference import ReferenceEvaluator

from fhecompile.frontend.lowering import Constant, Tensor, UnsupportedNodeError
from fhecompile.frontend.maps import positions

RANDOM = frozenset(
    {
        "Bernoulli",
        "Multinomial",
        "RandomNormal",
        "RandomNormalLike",
        "RandomUniform",
        "RandomUniformLike",
    }
)


def evaluate_node(node: ir.Node, opset: int, inputs: Sequence[Constant | None]) -> list[Constant]:
    """The node's outputs for the given operands (None: omitted)."""
    if node.op_type in RANDOM or any(
        a.type.name.startswith("GRAPH") for a in node.attributes.values()
    ):
        raise UnsupportedNodeError("not supported")
    ceil_mode = node.attributes.get("ceil_mode")
    if node.op_type == "AveragePool" and ceil_mode is not None and ceil_mode.value:
        # The evaluator shifts its windows where they overhang the padding.
        raise UnsupportedNodeError("ceil_mode on a constant")
    value = node.attributes.get("value")
    if node.op_type == "Constant" and value is not None:
        return [np.asarray(value.as_tensor().numpy())]
    try:
        proto = ir.serde.serialize_node(node)
    except ir.serde.SerdeError as error:
        raise UnsupportedNodeError("its attributes cannot be read") from error
    names = [f"x{i}" if x is not None else "" for i, x in enumerate(inputs)]
    results = [f"y{i}" for i in range(len(proto.output))]
    del proto.input[:], proto.output[:]
    proto.input.extend(names)
    proto.output.extend(results)
    proto.domain = ""  # it may say "ai.onnx", which is the same
    function = helper.make_function(
        "fold",
        "fold",
        [n for n in names if n],
        results,
        [proto],
        [helper.make_opsetid("", opset)],
    )
    feeds = {name: x for name, x in zip(names, inputs, strict=True) if x is not None}
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            values = list(ReferenceEvaluator(function).run(None, feeds, attributes={}))
    except Exception as error:  # the evaluator raises anything at all on nodes it cannot do
        text = (str(error) or type(error).__name__).splitlines()[0]
        raise UnsupportedNodeError(f"cannot be evaluated: {text}") from error
    if not all(isinstance(v, np.ndarray | np.generic) for v in values):
        raise UnsupportedNodeError("not supported")  # sequences, sparse tensors, optionals
    return [np.asarray(v) for v in values]


def element_order(
    node: ir.Node, opset: int, shape: tuple[int, ...], others: Sequence[Constant | None]
) -> list[NDArray[np.int64]]:
    """For an operator that only moves elements: per output, the source of each of its elements."""
    index = positions(shape).astype(np.int64)
    return [np.asarray(a, np.int64) for a in evaluate_node(node, opset, [index, *others])]


def infer_shapes(
    node: ir.Node, opset: int, operands: Sequence[Constant | Tensor | None]
) -> list[tuple[int, ...]] | None:
    """The output shapes ONNX infers for a node that cannot be compiled; None if it cannot tell."""
    types, data = {}, {}
    try:
        proto = ir.serde.serialize_node(node)
        for name, x in zip(proto.input, operands, strict=True):
            if isinstance(x, Tensor):
                types[name] = helper.make_tensor_type_proto(TensorProto.FLOAT, x.shape)
            elif x is not None:
                data[name] = numpy_helper.from_array(x, name)
                types[name] = helper.make_tensor_type_proto(data[name].data_type, x.shape)
        schema = defs.get_schema(node.op_type, opset, "")
        found = shape_inference.infer_node_outputs(
            schema, proto, types, data, opset_imports=[helper.make_opsetid("", opset)]
        )
        shapes = [found[name].tensor_type.shape.dim for name in proto.output]
    except Exception:  # shape inference is a courtesy here, whatever goes wrong
        return None
    if not all(d.HasField("dim_value") for dims in shapes for d in dims):
        return None
    return [tuple(d.dim_value for d in dims) for dims in shapes]
