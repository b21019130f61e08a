"""Arithmetic with broadcasting against ONNX Runtime."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import helper

from fhecompile.ir.tensor import Mul, Poly

RANDOM = np.random.default_rng(3)
SHAPES = [
    ((1, 4, 3, 3), (1, 4, 3, 3)),
    ((1, 4, 3, 3), (4, 1, 1)),
    ((1, 4, 3, 3), ()),
    ((3, 3), (2, 4, 3, 3)),
    ((1, 4, 1, 1), (1, 4, 3, 3)),
    ((4, 1), (1, 3)),
    ((1, 1), (1, 5)),
    ((1,), (1, 1)),
]


@pytest.mark.parametrize(("a", "b"), SHAPES)
@pytest.mark.parametrize("op", ["Add", "Sub", "Mul"])
def test_two_values(agrees, op, a, b):
    agrees(helper.make_node(op, ["a", "b"], ["y"]), {"a": a, "b": b})
    agrees(helper.make_node(op, ["b", "a"], ["y"]), {"a": a, "b": b})


@pytest.mark.parametrize(("value", "constant"), SHAPES)
@pytest.mark.parametrize("op", ["Add", "Sub", "Mul", "Div"])
def test_value_and_constant(agrees, op, value, constant):
    c = RANDOM.uniform(0.5, 2, constant)
    graph = agrees(helper.make_node(op, ["x", "c"], ["y"]), {"x": value}, {"c": c})
    assert [n.op for n in graph] == ["input", "affine", "output"]


@pytest.mark.parametrize(("value", "constant"), SHAPES)
@pytest.mark.parametrize("op", ["Add", "Sub", "Mul"])
def test_constant_and_value(agrees, op, value, constant):
    c = RANDOM.uniform(0.5, 2, constant)
    graph = agrees(helper.make_node(op, ["c", "x"], ["y"]), {"x": value}, {"c": c})
    assert [n.op for n in graph] == ["input", "affine", "output"]


def test_sub_of_two_values_is_one_affine(agrees):
    node = helper.make_node("Sub", ["a", "b"], ["y"])
    graph = agrees(node, {"a": (1, 3, 2), "b": (3, 1)})
    assert [n.op for n in graph] == ["input", "input", "affine", "output"]


def test_mul_by_itself_is_one_mul(agrees):
    graph = agrees(helper.make_node("Mul", ["x", "x"], ["y"]), {"x": (1, 4)})
    assert isinstance(graph["y"], Mul)
    assert graph["y"].inputs == ("x", "x")


def test_mul_with_a_single_element_needs_no_expansion(agrees):
    graph = agrees(helper.make_node("Mul", ["x", "s"], ["y"]), {"x": (1, 4), "s": (1, 1)})
    assert [n.op for n in graph] == ["input", "input", "mul", "output"]


def test_mul_and_add_expand_the_smaller_value(agrees):
    graph = agrees(helper.make_node("Mul", ["x", "s"], ["y"]), {"x": (2, 4), "s": (2, 1)})
    assert [n.name for n in graph] == ["x", "s", "y.expand", "y", "y.output"]
    graph = agrees(helper.make_node("Add", ["x", "s"], ["y"]), {"x": (2, 4), "s": (1, 1)})
    assert [n.op for n in graph] == ["input", "input", "affine", "add", "output"]


def test_channel_scale_is_stored_once(agrees):
    c = RANDOM.normal(size=(8, 1, 1))
    graph = agrees(helper.make_node("Mul", ["x", "c"], ["y"]), {"x": (1, 8, 6, 6)}, {"c": c})
    (term,) = graph["y"].maps[0].terms
    assert term.values.shape == (8, 1, 1)
    assert term.in_index.shape == (8, 6, 6)


def test_constant_that_repeats_is_stored_once(agrees):
    c = np.broadcast_to(RANDOM.normal(size=(1, 8, 1, 1)), (1, 8, 6, 6))
    graph = agrees(helper.make_node("Add", ["x", "c"], ["y"]), {"x": (1, 8, 6, 6)}, {"c": c})
    assert graph["y"].bias.shape == (1, 8, 1, 1)


@pytest.mark.parametrize("exponent", [2.0, [2.0], 3.0, 7.0, np.int64(2)])
def test_pow(agrees, exponent):
    node = helper.make_node("Pow", ["x", "p"], ["y"])
    graph = agrees(node, {"x": (1, 3, 2)}, {"p": exponent})
    assert isinstance(graph["y"], Poly)
    assert graph["y"].degree == np.max(exponent)


@pytest.mark.parametrize("exponent", [33, 64])
def test_large_powers(agrees, exponent):
    nodes = [
        helper.make_node("Mul", ["x", "half"], ["h"]),
        helper.make_node("Pow", ["h", "p"], ["y"]),
    ]
    graph = agrees(nodes, {"x": (2, 3)}, {"half": 0.5, "p": float(exponent)})
    assert graph["y"].degree == exponent


@pytest.mark.parametrize("exponent", [-1, -2, -7])
def test_negative_powers(agrees, exponent):
    nodes = [
        helper.make_node("Mul", ["x", "x"], ["q"]),
        helper.make_node("Add", ["q", "one"], ["t"]),
        helper.make_node("Pow", ["t", "p"], ["y"]),
    ]
    graph = agrees(nodes, {"x": (2, 3)}, {"one": 1.0, "p": float(exponent)})
    assert [n.op for n in graph][3:-1] == ["function", "poly"][: 1 + (exponent < -1)]


@pytest.mark.parametrize(("a", "b"), SHAPES)
def test_div_of_two_values(agrees, a, b):
    nodes = [
        helper.make_node("Mul", ["b", "b"], ["q"]),
        helper.make_node("Add", ["q", "one"], ["t"]),
        helper.make_node("Div", ["a", "t"], ["y"]),
        helper.make_node("Mul", ["a", "a"], ["r"]),
        helper.make_node("Add", ["r", "one"], ["s"]),
        helper.make_node("Div", ["b", "s"], ["z"]),
    ]
    agrees(nodes, {"a": a, "b": b}, {"one": 1.0}, ["y", "z"])


def test_pow_one_is_the_value(agrees):
    node = helper.make_node("Pow", ["x", "p"], ["y"])
    assert [n.op for n in agrees(node, {"x": (1, 3)}, {"p": 1.0})] == ["input", "output"]


@pytest.mark.parametrize("exponents", [[0.0, 1.0, 3.0], [[2.0], [5.0]], [[0.0], [1.0]]])
def test_pow_of_several_integers(agrees, exponents):
    node = helper.make_node("Pow", ["x", "p"], ["y"])
    graph = agrees(node, {"x": (2, 1, 3)}, {"p": exponents})
    assert graph["y"].degree == np.max(exponents)


def test_pow_zero_is_one(agrees):
    nodes = [
        helper.make_node("Pow", ["x", "p"], ["one"]),
        helper.make_node("Add", ["x", "one"], ["y"]),
    ]
    agrees(nodes, {"x": (2, 3)}, {"p": 0.0})


@pytest.mark.parametrize("op", ["Sum", "Mean"])
@pytest.mark.parametrize(
    "shapes", [[(2, 3)], [(2, 3), (3,)], [(2, 1), (1, 3), ()], [(1,), (2, 3), (2, 3), (1, 3)]]
)
def test_any_number_of_values(agrees, op, shapes):
    names = "abcd"[: len(shapes)]
    node = helper.make_node(op, list(names), ["y"])
    agrees(node, dict(zip(names, shapes, strict=True)))
    for constant in range(1, len(shapes)):
        constants = {n: RANDOM.normal(size=s) for n, s in zip(names, shapes, strict=True)}
        values = {n: constants.pop(n).shape for n in names[:constant]}
        agrees(node, values, constants)


def test_a_sum_is_additions(agrees):
    node = helper.make_node("Sum", ["a", "b", "c"], ["y"])
    graph = agrees(node, dict.fromkeys("abc", (2, 3)))
    assert [n.name for n in graph] == ["a", "b", "c", "y.sum2", "y", "y.output"]
    assert {n.op for n in graph} == {"input", "add", "output"}


def test_neg(agrees):
    graph = agrees(helper.make_node("Neg", ["x"], ["y"]), {"x": (1, 3, 2)})
    assert graph["y"].maps[0].terms[0].values.size == 1
