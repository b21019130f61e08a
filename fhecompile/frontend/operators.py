"""The supported operators: ONNX type -> lowering. One line each."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from fhecompile.frontend import operators_elementwise as elementwise
from fhecompile.frontend import operators_function as function
from fhecompile.frontend import operators_matrix as matrix
from fhecompile.frontend import operators_move as move
from fhecompile.frontend import operators_window as window
from fhecompile.frontend.lowering import NodeLowering, Value

Lowering = Callable[[NodeLowering], "Value | list[Value]"]

OPERATORS: dict[str, Lowering] = {
    "Add": elementwise.lower_add,
    "AveragePool": window.lower_average_pool,
    "BatchNormalization": matrix.lower_batch_normalization,
    "Cast": move.lower_cast,
    "Clip": function.lower_clip,
    "Concat": move.lower_concat,
    "Conv": window.lower_conv,
    "DepthToSpace": move.lower_move,
    "Div": elementwise.lower_div,
    "Dropout": move.lower_dropout,
    "Erf": function.lower_function,
    "Exp": function.lower_function,
    "Expand": move.lower_move,
    "Flatten": move.lower_move,
    "Gather": move.lower_move,
    "Gelu": function.lower_gelu,
    "Gemm": matrix.lower_gemm,
    "GlobalAveragePool": window.lower_global_average_pool,
    "Identity": move.lower_identity,
    "LpNormalization": function.lower_lp_normalization,
    "MatMul": matrix.lower_matmul,
    "Max": function.lower_max,
    "Mul": elementwise.lower_mul,
    "Neg": elementwise.lower_neg,
    "Pad": move.lower_pad,
    "Pow": elementwise.lower_pow,
    "Reciprocal": function.lower_function,
    "ReduceL2": function.lower_reduce_l2,
    "ReduceMean": move.lower_reduce_mean,
    "ReduceSum": move.lower_reduce_sum,
    "ReduceSumSquare": function.lower_reduce_sum_square,
    "Relu": function.lower_function,
    "Reshape": move.lower_move,
    "Sigmoid": function.lower_function,
    "Slice": move.lower_move,
    "SpaceToDepth": move.lower_move,
    "Split": move.lower_move,
    "Sqrt": function.lower_function,
    "Squeeze": move.lower_move,
    "Sub": elementwise.lower_sub,
    "Tanh": function.lower_function,
    "Tile": move.lower_move,
    "Transpose": move.lower_move,
    "Unsqueeze": move.lower_move,
}


def lower(call: NodeLowering) -> Sequence[Value]:
    """The node's outputs; its type must be in `OPERATORS`."""
    result = OPERATORS[call.node.op_type](call)
    return result if isinstance(result, list) else [result]
