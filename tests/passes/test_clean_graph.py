"""Identities, dead nodes and common subexpressions disappear."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from fhecompile.ckks import linear_map
from fhecompile.ir.tensor import Affine, Function, Input, Output, TensorGraph
from passes.clean_graph import CleanGraph
from tests.graphs import Builder
from tests.support import Network, assert_same_function, outline, random_inputs, run_pass

RANDOM = np.random.default_rng(0)


def clean(before: TensorGraph) -> tuple[list[str], tuple[str, ...]]:
    """Outline and remarks; checks that function and a second run change nothing."""
    result = run_pass(CleanGraph(), before)
    after = result.program.graph
    assert_same_function(before, after, random_inputs(before), bits=50)
    assert result.modified == bool(result.remarks)
    assert not run_pass(CleanGraph(), after).modified
    return outline(after), result.remarks


def test_identity() -> None:
    net = Network(x=(1, 2, 3, 3))
    same = net.op("Mul", net.op("Add", "x", 0.0, name="plus"), 1.0, name="times")
    square = net.op("Mul", same, same, name="square")
    assert clean(net.graph(square)) == (["square = mul(x, x)"], ("2 of 5 nodes dropped",))


def test_identity_that_reshapes_for_a_linear_map() -> None:
    net = Network(x=(1, 2, 3, 3))
    flat = net.op("Mul", net.op("Flatten", "x"), 1.0, name="flat")
    y = net.op("MatMul", flat, RANDOM.normal(size=(18, 4)), name="y")
    assert clean(net.graph(y))[0] == ["y = affine(x)"]


def test_identity_that_reshapes_for_a_product_stays() -> None:
    """Elementwise nodes keep their operand's shape, so the reshape has to be a node."""
    net = Network(x=(1, 2, 3, 3))
    flat = net.op("Mul", net.op("Flatten", "x"), 1.0, name="flat")
    y = net.op("Mul", flat, flat, name="y")
    assert clean(net.graph(y)) == (["flat = affine(x)", "y = mul(flat, flat)"], ())


def test_scale_and_shift_are_no_identities() -> None:
    net = Network(x=(1, 4))
    y = net.op("Add", net.op("Mul", "x", -1.0, name="minus"), 0.5, name="shift")
    assert clean(net.graph(y))[0] == ["minus = affine(x)", "shift = affine(minus)"]


def test_permutation_is_no_identity() -> None:
    net = Network(x=(1, 3, 3))
    y = net.op("Transpose", "x", perm=[0, 2, 1], name="turned")
    assert clean(net.graph(y))[0] == ["turned = affine(x)"]


def test_common_subexpressions() -> None:
    net = Network(x=(1, 2, 4, 4))
    kernel, other = RANDOM.normal(size=(2, 3, 2, 3, 3))
    a, b = (net.op("Conv", "x", kernel, name=name) for name in ("a", "b"))
    c = net.op("Conv", "x", other, name="c")
    ab, ba = net.op("Mul", a, c, name="ab"), net.op("Mul", c, b, name="ba")
    y = net.op("Add", ab, ba, name="y")
    expected = ["a = affine(x)", "c = affine(x)", "ab = mul(a, c)", "y = add(ab, ab)"]
    assert clean(net.graph(y)) == (expected, ("2 of 8 nodes dropped",))


def test_equal_polynomials() -> None:
    net = Network(x=(1, 4))
    squares = [net.op("Pow", "x", 2.0, name=name) for name in "ab"]
    cube = net.op("Pow", "x", 3.0, name="c")
    y = net.op("Add", net.op("Add", *squares, name="sum"), cube, name="y")
    expected = ["a = poly(x)", "sum = add(a, a)", "c = poly(x)", "y = add(sum, c)"]
    assert clean(net.graph(y))[0] == expected


def test_equal_functions() -> None:
    b = Builder()
    b.input("x", 1, 4)
    for name, function in (("a", "tanh"), ("b", "tanh"), ("c", "relu")):
        b.function(name, "x", function)
    b.sum("ab", "a", "b")
    graph = b.output(b.sum("y", "ab", "c"))
    expected = ["a = function(x)", "ab = add(a, a)", "c = function(x)", "y = add(ab, c)"]
    assert clean(graph)[0] == expected


def test_functions_of_different_shares_stay() -> None:
    b = Builder()
    b.input("x", 1, 4)
    for name, share in (("a", [0.5]), ("b", [0.5]), ("c", [0.75])):
        node = Function(
            name=name, inputs=("x",), shape=(1, 4), function="relu", share=np.array(share)
        )
        b.graph.add(node)
    b.sum("ab", "a", "b")
    expected = ["a = function(x)", "ab = add(a, a)", "c = function(x)", "y = add(ab, c)"]
    assert clean(b.output(b.sum("y", "ab", "c")))[0] == expected


def test_dead_nodes() -> None:
    graph = TensorGraph("dead")
    graph.add(Input(name="x", shape=(4,)))
    for name in ("dead", "deader"):
        one = Affine(
            name=name,
            inputs=("x",),
            shape=(4,),
            maps=(linear_map.diagonal(RANDOM.normal(size=4), (4,)),),
            bias=np.zeros(1),
        )
        graph.add(one)
    graph.add(replace(one, name="deadest", inputs=("deader",)))
    graph.add(Input(name="unused", shape=(2,)))
    graph.add(Output(name="y", inputs=("x",), shape=(4,), label="y"))
    cleaned = run_pass(CleanGraph(), graph)
    # An input stays even when nothing reads it: the client still sends it.
    assert list(cleaned.program.graph.nodes) == ["x", "unused", "y"]
    assert cleaned.remarks == ("3 of 6 nodes dropped",)


def test_terms_count_for_the_operand_they_belong_to() -> None:
    """The same terms in the same order, once two of them for x and once two for y."""
    first, second, third = (linear_map.dense(np.eye(3) * k) for k in (1.0, 2.0, 3.0))
    graph = TensorGraph("g")
    graph.add(Input(name="x", shape=(1, 3)))
    graph.add(Input(name="y", shape=(1, 3)))
    for name, maps in (("a", ([first, second], [third])), ("b", ([first], [second, third]))):
        made = tuple(linear_map.add(m) for m in maps)
        node = Affine(name=name, inputs=("x", "y"), shape=(1, 3), maps=made, bias=np.zeros(1))
        graph.add(node)
        graph.add(Output(name=f"out.{name}", inputs=(name,), shape=(1, 3), label=name))
    after = run_pass(CleanGraph(), graph).program.graph
    assert_same_function(graph, after, random_inputs(graph), bits=50)
