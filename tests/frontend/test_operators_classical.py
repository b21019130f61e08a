"""Scaler, LinearRegressor and LinearClassifier of ai.onnx.ml against ONNX Runtime."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from fhecompile.errors import FheCompileError
from fhecompile.frontend import import_model
from fhecompile.frontend.reference import run_reference_samples
from fhecompile.ir.evaluate import evaluate
from tests.frontend.conftest import needed

RANDOM = np.random.default_rng(0)
FEATURES, CLASSES = 4, 3
LINEAR: dict[str, Any] = {
    "coefficients": RANDOM.normal(size=CLASSES * FEATURES).tolist(),
    "intercepts": [0.5, -1.0, 2.0],
}
CLASSIFIER: dict[str, Any] = {**LINEAR, "classlabels_ints": [3, 1, 2]}


def build(
    kind: str,
    attributes: Mapping[str, Any],
    shape: Sequence[int] = (2, FEATURES),
    outputs: Mapping[str, int] | None = None,
) -> bytes:
    """A model of one node; the outputs are the model's, by their type."""
    found = {"y": TensorProto.FLOAT} if outputs is None else outputs
    names = ["label", "y"] if kind == "LinearClassifier" else ["y"]
    node = helper.make_node(kind, ["x"], names, name="n", domain="ai.onnx.ml", **attributes)
    graph = helper.make_graph(
        [node],
        "classical",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(name, dtype, None) for name, dtype in found.items()],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 1)]
    return bytes(helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString())


@pytest.mark.parametrize(
    ("kind", "attributes", "nodes"),
    [
        (
            "Scaler",
            {"offset": [1.0, -2.0, 0.0, 3.0], "scale": [1.0, 0.5, -2.0, 0.0]},
            ["y: affine"],
        ),
        ("Scaler", {"offset": [1.5], "scale": [0.5]}, ["y: affine"]),
        ("LinearRegressor", {**LINEAR, "targets": CLASSES}, ["y: affine"]),
        ("LinearRegressor", {"coefficients": [1.0, 2.0, -0.5, 0.0]}, ["y: affine"]),
        ("LinearClassifier", {**CLASSIFIER, "multi_class": 1}, ["y: affine"]),
        (
            "LinearClassifier",
            {**LINEAR, "classlabels_strings": ["a", "b", "c"], "post_transform": "LOGISTIC"},
            ["y.linear: affine", "y: sigmoid"],
        ),
    ],
)
def test_as_onnx_runtime(kind: str, attributes: dict[str, Any], nodes: list[str]) -> None:
    blob = build(kind, attributes)
    graph = import_model(blob).graph
    assert needed(graph) == nodes
    x = RANDOM.uniform(-2, 2, (5, 2, FEATURES)).astype(np.float32)
    expected = run_reference_samples(blob, {"x": x})["y"]
    found = evaluate(graph, {"x": x})["y"]
    assert found.shape == expected.shape
    assert np.ptp(expected) > 0.5
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


def refusal(blob: bytes) -> str:
    with pytest.raises(FheCompileError) as caught:
        import_model(blob)
    return str(caught.value)


RAW = (
    "  hint: ai.onnx.ml::LinearClassifier: export it with options={id(classifier): "
    "{'raw_scores': True}} and take those (--output-name); their largest is found after decryption"
)


def test_a_class_is_no_score() -> None:
    blob = build(
        "LinearClassifier",
        CLASSIFIER,
        outputs={"label": TensorProto.INT64, "y": TensorProto.FLOAT},
    )
    assert refusal(blob) == (
        "model: 1 node cannot be compiled:\n"
        "  1 x ai.onnx.ml::LinearClassifier: label is a class, not a score (n) "
        f"[unsupported-operators]\n{RAW}\n"
        "        --output-name y leaves out what cannot be compiled"
    )
    assert needed(import_model(blob, outputs=["y"]).graph) == ["y: affine"]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"post_transform": "SOFTMAX"}, "post_transform SOFTMAX"),
        (
            {"coefficients": [1.0] * FEATURES, "classlabels_ints": [0, 1], "intercepts": [0.0]},
            "one score for two classes",
        ),
    ],
)
def test_scores_that_are_not_computed(change: dict[str, Any], reason: str) -> None:
    assert refusal(build("LinearClassifier", {**CLASSIFIER, **change})) == (
        "model: 1 node cannot be compiled:\n"
        f"  1 x ai.onnx.ml::LinearClassifier: {reason} (n) [unsupported-operators]\n{RAW}"
    )


@pytest.mark.parametrize(
    ("kind", "attributes", "shape", "reason"),
    [
        ("Scaler", {"offset": [0.0, 1.0]}, (2, 4), "offset of 2 numbers for an input (2, 4)"),
        ("Scaler", {"scale": [1]}, (2, 4), "attribute scale is not of type FLOATS"),
        ("LinearRegressor", {}, (2, 4), "attribute coefficients is not of type FLOATS"),
        ("LinearRegressor", LINEAR, (2, 4, 1), "an input (2, 4, 1), not a matrix"),
        (
            "LinearRegressor",
            {**LINEAR, "targets": 2},
            (2, 4),
            "12 coefficients and 3 intercepts for 2 results of an input (2, 4)",
        ),
    ],
)
def test_nodes_that_break_onnx(
    kind: str, attributes: dict[str, Any], shape: Sequence[int], reason: str
) -> None:
    assert refusal(build(kind, attributes, shape)) == (
        f"n: {kind}: {reason} [invalid-model]\n"
        "  hint: check the file with onnx.checker.check_model and export it again"
    )


@pytest.mark.parametrize("optional", [False, True])
def test_scores_in_a_map(optional: bool) -> None:
    """What skl2onnx gives by default: a list of dictionaries from class to score."""
    model = onnx.load_model_from_string(build("LinearClassifier", CLASSIFIER))
    node = helper.make_node(
        "ZipMap", ["y"], ["map"], domain="ai.onnx.ml", classlabels_int64s=[3, 1, 2]
    )
    model.graph.node.append(node)
    kind = helper.make_map_type_proto(
        TensorProto.INT64, helper.make_tensor_type_proto(TensorProto.FLOAT, [])
    )
    kind = helper.make_sequence_type_proto(kind)
    if optional:
        kind = helper.make_optional_type_proto(kind)
    model.graph.output[0].CopyFrom(helper.make_value_info("map", kind))
    assert refusal(model.SerializeToString()) == (
        "model: 1 node cannot be compiled:\n"
        "  1 x ai.onnx.ml::ZipMap: not supported (map) [unsupported-operators]\n"
        "  hint: ai.onnx.ml::ZipMap: take the scores (--output-name); their largest is found after "
        "decryption\n"
        "        --output-name y leaves out what cannot be compiled"
    )
    assert needed(import_model(model.SerializeToString(), outputs=["y"]).graph) == ["y: affine"]
