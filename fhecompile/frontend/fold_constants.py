"""Evaluates nodes whose operands are known at compile time, one by one, by ONNX's own reference.

The same evaluator, run on the numbers of the elements, says what every operator does that only
moves elements (`operators_move`).
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import onnx_ir as ir
from onnx import NodeProto, TensorProto, defs, helper, numpy_helper, shape_inference
from onnx.reference import ReferenceEvaluator

from fhecompile.frontend.lowering import Constant, Tensor, UnsupportedNodeError

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

# What the evaluator knows under its later name only, and the opset of that.
RENAMED = {"Scatter": ("ScatterElements", 11), "GridSample": ("GridSample", 20)}
RENAMED_MODES = {b"bilinear": b"linear", b"bicubic": b"cubic"}


def evaluate_node(node: ir.Node, opset: int, inputs: Sequence[Constant | None]) -> list[Constant]:
    """The node's outputs for the given operands (None: omitted)."""
    return prepare_node(node, opset, [x is not None for x in inputs])(inputs)


def prepare_node(
    node: ir.Node, opset: int, given: Sequence[bool]
) -> Callable[[Sequence[Constant | None]], list[Constant]]:
    """The node as a function of its operands, of which those that are not given are None."""
    if node.op_type in RANDOM or any(
        a.type.name.startswith("GRAPH") for a in node.attributes.values()
    ):
        raise UnsupportedNodeError("not supported")
    ceil_mode = node.attributes.get("ceil_mode")
    if node.op_type == "AveragePool" and ceil_mode is not None and ceil_mode.value:
        # The evaluator shifts its windows where they overhang the padding.
        raise UnsupportedNodeError("ceil_mode on a constant")
    to_border = node.op_type == "GridSample" and _text(node, "padding_mode") == "border"
    if to_border and "cubic" in _text(node, "mode"):
        # The evaluator moves the place to the border, PyTorch and ONNX Runtime its neighbours.
        raise UnsupportedNodeError("cubic interpolation with padding by the border")
    value = node.attributes.get("value")
    if node.op_type == "Constant" and value is not None:
        constant = np.asarray(value.as_tensor().numpy())
        return lambda _: [constant]
    try:
        proto = ir.serde.serialize_node(node)
    except ir.serde.SerdeError as error:
        raise UnsupportedNodeError("its attributes cannot be read") from error
    names = [f"x{i}" if is_given else "" for i, is_given in enumerate(given)]
    results = [f"y{i}" for i in range(len(proto.output))]
    del proto.input[:], proto.output[:]
    proto.input.extend(names)
    proto.output.extend(results)
    proto.domain = ""  # it may say "ai.onnx", which is the same
    opset = _renamed(proto, opset)
    function = helper.make_function(
        "fold",
        "fold",
        [n for n in names if n],
        results,
        [proto],
        [helper.make_opsetid("", opset)],
    )
    with _refusing():
        evaluator = ReferenceEvaluator(function)

    def run(inputs: Sequence[Constant | None]) -> list[Constant]:
        feeds = {name: x for name, x in zip(names, inputs, strict=True) if x is not None}
        with _refusing():
            values = list(evaluator.run(None, feeds, attributes={}))
        if not all(isinstance(v, np.ndarray | np.generic) for v in values):
            raise UnsupportedNodeError("not supported")  # sequences, sparse tensors, optionals
        return [np.asarray(v) for v in values]

    return run


@contextlib.contextmanager
def _refusing() -> Iterator[None]:
    """The evaluator raises anything at all on nodes it cannot do."""
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            yield
    except Exception as error:
        text = (str(error) or type(error).__name__).splitlines()[0]
        raise UnsupportedNodeError(f"cannot be evaluated: {text}") from error


def _text(node: ir.Node, name: str) -> str:
    """A text attribute, empty where there is none."""
    attribute = node.attributes.get(name)
    return str(attribute.value) if attribute is not None else ""


def _renamed(proto: NodeProto, opset: int) -> int:
    """Gives a node its later name; returns the opset to evaluate it in."""
    if proto.op_type not in RENAMED:
        return opset
    proto.op_type, since = RENAMED[proto.op_type]
    for attribute in proto.attribute:
        if proto.op_type == "GridSample" and attribute.name == "mode":
            attribute.s = RENAMED_MODES.get(attribute.s, attribute.s)
    return max(opset, since)


def input_names(op_type: str, opset: int) -> list[str]:
    """What ONNX calls the operands of an operator."""
    return [str(operand.name) for operand in defs.get_schema(op_type, opset, "").inputs]


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
        tensors = [found[name].tensor_type for name in proto.output]
    except Exception:  # shape inference is a courtesy here, whatever goes wrong
        return None
    shapes = [t.shape.dim for t in tensors]
    known = all(t.HasField("shape") for t in tensors)
    if not known or not all(d.HasField("dim_value") for dims in shapes for d in dims):
        return None
    return [tuple(d.dim_value for d in dims) for dims in shapes]
