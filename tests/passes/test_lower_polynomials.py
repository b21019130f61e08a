"""Polynomials become products and maps, in depth ceil(log2(d + 1))."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fhecompile.ir.depth import measure_depth
from fhecompile.ir.tensor import Affine, Chebyshev, Poly, TensorGraph
from passes.lower_polynomials import LowerPolynomials, count_products
from tests.graphs import Builder, of_kind
from tests.support import assert_same_function, random_inputs, run_pass


def polynomial(coefficients: np.ndarray) -> TensorGraph:
    """p(x) for coefficients (degree + 1,) or (degree + 1, channels)."""
    b = Builder()
    b.input("x", 1, 3)
    b.poly("p", "x", *coefficients)
    return b.output("p")


def lower(before: TensorGraph) -> TensorGraph:
    after = run_pass(LowerPolynomials(), before).program.graph
    assert_same_function(before, after, random_inputs(before), bits=40)
    for p in of_kind(after, Poly):
        assert p.degree in (1, 2)
        assert p.leading_is_uniform()
        assert p.coefficients[-1].flat[0] != 0
    return after


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("degree", range(1, 10))
def test_depth_is_that_of_the_degree(degree: int, channels: int) -> None:
    coefficients = np.random.default_rng(degree).normal(size=(degree + 1, channels))
    after = lower(polynomial(coefficients))
    depth = measure_depth(after).total
    assert depth <= math.ceil(math.log2(degree + 1))
    if channels == 1 and degree > 2 and degree + 1 < 2 ** math.ceil(math.log2(degree + 1)):
        assert depth >= math.ceil(math.log2(degree))


def chebyshev(coefficients: np.ndarray) -> TensorGraph:
    """The sum of T_k(x) with coefficients (degree + 1,) or (degree + 1, channels)."""
    table = coefficients.reshape(len(coefficients), 1, -1)
    b = Builder()
    b.input("x", 1, 3)
    b.graph.add(Chebyshev(name="p", inputs=("x",), shape=(1, 3), coefficients=table))
    return b.output("p")


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("degree", [1, 2, 3, 4, 5, 7, 11, 15, 16, 30, 31, 63, 100, 127, 255])
@pytest.mark.parametrize("parity", ["odd", "even", "all"])
def test_chebyshev_sums(degree: int, channels: int, parity: str) -> None:
    coefficients = np.random.default_rng(degree).normal(size=(degree + 1, channels))
    if parity != "all" and degree > 1:
        coefficients[int(parity == "even") :: 2] = 0.0
    before = chebyshev(coefficients)
    after = lower(before)
    assert measure_depth(after).total <= math.ceil(math.log2(degree + 1))
    weights = [np.abs(m.terms[0].values).max() for a in of_kind(after, Affine) for m in a.maps]
    largest = np.abs(coefficients).max()
    assert max(weights, default=0.0) <= 2.0 ** math.log2(degree + 1) * largest + 2.0


@pytest.mark.parametrize(
    ("degree", "parity", "products"),
    [(7, 1, 5), (15, 1, 8), (31, 1, 12), (15, 0, 8), (31, 0, 13), (63, 0, 18), (127, 0, 27)],
)
def test_products_of_chebyshev_sums(degree: int, parity: int, products: int) -> None:
    """About 2 sqrt(d), without the 17 and more that depth alone would need from degree 31 on."""
    coefficients = 1.0 / np.arange(1.0, degree + 2)
    if parity:
        coefficients[::2] = 0.0
    assert count_products(lower(chebyshev(coefficients))) == products


@pytest.mark.parametrize("line", [0.0, 0.5])
@pytest.mark.parametrize(("degree", "products"), [(6, 3), (14, 6), (30, 9), (62, 14), (254, 28)])
def test_products_of_sums_that_are_even_but_for_a_line(
    degree: int, products: int, line: float
) -> None:
    """Half the degree of the square: 8, 13, 18 and 36 products for all powers of degree 15 on."""
    coefficients = 1.0 / np.arange(1.0, degree + 2)
    coefficients[1::2] = 0.0
    coefficients[1] = line
    for before in (chebyshev(coefficients), polynomial(coefficients)):
        after = lower(before)
        assert measure_depth(after).total <= math.ceil(math.log2(degree + 1))
        if degree <= 15 or any(isinstance(node, Chebyshev) for node in before):
            assert count_products(after) == products


def test_zero_and_constant_chebyshev_sums() -> None:
    for coefficients in ([2.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0, 3.0]):
        lower(chebyshev(np.array(coefficients)))


def test_one_squaring_and_a_relabelled_scale_stay() -> None:
    for coefficients in ([3.0, -2.0], [1.0, [1.0, 2.0, 3.0], -2.0]):
        b = Builder()
        b.input("x", 1, 3)
        b.poly("p", "x", *coefficients)
        before = b.output("p")
        result = run_pass(LowerPolynomials(), before)
        assert not result.modified
        assert result.program.graph is before


def test_remark_names_the_polynomial_and_its_degree() -> None:
    result = run_pass(LowerPolynomials(), polynomial(np.ones(4)))
    assert result.remarks == ("p (degree 3) lowered to products",)


def test_a_slope_per_channel_is_a_map() -> None:
    after = lower(polynomial(np.array([[1.0, 1.0, 1.0], [1.0, 2.0, 3.0]])))
    assert isinstance(after["p"], Affine)


@pytest.mark.parametrize("power", range(1, 10))
@pytest.mark.parametrize("weight", [1.0, -2.0, [1.0, 2.0, 0.0]])
def test_single_powers(power: int, weight: object) -> None:
    coefficients = np.zeros((power + 1, 3))
    coefficients[-1] = weight
    lower(polynomial(coefficients))


@given(
    st.lists(st.tuples(*[st.sampled_from([0.0, 1.0, -1.0, 0.5])] * 3), min_size=2, max_size=10).map(
        np.array
    )
)
def test_coefficients_that_are_zero_or_one(coefficients: np.ndarray) -> None:
    after = lower(polynomial(coefficients))
    assert measure_depth(after).total <= math.ceil(math.log2(len(coefficients)))
