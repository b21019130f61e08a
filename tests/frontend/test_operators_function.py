"""Functions and normalisation against ONNX Runtime, and how few nodes they become."""

from __future__ import annotations

import logging

import numpy as np
import pytest
from onnx import NodeProto, helper

from fhecompile.errors import FheCompileError
from fhecompile.frontend import import_model
from fhecompile.functions.table import FUNCTIONS
from fhecompile.ir.tensor import Function, Input, Output, TensorGraph

TOLERANCE = 1e-6
ONE, HALF = np.float32(1.0), np.float32(0.5)
ROOT = np.float32(np.sqrt(2.0))


def node(kind: str, operands: str, output: str = "y", **attributes: object) -> NodeProto:
    return helper.make_node(kind, operands.split(), [output], name=output, **attributes)


def needed(graph: TensorGraph) -> list[str]:
    """`name: operation` of what the outputs need, a function by its own name."""
    live = graph.rebuilt(list(graph))
    return [
        f"{n.name}: {n.function if isinstance(n, Function) else n.op}"
        for n in live
        if not isinstance(n, Input | Output)
    ]


def positive(output: str = "t") -> list[NodeProto]:
    """t = x^2 + c, not below c."""
    return [node("Mul", "x x", "square"), node("Add", "square c", output)]


# ---------------------------------------------------------------------------- single operators


@pytest.mark.parametrize("kind", ["Erf", "Exp", "Relu", "Sigmoid", "Tanh"])
def test_functions_of_every_number(agrees, kind):
    graph = agrees(node(kind, "x"), {"x": (2, 3)}, tolerance=TOLERANCE)
    assert needed(graph) == [f"y: {kind.lower()}"]


@pytest.mark.parametrize("kind", ["Sqrt", "Reciprocal"])
def test_functions_of_positive_numbers(agrees, kind):
    nodes = [*positive(), node(kind, "t")]
    graph = agrees(nodes, {"x": (2, 3)}, {"c": HALF}, tolerance=TOLERANCE)
    assert needed(graph)[-1] == f"y: {kind.lower()}"


@pytest.mark.parametrize(("approximate", "name"), [("none", "gelu"), ("tanh", "gelu_tanh")])
def test_gelu(agrees, approximate, name):
    gelu = node("Gelu", "x", approximate=approximate)
    graph = agrees(gelu, {"x": (2, 3)}, opset=20, tolerance=TOLERANCE)
    assert needed(graph) == [f"y: {name}"]


@pytest.mark.parametrize(
    ("exponent", "name"), [(0.5, "sqrt"), (-0.5, "inverse_sqrt"), (-1.0, "reciprocal")]
)
def test_pow(agrees, exponent, name):
    nodes = [*positive(), node("Pow", "t p")]
    constants = {"c": HALF, "p": exponent}
    graph = agrees(nodes, {"x": (2, 3)}, constants, tolerance=TOLERANCE)
    assert needed(graph)[-1] == f"y: {name}"


def test_every_function_is_reached_by_some_operator():
    reached = {"erf", "exp", "relu", "sigmoid", "tanh", "sqrt", "reciprocal", "gelu", "gelu_tanh"}
    assert reached | {"inverse_sqrt", "silu"} == set(FUNCTIONS)


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


# ---------------------------------------------------------------------------- clamps


@pytest.mark.parametrize("kind", ["Clip", "Max"])
def test_clamps_at_zero_are_relu(agrees, kind):
    graph = agrees(node(kind, "x zero"), {"x": (2, 3)}, {"zero": 0.0}, tolerance=TOLERANCE)
    assert needed(graph) == ["y: relu"]


def test_clamps_of_nothing(agrees):
    bounds = {"low": np.float32(-3e38), "high": np.float32(3e38)}
    assert needed(agrees(node("Clip", "x low high"), {"x": (2, 3)}, bounds)) == []
    nodes = [node("Sigmoid", "x", "s"), node("Clip", "s zero")]
    graph = agrees(nodes, {"x": (2, 3)}, {"zero": 0.0}, tolerance=TOLERANCE)
    assert needed(graph) == ["s: sigmoid"]


@pytest.mark.parametrize(
    ("inner", "allowed"),
    [
        ([node("Mul", "x x", "t")], True),
        ([node("Pow", "x four", "t")], True),
        ([node("Exp", "x", "t")], True),
        ([node("Mul", "x x", "s"), node("Add", "s s", "t")], True),
        ([node("Relu", "x", "r"), node("Pow", "r three", "t")], True),
        ([node("Pow", "x three", "t")], False),
        ([node("Tanh", "x", "t")], False),
        ([node("Neg", "x", "t")], False),
        ([node("Mul", "x x", "s"), node("Sub", "s one", "t")], False),
        ([node("Mul", "x x", "s"), node("Mul", "s x", "t")], False),
    ],
)
def test_only_what_is_never_negative_loses_a_clamp(build, inner, allowed):
    constants = {"tiny": 1e-6, "three": 3.0, "four": 4.0, "one": 1.0}
    blob = build([*inner, node("Clip", "t tiny")], {"x": (2, 3)}, constants)
    if allowed:
        assert needed(import_model(blob).graph)[-1].startswith("t: ")
    else:
        with pytest.raises(FheCompileError, match="Clip other than with 0 from below"):
            import_model(blob)


@pytest.mark.parametrize("bounds", [{"low": 1e-5}, {"low": 0.0, "high": 6.0}, {"low": -1.0}])
def test_other_clamps_are_refused(build, bounds):
    nodes = [node("Mul", "x x", "t"), node("Clip", f"t {' '.join(bounds)}")]
    with pytest.raises(FheCompileError, match="Clip other than with 0 from below"):
        import_model(build(nodes, {"x": (2, 3)}, bounds))


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
    "gate",
    [
        [node("Sigmoid", "b", "g")],  # of another value
        [node("Add", "x one", "z"), node("Sigmoid", "z", "g")],  # of x + 1
        [node("Erf", "x", "e"), node("Add", "e half", "g")],  # erf + 1/2
        [node("Tanh", "x", "g")],
    ],
)
def test_other_gates_stay_products(agrees, gate):
    constants = {"one": ONE, "half": HALF}
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
