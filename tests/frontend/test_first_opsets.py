"""Every operator in the first opset that the table of operators says, against ONNX Runtime."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

from fhecompile.frontend.operators import OPERATORS
from fhecompile.frontend.reference import run_reference_samples
from tests.frontend.conftest import Agrees


class Small(NamedTuple):
    """A node: the shapes of its encrypted operands, then constant ones, and attributes."""

    inputs: Sequence[Sequence[int]] = ((2, 3),)
    constants: Sequence[Any] = ()
    attributes: dict[str, Any] = {}  # noqa: RUF012  (never changed)
    outputs: int = 1


IMAGE = ((1, 2, 4, 4),)
PAIR = ((2, 3), (2, 3))
ONES = np.ones(2)
# ONNX Runtime 1.23 has none of these.
NO_KERNEL = {
    "AffineGrid",
    "DeformConv",
    "GroupNormalization",
    "RMSNormalization",
    "RotaryEmbedding",
    "Swish",
}
POSITIVE = {"Div", "Log", "Reciprocal", "Sqrt"}  # of x^2 + 1, its values are not to be near 0

NODES = {
    **dict.fromkeys(("Add", "Mean", "Mul", "Sub", "Sum"), Small(PAIR)),
    **dict.fromkeys(("Erf", "Exp", "Gelu", "Identity", "Neg", "Relu", "Sigmoid", "Tanh"), Small()),
    **dict.fromkeys(("Abs", "Elu", "Celu", "HardSigmoid", "HardSwish", "LeakyRelu"), Small()),
    **dict.fromkeys(("Mish", "Selu", "Softplus", "Softsign", "Swish", "ThresholdedRelu"), Small()),
    **dict.fromkeys(("Log", "Reciprocal", "Sqrt", "Flatten", "Transpose", "Trilu"), Small()),
    **dict.fromkeys(("Dropout", "LogSoftmax", "Sign", "Softmax"), Small()),
    **dict.fromkeys(("ReduceL2", "ReduceMean", "ReduceSum", "ReduceSumSquare"), Small(
        attributes={"axes": [1], "keepdims": 0}
    )),
    "AffineGrid": Small(((1, 2, 3),), (np.array([1, 1, 2, 3]),)),
    "AveragePool": Small(IMAGE, (), {"kernel_shape": [2, 2], "pads": [1, 0, 0, 1]}),
    "BatchNormalization": Small(IMAGE, (ONES, ONES, 0 * ONES, 2 * ONES)),
    "Cast": Small(attributes={"to": TensorProto.FLOAT}),
    "CastLike": Small(constants=(np.float32(1),)),
    "CenterCropPad": Small(constants=(np.array([1, 5]),)),
    "Clip": Small(attributes={"min": -0.5, "max": 1.0}),
    "Col2Im": Small(((1, 4, 4),), (np.array([3, 3]), np.array([2, 2]))),
    "Compress": Small(constants=(np.array([True, False, True]),), attributes={"axis": 1}),
    "Concat": Small(PAIR, (), {"axis": 1}),
    "Conv": Small(IMAGE, (np.ones((3, 2, 2, 2)),)),
    "ConvTranspose": Small(IMAGE, (np.ones((2, 3, 2, 2)),), {"strides": [2, 2]}),
    "CumSum": Small(constants=(np.array(1),)),
    "DFT": Small(((1, 4, 1),)),
    "DeformConv": Small(((1, 1, 3, 3),), (np.ones((1, 1, 2, 2)), np.full((1, 8, 2, 2), 0.25))),
    "DepthToSpace": Small(((1, 4, 2, 2),), (), {"blocksize": 2}),
    "Div": Small(constants=(np.array([1.0, 2.0, 4.0]),)),
    "Einsum": Small(constants=(np.ones((3, 2)),), attributes={"equation": "ij,jk->ik"}),
    "Expand": Small(constants=(np.array([2, 2, 3]),)),
    "Gather": Small(constants=(np.array([1, 0]),)),
    "GatherElements": Small(constants=(np.array([[1, 0, 1]]),)),
    "GatherND": Small(constants=(np.array([[1, 0]]),)),
    "Gemm": Small(constants=(np.ones((3, 2)), np.ones(2))),
    "GlobalAveragePool": Small(IMAGE),
    "GroupNormalization": Small(IMAGE, (np.ones(1), np.ones(1)), {"num_groups": 1}),
    "GridSample": Small(IMAGE, (np.full((1, 2, 3, 2), 0.3),)),
    "InstanceNormalization": Small(IMAGE, (ONES, ONES)),
    "LayerNormalization": Small(constants=(np.ones(3),)),
    "LpNormalization": Small(),
    "MatMul": Small(constants=(np.ones((3, 2)),)),
    "GlobalMaxPool": Small(IMAGE),
    "Max": Small(PAIR, (0.0,)),
    "MaxPool": Small(IMAGE, (), {"kernel_shape": [2, 2], "strides": [2, 1]}),
    **dict.fromkeys(("ReduceMax", "ReduceMin"), Small(attributes={"axes": [1]})),
    "Min": Small(PAIR, (0.5,)),
    "MaxUnpool": Small(
        ((1, 1, 1, 2),), (np.array([[[[0, 7]]]]),), {"kernel_shape": [2, 2], "strides": [2, 2]}
    ),
    "MeanVarianceNormalization": Small(IMAGE),
    "Pad": Small(attributes={"pads": [1, 0, 0, 2]}),
    "PRelu": Small(constants=(np.array([0.25, 0.0, 2.0]),)),
    "Pow": Small(constants=(2.0,)),
    "RMSNormalization": Small(constants=(np.ones(3),)),
    "Reshape": Small(constants=(np.array([3, -1]),)),
    "Resize": Small(IMAGE, (np.array([1.0, 1.0, 2.0, 1.5]),)),
    "ReverseSequence": Small(((3, 2),), (np.array([2, 3]),)),
    "RotaryEmbedding": Small(((1, 2, 3, 4),), (np.ones((1, 3, 2)), np.ones((1, 3, 2)))),
    "STFT": Small(((1, 16, 1),), (np.array(4), np.ones(8))),
    "Scatter": Small(constants=(np.array([[1, 0, 1]]), np.ones((1, 3)))),
    "ScatterElements": Small(constants=(np.array([[1, 0, 1]]), np.ones((1, 3)))),
    "ScatterND": Small(constants=(np.array([[1]]), np.ones((1, 3)))),
    "Slice": Small(attributes={"starts": [0, 1], "ends": [2, 3]}),
    "SpaceToDepth": Small(IMAGE, (), {"blocksize": 2}),
    "Split": Small(attributes={"axis": 1, "split": [1, 2]}, outputs=2),
    "Squeeze": Small(((1, 3),), (), {"axes": [0]}),
    "Tile": Small(constants=(np.array([2, 1]),)),
    "Unsqueeze": Small(attributes={"axes": [0]}),
    "Upsample": Small(IMAGE, (), {"scales": [1.0, 1.0, 2.0, 3.0]}),
    "Where": Small(PAIR, (np.array([True, False, True]),)),
}  # fmt: skip


def evaluator(blob: bytes, samples: dict[str, Any]) -> dict[str, Any]:
    session = ReferenceEvaluator(onnx.load_model_from_string(blob))
    count = len(next(iter(samples.values())))
    runs = [session.run(None, {n: x[i] for n, x in samples.items()})[0] for i in range(count)]
    return {"y0": np.stack(runs)}


@pytest.mark.parametrize("name", [name for name in OPERATORS if "::" not in name])
def test_first_opset(agrees: Agrees, name: str) -> None:
    small, opset = NODES[name], OPERATORS[name].since
    inputs = {f"x{i}": shape for i, shape in enumerate(small.inputs)}
    constants = {f"c{i}": value for i, value in enumerate(small.constants)}
    operands = [*inputs, *constants]
    if name == "Where":
        operands = ["c0", "x0", "x1"]
    nodes = []
    if name in POSITIVE:
        nodes += [helper.make_node("Mul", ["x0", "x0"], ["q"])]
        nodes += [helper.make_node("Add", ["q", "one"], ["p"])]
        operands = [*operands[1:], "p"]
        constants["one"] = 1.0
    outputs = [f"y{i}" for i in range(small.outputs)]
    nodes.append(helper.make_node(name, operands, outputs, **small.attributes))
    reference = evaluator if name in NO_KERNEL else run_reference_samples
    agrees(nodes, inputs, constants, outputs, opset=opset, reference=reference)
