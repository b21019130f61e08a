"""A square and the map behind it cost one prime when s + a = q."""

from __future__ import annotations

import pytest

from fhecompile.ir.scales import ScalePlan, ScalePolicy
from fhecompile.ir.tensor import TensorGraph
from passes.assign_scales import AssignScales
from passes.select_parameters import ScaleChoice
from tests.graphs import Builder, matrix
from tests.support import run_pass


def squarings(depth: int = 3) -> TensorGraph:
    b = Builder()
    b.input("x", 1, 4)
    value = "x"
    for k in range(depth):
        b.affine(f"map{k}", {value: matrix(4, 4, k)})
        value = b.poly(f"square{k}", f"map{k}", 0.0, 0.0, 1.0)
    return b.output(b.affine("last", {value: matrix(2, 4)}))


def plan(graph: TensorGraph, s: float, a: float, q: int = 59, bump: float = 0.0) -> ScalePlan:
    choice = ScaleChoice(ScalePolicy(s, a, q, bump), 0.0, 1.0, 1.0)
    return run_pass(AssignScales(), graph, choice).program.facts[ScalePlan]


def test_square_and_map_cost_one_prime() -> None:
    found = plan(squarings(), 35.0, 24.0)
    assert [found.level[f"map{k}"] for k in range(3)] == [1, 2, 3]
    assert [found.rescales[f"square{k}"] for k in range(3)] == [0, 0, 0]
    assert found.level["last"] == 4
    assert found.scale["map2"] == 35.0
    assert found.scale["square2"] == 70.0


def test_scales_that_do_not_fit_one_prime_cost_two() -> None:
    found = plan(squarings(), 40.0, 39.0)
    assert found.level["last"] > 4


def test_a_bump_lets_one_more_prime_go() -> None:
    short = squarings(1)
    assert plan(short, 35.0, 22.0).level["last"] < plan(short, 35.0, 22.0, bump=3.0).level["last"]


def test_constants_take_what_is_missing() -> None:
    b = Builder()
    b.input("x", 1, 4)
    b.poly("square", "x", 0.0, 0.0, 1.0)
    b.affine("both", {"x": matrix(4, 4), "square": matrix(4, 4)})
    found = plan(b.output("both"), 35.0, 24.0)
    x, square = found.constants["both"]
    assert x + found.scale["x"] == square + found.scale["square"] == found.raw["both"]
    assert min(x, square) >= 24.0


@pytest.mark.parametrize("weight", [0.25, -3.0])
def test_a_uniform_factor_is_free(weight: float) -> None:
    b = Builder()
    b.input("x", 1, 4)
    b.affine("map", {"x": matrix(4, 4)})
    b.scaled("scaled", "map", weight)
    found = plan(b.output("scaled"), 35.0, 24.0)
    assert found.rescales["scaled"] == 0
    assert 2.0 ** (found.scale["map"] - found.scale["scaled"]) == pytest.approx(abs(weight))


def test_remark_counts_the_layers_that_rescale() -> None:
    choice = ScaleChoice(ScalePolicy(35.0, 24.0, 59), 0.0, 1.0, 1.0)
    assert run_pass(AssignScales(), squarings(), choice).remarks == ("4 layers rescale",)
