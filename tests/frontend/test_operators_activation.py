"""Activations and clamps against ONNX Runtime, and which functions they become."""

from __future__ import annotations

import math

import numpy as np
import onnx
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from onnx import helper
from onnx.reference import ReferenceEvaluator

from fhecompile.errors import FheCompileError
from fhecompile.frontend import import_model
from fhecompile.frontend.operators import OPERATORS
from fhecompile.frontend.operators_function import BY_TYPE
from fhecompile.functions.table import FUNCTIONS
from fhecompile.ir.evaluate import evaluate
from fhecompile.ir.tensor import Function
from tests.frontend.conftest import build_bytes, needed, node

TOLERANCE = 1e-6
SHAPE = {"x": (2, 3)}


def functions(graph):
    """The functions that the outputs need, in order."""
    live = graph.rebuilt(list(graph))
    return [n.function for n in live if isinstance(n, Function)]


def reason(blob):
    with pytest.raises(FheCompileError) as caught:
        import_model(blob)
    return str(caught.value)


# ---------------------------------------------------------------------------- one number


@pytest.mark.parametrize(
    ("kind", "opset", "attributes", "expected"),
    [
        ("Celu", 17, {}, ["elu"]),
        ("Celu", 17, {"alpha": 0.5}, ["elu"]),
        ("Elu", 17, {}, ["elu"]),
        ("Elu", 17, {"alpha": 0.25}, ["elu(0.25)"]),
        ("Elu", 17, {"alpha": 0.0}, ["relu"]),
        ("Elu", 17, {"alpha": -2.0}, ["elu(-2)"]),
        ("Gelu", 20, {"approximate": "none"}, ["gelu"]),
        ("Gelu", 20, {"approximate": "tanh"}, ["gelu_tanh"]),
        ("HardSigmoid", 17, {}, ["clip"]),
        ("HardSigmoid", 17, {"alpha": -0.9, "beta": 0.25}, ["clip"]),
        ("HardSwish", 17, {}, ["hard_swish"]),
        ("LeakyRelu", 17, {}, ["relu"]),
        ("LeakyRelu", 17, {"alpha": 0.0}, ["relu"]),
        ("LeakyRelu", 17, {"alpha": 1.0}, []),
        ("LeakyRelu", 17, {"alpha": -3.0}, ["relu"]),
        ("Mish", 18, {}, ["mish"]),
        ("Selu", 17, {}, ["elu(1.67326319)"]),
        ("Selu", 17, {"alpha": 1.0, "gamma": 3.0}, ["elu"]),
        ("Selu", 17, {"alpha": 2.0, "gamma": 0.5}, ["elu(2)"]),
        ("Swish", 24, {}, ["silu"]),
        ("Swish", 24, {"alpha": 1.702}, ["silu"]),
        ("Swish", 24, {"alpha": -0.5}, ["silu"]),
        ("Swish", 24, {"alpha": 0.0}, []),
        ("ThresholdedRelu", 17, {}, ["thresholded_relu"]),
        ("ThresholdedRelu", 17, {"alpha": 0.3}, ["thresholded_relu"]),
        ("ThresholdedRelu", 17, {"alpha": 0.0}, ["relu"]),
    ],
)
def test_activations(agrees, kind, opset, attributes, expected):
    layer = node(kind, "x", **attributes)
    more = {"reference": evaluator} if kind == "Swish" else {}
    graph = agrees(layer, SHAPE, opset=opset, tolerance=TOLERANCE, **more)
    assert functions(graph) == expected


def evaluator(blob, samples):
    """ONNX's own: ONNX Runtime 1.23 has no Swish."""
    session = ReferenceEvaluator(onnx.load_model_from_string(blob))
    return {"y": np.stack([session.run(None, {"x": x})[0] for x in samples["x"]])}


@settings(max_examples=25)
@given(st.sampled_from(["Celu", "Elu", "Selu"]), st.floats(0.05, 4.0), st.floats(0.1, 3.0))
@example("Selu", 1.6732631921768188, 1.0507010221481323)
def test_exponential_units(kind, alpha, gamma):
    alpha, gamma = float(np.float32(alpha)), float(np.float32(gamma))
    attributes = {"alpha": alpha} | ({"gamma": gamma} if kind == "Selu" else {})
    graph = import_model(build_bytes(node(kind, "x", **attributes), {"x": (33,)})).graph
    x = np.linspace(-4.0, 4.0, 33)
    inner = x / alpha if kind == "Celu" else x
    expected = np.where(x > 0, x, alpha * np.expm1(inner))
    expected *= gamma if kind == "Selu" else 1.0
    assert np.allclose(evaluate(graph, {"x": x[None]})["y"][0], expected, rtol=1e-6, atol=1e-6)


# ---------------------------------------------------------------------------- slopes


@pytest.mark.parametrize(
    ("shape", "slope", "share"),
    [
        ((1, 3, 2, 2), (1,), (1,)),
        ((1, 3, 2, 2), (3, 1, 1), (1, 3, 1, 1)),
        ((1, 3, 2, 2), (3, 2, 2), (1, 3, 2, 2)),
        ((4, 3), (3,), (1, 3)),
        ((4,), (4,), (4,)),
    ],
)
def test_prelu(agrees, shape, slope, share):
    values = np.linspace(-0.5, 1.5, math.prod(slope)).reshape(slope)
    graph = agrees(node("PRelu", "x s"), {"x": shape}, {"s": values}, tolerance=TOLERANCE)
    assert needed(graph) == ["y: relu"]
    relu = graph["y"]
    assert isinstance(relu, Function)
    assert np.broadcast_shapes(relu.share.shape, share) == share
    assert np.allclose(relu.share, 1.0 - values.reshape(share), rtol=1e-6)


def test_prelu_with_equal_slopes(agrees):
    slopes = np.full((3, 1, 1), 0.25)
    graph = agrees(node("PRelu", "x s"), {"x": (1, 3, 2, 2)}, {"s": slopes}, tolerance=TOLERANCE)
    relu = graph["y"]
    assert isinstance(relu, Function) and relu.share.size == 1
    ones = agrees(node("PRelu", "x s"), SHAPE, {"s": np.ones(3)})
    assert needed(ones) == []
    zeros = agrees(node("PRelu", "x s"), SHAPE, {"s": np.zeros(3)})
    assert isinstance(zeros["y"], Function) and zeros["y"].is_whole()


def test_a_slope_may_hide_what_is_never_negative(agrees):
    """A leaky relu may be negative, so that a clamp behind it stays."""
    nodes = [node("LeakyRelu", "x", "t"), node("Clip", "t zero")]
    assert functions(agrees(nodes, SHAPE, {"zero": 0.0}, tolerance=TOLERANCE)) == ["relu", "relu"]


# ---------------------------------------------------------------------------- clamps


@pytest.mark.parametrize("kind", ["Clip", "Max"])
def test_clamps_at_zero_are_relu(agrees, kind):
    graph = agrees(node(kind, "x zero"), SHAPE, {"zero": 0.0}, tolerance=TOLERANCE)
    assert needed(graph) == ["y: relu"]


@pytest.mark.parametrize(
    ("operands", "bounds", "expected"),
    [
        ("x low", {"low": 0.5}, "relu"),
        ("x low high", {"low": 0.0, "high": 1.5}, "clip"),
        ("x low high", {"low": -1.25, "high": 0.75}, "clip"),
        ("x low high", {"low": -3e38, "high": 0.75}, "relu"),
        ("x  high", {"high": -0.5}, "relu"),
    ],
)
def test_clip(agrees, operands, bounds, expected):
    layer = helper.make_node("Clip", operands.split(" "), ["y"])
    assert functions(agrees(layer, SHAPE, bounds, tolerance=TOLERANCE)) == [expected]


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [({}, []), ({"min": 0.0, "max": 1.0}, ["clip"]), ({"max": 0.5}, ["relu"])],
)
def test_clip_by_attributes(agrees, attributes, expected):
    graph = agrees(node("Clip", "x", **attributes), SHAPE, opset=10, tolerance=TOLERANCE)
    assert functions(graph) == expected


@pytest.mark.parametrize(
    ("kind", "numbers"),
    [("Max", {"a": 0.5}), ("Min", {"a": 0.5}), ("Max", {"a": -1.0, "b": 0.25}),
     ("Min", {"a": -1.0, "b": np.array([[0.25]])})],
)  # fmt: skip
def test_max_and_min_with_numbers(agrees, kind, numbers):
    graph = agrees(node(kind, f"x {' '.join(numbers)}"), SHAPE, numbers, tolerance=TOLERANCE)
    assert functions(graph) == ["relu"]


def test_max_and_min_of_one_value(agrees):
    for kind in ("Max", "Min"):
        assert needed(agrees(node(kind, "x"), SHAPE)) == []


def test_clamps_of_nothing(agrees):
    bounds = {"low": np.float32(-3e38), "high": np.float32(3e38)}
    assert needed(agrees(node("Clip", "x low high"), SHAPE, bounds)) == []
    nodes = [node("Sigmoid", "x", "s"), node("Clip", "s zero")]
    graph = agrees(nodes, SHAPE, {"zero": 0.0}, tolerance=TOLERANCE)
    assert needed(graph) == ["s: sigmoid"]


def test_bounds_that_leave_one_number(agrees):
    nodes = [node("Clip", "x high low", "c"), node("Add", "x c")]
    bounds = {"low": np.float32(-0.5), "high": np.float32(0.5)}
    assert functions(agrees(nodes, SHAPE, bounds, tolerance=TOLERANCE)) == []
    nodes = [node("HardSigmoid", "x", "c", alpha=0.0, beta=7.0), node("Add", "x c")]
    assert functions(agrees(nodes, SHAPE, tolerance=TOLERANCE)) == []


@settings(max_examples=25)
@given(st.floats(-3.0, 3.0, width=32), st.floats(0.125, 3.0, width=32))
def test_any_clip(low, width):
    bounds = {"low": low, "high": low + width}
    graph = import_model(build_bytes(node("Clip", "x low high"), {"x": (65,)}, bounds)).graph
    x = np.linspace(-8.0, 8.0, 65)
    expected = np.clip(x, np.float32(low), np.float32(low + width))
    assert np.abs(evaluate(graph, {"x": x[None]})["y"][0] - expected).max() <= 1e-12


@pytest.mark.parametrize(
    ("inner", "dropped"),
    [
        ([node("Mul", "x x", "t")], True),
        ([node("Pow", "x four", "t")], True),
        ([node("Exp", "x", "t")], True),
        ([node("Abs", "x", "t")], True),
        ([node("Mul", "x x", "s"), node("Add", "s s", "t")], True),
        ([node("Relu", "x", "r"), node("Pow", "r three", "t")], True),
        ([node("Pow", "x three", "t")], False),
        ([node("Tanh", "x", "t")], False),
        ([node("Neg", "x", "t")], False),
        ([node("Mul", "x x", "s"), node("Sub", "s one", "t")], False),
        ([node("Mul", "x x", "s"), node("Mul", "s x", "t")], False),
    ],
)
def test_only_what_is_never_negative_loses_a_clamp(agrees, inner, dropped):
    constants = {"tiny": 1e-6, "three": 3.0, "four": 4.0, "one": 1.0}
    graph = agrees([*inner, node("Clip", "t tiny")], SHAPE, constants, tolerance=2e-6)
    assert needed(graph)[-1].startswith("t: " if dropped else "y: ")
    assert ("y.relu: relu" in needed(graph)) is not dropped


def test_a_clamp_from_above_of_what_is_never_negative(agrees):
    nodes = [node("Relu", "x", "r"), node("Clip", "r zero one")]
    graph = agrees(nodes, SHAPE, {"zero": 0.0, "one": 1.0}, tolerance=TOLERANCE)
    assert functions(graph) == ["relu", "relu"]
    larger = agrees(
        [node("Mul", "x x", "t"), node("Clip", "t low")], SHAPE, {"low": 1e-5}, tolerance=TOLERANCE
    )
    assert functions(larger) == ["relu"]


# ---------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("layer", "constants", "text"),
    [
        (
            node("Clip", "x low"),
            {"low": [0.0, 1.0]},
            "y: Clip: the minimum has shape (2,), it must be a single number [invalid-model]",
        ),
        (
            node("Clip", "x low high"),
            {"low": 0.0, "high": np.ones((2, 3))},
            "y: Clip: the maximum has shape (2, 3), it must be a single number [invalid-model]",
        ),
        (
            node("PRelu", "x s"),
            {"s": np.ones((4, 1))},
            "y: PRelu: a slope of shape (4, 1) for an input of shape (2, 3) [invalid-model]",
        ),
        (
            node("Gelu", "x", approximate="sigmoid"),
            {},
            "y: Gelu: attribute approximate is sigmoid [invalid-model]",
        ),
    ],
)
def test_models_that_break_a_rule(layer, constants, text):
    assert reason(build_bytes(layer, SHAPE, constants, opset=20)) == (
        f"{text}\n  hint: check the file with onnx.checker.check_model and export it again"
    )


POLYNOMIAL = (
    "replace it by a polynomial activation such as x*x or HerPN (models/ shows how) and fine-tune"
)


@pytest.mark.parametrize(
    ("layer", "text"),
    [
        (node("Celu", "x", alpha=-1.0), "Celu with alpha = -1, which is not above 0"),
        (node("ThresholdedRelu", "x", alpha=-0.5),
         "ThresholdedRelu with alpha = -0.5, which is below 0"),
        (node("Selu", "x", gamma=0.0), "Selu with gamma = 0"),
        (node("PRelu", "x z"), "encrypted slope"),
        (node("Clip", "x z"), "encrypted minimum"),
    ],
)  # fmt: skip
def test_what_is_refused(layer, text):
    blob = build_bytes(layer, {**SHAPE, "z": (2, 3)})
    assert reason(blob) == (
        f"model: 1 node cannot be compiled:\n  1 x {layer.op_type}: {text} (y) "
        f"[unsupported-operators]\n  hint: {layer.op_type}: {POLYNOMIAL}"
    )


def test_rounding_is_refused():
    assert reason(build_bytes(node("Round", "x"), SHAPE)) == (
        "model: 1 node cannot be compiled:\n  1 x Round: not supported (y) "
        "[unsupported-operators]\n  hint: Round: encrypted values cannot be compared or rounded: "
        "apply it after decryption, or replace by a polynomial"
    )


def test_every_function_is_reached_by_some_operator():
    here = {"clip", "elu", "gelu", "gelu_tanh", "silu", "thresholded_relu"}
    composed = {"inverse_sqrt", "tanh_softplus"}
    assert here | composed | set(BY_TYPE.values()) == set(FUNCTIONS)
    assert set(BY_TYPE) <= set(OPERATORS)
