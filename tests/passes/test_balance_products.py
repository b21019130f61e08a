"""Products of several values take the least depth."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fhecompile.ir.depth import measure_depth
from fhecompile.ir.tensor import Mul, TensorGraph
from passes.balance_products import BalanceProducts
from tests.graphs import Builder, matrix, of_kind
from tests.support import assert_same_function, outline, random_inputs, run_pass


def balanced(before: TensorGraph) -> TensorGraph:
    after = run_pass(BalanceProducts(), before).program.graph
    assert_same_function(before, after, random_inputs(before), bits=40)
    assert len(of_kind(after, Mul)) == len(of_kind(before, Mul))
    return after


def test_the_deepest_factor_comes_last() -> None:
    b = Builder()
    b.input("x", 1, 4)
    b.affine("left", {"x": matrix(4, 4)})
    b.affine("right", {"x": matrix(4, 4, seed=1)})
    b.poly("deep", "left", 0.0, 0.0, 1.0)
    b.mul("inner", "deep", "left")
    b.mul("outer", "inner", "right")
    before = b.output("outer")
    result = run_pass(BalanceProducts(), before)
    assert result.remarks == ("outer multiplied in another order, depth 1 less",)
    assert {"inner = mul(right, left)", "outer = mul(inner, deep)"} <= set(
        outline(balanced(before))
    )


def chain(depths: list[int]) -> TensorGraph:
    """The product, from left to right, of x squared 0 times and more."""
    b = Builder()
    b.input("x", 1, 2)
    names = []
    for k, depth in enumerate(depths):
        name = "x"
        for level in range(depth):
            b.poly(f"f{k}.{level}", name, 0.25 * k, 0.5, 0.5)
            name = f"f{k}.{level}"
        names.append(name)
    product = names[0]
    for k, name in enumerate(names[1:]):
        b.mul(f"p{k}", product, name)
        product = f"p{k}"
    return b.output(product)


@given(st.lists(st.integers(0, 4), min_size=3, max_size=7))
def test_the_depth_is_the_least(depths: list[int]) -> None:
    """Of factors with depths d_k it is the least d with sum of 2^d_k <= 2^d."""
    least = math.ceil(math.log2(sum(2**d for d in depths)))
    assert measure_depth(balanced(chain(depths))).total == max(least, max(depths))


@pytest.mark.parametrize("reader", ["inner", "square", "single"])
def test_what_is_kept(reader: str) -> None:
    b = Builder()
    b.input("x", 1, 4)
    b.affine("left", {"x": matrix(4, 4)})
    b.poly("deep", "left", 0.0, 0.0, 1.0)
    b.affine("one", {"x": matrix(1, 4, seed=2)})
    b.mul("inner", "deep", "one" if reader == "single" else "left")
    b.mul("outer", "inner", "inner" if reader == "square" else "left")
    graph = b.output(*(["outer", "inner"] if reader == "inner" else ["outer"]))
    assert not run_pass(BalanceProducts(), graph).modified
