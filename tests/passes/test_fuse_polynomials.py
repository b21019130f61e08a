"""Sums, products and scalings of one value become one polynomial of it."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from fhecompile.ir.depth import measure_depth
from fhecompile.ir.tensor import Poly, TensorGraph
from passes.fuse_polynomials import FusePolynomials
from tests.support import Network, assert_same_function, outline, random_inputs, run_pass

RANDOM = np.random.default_rng(0)


def fuse(before: TensorGraph, bits: float = 45) -> TensorGraph:
    result = run_pass(FusePolynomials(), before)
    after = result.program.graph
    assert_same_function(before, after, random_inputs(before), bits=bits)
    assert measure_depth(after).total <= measure_depth(before).total
    return after


def coefficients(graph: TensorGraph, name: str) -> list[float]:
    """The coefficients of a polynomial that is the same in all elements."""
    node = graph[name]
    assert isinstance(node, Poly)
    assert math.prod(node.coefficients.shape[1:]) == 1
    return node.coefficients.ravel().tolist()


def hermite(order: tuple[int, ...], left_first: bool) -> TensorGraph:
    """g (f0 bn(1) + f1 bn(x) + f2 bn((x x - 1) / sqrt 2)) + s, terms summed in the given order."""
    net = Network(x=(1, 3, 4, 4))
    random = np.random.default_rng(1)

    def norm(x: str, name: str) -> str:
        mean = random.normal(size=3)
        scale, variance = random.uniform(0.5, 2.0, (2, 3))
        return net.batch_norm(x, scale, np.zeros(3), mean, variance, name=name)

    square = net.op("Mul", "x", "x", name="square")
    second = net.op("Div", net.op("Sub", square, 1.0, name="minus"), math.sqrt(2), name="second")
    nothing = net.op("Mul", "x", 0.0, name="nothing")
    terms = [
        norm(net.op("Add", nothing, 1.0, name="one"), "n0"),
        norm("x", "n1"),
        norm(second, "n2"),
    ]
    a, b, c = (net.op("Mul", terms[k], 0.5**k, name=f"term{k}") for k in order)
    if left_first:
        total = net.op("Add", net.op("Add", a, b, name="part"), c, name="total")
    else:
        total = net.op("Add", a, net.op("Add", b, c, name="part"), name="total")
    weight = random.normal(size=(1, 3, 1, 1))
    return net.graph(net.op("Add", net.op("Mul", total, weight, name="scaled"), 0.25, name="y"))


@pytest.mark.parametrize("left_first", [True, False])
@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_hermite_expansion(order: tuple[int, ...], left_first: bool) -> None:
    """Whatever order an exporter writes it in: one quadratic per channel."""
    after = fuse(hermite(order, left_first))
    assert outline(after) == ["y = poly(x)"]
    node = after["y"]
    assert isinstance(node, Poly)
    assert node.coefficients.shape == (3, 1, 3, 1, 1)


def test_remark() -> None:
    result = run_pass(FusePolynomials(), hermite((0, 1, 2), True))
    assert result.remarks == ("1 polynomials fused",)
    again = run_pass(FusePolynomials(), result.program.graph)
    assert (again.modified, again.remarks) == (False, ())


def test_square_of_a_square_keeps_its_depth() -> None:
    """As one quartic it would cost 3 levels."""
    net = Network(x=(1, 4))
    x = net.op("Mul", "x", "x", name="square")
    after = fuse(net.graph(net.op("Mul", x, x, name="y")))
    assert outline(after) == ["square = poly(x)", "y = poly(square)"]
    assert measure_depth(after).total == 2


def test_cube() -> None:
    net = Network(x=(1, 4))
    x = net.op("Mul", net.op("Mul", "x", "x", name="square"), "x", name="y")
    after = fuse(net.graph(x))
    assert outline(after) == ["y = poly(x)"]
    assert coefficients(after, "y") == [0, 0, 0, 1]


def test_two_readers() -> None:
    net = Network(x=(1, 2, 4, 4))
    square = net.op("Add", net.op("Mul", "x", "x", name="square"), "x", name="poly")
    kernels = RANDOM.normal(size=(2, 2, 2, 3, 3))
    a, b = (net.op("Conv", square, k, name=n) for k, n in zip(kernels, "ab", strict=True))
    after = fuse(net.graph(a, b))
    assert outline(after) == ["poly = poly(x)", "a = affine(poly)", "b = affine(poly)"]


def test_inner_value_read_outside() -> None:
    """x^2 is an output and part of x^2 + x: both become polynomials of x."""
    net = Network(x=(1, 4))
    square = net.op("Mul", "x", "x", name="square")
    after = fuse(net.graph(square, net.op("Add", square, "x", name="y")))
    assert outline(after) == ["square = poly(x)", "y = poly(x)"]
    assert coefficients(after, "y") == [0, 1, 1]


def test_division_by_a_constant() -> None:
    net = Network(x=(1, 4))
    y = net.op("Div", net.op("Mul", "x", "x", name="square"), 4.0, name="y")
    after = fuse(net.graph(y))
    assert outline(after) == ["y = poly(x)"]
    assert coefficients(after, "y") == [0, 0, 0.25]


def test_difference_of_two_polynomials() -> None:
    net = Network(x=(1, 4))
    line = net.op("Add", net.op("Mul", "x", 3.0), 1.0)
    after = fuse(net.graph(net.op("Sub", net.op("Mul", "x", "x"), line, name="y")))
    assert outline(after) == ["y = poly(x)"]
    assert coefficients(after, "y") == [-1, -3, 1]


def test_highest_powers_that_cancel() -> None:
    net = Network(x=(1, 4))
    square = net.op("Mul", "x", "x", name="square")
    after = fuse(net.graph(net.op("Sub", net.op("Add", square, "x"), square, name="y")))
    assert outline(after) == ["y = poly(x)"]
    assert coefficients(after, "y") == [0, 1]


def test_linear_functions_stay_linear_maps() -> None:
    net = Network(x=(1, 4))
    before = net.graph(net.op("Sub", net.op("Mul", "x", 3.0), "x", name="y"))
    assert outline(fuse(before)) == outline(before)


def test_coefficients_per_element_broadcast() -> None:
    net = Network(x=(1, 2, 3))
    scale = RANDOM.normal(size=(2, 1))
    y = net.op("Add", net.op("Mul", net.op("Mul", "x", "x"), scale), "x", name="y")
    node = fuse(net.graph(y))["y"]
    assert isinstance(node, Poly)
    assert node.coefficients.shape == (3, 1, 2, 1)


def test_other_values_are_no_polynomial() -> None:
    net = Network(x=(1, 4))
    other = net.op("MatMul", "x", RANDOM.normal(size=(4, 4)), name="other")
    before = net.graph(net.op("Mul", other, "x", name="y"))
    assert outline(fuse(before)) == ["other = affine(x)", "y = mul(other, x)"]


def test_polynomials_of_a_linear_map_stop_there() -> None:
    """Through the matrix product there is no substituting."""
    net = Network(x=(1, 4))
    x = net.op("Mul", "x", "x", name="first")
    x = net.op("MatMul", x, RANDOM.normal(size=(4, 4)), name="between")
    after = fuse(net.graph(net.op("Mul", x, x, name="second")))
    assert outline(after) == [
        "first = poly(x)",
        "between = affine(first)",
        "second = poly(between)",
    ]


def test_polynomials_of_different_values_stay_apart() -> None:
    net = Network(x=(1, 4), z=(1, 4))
    total = net.op("Add", net.op("Mul", "x", "x", name="a"), net.op("Mul", "z", "z", name="b"))
    after = fuse(net.graph(total))
    assert outline(after)[:2] == ["a = poly(x)", "b = poly(z)"]
    assert len(outline(after)) == 3
