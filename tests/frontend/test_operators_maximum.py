"""Maxima and minima of encrypted values against ONNX Runtime."""

from __future__ import annotations

import math

import numpy as np
import pytest
from onnx import helper

from fhecompile.frontend import import_model
from fhecompile.ir.tensor import Function
from tests.frontend.conftest import build_bytes, needed, node
from tests.frontend.test_errors import text_of

RANDOM = np.random.default_rng(6)


def levels(graph):
    """The most `abs` that lie behind one another."""
    depth = {}
    for n in graph:
        depth[n.name] = max((depth[i] for i in n.inputs), default=0) + isinstance(n, Function)
    assert {n.function for n in graph if isinstance(n, Function)} <= {"abs"}
    return max(depth.values())


@pytest.mark.parametrize("kind", ["Max", "Min"])
@pytest.mark.parametrize(
    "shapes", [[(2, 3), (2, 3)], [(2, 1), (3,)], [(2, 3), (), (2, 1)], [(2, 3)] * 5, [(2, 2)] * 16]
)
def test_several_values(agrees, kind, shapes):
    names = [f"x{i}" for i in range(len(shapes))]
    graph = agrees(node(kind, " ".join(names)), dict(zip(names, shapes, strict=True)))
    assert levels(graph) == math.ceil(math.log2(len(shapes)))


@pytest.mark.parametrize("kind", ["Max", "Min"])
@pytest.mark.parametrize("shape", [(3,), (2, 3), (2, 1), (4, 1, 1), (1, 1, 1)])
def test_a_value_and_constants(agrees, kind, shape):
    constants = {"c": RANDOM.normal(size=shape), "d": RANDOM.normal(size=shape[-1:])}
    graph = agrees(node(kind, "c x d"), {"x": (2, 3)}, constants)
    assert [n.function for n in graph if isinstance(n, Function)] == ["relu"]


def test_two_values_and_a_constant(agrees):
    graph = agrees(node("Max", "x z c"), {"x": (2, 3), "z": (3,)}, {"c": np.arange(3.0) - 1})
    assert [n.function for n in graph if isinstance(n, Function)] == ["abs", "relu"]


@pytest.mark.parametrize(
    ("shape", "attributes"),
    [
        ((1, 2, 4, 4), {"kernel_shape": [2, 2], "strides": [2, 2]}),
        ((2, 3, 5, 4), {"kernel_shape": [3, 2]}),
        ((1, 2, 5, 5), {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}),
        ((1, 1, 6, 6), {"kernel_shape": [2, 3], "dilations": [2, 1]}),
        ((1, 2, 5, 5), {"kernel_shape": [2, 2], "strides": [2, 2], "ceil_mode": 1}),
        ((1, 2, 5, 5), {"kernel_shape": [3, 3], "auto_pad": "SAME_UPPER"}),
        ((1, 2, 5, 5), {"kernel_shape": [2, 2], "auto_pad": "SAME_LOWER", "strides": [3, 2]}),
        ((2, 2, 7), {"kernel_shape": [5], "pads": [2, 1]}),
        ((1, 1, 3, 3, 4), {"kernel_shape": [2, 2, 2]}),
        ((1, 1, 4, 4), {"kernel_shape": [4, 4]}),
        ((1, 1, 4, 4), {"kernel_shape": [1, 1], "strides": [2, 2]}),
    ],
)
def test_max_pool(agrees, shape, attributes):
    graph = agrees(node("MaxPool", "x", **attributes), {"x": shape})
    assert levels(graph) == math.ceil(math.log2(math.prod(attributes["kernel_shape"])))


def test_padding_is_no_value(agrees):
    """Every window of negative numbers has a negative maximum."""
    nodes = [
        node("Sub", "x five", "negative"),
        node("MaxPool", "negative", kernel_shape=[3, 3], pads=[2, 1, 1, 2]),
    ]
    agrees(nodes, {"x": (1, 2, 4, 4)}, {"five": 5.0})


@pytest.mark.parametrize("shape", [(1, 3, 4, 4), (2, 3, 5), (2, 1, 2, 2, 3)])
def test_global_max_pool(agrees, shape):
    graph = agrees(node("GlobalMaxPool", "x"), {"x": shape})
    assert levels(graph) == math.ceil(math.log2(math.prod(shape[2:])))


@pytest.mark.parametrize("kind", ["ReduceMax", "ReduceMin"])
@pytest.mark.parametrize("axes", [[0], [1], [-1], [0, 2], [2, 0], None])
@pytest.mark.parametrize("keep", [0, 1])
def test_reduce(agrees, kind, axes, keep):
    attributes = {"keepdims": keep} | ({} if axes is None else {"axes": axes})
    agrees(node(kind, "x", **attributes), {"x": (2, 3, 2)})
    if axes is not None:
        constants = {"axes": np.array(axes)}
        agrees(node(kind, "x axes", keepdims=keep), {"x": (2, 3, 2)}, constants, opset=18)


def test_reduce_of_no_axes(build):
    """ONNX Runtime does not run it."""
    layer = node("ReduceMax", "x", noop_with_empty_axes=1)
    assert needed(import_model(build(layer, {"x": (2, 3)}, opset=18)).graph) == []


def test_indices_are_refused():
    layer = helper.make_node("MaxPool", ["x"], ["y", "i"], kernel_shape=[2, 2])
    assert text_of(build_bytes(layer, {"x": (1, 1, 4, 4)})) == (
        "model: 1 node cannot be compiled:\n"
        "  1 x MaxPool: the indices of the largest elements (y) [unsupported-operators]\n"
        "  hint: MaxPool: replace it by AveragePool and fine-tune"
    )


@pytest.mark.parametrize("kind", ["ReduceMax", "ReduceMin"])
def test_too_many_elements_are_refused(kind):
    assert text_of(build_bytes(node(kind, "x"), {"x": (3, 6)})) == (
        "model: 1 node cannot be compiled:\n"
        f"  1 x {kind}: an extreme of 18 values, the limit is 16 (y) [unsupported-operators]\n"
        f"  hint: {kind}: replace it by a mean and fine-tune, or take it off the exported model"
    )
