"""Polynomials stand for functions on the calibrated range, as precisely as was asked for."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fhecompile.errors import FheCompileError
from fhecompile.functions.table import FUNCTIONS
from fhecompile.ir.depth import measure_depth
from fhecompile.ir.evaluate import evaluate
from fhecompile.ir.program import PassResult
from fhecompile.ir.tensor import Affine, Function, Poly, TensorGraph, is_product_free
from passes.fit_functions import DEGREES, ApproximationError, FitFunctions
from passes.infer_ranges import Calibration, InferRanges, Ranges
from tests.graphs import Builder, matrix, of_kind
from tests.support import run_pass


def applied(function: str, readers: int = 1) -> TensorGraph:
    """x -> 2 x + 1 -> function; with two readers the linear map is an output too."""
    b = Builder()
    b.input("x", 1, 2)
    b.scaled("t", "x", 2.0, 1.0)
    b.function("f", "t", function)
    return b.output("f", *["t"][: readers - 1])


def fit(
    before: TensorGraph,
    low: float,
    high: float,
    p: FitFunctions | None = None,
    synthetic: bool = False,
    **options: object,
) -> PassResult:
    """The pass on a graph whose input takes values from low to high."""
    calibration = Calibration({"x": np.array([[[low, high]], [[high, low]]])}, synthetic)
    ranges = run_pass(InferRanges(), before, calibration).program.facts[Ranges]
    return run_pass(p or FitFunctions(), before, ranges, calibration, **options)


def largest_error(before: TensorGraph, after: TensorGraph, low: float, high: float) -> float:
    """For x from low to high and the margin, as the table says that errors are measured."""
    (node,) = of_kind(before, Function)
    f = FUNCTIONS[node.function]
    margin = 0.09 * (high - low) if f.domain_of(-1.0, 1.0) else 0.0
    x = np.linspace(low - margin, high + margin, 4001)[:, None, None] + np.zeros((1, 2))
    expected, found = evaluate(before, {"x": x})["f"], evaluate(after, {"x": x})["f"]
    unit = f.unit(2 * low + 1, 2 * high + 1)
    return float(np.max(np.abs(found - expected) / (unit or np.abs(expected))))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_errors_are_as_small_as_asked_for(name: str) -> None:
    low, high = (0.5, 1.5) if FUNCTIONS[name].domain_of(-1.0, 1.0) is None else (-1.0, 0.5)
    if name == "relu":
        low = 0.0
    before = applied(name)
    for bits in (2.0, 6.0):
        result = fit(before, low, high, precision_bits=bits)
        after = result.program.graph
        assert not of_kind(after, Function)
        assert list(after.nodes) == list(before.nodes)
        error = largest_error(before, after, low, high)
        assert error <= 2.0 ** -(bits + 2)
        remark, _ = result.remarks
        assert remark.startswith(f"f: {name} on ")
        assert error <= float(remark.split()[-1]) * 1.05 + 1e-12


def test_remark_and_ranges() -> None:
    before = applied("inverse_sqrt")
    result = fit(before, 0.0, 1.0)
    assert result.remarks == (
        "f: inverse_sqrt on 0.8 to 3.2 by degree 5, depth 3, relative error 0.00065",
        "the outputs change by 0.00046 (rms)",
    )
    graph, ranges = result.program.graph, result.program.facts[Ranges]
    assert graph["f"].source == before["f"].source
    assert measure_depth(graph).total == 3
    found, exact = (evaluate(g, {"x": np.array([[[0.0, 1.0]]])})["f"] for g in (graph, before))
    rms = np.sqrt(np.mean((found - exact) ** 2))
    assert result.program.facts[ApproximationError].rms == pytest.approx(rms, rel=1e-9)
    assert ranges.current
    assert (ranges.low["t"], ranges.high["t"]) == pytest.approx((-1 / 1.2, 1 / 1.2))
    assert ranges.high["f"] == pytest.approx(1.0, rel=1e-3)


@pytest.mark.parametrize("name", ["inverse_sqrt", "exp", "tanh"])
@settings(max_examples=15)
@given(st.floats(0.1, 4.0), st.floats(0.05, 4.0), st.floats(1.0, 10.0))
def test_the_least_degree(name: str, low: float, width: float, bits: float) -> None:
    before = applied(name)
    allowed = 2.0 ** -(bits + 2)
    try:
        result = fit(before, low, low + width, FitFunctions(degree=15), precision_bits=bits)
    except FheCompileError:
        return  # a refusal has tests of its own
    node = result.program.graph["f"]
    assert isinstance(node, Poly)
    lower = [d for d in DEGREES if d < node.degree]
    for degree in lower[-1:]:  # of lower degree nothing is good enough
        with pytest.raises(FheCompileError):
            fit(before, low, low + width, FitFunctions(degree=degree), precision_bits=bits)
    assert largest_error(before, result.program.graph, low, low + width) <= allowed * (1 + 1e-6)


def test_powers_stay_tame_far_from_zero() -> None:
    """In powers of x itself the constant would be 4e14 and cancel."""
    result = fit(applied("sigmoid"), 500.0, 500.5, FitFunctions(error=1e-12))
    node = result.program.graph["f"]
    assert isinstance(node, Poly) and np.abs(node.coefficients).max() <= 1.0
    sine = applied("exp")
    result = fit(sine, 5.0, 6.0, FitFunctions(degree=15, error=1e-9))
    poly = result.program.graph["f"]
    assert isinstance(poly, Poly)
    assert np.abs(poly.coefficients).max() <= 2 * math.exp(13)
    assert largest_error(sine, result.program.graph, 5.0, 6.0) <= 1e-9


# ---------------------------------------------------------------------------- the operand


def test_a_map_with_one_reader_takes_centre_and_scale() -> None:
    graph = fit(applied("tanh"), -0.75, 0.25).program.graph
    assert [node.op for node in graph] == ["input", "affine", "poly", "output"]
    t = graph["t"]
    assert isinstance(t, Affine) and is_product_free(t)


def test_a_map_with_other_readers_is_left_alone() -> None:
    before = applied("tanh", readers=2)
    graph = fit(before, -0.5, 0.5).program.graph
    assert list(graph.nodes) == ["x", "t", "f.centred", "f", "out.f", "out.t"]
    assert graph["t"] is before["t"]
    centred = graph["f.centred"]
    assert isinstance(centred, Affine) and is_product_free(centred)


def test_an_operand_that_is_no_map() -> None:
    b = Builder()
    b.input("x", 1, 2)
    b.poly("square", "x", 0.0, 0.0, 1.0)
    b.function("f", "square", "sqrt")
    graph = fit(b.output("f"), 0.6, 1.0).program.graph
    assert list(graph.nodes) == ["x", "square", "f.centred", "f", "out.f"]


def test_functions_behind_each_other() -> None:
    b = Builder()
    b.input("x", 1, 2)
    b.function("first", "x", "sigmoid")
    b.affine("t", {"first": matrix(2, 2)})
    b.function("f", "t", "tanh")
    before = b.output("f")
    result = fit(before, -1.0, 1.0)
    assert [remark.split(":")[0] for remark in result.remarks[:-1]] == ["first", "f"]
    x = np.random.default_rng(0).uniform(-1, 1, (50, 1, 2))
    expected, found = (evaluate(g, {"x": x})["f"] for g in (before, result.program.graph))
    assert np.abs(found - expected).max() <= 2.0**-9


def test_without_functions_nothing_happens() -> None:
    b = Builder()
    b.input("x", 1, 2)
    before = b.output(b.poly("p", "x", 0.0, 1.0))
    result = fit(before, 0.0, 1.0)
    assert not result.modified and result.program.graph is before


# ---------------------------------------------------------------------------- the interval


@pytest.mark.parametrize(
    ("name", "measured", "margin", "expected"),
    [
        ("tanh", (-1.0, 3.0), 0.1, (-1.4, 3.4)),
        ("tanh", (-1.0, 3.0), 0.0, (-1.0, 3.0)),
        ("inverse_sqrt", (1.0, 3.0), 0.1, (0.8, 3.2)),
        ("inverse_sqrt", (0.1, 3.1), 0.1, (0.05, 3.4)),
        ("reciprocal", (-3.1, -0.1), 0.1, (-3.4, -0.05)),
        ("sqrt", (0.0, 3.0), 0.1, (0.0, 3.3)),
        ("exp", (64.0, 64.0), 0.1, (63.4, 64.6)),
        ("exp", (64.0, 64.0), 0.0, (63.5, 64.5)),
        ("exp", (0.0, 0.0), 0.1, (-0.6, 0.6)),
    ],
)
def test_interval(
    name: str, measured: tuple[float, float], margin: float, expected: tuple[float, float]
) -> None:
    found = FitFunctions(margin=margin).interval(FUNCTIONS[name], *measured)
    assert found == pytest.approx(expected, rel=1e-12)


# ---------------------------------------------------------------------------- refusals


def refusal(before: TensorGraph, low: float, high: float, **more: object) -> str:
    with pytest.raises(FheCompileError) as caught:
        fit(before, low, high, **more)  # type: ignore[arg-type]
    return caught.value.render()


def test_what_no_degree_reaches() -> None:
    assert refusal(applied("relu"), -2.5, 2.5) == (
        "f: no polynomial of degree 7 is close enough to relu on -5 to 7: error over largest "
        "value 0.021, allowed is 0.00098 [function-range]\n"
        "  hint: calibrate with data like those of use: a narrower range needs less degree, or "
        "lower --precision-bits to 3, or replace it by a polynomial activation and fine-tune"
    )


def test_what_more_degree_reaches() -> None:
    assert refusal(applied("inverse_sqrt"), 0.0, 3.0, synthetic=True, precision_bits=8.0) == (
        "f: no polynomial of degree 7 is close enough to inverse_sqrt on 0.5 to 7.6: relative "
        "error 0.007, allowed is 0.00098 [function-range]\n"
        "  hint: give real calibration data with --calibrate data.npz, or allow more degree with "
        "--passes '+fit_functions{degree=15}', or lower --precision-bits to 5"
    )


def test_degrees_between_are_not_tried() -> None:
    text = refusal(applied("relu"), -2.5, 2.5, p=FitFunctions(degree=6))
    assert text.startswith("f: no polynomial of degree 5 is close enough to relu on -5 to 7: ")


def test_an_error_of_ones_own() -> None:
    text = refusal(applied("tanh"), -2.0, 2.0, p=FitFunctions(degree=15, error=1e-9))
    assert "allowed is 1e-09 [function-range]" in text
    assert "--precision-bits" not in text and "fit_functions" not in text


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"margin": -1.0}, "margin is -1, allowed are 0 and more"),
        ({"margin": math.inf}, "margin is inf, allowed are 0 and more"),
        ({"error": -0.5}, "error is -0.5, allowed are 0 and more"),
        ({"error": math.nan}, "error is nan, allowed are 0 and more"),
        ({"degree": 1}, "degree is 1, allowed are 2 to 15"),
        ({"degree": 16}, "degree is 16, allowed are 2 to 15"),
    ],
)
def test_options(options: dict[str, float], text: str) -> None:
    p = FitFunctions(**options)  # type: ignore[arg-type]
    assert refusal(applied("tanh"), 0.0, 1.0, p=p) == f"fit_functions: {text} [option-value]"
