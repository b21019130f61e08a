"""The tensor graph: what its verifier refuses, depth, and the forms that cost no product."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fhecompile.ckks.linear_map import (
    LinearMap,
    LinearTerm,
    add,
    dense,
    diagonal,
    identity,
    selection,
)
from fhecompile.errors import InternalError
from fhecompile.ir.depth import measure_depth
from fhecompile.ir.tensor import (
    Add,
    Affine,
    Chebyshev,
    Function,
    Input,
    Mul,
    Node,
    Output,
    Poly,
    TensorGraph,
    elementwise_scale,
    is_product_free,
    node_depth,
    replace_input,
    uniform_identity_weight,
    uniform_sum_weight,
)
from fhecompile.ir.tensor_rules import verify

Graphs = Callable[..., st.SearchStrategy[Any]]


def graph_of(*nodes: Node) -> TensorGraph:
    """A graph of these nodes, unchecked."""
    return TensorGraph("g", {node.name: node for node in nodes})


def affine(name: str, *operands: tuple[str, LinearMap], shape: tuple[int, ...] = (3,)) -> Affine:
    inputs = tuple(operand for operand, _ in operands)
    maps = tuple(m for _, m in operands)
    return Affine(name=name, inputs=inputs, shape=shape, maps=maps, bias=np.zeros(1))


def chebyshev(degree: int) -> Chebyshev:
    c = np.ones((degree + 1, 1))
    return Chebyshev(name="p", inputs=("x",), shape=(3,), coefficients=c)


def poly(name: str, x: str, *coefficients: Any, shape: tuple[int, ...] = (3,)) -> Poly:
    columns = [np.asarray(c, np.float64).reshape(-1) for c in coefficients]
    width = max(c.size for c in columns)
    table = np.stack([np.broadcast_to(c, width) for c in columns])
    return Poly(name=name, inputs=(x,), shape=shape, coefficients=table)


X = Input(name="x", shape=(3,))
EYE = identity(3)
INDEX = np.arange(3, dtype=np.int32)


# ---------------------------------------------------------------------------- verify


@given(data=st.data())
def test_random_graphs_verify(tensor_graphs: Graphs, data: st.DataObject) -> None:
    verify(data.draw(tensor_graphs(functions=True)))


ERRORS = [
    ([affine("a", ("x", EYE)), X], "affine a uses x before it is made"),
    ([replace(X, inputs=("x",))], "input x uses x before it is made"),
    ([X, Input(name="y", shape=(3,), inputs=("x",))], "input y has operands"),
    ([X, affine("a")], "affine a has 0 maps for 0 operands"),
    (
        [X, replace(affine("a", ("x", EYE)), inputs=("x", "x"))],
        "affine a has 1 maps for 2 operands",
    ),
    (
        [X, affine("a", ("x", dense(np.ones((2, 3)))))],
        "affine a has a map 2x3 for (3,) -> (3,)",
    ),
    (
        [X, affine("a", ("x", LinearMap((LinearTerm(np.ones(1), INDEX, INDEX + 1),), 3, 3)))],
        "affine a has a map with an index past its end",
    ),
    (
        [X, affine("a", ("x", LinearMap((LinearTerm(np.ones(1), INDEX + 1, INDEX),), 3, 3)))],
        "affine a has a map with an index past its end",
    ),
    (
        [X, affine("a", ("x", diagonal(np.array([1.0, np.nan, 1.0]), (3,))))],
        "affine a has weights that are not finite",
    ),
    (
        [X, replace(affine("a", ("x", EYE)), bias=np.zeros(2))],
        "affine a has constants of shape (2,) for a value of shape (3,)",
    ),
    (
        [X, replace(affine("a", ("x", EYE)), bias=np.zeros((1, 3)))],
        "affine a has constants of shape (1, 3) for a value of shape (3,)",
    ),
    (
        [X, Poly(name="p", inputs=("x",), shape=(3,), coefficients=np.ones((2, 4)))],
        "poly p has constants of shape (4,) for a value of shape (3,)",
    ),
    ([X, poly("p", "x", 0, 1, shape=(4,))], "poly p maps [(3,)] to (4,)"),
    (
        [X, Function(name="f", inputs=("x",), shape=(4,), function="tanh")],
        "function f maps [(3,)] to (4,)",
    ),
    (
        [X, Function(name="f", inputs=("x", "x"), shape=(3,), function="tanh")],
        "function f maps [(3,), (3,)] to (3,)",
    ),
    (
        [X, Function(name="f", inputs=("x",), shape=(3,), function="sin")],
        "function f has the unknown function sin",
    ),
    (
        [X, Function(name="f", inputs=("x",), shape=(3,), function="relu", share=np.ones(2))],
        "function f has constants of shape (2,) for a value of shape (3,)",
    ),
    ([X, Mul(name="m", inputs=("x",), shape=(3,))], "mul m has 1 operands"),
    ([X, Mul(name="m", inputs=("x", "x"), shape=(2,))], "mul m maps [(3,), (3,)] to (2,)"),
    (
        [X, Input(name="one", shape=(1,)), Add(name="s", inputs=("x", "one"), shape=(3,))],
        "add s maps [(3,), (1,)] to (3,)",
    ),
    (
        [X, Output(name="o", inputs=("x",), shape=(2,), label="y")],
        "output o maps [(3,)] to (2,)",
    ),
    ([Node(name="n", shape=(3,))], "node n is of an unknown kind"),
]


@pytest.mark.parametrize(("nodes", "text"), ERRORS, ids=[text for _, text in ERRORS])
def test_verify_refuses(nodes: list[Node], text: str) -> None:
    with pytest.raises(InternalError) as raised:
        verify(graph_of(*nodes))
    assert str(raised.value) == f"tensor graph g: {text}"


def test_verify_compares_names() -> None:
    with pytest.raises(InternalError) as raised:
        verify(TensorGraph("g", {"y": X}))
    assert str(raised.value) == "tensor graph g: input x is stored under the name y"


def test_verify_lets_a_single_element_multiply() -> None:
    one = Input(name="one", shape=(1,))
    verify(graph_of(X, one, Mul(name="m", inputs=("one", "x"), shape=(3,))))


# ---------------------------------------------------------------------------- building


def test_add_refuses() -> None:
    graph = graph_of(X)
    with pytest.raises(InternalError, match=r"^the tensor graph already has a node x$"):
        graph.add(X)
    with pytest.raises(InternalError, match=r"^p uses y, which does not exist yet$"):
        graph.add(poly("p", "y", 0, 1))


def test_users_and_ends() -> None:
    output = Output(name="o", inputs=("m",), shape=(3,), label="y")
    graph = graph_of(X, Mul(name="m", inputs=("x", "x"), shape=(3,)), output)
    users = graph.users()
    assert {name: [u.name for u in found] for name, found in users.items()} == {
        "x": ["m"],
        "m": ["o"],
        "o": [],
    }
    assert graph.inputs() == [X]
    assert graph.outputs() == [output]


def test_replace_input() -> None:
    node = Mul(name="m", inputs=("x", "y"), shape=(3,))
    assert replace_input(node, "x", "z").inputs == ("z", "y")
    assert replace_input(node, "w", "z").inputs == ("x", "y")
    assert node.inputs == ("x", "y")


@given(data=st.data())
def test_rebuilt_sorts_and_drops_dead_nodes(tensor_graphs: Graphs, data: st.DataObject) -> None:
    graph = data.draw(tensor_graphs(functions=True))
    shuffled = data.draw(st.permutations(list(graph)))
    rebuilt = graph.rebuilt(shuffled)
    verify(rebuilt)
    needed = {n.name for n in graph if isinstance(n, Input | Output)}
    while True:
        more = needed | {name for n in needed for name in graph[n].inputs}
        if more == needed:
            break
        needed = more
    assert set(rebuilt.nodes) == needed
    assert all(rebuilt[name] is graph[name] for name in needed)


def test_rebuilt_keeps_unused_inputs() -> None:
    unused = Input(name="unused", shape=(1,))
    output = Output(name="o", inputs=("x",), shape=(3,), label="y")
    rebuilt = graph_of().rebuilt([output, poly("dead", "x", 0, 1), unused, X])
    assert list(rebuilt.nodes) == ["x", "o", "unused"]


# ---------------------------------------------------------------------------- depth

SUM = dense(np.full((1, 3), 0.5))
DEPTHS = [
    (X, 0),
    (affine("a", ("x", dense(np.arange(9.0).reshape(3, 3)))), 1),
    (affine("a", ("x", diagonal(np.array([1.0, 2.0, 3.0]), (3,)))), 1),
    (affine("a", ("x", selection(np.array([2, 0, 1]), 3))), 1),
    (affine("a", ("x", identity(3))), 0),
    (affine("a", ("x", SUM), shape=(1,)), 0),
    (affine("a", ("x", identity(3)), ("x", identity(3))), 1),
    (poly("p", "x", 5), 0),
    (poly("p", "x", 1, 2), 0),
    (poly("p", "x", 1, [1, 2, 3]), 1),
    (poly("p", "x", 0, 0, 1), 1),
    (poly("p", "x", 0, 0, [1, 2, 3]), 1),
    (poly("p", "x", 0, 0, 0, 1), 2),
    (poly("p", "x", *[0] * 4, 1), 3),
    (poly("p", "x", *[0] * 7, 1), 3),
    (poly("p", "x", *[0] * 8, 1), 4),
    (chebyshev(1), 1),
    (chebyshev(2), 2),
    (chebyshev(31), 5),
    (chebyshev(32), 6),
    (Mul(name="m", inputs=("x", "x"), shape=(3,)), 1),
    (Add(name="s", inputs=("x", "x"), shape=(3,)), 0),
    (Output(name="o", inputs=("x",), shape=(3,), label="y"), 0),
]


@pytest.mark.parametrize(("node", "depth"), DEPTHS)
def test_node_depth(node: Node, depth: int) -> None:
    assert node_depth(node) == depth


def test_depth_of_a_graph() -> None:
    """A shallow and a deep branch meet; the path goes through the deep one."""
    matrix = dense(np.arange(9.0).reshape(3, 3))
    graph = graph_of(
        X,
        affine("shallow", ("x", matrix)),
        affine("deep", ("x", matrix)),
        poly("square", "deep", 0, 0, 1),
        poly("shift", "square", 1, 1),
        Mul(name="gate", inputs=("shallow", "shift"), shape=(3,)),
        Output(name="o", inputs=("gate",), shape=(3,), label="y"),
        Output(name="early", inputs=("shallow",), shape=(3,), label="z"),
    )
    report = measure_depth(graph)
    assert report.depth == {
        "x": 0,
        "shallow": 1,
        "deep": 1,
        "square": 2,
        "shift": 2,
        "gate": 3,
        "o": 3,
        "early": 1,
    }
    assert report.total == 3
    assert report.path == ("deep", "square", "gate")


@given(data=st.data())
def test_path_adds_up(tensor_graphs: Graphs, data: st.DataObject) -> None:
    graph = data.draw(tensor_graphs(functions=True))
    report = measure_depth(graph)
    deepest = max(report.depth[n.name] for n in graph.outputs())
    assert sum(node_depth(graph[name]) for name in report.path) == deepest


# ---------------------------------------------------------------------------- uniform maps


def one(m: LinearMap, shape: tuple[int, ...] = (3,)) -> Affine:
    return affine("a", ("x", m), shape=shape)


def test_uniform_sum_weight() -> None:
    assert uniform_sum_weight(one(SUM, (1,))) == 0.5
    assert uniform_sum_weight(one(SUM, (1, 1))) == 0.5
    parts = [selection(np.array([k]), 3, 2.0) for k in range(3)]
    assert uniform_sum_weight(one(add(parts), (1,))) == 2.0
    uneven = dense(np.array([[1.0, 1.0, 2.0]]))
    partial = dense(np.array([[1.0, 1.0, 0.0]]))
    twice = add([selection(np.array([0]), 3)] * 3)
    zero = dense(np.zeros((1, 3)))
    for other in (uneven, partial, twice, zero):
        assert uniform_sum_weight(one(other, (1,))) is None
    assert uniform_sum_weight(one(dense(np.ones((3, 3))))) is None
    assert uniform_sum_weight(affine("a", ("x", SUM), ("y", SUM), shape=(1,))) is None


def test_uniform_identity_weight() -> None:
    assert uniform_identity_weight(one(identity(3))) == 1.0
    assert uniform_identity_weight(one(diagonal(np.array([-2.5]), (3,)))) == -2.5
    assert uniform_identity_weight(one(dense(np.diag([3.0, 3.0, 3.0])))) is None  # 9 points
    assert uniform_identity_weight(one(diagonal(np.array([1.0, 2.0, 1.0]), (3,)))) is None
    assert uniform_identity_weight(one(diagonal(np.zeros(1), (3,)))) is None
    assert uniform_identity_weight(one(selection(np.array([1, 0, 2]), 3))) is None
    assert uniform_identity_weight(one(selection(np.array([0, 1, -1]), 3))) is None
    assert uniform_identity_weight(affine("a", ("x", EYE), ("y", EYE))) is None


def test_elementwise_scale() -> None:
    scale = np.array([1.0, 2.0])[:, None]
    node = one(diagonal(scale, (2, 3)), (2, 3))
    found = elementwise_scale(node)
    assert found is not None and np.array_equal(found, scale)
    assert elementwise_scale(one(dense(np.ones((3, 3))))) is None
    assert elementwise_scale(X) is None
    dropped = elementwise_scale(one(selection(np.array([0, 1, -1]), 3)))
    assert dropped is None or dropped.ravel().tolist() == [1.0, 1.0, 0.0]


@given(data=st.data())
def test_product_free_maps_are_what_they_say(tensor_graphs: Graphs, data: st.DataObject) -> None:
    for node in data.draw(tensor_graphs()):
        if not isinstance(node, Affine) or not is_product_free(node):
            continue
        x = np.linspace(-1, 2, node.maps[0].in_size)[None]
        weight, total = uniform_identity_weight(node), uniform_sum_weight(node)
        expected = x * weight if weight is not None else x.sum(axis=1, keepdims=True) * total
        assert np.allclose(node.maps[0].apply(x), expected)
