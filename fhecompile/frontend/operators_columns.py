r"""Operators that are linear in one operand, taken as they come: their matrix column by column.

For y = M x + b, f the operator with its other operands constant, and e_j the unit vectors,

    b = f(0),    M e_j = f(e_j) - b.

ONNX's reference evaluates f. That takes one evaluation per element, so it is for rare operators on
small operands; the common ones are written out elsewhere. Whether f is linear at all, which may
depend on an attribute, is seen on a random x: else the node is refused.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fhecompile.ckks.linear_map import LinearMap, LinearTerm
from fhecompile.frontend.fold_constants import infer_shapes, prepare_node
from fhecompile.frontend.lowering import (
    Constant,
    FloatArray,
    NodeLowering,
    Shape,
    Tensor,
    UnsupportedNodeError,
    Value,
)

MAX_ENTRIES = 2**20  # of the matrix; seconds for the slowest operators
TOLERANCE = 1e-5  # relative; some of the evaluator's operators compute in single precision
SMALLEST = 1e-9  # smaller entries, relative to the largest, are rounding errors


def lower_by_columns(call: NodeLowering) -> list[Value]:
    """Any operator that is linear in its one encrypted operand."""
    places = [i for i, value in enumerate(call.inputs) if isinstance(value, Tensor)]
    if len(places) > 1:
        raise UnsupportedNodeError("several encrypted operands")
    x = call.tensor(places[0])
    _check_size(x, infer_shapes(call.node, call.opset, call.inputs) or [])
    operands = [None if v is None else _double(v) for v in call.inputs if not isinstance(v, Tensor)]

    evaluate = prepare_node(call.node, call.opset, [value is not None for value in call.inputs])

    def run(vector: FloatArray) -> list[FloatArray]:
        given = [*operands[: places[0]], vector.reshape(x.shape), *operands[places[0] :]]
        return [np.asarray(y, np.float64) for y in evaluate(given)]

    biases = run(np.zeros(x.size))
    _check_size(x, [bias.shape for bias in biases])
    sample = np.random.default_rng(0).normal(size=x.size)
    expected = run(sample)
    columns: list[list[FloatArray]] = [[] for _ in biases]
    for unit in np.eye(x.size):
        for found, y, bias in zip(columns, run(unit), biases, strict=True):
            if y.shape != bias.shape:
                raise UnsupportedNodeError("a result whose shape depends on what is encrypted")
            found.append((y - bias).ravel())
    results: list[Value] = []
    for number, (found, bias, y) in enumerate(zip(columns, biases, expected, strict=True)):
        matrix = np.stack(found, axis=1)
        error = np.abs(bias.ravel() + matrix @ sample - y.ravel()).max(initial=0.0)
        if not error <= TOLERANCE * max(1.0, np.abs(y).max(initial=0.0)):
            raise UnsupportedNodeError("not linear in what is encrypted")
        name = str(call.node.outputs[number].name)
        results.append(call.affine([(x, _sparse(matrix))], bias.shape, bias, name=name))
    return results


def _check_size(x: Tensor, shapes: Sequence[Shape]) -> None:
    if x.size * max((math.prod(shape) for shape in shapes), default=1) > MAX_ENTRIES:
        raise UnsupportedNodeError(f"its matrix has more than {MAX_ENTRIES} entries")


def _double(value: Constant) -> Constant:
    real = value.dtype.kind == "f" or value.dtype.name == "bfloat16"
    return value.astype(np.float64) if real else value


def _sparse(matrix: NDArray[np.float64]) -> LinearMap:
    """The map of a matrix, its zeros left out."""
    size = np.abs(matrix)
    rows, columns = np.nonzero(size > SMALLEST * size.max(initial=0.0))
    term = LinearTerm(matrix[rows, columns], rows.astype(np.int32), columns.astype(np.int32))
    return LinearMap((term,), *matrix.shape)
