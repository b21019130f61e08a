"""The walk over the graph: folding, names, dead nodes, functions, where weights are."""

from __future__ import annotations

import hashlib

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from fhecompile.frontend import import_model
from fhecompile.ir.evaluate import evaluate
from fhecompile.ir.tensor import Affine, Input, Output

RANDOM = np.random.default_rng(5)


def node(op, inputs, outputs=("y",), **attributes):
    return helper.make_node(op, inputs, list(outputs), **attributes)


def test_what_is_imported(build):
    blob = build(node("Neg", ["x"]), {"x": (1, 3)})
    model = import_model(blob)
    assert model.sha256 == hashlib.sha256(blob).hexdigest()
    assert (model.opset, model.name) == (17, "small")
    assert model.input_dtypes == {"x": "float32"}
    assert model.input_names == {"x": "x"}


def test_path_and_onnx_ir_model(build, tmp_path):
    blob = build(node("Neg", ["x"]), {"x": (1, 3)})
    path = tmp_path / "network.onnx"
    path.write_bytes(blob)
    from_path = import_model(path)
    assert from_path.name == "network"
    assert import_model(str(path)).sha256 == from_path.sha256 == hashlib.sha256(blob).hexdigest()
    from_ir = import_model(ir.load(path))
    assert [n.name for n in from_ir.graph] == [n.name for n in from_path.graph]


@pytest.mark.parametrize(
    ("dtype", "name"),
    [
        (TensorProto.FLOAT, "float32"),
        (TensorProto.DOUBLE, "float64"),
        (TensorProto.FLOAT16, "float16"),
        (TensorProto.BFLOAT16, "bfloat16"),
    ],
)
def test_input_dtypes(build, dtype, name):
    blob = build(node("Neg", ["x"]), {"x": (1, 3)}, dtype=dtype)
    assert import_model(blob).input_dtypes == {"x": name}


def test_bfloat16_weights(build):
    nodes = [
        node("Cast", ["w"], ["v"], to=TensorProto.FLOAT),
        node("Mul", ["x", "v"], ["h"]),
        node("Mul", ["h", "b"]),
    ]
    blob = build(nodes, {"x": (2,)}, {"w": np.array([0.5, -2.0], np.float16)})
    model = onnx.load_model_from_string(blob)
    bits = np.array([0x3FC0, 0x4000], np.uint16)  # 1.5 and 2
    model.graph.initializer.append(
        helper.make_tensor("b", TensorProto.BFLOAT16, [2], bits.tobytes(), raw=True)
    )
    graph = import_model(model.SerializeToString()).graph
    y = evaluate(graph, {"x": np.ones((1, 2))})["y"]
    np.testing.assert_array_equal(y, [[0.75, -4.0]])


def test_names_are_sanitised_and_unique(build):
    nodes = [
        node("Neg", ["x:0"], ["/a/Neg_output_0"], name="/a/Neg"),
        node("Neg", ["/a/Neg_output_0"], ["a.Neg_output_0"]),
        node("Neg", ["a.Neg_output_0"], ["x_0"]),
        node("Neg", ["x_0"], ["out put"]),
    ]
    model = import_model(build(nodes, {"x:0": (1, 3)}, outputs=["out put"]))
    names = [n.name for n in model.graph]
    assert names == [
        "x_0", "a.Neg_output_0", "a.Neg_output_0_2", "x_0_2", "out_put", "out_put.output",
    ]  # fmt: skip
    assert model.input_names == {"x:0": "x_0"}
    assert model.graph["a.Neg_output_0"].source == "/a/Neg"
    assert model.graph["a.Neg_output_0_2"].source == "a.Neg_output_0"
    assert [n.label for n in model.graph if isinstance(n, Output)] == ["out put"]


def test_an_input_can_be_an_output(agrees):
    agrees(node("Identity", ["x"]), {"x": (1, 3)})


def test_two_outputs_of_one_value(agrees):
    nodes = [node("Neg", ["x"], ["y"]), node("Reshape", ["y", "s"], ["z"])]
    graph = agrees(nodes, {"x": (1, 4)}, {"s": np.array([2, 2])}, ["y", "z"])
    assert [(n.op, n.shape) for n in graph] == [
        ("input", (1, 4)), ("affine", (1, 4)), ("output", (1, 4)), ("output", (2, 2)),
    ]  # fmt: skip


def test_an_unused_input_stays(build):
    graph = import_model(build(node("Neg", ["x"]), {"x": (1, 3), "unused": (2,)})).graph
    assert [n.name for n in graph if isinstance(n, Input)] == ["x", "unused"]


def test_dead_nodes_are_left_out(build):
    nodes = [node("Relu", ["x"], ["dead"]), node("Neg", ["x"])]
    assert [n.op for n in import_model(build(nodes, {"x": (1, 3)})).graph] == [
        "input", "affine", "output",
    ]  # fmt: skip


def test_batch_norm_of_a_constant_is_a_constant(agrees):
    names = ["s", "b", "m", "v"]
    constants = {n: np.abs(RANDOM.normal(size=4)) for n in names}
    nodes = [
        node("Constant", [], ["one"], value=numpy_helper.from_array(np.ones((1, 4, 3, 3), "f"))),
        node("BatchNormalization", ["one", *names], ["h"]),
        node("Constant", [], ["two"], value_float=2.0),
        node("Div", ["h", "two"], ["k"]),
        node("Add", ["k", "x"]),
    ]
    graph = agrees(nodes, {"x": (1, 4, 3, 3)}, constants)
    assert [n.op for n in graph] == ["input", "affine", "output"]
    assert graph["y"].bias.shape == (1, 4, 1, 1)


def test_shape_arithmetic_folds(agrees):
    nodes = [
        node("Shape", ["x"], ["s"]),
        node("Gather", ["s", "zero"], ["n"]),
        node("Unsqueeze", ["n", "axes"], ["n1"]),
        node("Concat", ["n1", "minus"], ["t"], axis=0),
        node("Reshape", ["x", "t"], ["h"]),
        node("Size", ["x"], ["count"]),
        node("Cast", ["count"], ["c"], to=TensorProto.FLOAT),
        node("ConstantOfShape", ["s"], ["zeros"]),
        node("Flatten", ["zeros"], ["z"]),
        node("Add", ["h", "z"], ["g"]),
        node("Div", ["g", "c"]),
    ]
    constants = {
        "zero": np.array(0), "axes": np.array([0]), "minus": np.array([-1]),
    }  # fmt: skip
    graph = agrees(nodes, {"x": (2, 3, 4)}, constants)
    assert graph["y"].shape == (2, 12)


def test_the_long_name_of_the_standard_domain(build):
    nodes = [node("Neg", ["c"], ["k"]), node("Mul", ["x", "k"])]
    model = onnx.load_model_from_string(build(nodes, {"x": (2,)}, {"c": np.ones(2)}))
    for item in [*model.graph.node, *model.opset_import]:
        item.domain = "ai.onnx"
    graph = import_model(model.SerializeToString()).graph
    y = evaluate(graph, {"x": np.ones((1, 2))})["y"]
    np.testing.assert_array_equal(y, [[-1.0, -1.0]])


def test_shape_with_start_and_end(agrees):
    nodes = [
        node("Shape", ["x"], ["s"], start=-2, end=3),
        node("ConstantOfShape", ["s"], ["ones"], value=helper.make_tensor("v", 1, [1], [1.0])),
        node("Mul", ["x", "ones"]),
    ]
    agrees(nodes, {"x": (2, 3, 4)})


def test_symbolic_dimensions_are_bound(build):
    blob = build(node("Neg", ["x"]), {"x": ("batch", 3, "h", None)})
    graph = import_model(blob, {"x": (1, 3, 8, 8)}).graph
    assert graph["y"].shape == (1, 3, 8, 8)


def test_weights_listed_as_inputs_are_weights(build):
    model = onnx.load_model_from_string(
        build(node("Mul", ["x", "w"]), {"x": (1, 3), "w": (3,)}, {"w": RANDOM.normal(size=3)})
    )
    graph = import_model(model.SerializeToString()).graph
    assert [n.op for n in graph] == ["input", "affine", "output"]


def test_model_functions_are_inlined(build):
    square = helper.make_function(
        "own", "square_and_shift", ["a"], ["b"],
        [node("Mul", ["a", "a"], ["s"]), node("Neg", ["s"], ["b"])],
        [helper.make_opsetid("", 17)],
    )  # fmt: skip
    call = node("square_and_shift", ["x"], domain="own")
    blob = build(call, {"x": (1, 3)}, functions=[square], opsets=[helper.make_opsetid("own", 1)])
    assert [n.op for n in import_model(blob).graph] == ["input", "mul", "affine", "output"]
    model = ir.serde.deserialize_model(onnx.load_model_from_string(blob))
    import_model(model)
    assert [n.op_type for n in model.graph] == ["square_and_shift"]


def test_external_weights(build, tmp_path):
    weights = RANDOM.normal(size=(4, 2, 3, 3))
    blob = build(node("Conv", ["x", "w"]), {"x": (1, 2, 5, 5)}, {"w": weights})
    model = onnx.load_model_from_string(blob)
    path = tmp_path / "model.onnx"
    onnx.save_model(
        model, path, save_as_external_data=True, location="model.data", size_threshold=0
    )
    graph = import_model(path).graph
    assert isinstance(graph["y"], Affine)
    expected = weights.astype(np.float32).reshape(-1)
    np.testing.assert_array_equal(graph["y"].maps[0].terms[0].values.ravel(), expected)


def test_importing_leaves_no_trace_between_models(build):
    blob = build([node("Neg", ["x"], ["h"]), node("Mul", ["h", "h"])], {"x": (1, 3)})
    first, second = import_model(blob), import_model(blob)
    assert list(first.graph.nodes) == list(second.graph.nodes)
    assert first.graph["h"] is not second.graph["h"]
