"""Scaler, LinearClassifier and LinearRegressor of the domain ai.onnx.ml, as scikit-learn exports.

    Scaler            y = (x - offset) scale, each a number or one per feature
    LinearRegressor   y_t = sum over f of x_f W[t, f] + b_t
    LinearClassifier  the same with a score per class, and the class of the largest score

The class is not computed: encrypted values cannot be compared.
"""

from __future__ import annotations

import math

from fhecompile.frontend import maps
from fhecompile.frontend import operators_function as functions
from fhecompile.frontend.lowering import (
    NodeLowering,
    Tensor,
    UnsupportedNodeError,
    Value,
)


def lower_scaler(call: NodeLowering) -> Tensor:
    """(x - offset) * scale along the last axis."""
    x = call.tensor(0)
    offset, scale = (call.floats(name, 0.0) for name in ("offset", "scale"))
    for name, values in (("offset", offset), ("scale", scale)):
        if x.shape[-1:] != values.shape and values.size != 1:
            call.invalid(f"{name} of {values.size} numbers for an input {x.shape}")
    return call.affine([(x, maps.scaling(x.shape, x.shape, scale))], x.shape, -offset * scale)


def lower_linear_regressor(call: NodeLowering) -> Tensor:
    """One output per target."""
    _refuse_transform(call, ("NONE",))
    return _linear(call, call.attribute("targets", 1))


def lower_linear_classifier(call: NodeLowering) -> list[Value | None]:
    """No class, and the scores."""
    _refuse_transform(call, ("NONE", "LOGISTIC"))
    labels = [call.node.attributes.get(f"classlabels_{kind}") for kind in ("ints", "strings")]
    classes = max(len(a.value) for a in labels if a is not None) if any(labels) else 1
    name = call.node.outputs[1].name or call.part("scores")
    if call.attribute("post_transform", "NONE") == "NONE":
        return [None, _linear(call, classes, name)]
    scores = _linear(call, classes, f"{name}.linear")
    return [None, functions.apply_function(call, "sigmoid", scores, name)]


def _refuse_transform(call: NodeLowering, known: tuple[str, ...]) -> None:
    transform = call.attribute("post_transform", "NONE")
    if transform not in known:
        raise UnsupportedNodeError(f"post_transform {transform}")


def _linear(call: NodeLowering, rows: int, name: str | None = None) -> Tensor:
    """x W^T + b for W of so many rows, one term over (n, f, t)."""
    x = call.tensor(0)
    if len(x.shape) != 2:
        call.invalid(f"an input {x.shape}, not a matrix")
    coefficients = call.floats("coefficients")
    intercepts = call.floats("intercepts", 0.0)
    if coefficients.size == x.shape[1] and rows == 2:
        raise UnsupportedNodeError("one score for two classes")
    if coefficients.size != rows * x.shape[1] or intercepts.size not in (1, rows):
        call.invalid(
            f"{coefficients.size} coefficients and {intercepts.size} intercepts for {rows} results "
            f"of an input {x.shape}"
        )
    shape = (x.shape[0], rows)
    weights = coefficients.reshape(rows, -1).T[None]
    out, index = maps.positions(shape)[:, None, :], maps.positions(x.shape)[:, :, None]
    term = maps.single_term(weights, out, index, math.prod(shape), x.size)
    return call.affine([(x, term)], shape, intercepts, name)
