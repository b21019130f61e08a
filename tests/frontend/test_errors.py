"""The exact text of every error of the frontend.

Long because it is one list of cases: a reader looks for a text, and all are here.
"""

from __future__ import annotations

import math

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from fhecompile.errors import EXIT_BAD_INPUT, FheCompileError
from fhecompile.frontend import import_model


def node(op, inputs, outputs=("y",), **attributes):
    return helper.make_node(op, inputs, list(outputs), **attributes)


def text_of(source, input_shapes=None):
    """The error's text; checks that it is one a user can mend."""
    with pytest.raises(FheCompileError) as caught:
        import_model(source, input_shapes)
    assert caught.value.exit_code == EXIT_BAD_INPUT
    return str(caught.value)


# ---------------------------------------------------------------------------- the file


def test_no_such_file():
    assert text_of("missing/model.onnx") == (
        "missing/model.onnx: there is no such file [no-such-file]\n"
        "  hint: give the path of an ONNX model"
    )


def test_a_folder_is_no_file(tmp_path):
    assert text_of(tmp_path) == (
        f"{tmp_path}: cannot be read: Is a directory [no-such-file]\n"
        "  hint: give the path of an ONNX model"
    )


@pytest.mark.parametrize("content", [b"", b"not a protobuf at all", b"\x00\x01\x02", b"\x08\x08"])
def test_not_onnx(tmp_path, content):
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    assert text_of(path) == (
        f"{path}: this is not an ONNX model: no graph with outputs can be read from it [not-onnx]\n"
        "  hint: give a file written by torch.onnx.export, onnx.save or a similar exporter"
    )


@pytest.mark.parametrize("opset", [6, 29])
def test_opset(build, opset):
    assert text_of(build(node("Neg", ["x"]), {"x": (1,)}, opset=opset)) == (
        f"model: the model uses opset {opset}, supported are 7 to 28 [opset-unsupported]\n"
        "  hint: export it again with opset_version=17"
    )


def test_no_standard_opset(build):
    model = onnx.load_model_from_string(build(node("Neg", ["x"]), {"x": (1,)}))
    model.opset_import[0].domain = "own"
    assert text_of(model.SerializeToString()) == (
        "model: the model uses no standard operator set, supported are 7 to 28 "
        "[opset-unsupported]\n"
        "  hint: export it again with opset_version=17"
    )


# ---------------------------------------------------------------------------- inputs and outputs


def test_no_input(build):
    blob = build(node("Neg", ["c"]), {}, {"c": np.ones(2)})
    assert text_of(blob) == (
        "model: the model has no input to encrypt [no-input]\n"
        "  hint: export the network with its input as a graph input, not as a constant"
    )


def test_input_not_float(build):
    blob = build(node("Identity", ["x"]), {"x": (1, 3)}, dtype=TensorProto.INT64)
    assert text_of(blob) == (
        "model: input x has element type int64; only tensors of real numbers can be encrypted "
        "[input-not-float]\n"
        "  hint: export the network with a float32 input"
    )


def test_output_not_encrypted(build):
    blob = build(
        [node("Neg", ["x"]), node("Neg", ["c"], ["z"])], {"x": (1,)}, {"c": np.ones(2)}, ["y", "z"]
    )
    assert text_of(blob) == (
        "model: output z does not depend on any input [output-not-encrypted]\n"
        "  hint: take this output off the exported model, it is a constant"
    )


def test_input_names_that_collide(build):
    blob = build(node("Add", ["x:0", "x/0"]), {"x:0": (1,), "x/0": (1,), "x_0": (1,)})
    assert text_of(blob) == (
        "model: inputs x:0 and x_0 are both called x_0 here [input-name-collision]\n"
        "  hint: rename one of them; letters, digits, '_' and '.' are kept"
    )


@pytest.mark.parametrize(
    ("shape", "shown", "example"),
    [
        (("batch", 3, "height", "width"), "(batch, 3, height, width)", "1x3x32x32"),
        ((None, 10), "(?, 10)", "1x10"),
        ((0, 10), "(0, 10)", "1x10"),
    ],
)
def test_dynamic_shape(build, shape, shown, example):
    assert text_of(build(node("Neg", ["x"]), {"x": shape})) == (
        f"model: input x has shape {shown}, but every dimension must be a known number "
        "[dynamic-shape]\n"
        f"  hint: give --input-shape x={example}"
    )


def test_unknown_rank(build):
    model = onnx.load_model_from_string(build(node("Neg", ["x"]), {"x": (1,)}))
    model.graph.input[0].type.tensor_type.ClearField("shape")
    assert text_of(model.SerializeToString()) == (
        "model: input x has shape (unknown), but every dimension must be a known number "
        "[dynamic-shape]\n"
        "  hint: give --input-shape x=1x3x32x32"
    )


@pytest.mark.parametrize("given", [(1, 3), (2, 4, 8, 8)])
def test_bound_shape_does_not_fit(build, given):
    blob = build(node("Neg", ["x"]), {"x": ("n", 3, 8, 8)})
    assert text_of(blob, {"x": given}) == (
        f"model: input x is declared as (n, 3, 8, 8), which {'x'.join(map(str, given))} "
        "does not fit [dynamic-shape]\n"
        "  hint: give --input-shape x=1x3x8x8"
    )


def test_bound_shape_of_an_unknown_input(build):
    blob = build(node("Neg", ["x"]), {"x": ("n", 3)})
    assert text_of(blob, {"image": (1, 3)}) == (
        "model: a shape is given for image, but the inputs are x [dynamic-shape]\n"
        "  hint: give --input-shape with the name of an input"
    )


# ---------------------------------------------------------------------------- weights


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_weights_not_finite(build, bad):
    blob = build(node("Mul", ["x", "layer.weight"]), {"x": (3,)}, {"layer.weight": [1.0, bad, bad]})
    assert text_of(blob) == (
        "layer.weight: 2 of 3 weights are NaN or infinite [weights-not-finite]\n"
        "  hint: train the network again; a diverged training leaves such weights"
    )


def test_constant_not_finite(build):
    value = numpy_helper.from_array(np.array([math.nan], np.float32))
    nodes = [node("Constant", [], ["c"], value=value), node("Mul", ["x", "c"])]
    assert text_of(build(nodes, {"x": (3,)})) == (
        "c: 1 of 1 weights are NaN or infinite [weights-not-finite]\n"
        "  hint: train the network again; a diverged training leaves such weights"
    )


@pytest.mark.parametrize(
    ("op", "constants", "shape"),
    [
        ("Div", {"c": [1.0, 0.0]}, (2,)),
        ("BatchNormalization", {"s": [1.0], "b": [0.0], "m": [0.0], "v": [-1.0]}, (1, 1)),
    ],
)
def test_derived_weight_not_finite(build, op, constants, shape):
    blob = build(node(op, ["x", *constants], name="layer"), {"x": shape}, constants)
    assert text_of(blob) == (
        f"layer: {op}: its constants give a weight that is NaN or infinite [weights-not-finite]\n"
        "  hint: look for a division by zero or a negative variance in the exported weights"
    )


@pytest.fixture
def external(build, tmp_path):
    """A model file whose weight `w` is in model.data beside it."""
    model = onnx.load_model_from_string(
        build(node("Mul", ["x", "w"]), {"x": (4,)}, {"w": np.ones(4)})
    )
    path = tmp_path / "model.onnx"
    onnx.save_model(
        model, path, save_as_external_data=True, location="model.data", size_threshold=0
    )
    return path


def test_external_data_is_missing(external):
    (external.parent / "model.data").unlink()
    assert text_of(external) == (
        "w: its values cannot be read: [Errno 2] No such file or directory: "
        f"'{external.parent / 'model.data'}' [external-data]\n"
        "  hint: keep the data file beside the ONNX file, as it was exported"
    )


def test_external_data_is_too_short(external):
    (external.parent / "model.data").write_bytes(b"1234")
    assert text_of(external) == (
        "w: its values cannot be read: buffer is smaller than requested size [external-data]\n"
        "  hint: keep the data file beside the ONNX file, as it was exported"
    )


@pytest.mark.parametrize("relative", [False, True])
def test_external_data_outside_the_folder(external, relative, monkeypatch):
    (external.parent.parent / "secret.data").write_bytes(bytes(16))
    model = onnx.load(external, load_external_data=False)
    for entry in model.graph.initializer[0].external_data:
        if entry.key == "location":
            entry.value = "../secret.data"
    external.write_bytes(model.SerializeToString())
    monkeypatch.chdir(external.parent)
    message = text_of("model.onnx" if relative else external)
    assert message.startswith("w: its values cannot be read: External data location ")
    assert "is outside the base directory" in message


def test_external_data_of_bytes(external):
    assert text_of(external.read_bytes()) == (
        "w: its values are in another file, but the model was given as bytes [external-data]\n"
        "  hint: give the path of the ONNX file, with its data file beside it"
    )


def test_weights_that_do_not_fill_their_shape(build):
    model = onnx.load_model_from_string(
        build(node("Mul", ["x", "w"]), {"x": (4,)}, {"w": np.ones(4)})
    )
    model.graph.initializer[0].raw_data = b"1234"
    assert text_of(model.SerializeToString()) == (
        "w: its values cannot be read: cannot reshape array of size 1 into shape (4,) "
        "[invalid-model]\n"
        "  hint: check the file with onnx.checker.check_model and export it again"
    )


# ---------------------------------------------------------------------------- operators


def test_invalid_model(build):
    blob = build(node("Conv", ["x", "w"], name="conv"), {"x": (1, 3, 8, 8)},
                 {"w": np.ones((4, 2, 3, 3))})  # fmt: skip
    assert text_of(blob) == (
        "conv: Conv: kernel (4, 2, 3, 3), group 1 for an input (1, 3, 8, 8) [invalid-model]\n"
        "  hint: check the file with onnx.checker.check_model and export it again"
    )


@pytest.mark.parametrize(
    ("bad", "shapes", "constants", "reason"),
    [
        (node("Add", ["x", "c"]), (2, 3), {"c": (2,)}, "shapes (2, 3) and (2,) do not broadcast"),
        (node("MatMul", ["x", "c"]), (2, 3), {"c": (2, 3)}, "shapes (2, 3) and (2, 3) do not fit"),
        (node("MatMul", ["x", "c"]), (2, 3), {"c": ()}, "an operand is a scalar"),
        (node("Gemm", ["x", "c"]), (2, 3), {"c": (2, 3)}, "shapes (2, 3) and (2, 3) do not fit"),
        (node("Gemm", ["x", "c"]), (3,), {"c": (3, 3)}, "shapes (3,) and (3, 3) are not matrices"),
        (
            node("Gemm", ["x", "c", "b"]), (2, 3), {"c": (3, 4), "b": (3,)},
            "C of shape (3,) for a result of shape (2, 4)",
        ),
        (
            node("Conv", ["x", "c", "b"]), (1, 1, 3), {"c": (2, 1, 1), "b": (3,)},
            "bias (3,) for 2 output channels",
        ),
        (
            node("Conv", ["x", "c"]), (1, 1, 3), {"c": (1, 1, 5)},
            "a window of 5 does not fit an axis of 3 elements",
        ),
        (
            node("Conv", ["x", "c"], strides=[1, 1]), (1, 1, 3), {"c": (1, 1, 1)},
            "kernel_shape, strides, dilations and pads do not fit 1 spatial axes",
        ),
        (node("Conv", ["x"]), (1, 1, 3), {}, "input 1 is missing"),
        (
            node("Conv", ["x", "c"], strides=[0]), (1, 1, 3), {"c": (1, 1, 1)},
            "kernel_shape, strides and dilations must be positive",
        ),
        (
            node("Conv", ["x", "c"], group="two"), (1, 1, 3), {"c": (1, 1, 1)},
            "attribute group is not of type INT",
        ),
        (
            node("AveragePool", ["x"], kernel_shape=[1]), (1, 3), {},
            "an input (1, 3) without spatial axes",
        ),
        (node("GlobalAveragePool", ["x"]), (1, 3), {}, "an input (1, 3) without spatial axes"),
        (node("ReduceSum", ["x", "a"]), (2, 3), {"a": [5]}, "axes [5] of a tensor of rank 2"),
        (node("Pad", ["x", "a"]), (2, 3), {"a": [1, 1]}, "2 pads for 2 axes"),
        (
            node("Pad", ["x", "a"]), (2, 3), {"a": [-2, 0, -1, 0]},
            "pads [-2, 0, -1, 0] for an input (2, 3)",
        ),
        (node("Pad", ["x", "a"], mode="mirror"), (2, 3), {"a": [0] * 4}, "mode mirror"),
        (
            node("Pad", ["x", "a"], mode="edge"), (2, 3), {"a": [-2, 0, 1, 0]},
            "pads [-2, 0, 1, 0] for an input (2, 3)",
        ),
        (
            node("GatherElements", ["x", "a"]), (2, 3), {"a": [[2]]},
            "indices (1, 1) beyond an input (2, 3)",
        ),
        (
            node("GatherElements", ["x", "a"]), (2, 3), {"a": [0]},
            "indices (1,) along axis 0 for an input (2, 3)",
        ),
        (node("CumSum", ["x", "a"]), (2, 3), {"a": 2}, "axis 2 of a tensor of rank 2"),
        (
            node("ConvTranspose", ["x", "c"]), (1, 3, 4), {"c": (2, 3, 1)},
            "kernel (2, 3, 1), group 1 for an input (1, 3, 4)",
        ),
        (
            node("ConvTranspose", ["x", "c"], pads=[3, 2]), (1, 2, 4), {"c": (2, 3, 2)},
            "pads (3, 2) leave nothing of an axis of 5 elements",
        ),
        (
            node("Einsum", ["x", "c"], equation="ij,kj->ik"), (2, 3), {"c": (4, 2)},
            "axes of 3 and 2 elements have the same letter",
        ),
        (
            node("Einsum", ["x"], equation="ij->ik"), (2, 3), {}, "equation ij->ik",
        ),
        (
            node("Einsum", ["x"], equation="ijk"), (2, 3), {},
            "equation ijk for operands of shape [(2, 3)]",
        ),
        (
            node("Resize", ["x", "", "f"]), (2, 3), {"f": (3,)},
            "scales [1.0, 1.0, 1.0] and sizes [] for 2 axes",
        ),
        (
            node("Resize", ["x", "", "f"], mode="lanczos"), (2, 3), {"f": (2,)}, "mode lanczos",
        ),
        (
            node("Sum", ["x", "c"]), (2, 3), {"c": (2,)},
            "shapes [(2, 3), (2,)] do not broadcast",
        ),
    ],
)  # fmt: skip
def test_nodes_that_break_onnx(build, bad, shapes, constants, reason):
    values = {
        name: np.ones(c) if isinstance(c, tuple) else np.array(c, np.int64)
        for name, c in constants.items()
    }
    assert text_of(build(bad, {"x": shapes}, values)) == (
        f"y: {bad.op_type}: {reason} [invalid-model]\n"
        "  hint: check the file with onnx.checker.check_model and export it again"
    )


def test_a_value_nobody_makes(build):
    assert text_of(build(node("Add", ["x", "ghost"], name="sum"), {"x": (1,)})) == (
        "sum: Add: input ghost is not made by any earlier node [invalid-model]\n"
        "  hint: check the file with onnx.checker.check_model and export it again"
    )


def test_every_unsupported_node_is_reported(build):
    nodes = [
        node("Conv", ["x", "w"], ["c0"], name="conv"),
        *(node("Floor", [f"c{i}"], [f"c{i + 1}"], name=f"/floor{i}/Floor") for i in range(4)),
        node("LpPool", ["c4"], ["p"], name="/pool", kernel_shape=[2, 2]),
        node("Pow", ["p", "exponent"], ["q"], name="/pow"),
        node("Flatten", ["q"], ["f"]),
        node("Mod", ["f", "f"], ["g"], name="/mod"),
        node("Celu", ["f"], ["h"], name="/celu", alpha=-1.0),
        node("Fancy", ["h"], ["k"], name="/fancy", domain="com.example"),
        node("Hardmax", ["h"], ["s"]),
        node("Mul", ["s", "k"], ["m"]),
        node("Cumulate", ["m"], ["o"]),
        node("Add", ["o", "g"], ["y"]),
    ]
    blob = build(
        nodes, {"x": (1, 1, 3, 3)}, {"w": np.ones((1, 1, 2, 2)), "exponent": 2.5},
        opsets=[helper.make_opsetid("com.example", 1)],
    )  # fmt: skip
    assert text_of(blob) == (
        "model: 11 nodes cannot be compiled:\n"
        "  4 x Floor: not supported (/floor0/Floor, /floor1/Floor, /floor2/Floor, ...)\n"
        "  1 x LpPool: not supported (/pool)\n"
        "  1 x Pow: Pow with exponent 2.5 (/pow)\n"
        "  1 x Mod: not supported (/mod)\n"
        "  1 x Celu: Celu with alpha = -1, which is not above 0 (/celu)\n"
        "  1 x com.example::Fancy: not supported (/fancy)\n"
        "  1 x Hardmax: not supported (s)\n"
        "  1 x Cumulate: not supported (o) [unsupported-operators]\n"
        "  hint: Floor: encrypted values cannot be compared or rounded: apply it after decryption, "
        "or replace by a polynomial\n"
        "        LpPool: replace it by AveragePool and fine-tune\n"
        "        Pow: use an integer exponent from -64 to 64, 0.5 or -0.5\n"
        "        Mod: encrypted values cannot be compared or rounded: apply it after decryption, "
        "or replace by a polynomial\n"
        "        Celu: replace it by a polynomial activation such as x*x or HerPN (models/ shows "
        "how) and fine-tune\n"
        "        com.example::Fancy: rewrite the network with supported operators, or take it off "
        "the exported model\n"
        "        Hardmax: take it off the exported model and apply it after decryption, or "
        "replace by a polynomial\n"
        "        Cumulate: rewrite the network with supported operators, or take it off the "
        "exported model"
    )


BN = {n: np.ones(2) for n in "sbmv"}
FLOATS = {
    "c": np.ones((1, 2, 3)),
    "p": np.array([0, 0, 1, 0, 0, 1]),
    "large": np.array(65.0),
    "minus": np.array([2.0, -2.0, 4.0]),
    "n": np.array([[0]]),
    "s": np.array([1.0, 1.0, 1.5]),
}


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (node("Conv", ["x", "x"]), "encrypted kernel"),
        (node("Conv", ["c", "x"]), "constant input beside an encrypted operand"),
        (node("Pow", ["c", "x"]), "Pow with an encrypted exponent"),
        (node("Pow", ["x", "large"]), "Pow with exponent 65"),
        (node("Pow", ["x", "minus"]), "Pow with exponent -2"),
        (node("LpNormalization", ["x"], p=1), "LpNormalization with p = 1"),
        (node("ReduceL2", ["x"], noop_with_empty_axes=1), "no axes to reduce"),
        (node("Max", ["x"] * 17), "an extreme of 17 values, the limit is 16"),
        (node("MaxPool", ["x"], kernel_shape=[17], pads=[8, 8]),
         "an extreme of 17 values, the limit is 16"),
        (node("MaxPool", ["x"], kernel_shape=[1], pads=[1, 0]),
         "a window that holds nothing but padding"),
        (node("Pad", ["c", "p", "x"]), "constant input beside an encrypted operand"),
        (node("Cast", ["x"], to=TensorProto.INT32), "Cast to a type that is not a float"),
        (node("Gather", ["c", "x"]), "encrypted indices"),
        (node("Expand", ["x", "x"]), "encrypted shape"),
        (node("Where", ["x", "x", "c"]), "encrypted condition"),
        (node("ScatterND", ["x", "n", "x"], reduction="mul"), "reduction mul"),
        (node("RMSNormalization", ["x"]), "no operator of opset 17"),
        (
            node("Resize", ["x", "", "s"], coordinate_transformation_mode="align_corners"),
            "align_corners with a scale that gives 4.5 elements",
        ),
        (node("BatchNormalization", ["x", *BN], training_mode=1), "training mode"),
        (node("BatchNormalization", ["x", "x", *list(BN)[1:]]), "encrypted scale"),
        (node("Dropout", ["x", "", "on"]), "training mode"),
        (node("RandomNormalLike", ["x"]), "not supported"),
    ],
)  # fmt: skip
def test_restrictions(build, bad, reason):
    blob = build(bad, {"x": (1, 2, 3)}, {**BN, **FLOATS, "on": np.array(True)})
    message = text_of(blob).splitlines()
    assert message[:2] == [
        "model: 1 node cannot be compiled:",
        f"  1 x {bad.op_type}: {reason} (y) [unsupported-operators]",
    ]


def test_a_node_without_constants_to_fold(build):
    nodes = [node("RandomNormal", [], ["r"], shape=[3]), node("Add", ["x", "r"])]
    assert text_of(build(nodes, {"x": (3,)})).splitlines()[1] == (
        "  1 x RandomNormal: not supported (r) [unsupported-operators]"
    )


def test_a_reshape_that_does_not_fit(build):
    blob = build(node("Reshape", ["x", "s"]), {"x": (2, 3)}, {"s": np.array([4])})
    assert text_of(blob).splitlines()[1] == (
        "  1 x Reshape: cannot be evaluated: cannot reshape array of size 6 into shape (4,) (y) "
        "[unsupported-operators]"
    )


def test_operands_that_do_not_fit(build):
    blob = build(node("Concat", ["x", "c"], axis=1), {"x": (2, 3)}, {"c": np.ones((3, 3))})
    assert text_of(blob).startswith(
        "model: 1 node cannot be compiled:\n  1 x Concat: cannot be evaluated: "
    )


@pytest.mark.parametrize(
    ("op", "opset", "reason"),
    [
        ("BatchNormalization", 8, "supported from opset 9 on, this is 8"),
        ("Gelu", 19, "no operator of opset 19"),
    ],
)
def test_an_operator_of_another_opset(build, op, opset, reason):
    assert text_of(build(node(op, ["x"]), {"x": (2, 3)}, opset=opset)).splitlines()[1] == (
        f"  1 x {op}: {reason} (y) [unsupported-operators]"
    )


def test_an_input_too_large(build):
    assert text_of(build(node("Neg", ["x"]), {"x": (2**14, 2**14)})) == (
        "model: input x has 268435456 elements, the limit is 16777216 [input-too-large]\n"
        "  hint: give a smaller shape, or cut the input before the network"
    )


@pytest.mark.parametrize(
    "product",
    [
        node("MatMul", ["x", "x"]),
        node("Gemm", ["x", "x"]),
        node("Einsum", ["x", "x"], equation="ij,jk->ik"),
    ],
)
def test_a_product_too_large(build, product):
    assert text_of(build(product, {"x": (102, 102)})) == (
        "model: 1 node cannot be compiled:\n"
        f"  1 x {product.op_type}: 1061208 products of encrypted elements, the limit is 1048576 "
        "(y) [unsupported-operators]\n"
        f"  hint: {product.op_type}: multiply by constant weights, or take smaller matrices: fewer "
        "tokens, fewer or narrower heads"
    )


def test_a_tensor_too_large(build):
    blob = build(node("MatMul", ["x", "w"]), {"x": (2**14, 1)}, {"w": np.ones((1, 2**14))})
    assert text_of(blob).splitlines()[1] == (
        "  1 x MatMul: a tensor too large (y) [unsupported-operators]"
    )


def test_broken_files_give_errors_for_users(build):
    """Files with a few bytes changed import, or raise what a user can read; nothing else."""
    nodes = [
        node("Conv", ["x", "w", "b"], ["c"], pads=[1, 1, 1, 1], strides=[2, 2]),
        node("Mul", ["c", "c"], ["q"]),
        node("BatchNormalization", ["q", "b", "b", "b", "b"], ["n"]),
        node("AveragePool", ["n"], ["p"], kernel_shape=[2, 2], ceil_mode=1),
        node("Pad", ["p", "pads"], ["d"]),
        node("Slice", ["d", "one", "three", "two"], ["s"]),
        node("Flatten", ["s"], ["f"]),
        node("Shape", ["f"], ["shape"]),
        node("Reshape", ["f", "shape"], ["r"]),
        node("Gemm", ["r", "g"], ["h"]),
        node("ReduceMean", ["h"], ["m"], axes=[1]),
        node("Concat", ["h", "m"], ["y"], axis=1),
    ]
    constants = {
        "w": np.ones((2, 3, 3, 3)), "b": np.ones(2), "g": np.ones((16, 3)),
        "pads": np.array([0, 0, 1, 1, 0, 0, 0, 0]),
        "one": np.array([1]), "two": np.array([2]), "three": np.array([3]),
    }  # fmt: skip
    blob = build(nodes, {"x": (1, 3, 8, 8)}, constants)
    random = np.random.default_rng(0)
    outcomes = {"imported": 0, "refused": 0}
    for _ in range(200):
        broken = bytearray(blob)
        for place in random.integers(0, len(blob), random.integers(1, 4)):
            broken[place] ^= 1 << random.integers(0, 8)
        try:
            import_model(bytes(broken))
            outcomes["imported"] += 1
        except FheCompileError:
            outcomes["refused"] += 1
    assert min(outcomes.values()) > 20
