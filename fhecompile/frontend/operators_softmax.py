r"""Softmax and LogSoftmax.

    softmax(x)_i = e_i / sum_j e_j,    log_softmax(x)_i = c_i - log(sum_j e_j),
    e = exp(c),    c = x - mean(x)

Neither changes when one number is subtracted from all x. In plain arithmetic that is the largest
of them; here it is the mean, a linear map, after which exp is needed on an interval around zero.
The sum of n of these is n at least, as their product is 1, so that reciprocal and log keep off
their singularity.
"""

from __future__ import annotations

import numpy as np

from fhecompile.frontend import maps
from fhecompile.frontend.lowering import NodeLowering, Tensor, Value
from fhecompile.frontend.operators_function import multiply
from fhecompile.frontend.operators_normalise import centre


def lower_softmax(call: NodeLowering) -> Value:
    """Along `axis`; before opset 13 along all axes from it on."""
    x = call.tensor(0)
    axes = _axes(call, x)
    if all(x.shape[a] == 1 for a in axes):
        return np.ones(x.shape, np.float32)
    exponentials, total = _exponentials(call, centre(call, x, axes)[0], axes)
    inverse = call.function("reciprocal", total, call.part("inverse"))
    return multiply(call, exponentials, inverse, x.shape)


def lower_log_softmax(call: NodeLowering) -> Value:
    """Along `axis`; before opset 13 along all axes from it on."""
    x = call.tensor(0)
    axes = _axes(call, x)
    if all(x.shape[a] == 1 for a in axes):
        return np.zeros(x.shape, np.float32)
    centred, _ = centre(call, x, axes)
    _, total = _exponentials(call, centred, axes)
    log = call.function("log", total, call.part("log"))
    terms = [
        (centred, maps.scaling(x.shape, x.shape)),
        (log, maps.scaling(log.shape, x.shape, -1.0)),
    ]
    return call.affine(terms, x.shape)


def _axes(call: NodeLowering, x: Tensor) -> range:
    rank, newer = len(x.shape), call.opset >= 13
    axis = call.attribute("axis", -1 if newer else 1)
    # Before opset 13 all axes may be left to the first of the two dimensions.
    if not -rank <= axis < (rank if newer else rank + 1):
        call.invalid(f"axis {axis} of a tensor of rank {rank}")
    axis = axis + rank if axis < 0 else axis
    return range(axis, axis + 1 if newer else rank)


def _exponentials(call: NodeLowering, centred: Tensor, axes: range) -> tuple[Tensor, Tensor]:
    """exp of the values, and their sums over the axes."""
    exponentials = call.function("exp", centred, call.part("exp"))
    kept = tuple(1 if a in axes else n for a, n in enumerate(centred.shape))
    summing = maps.summing(centred.shape, axes, 1.0)
    return exponentials, call.affine([(exponentials, summing)], kept, name=call.part("sum"))
