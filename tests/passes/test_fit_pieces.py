"""Functions on ranges without a kink, and what is between a value and its function."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fhecompile.functions.minimax import fit_minimax
from fhecompile.functions.table import FUNCTIONS
from fhecompile.ir.depth import measure_depth
from fhecompile.ir.evaluate import evaluate
from fhecompile.ir.tensor import Function, Poly, TensorGraph
from passes.fit_functions import ApproximationError, FitFunctions
from tests.graphs import Builder
from tests.passes.test_fit_functions import applied, between, changes, degrees, fit, refusal

# ---------------------------------------------------------------------------- pieces


@pytest.mark.parametrize(
    ("name", "low", "high", "expected"),
    [  # 2 x + 1 is the function's operand
        ("relu", -0.5, 2.0, [1.0, 2.0]),
        ("relu", -2.0, -0.5, [0.0, 0.0]),
        ("abs", -2.0, -0.5, [-1.0, -2.0]),
        ("clip", -1.0, 0.0, [1.0, 2.0]),
        ("clip", 0.0, 3.0, [1.0, 0.0]),
        ("elu", 0.0, 1.0, [1.0, 2.0]),
        ("hard_swish", -2.0, 1.0, [2.0 / 3.0, 5.0 / 3.0, 2.0 / 3.0]),
        ("thresholded_relu", 0.25, 0.75, [1.0, 2.0]),
    ],
)
def test_a_range_without_a_kink_is_exact(
    name: str, low: float, high: float, expected: list[float]
) -> None:
    result = fit(applied(name), low, high, precision_bits=40.0)
    graph = result.program.graph
    x = np.linspace(low - 5.0, high + 5.0, 101)[:, None, None] + np.zeros((1, 2))
    y = np.polynomial.Polynomial(expected)(x)  # on the range and beyond
    assert np.allclose(evaluate(graph, {"x": x})["f"], y, rtol=1e-13, atol=1e-13)
    assert measure_depth(graph).total == len(expected) // 3
    assert result.program.facts[ApproximationError].largest <= 1e-14
    assert f"by degree {len(expected) - 1}, depth {len(expected) // 3}, " in result.remarks[0]


def test_a_kink_at_the_edge_of_the_range_is_none() -> None:
    assert degrees(fit(applied("relu"), -0.5, 2.0, precision_bits=12.0)) == {"f": 1}
    assert degrees(fit(applied("relu"), -0.51, 2.0, precision_bits=4.0))["f"] > 1


def test_jumps_are_refused() -> None:
    """No polynomial is near both sides of the threshold."""
    p = FitFunctions(degree=7)
    text = refusal(applied("thresholded_relu"), -1.0, 0.5, p, precision_bits=2.0)
    assert text == (
        "f: with a polynomial of degree 2 for thresholded_relu on -1.3 to 2.3 the outputs change "
        "by 0.5; allowed is 0.38, 0.75 of 2^-2 of outputs up to 2 [precision-not-reachable]\n"
        "  hint: calibrate with data like those of use: a narrower range needs less degree, or "
        "lower --precision-bits to 1, or allow it with --activation-error 0.25, or replace it by a "
        "polynomial activation and fine-tune"
    )


# ---------------------------------------------------------------------------- slopes


def sloped(slopes: list[float]) -> TensorGraph:
    """Relu with slopes below zero, one per element of x."""
    b = Builder()
    b.input("x", 1, 2)
    b.scaled("t", "x", 2.0, 1.0)
    node = Function(
        name="f", inputs=("t",), shape=(1, 2), function="relu", share=1.0 - np.array(slopes)
    )
    b.graph.add(node)
    return b.output("f")


@settings(max_examples=20)
@given(st.lists(st.floats(-1.0, 2.0), min_size=2, max_size=2), st.floats(-3.0, -0.6))
def test_slopes_share_one_polynomial(slopes: list[float], low: float) -> None:
    """It is the best one of relu; what is left of x is exact."""
    before = sloped(slopes)
    result = fit(before, low, 0.5, precision_bits=1.0)
    change, largest = changes(before, result.program.graph, between(low, 0.5))
    assert change <= 0.75 / 2.0 * largest
    node = result.program.graph["f"]
    assert isinstance(node, Poly)
    relu = FUNCTIONS["relu"]
    interval = FitFunctions().interval(relu, 2.0 * low + 1.0, 2.0)
    p = fit_minimax(relu, *interval, node.degree, relu.unit(2.0 * low + 1.0, 2.0))
    t = np.linspace(*interval, 33)[:, None] + np.zeros(2)
    expected = slopes * t + (1.0 - np.array(slopes)) * p(t)
    u, c = (t - p.centre) / p.radius, np.broadcast_to(node.coefficients, (node.degree + 1, 1, 2))
    found = sum(c[k] * u**k for k in range(len(c)))
    assert np.allclose(found, expected, rtol=1e-12, atol=1e-12)


def test_slopes_of_what_is_never_negative_cost_nothing() -> None:
    graph = fit(sloped([0.1, 0.3]), -0.5, 2.0, precision_bits=40.0).program.graph
    node = graph["f"]
    assert isinstance(node, Poly) and node.degree == 1 and node.leading_is_uniform()
    assert measure_depth(graph).total == 0
    below = fit(sloped([0.1, 0.3]), -2.0, -0.5, precision_bits=40.0).program.graph
    x = between(-2.0, -0.5)
    assert np.allclose(evaluate(below, {"x": x})["f"], [0.1, 0.3] * (2.0 * x + 1.0), atol=1e-14)
