"""The numpy evaluator against sums written out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fhecompile.ckks.linear_map import dense
from fhecompile.errors import InternalError
from fhecompile.ir.evaluate import Substitutes, apply_node, evaluate, walk, walk_variants
from fhecompile.ir.tensor import (
    Add,
    Affine,
    Function,
    Input,
    Mul,
    Node,
    Output,
    Poly,
    TensorGraph,
)

Graphs = Callable[..., st.SearchStrategy[Any]]

X = np.array([[[1.0, 2.0]], [[-3.0, 0.5]]])  # two samples of shape (1, 2)


def test_affine_sums_its_operands_and_a_broadcast_bias() -> None:
    a, b = np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0], [7.0, 8.0]]), np.ones((4, 1))
    node = Affine(
        name="a",
        inputs=("x", "y"),
        shape=(2, 2),
        maps=(dense(a), dense(b)),
        bias=np.array([[10.0], [20.0]]),
    )
    y = np.array([[0.5], [0.25]])
    found = apply_node(node, [X, y])
    for k in range(2):
        product = (a @ X[k].ravel() + y[k]).reshape(2, 2)
        assert np.array_equal(found[k], product + np.array([[10.0], [20.0]]))


def test_poly_broadcasts_its_coefficients() -> None:
    coefficients = np.array([[[1.0, 2.0]], [[0.0, -1.0]], [[3.0, 0.5]]])
    node = Poly(name="p", inputs=("x",), shape=(1, 2), coefficients=coefficients)
    expected = coefficients[0] + coefficients[1] * X + coefficients[2] * X**2
    assert np.array_equal(apply_node(node, [X]), expected)


def test_constant_poly() -> None:
    node = Poly(name="p", inputs=("x",), shape=(1, 2), coefficients=np.array([[[4.0]]]))
    assert np.array_equal(apply_node(node, [X]), np.full(X.shape, 4.0))


def test_mul_spreads_a_single_element() -> None:
    one = np.array([[2.0], [3.0]])
    node = Mul(name="m", inputs=("s", "x"), shape=(1, 2))
    expected = X * one[:, :, None]
    assert np.array_equal(apply_node(node, [one, X]), expected)
    assert np.array_equal(apply_node(node, [X, one]), expected)
    assert np.array_equal(apply_node(node, [X, X]), X**2)


def test_function_of_every_element() -> None:
    node = Function(name="f", inputs=("x",), shape=(1, 2), function="relu")
    assert np.array_equal(apply_node(node, [X]), [[[1.0, 2.0]], [[0.0, 0.5]]])


def test_shares_of_a_function() -> None:
    """A relu with the slopes 1/4 and -1 below zero."""
    share = np.array([[0.75, 2.0]])
    node = Function(name="f", inputs=("x",), shape=(1, 2), function="relu", share=share)
    expected = np.where(X > 0.0, X, np.array([[0.25, -1.0]]) * X)
    assert np.array_equal(apply_node(node, [X]), expected)
    graph = TensorGraph("g")
    for n in (Input(name="x", shape=(1, 2)), node):
        graph.add(n)
    graph.add(Output(name="y", inputs=("f",), shape=(1, 2), label="y"))
    variants: list[Substitutes] = [{}, {"f": np.square}]
    *_, (_, (exact, other)) = walk_variants(graph, {"x": X}, variants)
    assert np.array_equal(exact, expected)
    assert np.array_equal(other, X + share * (X**2 - X))


def test_unknown_node() -> None:
    with pytest.raises(InternalError, match=r"^no evaluation rule for node$"):
        apply_node(Node(name="n", inputs=("x",), shape=(1, 2)), [X])


@pytest.fixture
def graph() -> TensorGraph:
    graph = TensorGraph("g")
    graph.add(Input(name="x", shape=(1, 2)))
    graph.add(Add(name="twice", inputs=("x", "x"), shape=(1, 2)))
    graph.add(Output(name="first", inputs=("x",), shape=(2,), label="same"))
    graph.add(Output(name="second", inputs=("twice",), shape=(1, 2), label="double"))
    return graph


def test_outputs_by_label_in_their_shape(graph: TensorGraph) -> None:
    found = evaluate(graph, {"x": X.reshape(2, 2)})
    assert list(found) == ["same", "double"]
    assert np.array_equal(found["same"], X.reshape(2, 2))
    assert np.array_equal(found["double"], 2 * X)


def test_walk_yields_every_node(graph: TensorGraph) -> None:
    names = [node.name for node, _ in walk(graph, {"x": X})]
    assert names == ["x", "twice", "first", "second"]


@given(data=st.data())
def test_samples_are_independent(tensor_graphs: Graphs, data: st.DataObject) -> None:
    graph = data.draw(tensor_graphs(largest=5, functions=True))
    random = np.random.default_rng(0)
    x = {n.name: random.uniform(-1, 1, (3, *n.shape)) for n in graph.inputs()}
    together = evaluate(graph, x)
    for k in range(3):
        alone = evaluate(graph, {name: value[k : k + 1] for name, value in x.items()})
        for label, value in alone.items():
            assert np.allclose(together[label][k], value[0], rtol=1e-12, atol=1e-12)
