"""Softmax and LogSoftmax against ONNX Runtime."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import helper

from fhecompile.frontend import import_model
from fhecompile.ir.evaluate import evaluate
from tests.frontend.conftest import needed

FUNCTIONS = {"Softmax": "inverse: reciprocal", "LogSoftmax": "log: log"}


@pytest.mark.parametrize("kind", FUNCTIONS)
@pytest.mark.parametrize("axis", [0, 1, 2, -1, -2, None])
@pytest.mark.parametrize("opset", [11, 13, 17])
def test_axes(agrees, kind, axis, opset):
    attributes = {} if axis is None else {"axis": axis}
    graph = agrees(
        helper.make_node(kind, ["x"], ["y"], **attributes), {"x": (2, 3, 4)}, opset=opset
    )
    made = needed(graph)
    assert made[:4] == ["y.mean: affine", "y.centred: affine", "y.exp: exp", "y.sum: affine"]
    assert made[4] == f"y.{FUNCTIONS[kind]}"


@pytest.mark.parametrize("kind", FUNCTIONS)
def test_large_values_do_not_overflow(build, kind):
    graph = import_model(build(helper.make_node(kind, ["x"], ["y"]), {"x": (1, 4)})).graph
    x = 1e5 + np.arange(4.0).reshape(1, 1, 4)
    expected = np.exp(np.arange(4.0)) / np.exp(np.arange(4.0)).sum()
    expected = np.log(expected) if kind == "LogSoftmax" else expected
    np.testing.assert_allclose(evaluate(graph, {"x": x})["y"][0, 0], expected, rtol=1e-9)


@pytest.mark.parametrize(("kind", "value"), [("Softmax", 1.0), ("LogSoftmax", 0.0)])
def test_along_an_axis_of_one_element(agrees, kind, value):
    nodes = [helper.make_node(kind, ["x"], ["s"]), helper.make_node("Add", ["x", "s"], ["y"])]
    graph = agrees(nodes, {"x": (3, 1)})
    assert needed(graph) == ["y: affine"]
    assert graph["y"].bias.item() == value
