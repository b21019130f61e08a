"""The supported operators: ONNX type -> lowering. One line each."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from fhecompile.frontend import operators_elementwise as elementwise
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
    "Concat": move.lower_concat,
    "Conv": window.lower_conv,
    "DepthToSpace": move.lower_move,
    "Div": elementwise.lower_div,
    "Dropout": move.lower_dropout,
    "Expand": move.lower_move,
    "Flatten": move.lower_move,
    "Gather": move.lower_move,
    "Gemm": matrix.lower_gemm,
    "GlobalAveragePool": window.lower_global_average_pool,
    "Identity": move.lower_identity,
    "MatMul": matrix.lower_matmul,
    "Mul": elementwise.lower_mul,
    "Neg": elementwise.lower_neg,
    "Pad": move.lower_pad,
    "Pow": elementwise.lower_pow,
    "ReduceMean": move.lower_reduce_mean,
    "ReduceSum": move.lower_reduce_sum,
    "Reshape": move.lower_move,
    "Slice": move.lower_move,
    "SpaceToDepth": move.lower_move,
    "Split": move.lower_move,
    "Squeeze": move.lower_move,
    "Sub": elementwise.lower_sub,
    "Tile": move.lower_move,
    "Transpose": move.lower_move,
    "Unsqueeze": move.lower_move,
}


def lower(call: NodeLowering) -> Sequence[Value]:
    """The node's outputs; its type must be in `OPERATORS`."""
    result = OPERATORS[call.node.op_type](call)
    return result if isinstance(result, list) else [result]
