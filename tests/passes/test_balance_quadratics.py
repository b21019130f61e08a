"""Leading coefficients of quadratics move into the maps around them, exactly."""

from __future__ import annotations

import numpy as np
import pytest

from fhecompile.ir.depth import measure_depth
from fhecompile.ir.program import PassResult
from fhecompile.ir.tensor import Poly, TensorGraph
from passes.balance_quadratics import BalanceQuadratics
from passes.fuse_polynomials import FusePolynomials
from passes.infer_ranges import Calibration, InferRanges, Ranges
from tests.graphs import Builder, matrix, of_kind
from tests.support import Network, assert_same_function, random_inputs, run_pass


def quadratic(*coefficients: object, readers: int = 1) -> TensorGraph:
    """x -> map -> c + b x + a x^2 -> maps, for coefficients (c, b, a) of three channels."""
    b = Builder()
    b.input("x", 1, 4)
    b.affine("first", {"x": matrix(3, 4)}, bias=[[0.1, -0.2, 0.3]])
    b.poly("p", "first", *coefficients)
    names = [b.affine(f"last{k}", {"p": matrix(2, 3, k)}, bias=1.0) for k in range(readers)]
    return b.output(*names)


def balance(before: TensorGraph, negligible: float | None = None) -> PassResult:
    inputs = random_inputs(before)
    ranges = run_pass(InferRanges(), before, Calibration(inputs)).program.facts[Ranges]
    p = BalanceQuadratics() if negligible is None else BalanceQuadratics(negligible)
    return run_pass(p, before, ranges)


@pytest.mark.parametrize(
    "leading",
    [[2.0, 3.0, 0.5], [-2.0, -3.0, -0.5], [2.0, -3.0, 0.5], 2.5, -1.0],
    ids=["positive", "negative", "mixed", "one for all", "minus one"],
)
@pytest.mark.parametrize("readers", [1, 2])
def test_leading_coefficients_become_one(leading: object, readers: int) -> None:
    before = quadratic([1.0, -2.0, 0.0], [0.5, 0.0, -1.5], leading, readers=readers)
    result = balance(before)
    after = result.program.graph
    if leading == 2.5:  # one positive coefficient is a relabelled scale already
        assert not result.modified
        return
    assert result.remarks == ("1 quadratics balanced",)
    assert np.all(after["p"].coefficients[2] == 1.0)
    assert set(after.nodes) == set(before.nodes)
    assert measure_depth(after).total == 3
    assert_same_function(before, after, random_inputs(before), bits=40)


@pytest.mark.parametrize("readers", [1, 2])
def test_linear_channels_go_around_the_square(readers: int) -> None:
    before = quadratic([1.0, -2.0, 3.0], [0.5, 4.0, 0.0], [2.0, 0.0, 0.0], readers=readers)
    after = balance(before).program.graph
    assert np.all(after["p"].coefficients[2] == 1.0)
    for k in range(readers):
        assert after[f"last{k}"].inputs == ("p", "first")
    assert_same_function(before, after, random_inputs(before), bits=40)


def test_constant_channels_need_no_second_operand() -> None:
    before = quadratic([1.0, -2.0, 3.0], [0.5, 0.0, 0.0], [2.0, 0.0, 0.0])
    after = balance(before).program.graph
    assert after["last0"].inputs == ("p",)
    assert_same_function(before, after, random_inputs(before), bits=40)


def test_a_tiny_coefficient_counts_as_zero() -> None:
    before = quadratic([1.0, -2.0, 3.0], [0.5, 4.0, 0.7], [2.0, 1e-9, -1e-12])
    after = balance(before).program.graph
    assert after["last0"].inputs == ("p", "first")
    assert_same_function(before, after, random_inputs(before), bits=26)
    exact = balance(before, negligible=0.0).program.graph
    assert exact["last0"].inputs == ("p",)
    assert_same_function(before, exact, random_inputs(before), bits=30)


def test_quadratics_behind_each_other() -> None:
    b = Builder()
    b.input("x", 1, 4)
    value = "x"
    for k in range(3):
        b.affine(f"map{k}", {value: matrix(4, 4, k)})
        value = b.poly(f"p{k}", f"map{k}", 0.1, [1.0, 2.0, -1.0, 0.5], [0.5, -0.5, 0.0, 1.0])
    b.affine("last", {value: matrix(2, 4)})
    before = b.output("last")
    result = balance(before)
    assert result.remarks == ("3 quadratics balanced",)
    assert all(p.leading_is_uniform() for p in of_kind(result.program.graph, Poly))
    assert_same_function(before, result.program.graph, random_inputs(before), bits=40)


def test_ranges_are_stale_afterwards() -> None:
    result = balance(quadratic(0.0, 1.0, [1.0, 2.0, 3.0]))
    assert not result.program.facts[Ranges].current


def test_declined_without_a_map_in_front() -> None:
    b = Builder()
    b.input("x", 1, 3)
    b.poly("p", "x", 0.0, 1.0, [1.0, 2.0, 3.0])
    b.affine("last", {"p": matrix(2, 3)})
    result = balance(b.output("last"))
    assert not result.modified
    assert result.remarks == ("p not balanced: its operand is made by input x",)


def test_declined_when_the_map_has_other_readers() -> None:
    b = Builder()
    b.input("x", 1, 3)
    b.affine("first", {"x": matrix(3, 3)})
    b.poly("p", "first", 0.0, 1.0, [1.0, 2.0, 3.0])
    b.affine("last", {"p": matrix(2, 3), "first": matrix(2, 3, seed=1)})
    result = balance(b.output("last"))
    assert not result.modified
    assert result.remarks == ("p not balanced: first has other readers",)


def test_declined_when_the_result_is_decrypted() -> None:
    b = Builder()
    b.input("x", 1, 3)
    b.affine("first", {"x": matrix(3, 3)})
    b.poly("p", "first", 0.0, 1.0, [1.0, 2.0, 3.0])
    result = balance(b.output("p"))
    assert not result.modified
    assert result.remarks == ("p not balanced: it is read by something that is not a linear map",)


@pytest.mark.parametrize("leading", [[2.0, -3.0, 0.5], [2.0, 0.0, -1.0]])
def test_a_reader_with_the_value_as_two_operands(leading: list[float]) -> None:
    """All differences of its elements: y_ij = z_i - z_j."""
    random = np.random.default_rng(0)
    net = Network(x=(1, 4))
    first = net.op("MatMul", "x", random.normal(size=(4, 3)), name="first")
    square = net.op("Mul", net.op("Mul", first, first), np.array(leading))
    p = net.op("Add", net.op("Add", square, first), np.array([1.0, 2.0, 3.0]), name="p")
    y = net.op("Sub", p, net.op("Reshape", p, np.array([3, 1])), name="y")
    before = run_pass(FusePolynomials(), net.graph(y)).program.graph
    assert before["y"].inputs == ("p", "p")
    result = balance(before)
    assert result.remarks == ("1 quadratics balanced",)
    assert_same_function(before, result.program.graph, random_inputs(before), bits=40)
