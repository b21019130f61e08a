"""Functions and normalisation against ONNX Runtime, and how few nodes they become."""

from __future__ import annotations

import logging

import numpy as np
import pytest
from onnx import NodeProto

from tests.frontend.conftest import needed, node

TOLERANCE = 1e-6
ONE, HALF = np.float32(1.0), np.float32(0.5)
ROOT = np.float32(np.sqrt(2.0))


def positive(output: str = "t") -> list[NodeProto]:
    """t = x^2 + c, not below c."""
    return [node("Mul", "x x", "square"), node("Add", "square c", output)]


# ---------------------------------------------------------------------------- single operators


@pytest.mark.parametrize(
    "kind", ["Abs", "Erf", "Exp", "Relu", "Sigmoid", "Sign", "Softplus", "Softsign", "Tanh"]
)
def test_functions_of_every_number(agrees, kind):
    graph = agrees(node(kind, "x"), {"x": (2, 3)}, tolerance=TOLERANCE)
    assert needed(graph) == [f"y: {kind.lower()}"]


@pytest.mark.parametrize("kind", ["Log", "Sqrt", "Reciprocal"])
def test_functions_of_positive_numbers(agrees, kind):
    nodes = [*positive(), node(kind, "t")]
    graph = agrees(nodes, {"x": (2, 3)}, {"c": HALF}, tolerance=TOLERANCE)
    assert needed(graph)[-1] == f"y: {kind.lower()}"


@pytest.mark.parametrize(
    ("exponent", "name"), [(0.5, "sqrt"), (-0.5, "inverse_sqrt"), (-1.0, "reciprocal")]
)
def test_pow(agrees, exponent, name):
    nodes = [*positive(), node("Pow", "t p")]
    constants = {"c": HALF, "p": exponent}
    graph = agrees(nodes, {"x": (2, 3)}, constants, tolerance=TOLERANCE)
    assert needed(graph)[-1] == f"y: {name}"


# ---------------------------------------------------------------------------- division


@pytest.mark.parametrize(
    "shapes", [((2, 3), (2, 3)), ((2, 3), (1, 3)), ((3,), (2, 1)), ((2, 3), ())]
)
def test_division_by_a_value(agrees, shapes):
    a, b = shapes
    nodes = [*positive(), node("Div", "a t")]
    graph = agrees(nodes, {"a": a, "x": b}, {"c": HALF}, tolerance=TOLERANCE)
    assert "y.inverse: reciprocal" in needed(graph)


def test_a_constant_over_a_value(agrees):
    nodes = [*positive(), node("Div", "n t")]
    constants = {"c": HALF, "n": np.array([1.0, -2.0, 3.0])}
    graph = agrees(nodes, {"x": (2, 3)}, constants, tolerance=TOLERANCE)
    assert needed(graph)[-2:] == ["y.inverse: reciprocal", "y: affine"]


@pytest.mark.parametrize(
    "last",
    [
        [node("Sqrt", "t", "r"), node("Div", "x r")],
        [node("Sqrt", "t", "r"), node("Reciprocal", "r", "i"), node("Mul", "x i")],
        [node("Sqrt", "t", "r"), node("Div", "one r", "i"), node("Mul", "i x")],
        [node("Reciprocal", "t", "i"), node("Sqrt", "i", "r"), node("Mul", "x r")],
        [node("Pow", "t p", "r"), node("Mul", "x r")],
    ],
)
def test_inverse_square_roots_are_one_function(agrees, last):
    constants = {"c": HALF, "one": ONE, "p": -0.5}
    graph = agrees([*positive(), *last], {"x": (2, 3)}, constants, tolerance=TOLERANCE)
    kinds = [line.split(": ")[1] for line in needed(graph)]
    assert [k for k in kinds if k not in ("affine", "mul")] == ["inverse_sqrt"]
    assert kinds.count("mul") == 2


def test_the_inverse_of_an_inverse_root(agrees):
    nodes = [*positive(), node("Pow", "t p", "r"), node("Reciprocal", "r")]
    graph = agrees(nodes, {"x": (2, 3)}, {"c": HALF, "p": -0.5}, tolerance=TOLERANCE)
    assert needed(graph)[-1] == "y: sqrt"


# ---------------------------------------------------------------------------- normalisation

VECTOR = ["y.square: mul", "y.sum: affine", "y.inverse: inverse_sqrt", "y: mul"]
CHAIN = ["n.square: mul", "n.sum: affine", "y.inverse: inverse_sqrt", "y: mul"]


def test_lp_normalization_of_a_vector(agrees):
    graph = agrees(node("LpNormalization", "x"), {"x": (1, 8)}, tolerance=TOLERANCE)
    assert needed(graph) == VECTOR


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_lp_normalization_along_an_axis(agrees, axis):
    layer = node("LpNormalization", "x", axis=axis, p=2)
    graph = agrees(layer, {"x": (3, 4, 5)}, tolerance=TOLERANCE)
    assert needed(graph) == [*VECTOR[:3], "y.expand: affine", "y: mul"]


@pytest.mark.parametrize(
    "clamp",
    [[node("Clip", "n tiny", "m")], [node("Max", "n tiny", "m")], [node("Max", "tiny n", "m")]],
)
@pytest.mark.parametrize("opset", [17, 18])
@pytest.mark.parametrize("by_shape", [True, False])
def test_normalize_as_torch_writes_it(agrees, caplog, clamp, opset, by_shape):
    norm = node("ReduceL2", "x", "n", axes=[1]) if opset == 17 else node("ReduceL2", "x axes", "n")
    shape = [node("Shape", "x", "shape")] if by_shape else []
    nodes = [norm, *clamp, *shape, node("Expand", "m shape", "e"), node("Div", "x e")]
    constants = {"tiny": np.float32(1e-12)}
    if opset == 18:
        constants["axes"] = np.array([1])
    if not by_shape:
        constants["shape"] = np.array([1, 8])
    with caplog.at_level(logging.INFO):
        graph = agrees(nodes, {"x": (1, 8)}, constants, opset=opset, tolerance=TOLERANCE)
    assert needed(graph) == CHAIN
    assert "m: the clamp from below by 1e-12 is dropped" in caplog.messages


def test_normalize_rows(agrees):
    nodes = [
        node("ReduceL2", "x", "n", axes=[1]),
        node("Clip", "n tiny", "m"),
        node("Expand", "m shape", "e"),
        node("Div", "x e"),
    ]
    constants = {"tiny": np.float32(1e-12), "shape": np.array([3, 8])}
    graph = agrees(nodes, {"x": (3, 8)}, constants, tolerance=TOLERANCE)
    assert needed(graph) == [*CHAIN[:3], "y.repeat: affine", "y: mul"]


def test_norm_without_kept_axes(agrees):
    nodes = [node("ReduceL2", "x", "n", axes=[1], keepdims=0), node("Unsqueeze", "n one", "u")]
    nodes.append(node("Div", "x u"))
    for rows in (1, 3):
        graph = agrees(nodes, {"x": (rows, 8)}, {"one": np.array([1])}, tolerance=TOLERANCE)
        assert "y.inverse: inverse_sqrt" in needed(graph)


@pytest.mark.parametrize("kind", ["ReduceL2", "ReduceSumSquare"])
@pytest.mark.parametrize("axes", [None, [0], [1, 2]])
def test_reductions_of_squares(agrees, kind, axes):
    attributes = {} if axes is None else {"axes": axes}
    graph = agrees(node(kind, "x", **attributes), {"x": (2, 3, 4)}, tolerance=TOLERANCE)
    assert len(needed(graph)) == (3 if kind == "ReduceL2" else 2)


def test_sum_clamped_before_the_root(agrees):
    nodes = [
        node("Pow", "x two", "square"),
        node("ReduceSum", "square axis", "s"),
        node("Clip", "s tiny", "c"),
        node("Sqrt", "c", "r"),
        node("Div", "x r"),
    ]
    constants = {"two": 2.0, "axis": np.array([1]), "tiny": np.float32(1e-7)}
    graph = agrees(nodes, {"x": (1, 8)}, constants, tolerance=TOLERANCE)
    assert needed(graph) == ["square: poly", "s: affine", "y.inverse: inverse_sqrt", "y: mul"]


# ---------------------------------------------------------------------------- gates


@pytest.mark.parametrize("order", ["x s", "s x"])
def test_silu(agrees, order):
    nodes = [node("Sigmoid", "x", "s"), node("Mul", order)]
    assert needed(agrees(nodes, {"x": (2, 3)}, tolerance=TOLERANCE)) == ["y: silu"]


def test_silu_of_a_multiple(agrees):
    nodes = [node("Mul", "x c", "z"), node("Sigmoid", "z", "s"), node("Mul", "x s")]
    graph = agrees(nodes, {"x": (2, 3)}, {"c": 1.702}, tolerance=TOLERANCE)
    assert needed(graph) == ["z: affine", "y.silu: silu", "y: affine"]


@pytest.mark.parametrize(
    "nodes",
    [
        [node("Add", "e one", "g"), node("Mul", "x g", "p"), node("Mul", "p half")],
        [node("Add", "e one", "g"), node("Mul", "half x", "h"), node("Mul", "h g")],
        [node("Add", "one e", "g"), node("Mul", "g half", "h"), node("Mul", "h x")],
    ],
)
@pytest.mark.parametrize("first", ["Div", "Mul"])
def test_gelu_as_exporters_write_it(agrees, nodes, first):
    root = ROOT if first == "Div" else 1 / ROOT
    constants = {"root": root, "one": ONE, "half": HALF}
    nodes = [node(first, "x root", "z"), node("Erf", "z", "e"), *nodes]
    graph = agrees(nodes, {"x": (2, 3)}, constants, tolerance=TOLERANCE)
    kinds = [line.split(": ")[1] for line in needed(graph)]
    assert [kind for kind in kinds if kind != "affine"] == ["gelu"]


def test_gelu_of_a_multiple(agrees):
    nodes = [node("Erf", "x", "e"), node("Add", "e one", "g"), node("Mul", "x g")]
    graph = agrees(nodes, {"x": (2, 3)}, {"one": ONE}, tolerance=TOLERANCE)
    assert needed(graph) == ["y.argument: affine", "y.gelu: gelu", "y: affine"]


@pytest.mark.parametrize(
    "nodes",
    [
        [node("Clip", "s zero six", "c"), node("Mul", "x c", "p"), node("Div", "p six")],
        [node("Clip", "s zero six", "c"), node("Div", "c six", "g"), node("Mul", "g x")],
    ],
)
def test_hard_swish_as_exporters_write_it(agrees, nodes):
    constants = {"three": 3.0, "zero": 0.0, "six": 6.0}
    nodes = [node("Add", "x three", "s"), *nodes]
    graph = agrees(nodes, {"x": (2, 3)}, constants, tolerance=TOLERANCE)
    kinds = [line.split(": ")[1] for line in needed(graph)]
    assert [kind for kind in kinds if kind != "affine"] == ["hard_swish"]


def test_hard_swish_by_hard_sigmoid(agrees):
    nodes = [node("HardSigmoid", "x", "g", alpha=1.0 / 6.0), node("Mul", "x g")]
    kinds = [line.split(": ")[1] for line in needed(agrees(nodes, {"x": (2, 3)}))]
    assert [kind for kind in kinds if kind != "affine"] == ["hard_swish"]


@pytest.mark.parametrize("order", ["x t", "t x"])
def test_mish_as_exporters_write_it(agrees, order):
    nodes = [node("Softplus", "x", "s"), node("Tanh", "s", "t"), node("Mul", order)]
    assert needed(agrees(nodes, {"x": (2, 3)}, tolerance=TOLERANCE)) == ["y: mish"]


@pytest.mark.parametrize(
    "gate",
    [
        [node("Sigmoid", "b", "g")],  # of another value
        [node("Add", "x one", "z"), node("Sigmoid", "z", "g")],  # of x + 1
        [node("Erf", "x", "e"), node("Add", "e half", "g")],  # erf + 1/2
        [node("Tanh", "x", "g")],
        [node("Clip", "x zero one", "g")],  # as x min(max(x, 0), 1)
        [node("HardSigmoid", "b", "g")],
    ],
)
def test_other_gates_stay_products(agrees, gate):
    constants = {"zero": np.float32(0.0), "one": ONE, "half": HALF}
    graph = agrees(
        [*gate, node("Mul", "x g")], {"x": (2, 3), "b": (2, 3)}, constants, tolerance=TOLERANCE
    )
    assert needed(graph)[-1] == "y: mul"


# ---------------------------------------------------------------------------- repeated elements


def test_functions_are_evaluated_before_elements_are_repeated(agrees):
    nodes = [node("Expand", "x shape", "e"), node("Tanh", "e")]
    graph = agrees(nodes, {"x": (3, 1)}, {"shape": np.array([3, 5])}, tolerance=TOLERANCE)
    assert needed(graph) == ["y.once: tanh", "y: affine"]
    assert graph["y.once"].shape == (3, 1)


def test_functions_of_reshaped_values(agrees):
    nodes = [node("Reshape", "x shape", "r"), node("Relu", "r")]
    agrees(nodes, {"x": (2, 6)}, {"shape": np.array([3, 4])}, tolerance=TOLERANCE)
    nodes = [node("Reshape", "x shape", "r"), node("Sigmoid", "x", "s"), node("Mul", "r q")]
    nodes.insert(2, node("Reshape", "s shape", "q"))
    graph = agrees(nodes, {"x": (2, 6)}, {"shape": np.array([3, 4])}, tolerance=TOLERANCE)
    assert needed(graph)[-1] == "y: silu"
