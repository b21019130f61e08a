"""Matrix products and batch normalisation against ONNX Runtime."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from onnx import helper

RANDOM = np.random.default_rng(4)
PRODUCTS = [
    ((2, 3), (3, 4)),
    ((3,), (3, 4)),
    ((2, 3), (3,)),
    ((3,), (3,)),
    ((5, 2, 3), (3, 4)),
    ((2, 3), (5, 3, 4)),
    ((5, 2, 3), (5, 3, 4)),
    ((2, 1, 2, 3), (5, 3, 4)),
    ((5, 2, 3), (3,)),
    ((3,), (5, 3, 4)),
]


@pytest.mark.parametrize(("a", "b"), PRODUCTS)
@pytest.mark.parametrize("encrypted", ["a", "b"])
def test_matmul(agrees, a, b, encrypted):
    shapes = {"a": a, "b": b}
    constant = "b" if encrypted == "a" else "a"
    graph = agrees(
        helper.make_node("MatMul", ["a", "b"], ["y"]),
        {encrypted: shapes[encrypted]},
        {constant: RANDOM.normal(size=shapes[constant])},
    )
    (term,) = graph["y"].maps[0].terms
    assert term.values.size == np.prod(shapes[constant])


@pytest.mark.parametrize(("a", "b"), PRODUCTS)
def test_matmul_of_two_encrypted_operands(agrees, a, b):
    graph = agrees(helper.make_node("MatMul", ["a", "b"], ["y"]), {"a": a, "b": b})
    assert [n.op for n in graph].count("mul") == 1
    left, right = np.empty(a), np.empty(b)
    assert graph["y.products"].size == (left @ right).size * a[-1]


def test_a_product_with_itself_copies_it_twice(agrees):
    nodes = [
        helper.make_node("Transpose", ["x"], ["t"], perm=[1, 0]),
        helper.make_node("MatMul", ["x", "t"], ["y"]),
    ]
    agrees(nodes, {"x": (3, 4)})


@pytest.mark.parametrize(
    ("trans_a", "trans_b", "encrypted"), list(itertools.product([0, 1], [0, 1], ["a", "b", "ab"]))
)
@pytest.mark.parametrize("bias", [None, (), (4,), (2, 1), (1, 4), (2, 4)])
def test_gemm(agrees, trans_a, trans_b, encrypted, bias):
    shapes = {"a": (3, 2) if trans_a else (2, 3), "b": (4, 3) if trans_b else (3, 4)}
    constants = {n: RANDOM.normal(size=shapes[n]) for n in "ab" if n not in encrypted}
    if bias is not None:
        constants["c"] = RANDOM.normal(size=bias)
    node = helper.make_node(
        "Gemm",
        ["a", "b", "c"][: 2 + (bias is not None)],
        ["y"],
        alpha=0.7,
        beta=-1.3,
        transA=trans_a,
        transB=trans_b,
    )
    agrees(node, {n: shapes[n] for n in encrypted}, constants)


@pytest.mark.parametrize("bias", [(), (4,), (2, 1), (2, 4)])
def test_gemm_with_encrypted_addend(agrees, bias):
    node = helper.make_node("Gemm", ["a", "b", "c"], ["y"], alpha=2.0, beta=0.5)
    weights = {"b": RANDOM.normal(size=(3, 4))}
    graph = agrees(node, {"a": (2, 3), "c": bias}, weights)
    assert graph["y"].inputs == ("a", "c")
    weights["a"] = RANDOM.normal(size=(2, 3))
    agrees(node, {"c": bias}, weights)
    agrees(node, {"a": (2, 3), "b": (3, 4), "c": bias})


def test_gemm_weights_keep_double_precision(agrees):
    node = helper.make_node("Gemm", ["a", "b"], ["y"], alpha=0.1)
    weights = RANDOM.normal(size=(3, 4)).astype(np.float32)
    graph = agrees(node, {"a": (1, 3)}, {"b": weights})
    alpha = float(np.float32(0.1))
    np.testing.assert_array_equal(
        np.sort(graph["y"].maps[0].terms[0].values, axis=None),
        np.sort(alpha * weights.astype(np.float64), axis=None),
    )


@pytest.mark.parametrize("shape", [(1, 5), (1, 5, 3, 3), (2, 5, 4)])
@pytest.mark.parametrize("opset", [13, 14, 15, 21])
def test_batch_normalization(agrees, shape, opset):
    names = ["s", "b", "m", "v"]
    constants = {n: RANDOM.normal(size=5) for n in names}
    constants["v"] = np.abs(constants["v"])
    node = helper.make_node("BatchNormalization", ["x", *names], ["y"], epsilon=1e-3)
    graph = agrees(node, {"x": shape}, constants, opset=opset)
    (term,) = graph["y"].maps[0].terms
    assert term.values.size == graph["y"].bias.size == 5
