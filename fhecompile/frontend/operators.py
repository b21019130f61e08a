"""The supported operators: ONNX type -> lowering. One entry each.

A type of another domain than the standard one has that before it: `ai.onnx.ml::Scaler`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import onnx_ir as ir
from onnx import defs

from fhecompile.frontend import operators_activation as activation
from fhecompile.frontend import operators_classical as classical
from fhecompile.frontend import operators_elementwise as elementwise
from fhecompile.frontend import operators_function as function
from fhecompile.frontend import operators_matrix as matrix
from fhecompile.frontend import operators_maximum as maximum
from fhecompile.frontend import operators_move as move
from fhecompile.frontend import operators_normalise as normalise
from fhecompile.frontend import operators_reduce as reduce
from fhecompile.frontend import operators_resize as resize
from fhecompile.frontend import operators_softmax as softmax
from fhecompile.frontend import operators_window as window
from fhecompile.frontend.load import OPSETS, STANDARD_DOMAINS
from fhecompile.frontend.lowering import NodeLowering, UnsupportedNodeError, Value
from fhecompile.frontend.operators_columns import MAX_ENTRIES, lower_by_columns
from fhecompile.frontend.operators_einsum import lower_einsum
from fhecompile.frontend.products import MAX_PRODUCTS
from fhecompile.frontend.unsupported import SUGGESTIONS

Lowering = Callable[[NodeLowering], "Value | list[Value] | list[Value | None]"]


@dataclass(frozen=True)
class Operator:
    """A supported operator.

    Args:
        lower: makes the node's outputs; None for one that cannot be computed.
        text: what of it is supported and what is not, beyond its definition; empty: all of it.
        since: the first version of the standard operator set whose definition is understood.
    """

    lower: Lowering
    text: str = ""
    since: int = OPSETS[0]


MOVED = "the parameters are constant"
LINEAR = f"where it is linear in the one encrypted operand, by at most {MAX_ENTRIES} weights"
MATRICES = f"also of encrypted operands, at most {MAX_PRODUCTS} products of their elements"
FITTED = "by a polynomial on the calibrated range"
CLAMPED = f"{FITTED}; a clamp below 1e-6 of what is never negative is dropped"
CENTRED = f"the inverse root {FITTED}"
LARGEST = f"of at most {maximum.MAX_VALUES} encrypted values: abs of differences {FITTED}"
EXTREME = f"{LARGEST}, relu of the difference to a constant"

OPERATORS: dict[str, Operator] = {
    "Abs": Operator(function.lower_function, FITTED),
    "Add": Operator(elementwise.lower_add),
    "AffineGrid": Operator(lower_by_columns, LINEAR, 20),
    "AveragePool": Operator(window.lower_average_pool),
    "BatchNormalization": Operator(
        matrix.lower_batch_normalization, "in inference; the parameters are constant", 9
    ),
    "Cast": Operator(move.lower_cast, "to a float type"),
    "CastLike": Operator(move.lower_cast_like, "to a float type", 15),
    "CenterCropPad": Operator(move.lower_move, MOVED, 18),
    "Celu": Operator(activation.lower_celu, FITTED, 12),
    "Clip": Operator(activation.lower_clip, f"the bounds are constant; {CLAMPED}"),
    "Col2Im": Operator(lower_by_columns, LINEAR, 18),
    "Compress": Operator(move.lower_move, MOVED, 9),
    "Concat": Operator(move.lower_move, "also with constants"),
    "Conv": Operator(window.lower_conv, "any number of axes; kernel and bias are constant"),
    "ConvTranspose": Operator(
        window.lower_conv_transpose, "any number of axes; kernel and bias are constant"
    ),
    "CumSum": Operator(reduce.lower_cumulative_sum, "the axis is constant", 11),
    "DFT": Operator(lower_by_columns, LINEAR, 17),
    "DeformConv": Operator(lower_by_columns, LINEAR, 19),
    "DepthToSpace": Operator(move.lower_move),
    "Div": Operator(elementwise.lower_div, f"by an encrypted value: its reciprocal {FITTED}"),
    "Dropout": Operator(move.lower_dropout, "in inference"),
    "Einsum": Operator(lower_einsum, MATRICES, 12),
    "Elu": Operator(activation.lower_elu, FITTED),
    "Erf": Operator(function.lower_function, FITTED, 9),
    "Exp": Operator(function.lower_function, FITTED),
    "Expand": Operator(move.lower_move, MOVED, 8),
    "Flatten": Operator(move.lower_move),
    "Gather": Operator(move.lower_move, MOVED),
    "GatherElements": Operator(move.lower_gather_elements, MOVED, 11),
    "GatherND": Operator(move.lower_move, MOVED, 11),
    "Gelu": Operator(activation.lower_gelu, FITTED, 20),
    "Gemm": Operator(matrix.lower_gemm, MATRICES),
    "GlobalAveragePool": Operator(window.lower_global_average_pool),
    "GroupNormalization": Operator(normalise.lower_group_normalization, CENTRED, 18),
    "GlobalMaxPool": Operator(maximum.lower_global_max_pool, LARGEST),
    "GridSample": Operator(lower_by_columns, f"{LINEAR}; cubic not with border", 16),
    "HardSigmoid": Operator(activation.lower_hard_sigmoid, FITTED),
    "HardSwish": Operator(function.lower_function, FITTED, 14),
    "Identity": Operator(move.lower_identity),
    "InstanceNormalization": Operator(normalise.lower_instance_normalization, CENTRED),
    "LayerNormalization": Operator(normalise.lower_layer_normalization, CENTRED, 17),
    "LeakyRelu": Operator(activation.lower_leaky_relu, FITTED),
    "Log": Operator(function.lower_function, FITTED),
    "LogSoftmax": Operator(softmax.lower_log_softmax, f"exp and log {FITTED}"),
    "LpNormalization": Operator(function.lower_lp_normalization, f"p = 2; {CENTRED}"),
    "MatMul": Operator(matrix.lower_matmul, MATRICES),
    "Max": Operator(maximum.lower_max, EXTREME, 8),
    "MaxPool": Operator(maximum.lower_max_pool, f"without indices; {LARGEST}"),
    "MaxUnpool": Operator(lower_by_columns, LINEAR, 9),
    "Mean": Operator(elementwise.lower_mean, "also with constants", 8),
    "MeanVarianceNormalization": Operator(normalise.lower_mean_variance_normalization, CENTRED, 9),
    "Min": Operator(maximum.lower_min, EXTREME, 8),
    "Mish": Operator(function.lower_function, FITTED, 18),
    "Mul": Operator(elementwise.lower_mul, "also of encrypted values"),
    "Neg": Operator(elementwise.lower_neg),
    "PRelu": Operator(activation.lower_prelu, f"the slopes are constant; {FITTED}"),
    "Pad": Operator(move.lower_pad, "every mode; pads are constant, the value may be encrypted"),
    "Pow": Operator(
        elementwise.lower_pow,
        f"constant exponents: integers from 0 to {elementwise.MAX_POWER}, or one negative integer, "
        f"0.5 or -0.5, {FITTED}",
    ),
    "RMSNormalization": Operator(normalise.lower_rms_normalization, CENTRED, 23),
    "Reciprocal": Operator(function.lower_function, FITTED),
    "ReduceL2": Operator(function.lower_reduce_l2, f"the axes are constant; the root {FITTED}"),
    "ReduceMax": Operator(maximum.lower_reduce_max, f"the axes are constant; {LARGEST}"),
    "ReduceMean": Operator(reduce.lower_reduce_mean, "the axes are constant"),
    "ReduceMin": Operator(maximum.lower_reduce_min, f"the axes are constant; {LARGEST}"),
    "ReduceSum": Operator(reduce.lower_reduce_sum, "the axes are constant"),
    "ReduceSumSquare": Operator(function.lower_reduce_sum_square, "the axes are constant"),
    "Relu": Operator(function.lower_function, FITTED),
    "Reshape": Operator(move.lower_move, MOVED),
    "Resize": Operator(
        resize.lower_resize,
        "nearest, linear and cubic, every transformation of coordinates; scales or sizes are "
        "constant; align_corners and tf_crop_and_resize give whole lengths",
        10,
    ),
    "ReverseSequence": Operator(move.lower_move, MOVED, 10),
    "RotaryEmbedding": Operator(lower_by_columns, LINEAR, 23),
    "STFT": Operator(lower_by_columns, LINEAR, 17),
    "Scatter": Operator(move.lower_move, "the indices are constant", 9),
    "ScatterElements": Operator(
        move.lower_scatter, "replacing or adding; the indices are constant", 11
    ),
    "ScatterND": Operator(move.lower_scatter, "replacing or adding; the indices are constant", 11),
    "Selu": Operator(activation.lower_selu, FITTED),
    "Sigmoid": Operator(function.lower_function, FITTED),
    "Sign": Operator(function.lower_function, FITTED, since=9),
    "Slice": Operator(move.lower_move, MOVED),
    "Softmax": Operator(softmax.lower_softmax, f"exp and reciprocal {FITTED}"),
    "Softplus": Operator(function.lower_function, FITTED),
    "Softsign": Operator(function.lower_function, FITTED),
    "SpaceToDepth": Operator(move.lower_move),
    "Split": Operator(move.lower_move, MOVED),
    "Sqrt": Operator(function.lower_function, FITTED),
    "Squeeze": Operator(move.lower_move, MOVED),
    "Sub": Operator(elementwise.lower_sub),
    "Sum": Operator(elementwise.lower_sum, "also with constants", 8),
    "Swish": Operator(activation.lower_swish, FITTED, 24),
    "Tanh": Operator(function.lower_function, FITTED),
    "ThresholdedRelu": Operator(
        activation.lower_thresholded_relu, f"{FITTED} that keeps off the threshold", 10
    ),
    "Tile": Operator(move.lower_move, MOVED),
    "Transpose": Operator(move.lower_move),
    "Trilu": Operator(move.lower_move, MOVED, 14),
    "Unsqueeze": Operator(move.lower_move, MOVED),
    "Upsample": Operator(resize.lower_upsample, "nearest and linear; the scales are constant"),
    "Where": Operator(move.lower_move, "the condition is constant", 9),
    "ai.onnx.ml::LinearClassifier": Operator(
        classical.lower_linear_classifier,
        f"the scores, not the class; post_transform NONE, or LOGISTIC {FITTED}",
    ),
    "ai.onnx.ml::LinearRegressor": Operator(
        classical.lower_linear_regressor, "post_transform NONE"
    ),
    "ai.onnx.ml::Scaler": Operator(classical.lower_scaler),
}


@dataclass(frozen=True)
class OperatorEntry:
    """A line of the table of operators.

    Args:
        name: the ONNX operator.
        supported: whether it is compiled.
        opset: the first version of the standard operator set in which it is; 0: in none.
        text: what of it is compiled, or what to do instead.
    """

    name: str
    supported: bool
    opset: int
    text: str


def describe_operators() -> list[OperatorEntry]:
    """The supported operators by name, then those that there is something to do instead of."""
    supported = [
        OperatorEntry(name, True, operator.since, operator.text)
        for name, operator in sorted(OPERATORS.items())
    ]
    refused = sorted(SUGGESTIONS.keys() - OPERATORS.keys())
    return supported + [OperatorEntry(name, False, 0, SUGGESTIONS[name]) for name in refused]


def kind_of(node: ir.Node) -> str:
    """The node's type as `OPERATORS` has it."""
    standard = node.domain in STANDARD_DOMAINS
    return node.op_type if standard else f"{node.domain}::{node.op_type}"


def lower(call: NodeLowering) -> Sequence[Value | None]:
    """The node's outputs, None for one that cannot be computed; its type must be in `OPERATORS`."""
    kind, opset = kind_of(call.node), call.opset
    operator = OPERATORS[kind]
    if "::" not in kind and not defs.has(kind, max_inclusive_version=opset):
        raise UnsupportedNodeError(f"no operator of opset {opset}")
    if opset < operator.since:
        raise UnsupportedNodeError(f"supported from opset {operator.since} on, this is {opset}")
    result = operator.lower(call)
    return result if isinstance(result, list) else [result]
