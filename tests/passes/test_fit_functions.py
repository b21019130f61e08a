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
from tests.support import FloatArray, run_pass


def applied(function: str, readers: int = 1) -> TensorGraph:
    """x -> 2 x + 1 -> function; with two readers the linear map is an output too."""
    b = Builder()
    b.input("x", 1, 2)
    b.scaled("t", "x", 2.0, 1.0)
    b.function("f", "t", function)
    return b.output("f", *["t"][: readers - 1])


def between(low: float, high: float) -> FloatArray:
    """Samples at equal distances, one element the other way round."""
    x = np.linspace(low, high, 65)
    return np.stack([x, x[::-1]], axis=-1)[:, None]


def changes(before: TensorGraph, after: TensorGraph, x: FloatArray) -> tuple[float, float]:
    """The largest change of an output, and the largest output."""
    pairs = [(y, evaluate(after, {"x": x})[k]) for k, y in evaluate(before, {"x": x}).items()]
    change = max(float(np.abs(found - y).max()) for y, found in pairs)
    return change, max(float(np.abs(y).max()) for y, _ in pairs)


def fit(
    before: TensorGraph,
    low: float,
    high: float,
    p: FitFunctions | None = None,
    synthetic: bool = False,
    **options: object,
) -> PassResult:
    """The pass on a graph whose input takes values from low to high."""
    calibration = Calibration({"x": between(low, high)}, synthetic)
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


KINKED = {"abs": 3.0, "clip": 4.0, "relu": 3.0, "softsign": 4.0}  # bits that degree 7 reaches


@pytest.mark.parametrize("name", sorted(set(FUNCTIONS) - {"sign"}))
def test_errors_are_as_small_as_asked_for(name: str) -> None:
    low, high = (0.5, 1.5) if FUNCTIONS[name].domain_of(-1.0, 1.0) is None else (-1.0, 0.5)
    low, high = {"relu": (-1.0, 0.25), "thresholded_relu": (-1.0, -0.25)}.get(name, (low, high))
    before = applied(name)
    for bits in (2.0, KINKED.get(name, 6.0)):
        result = fit(before, low, high, precision_bits=bits)
        after = result.program.graph
        assert not of_kind(after, Function)
        assert list(after.nodes) == list(before.nodes)
        change, largest = changes(before, after, between(low, high))
        assert change <= 0.75 * 2.0**-bits * largest
        error = largest_error(before, after, low, high)
        if not FUNCTIONS[name].relative:  # those are off by less where they are small
            assert error <= 0.75 * 2.0**-bits * (1 + 1e-6)
        remark, _ = result.remarks
        assert remark.startswith(f"f: {name} on ")
        assert error <= float(remark.split()[-1]) * 1.05 + 1e-12


def test_remark_and_ranges() -> None:
    before = applied("inverse_sqrt")
    result = fit(before, 0.0, 1.0)
    assert result.remarks == (
        "f: inverse_sqrt on 0.8 to 3.2 by degree 5, depth 3, relative error 0.00065",
        "the outputs change by 0.00056 at most",
    )
    graph, ranges = result.program.graph, result.program.facts[Ranges]
    assert graph["f"].source == before["f"].source
    assert measure_depth(graph).total == 3
    changed = result.program.facts[ApproximationError]
    expected = changes(before, graph, between(0.0, 1.0))
    assert (changed.largest, changed.output_range) == pytest.approx(expected, rel=1e-6)
    assert ranges.current
    assert (ranges.low["t"], ranges.high["t"]) == pytest.approx((-1 / 1.2, 1 / 1.2))
    assert ranges.high["f"] == pytest.approx(1.0, rel=1e-3)


@pytest.mark.parametrize("name", ["inverse_sqrt", "exp", "tanh"])
@settings(max_examples=15)
@given(st.floats(0.1, 4.0), st.floats(0.05, 4.0), st.floats(1.0, 10.0))
def test_the_least_degree(name: str, low: float, width: float, bits: float) -> None:
    before = applied(name)
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
    change, largest = changes(before, result.program.graph, between(low, low + width))
    assert change <= 0.75 * 2.0**-bits * largest


def test_powers_stay_tame_far_from_zero() -> None:
    """In powers of x itself the constant would be 4e14 and cancel."""
    result = fit(applied("sigmoid"), 500.0, 500.5, precision_bits=40.0)
    node = result.program.graph["f"]
    assert isinstance(node, Poly) and np.abs(node.coefficients).max() <= 1.0
    exponential = applied("exp")
    result = fit(exponential, 5.0, 6.0, FitFunctions(degree=15), precision_bits=29.0)
    poly = result.program.graph["f"]
    assert isinstance(poly, Poly)
    assert np.abs(poly.coefficients).max() <= 2 * math.exp(13)
    assert largest_error(exponential, result.program.graph, 5.0, 6.0) <= 2.0**-29


@pytest.mark.parametrize(
    ("name", "bits", "depth"),
    [
        ("relu", 6.0, 4),
        ("relu", 8.0, 6),
        ("relu", 10.0, 8),  # degree 255
        ("relu", 13.0, 17),  # composites from here on
        ("abs", 8.0, 7),
        ("abs", 10.0, 13),
        ("clip", 6.0, 7),
        ("clip", 8.0, 13),
    ],
)
def test_kinks_at_any_precision(name: str, bits: float, depth: int) -> None:
    before = applied(name)
    result = fit(before, -2.5, 2.0, precision_bits=bits)
    change, largest = changes(before, result.program.graph, between(-2.5, 2.0))
    assert 0.0 < change <= 0.75 * 2.0**-bits * largest
    assert largest_error(before, result.program.graph, -2.5, 2.0) <= 0.75 * 2.0**-bits * (1 + 1e-6)
    assert measure_depth(result.program.graph).total == depth
    assert f"depth {depth}, " in result.remarks[0]


def test_what_no_composite_reaches() -> None:
    assert refusal(applied("clip"), -2.5, 2.0, precision_bits=13.0) == (
        "f: with a composite of degrees 15, 15, 15, 15 for clip on -7.9 to 5.9 the outputs change "
        "by 0.00021; allowed is 9.2e-05, 0.75 of 2^-13 of outputs up to 1 "
        "[precision-not-reachable]\n"
        "  hint: calibrate with data like those of use: a narrower range needs less degree, or "
        "lower --precision-bits to 11, or allow it with --activation-error 0.00022, or replace it "
        "by a polynomial activation and fine-tune"
    )


# ---------------------------------------------------------------------------- several functions


def summed(**weights: float) -> TensorGraph:
    """The sum of functions of x, which are called like their weights."""
    b = Builder()
    b.input("x", 1, 2)
    for name in weights:
        b.function(name, "x", name)
    b.affine("sum", {name: weight * np.eye(2) for name, weight in weights.items()})
    return b.output("sum")


def degrees(result: PassResult) -> dict[str, int]:
    return {node.name: node.degree for node in of_kind(result.program.graph, Poly)}


def test_the_promise_is_of_the_outputs() -> None:
    """Functions of size 20 leave outputs of size 2: a share of their own size is too much."""
    for bits in (3.0, 6.0):
        before = summed(tanh=20.0, erf=-20.0)
        result = fit(before, -1.0, 1.0, FitFunctions(degree=15), precision_bits=bits)
        change, largest = changes(before, result.program.graph, between(-1.0, 1.0))
        assert largest < 2.0
        assert change <= 0.75 * 2.0**-bits * largest
        changed = result.program.facts[ApproximationError]
        assert changed.largest == pytest.approx(change, rel=1e-6)
        assert changed.output_range == pytest.approx(largest, rel=1e-12)


def test_what_hardly_reaches_the_outputs_costs_little() -> None:
    alike = degrees(fit(summed(exp=1.0, tanh=1.0), -1.0, 1.0, precision_bits=9.0))
    assert alike["tanh"] >= 5
    found = degrees(fit(summed(exp=1.0, tanh=0.01), -1.0, 1.0, precision_bits=9.0))
    assert found["tanh"] < alike["tanh"] and found["tanh"] <= 2
    assert found["exp"] >= 3


def test_polynomials_precise_enough_alone_are_not_always_together() -> None:
    """Six times the same function: degree 3 will do for each, but not for all of them."""
    b = Builder()
    b.input("x", 1, 2)
    names = [b.function(f"f{k}", "x", "tanh") for k in range(6)]
    b.affine("sum", {name: np.eye(2) for name in names})
    before = b.output("sum")
    result = fit(before, -1.0, 1.0, precision_bits=7.0)
    assert set(degrees(result).values()) == {3, 5}
    with pytest.raises(FheCompileError):
        fit(before, -1.0, 1.0, FitFunctions(degree=3), precision_bits=7.0)
    change, largest = changes(before, result.program.graph, between(-1.0, 1.0))
    assert change <= 0.75 * 2.0**-7 * largest


@settings(max_examples=10)
@given(
    st.lists(st.floats(-2.0, 2.0), min_size=3, max_size=3),
    st.floats(1.0, 14.0),
    st.sampled_from([5, 7, 15]),
)
def test_the_promise_is_kept_or_refused(weights: list[float], bits: float, degree: int) -> None:
    """Whatever is cheaper for one function breaks it."""
    before = summed(**dict(zip(("exp", "tanh", "erf"), weights, strict=True)))
    options = {"p": FitFunctions(degree=degree), "precision_bits": bits}
    try:
        result = fit(before, -1.5, 1.5, **options)  # type: ignore[arg-type]
    except FheCompileError as error:
        assert error.code == "precision-not-reachable"
        return
    change, largest = changes(before, result.program.graph, between(-1.5, 1.5))
    assert change <= 0.75 * 2.0**-bits * (largest or 1.0)


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


def refusal(
    before: TensorGraph, low: float, high: float, p: FitFunctions | None = None, **more: object
) -> str:
    with pytest.raises(FheCompileError) as caught:
        fit(before, low, high, p, **more)  # type: ignore[arg-type]
    return caught.value.render()


def test_what_no_degree_allowed_reaches() -> None:
    assert refusal(applied("relu"), -2.5, 2.5, p=FitFunctions(degree=7)) == (
        "f: with a polynomial of degree 7 for relu on -5 to 7 the outputs change by 0.12; allowed "
        "is 0.018, 0.75 of 2^-8 of outputs up to 6 [precision-not-reachable]\n"
        "  hint: calibrate with data like those of use: a narrower range needs less degree, or "
        "allow what degree is needed with --passes '+fit_functions{degree=0}', or lower "
        "--precision-bits to 5, or allow it with --activation-error 0.021, or replace it by a "
        "polynomial activation and fine-tune"
    )


def test_what_more_degree_reaches() -> None:
    degree = FitFunctions(degree=7)
    before = applied("inverse_sqrt")
    assert refusal(before, 0.0, 3.0, degree, synthetic=True, precision_bits=8.0) == (
        "f: with a polynomial of degree 7 for inverse_sqrt on 0.5 to 7.6 the outputs change by "
        "0.006; allowed is 0.0029, 0.75 of 2^-8 of outputs up to 1 [precision-not-reachable]\n"
        "  hint: give real calibration data with --calibrate data.npz, or allow what degree is "
        "needed with --passes '+fit_functions{degree=0}', or lower --precision-bits to 6, or "
        "allow it with --activation-error 0.0061"
    )


def test_what_several_functions_do_not_reach() -> None:
    b = Builder()
    b.input("x", 1, 2)
    value = "x"
    for k in range(4):
        value = b.function(f"f{k}", b.scaled(f"t{k}", value, 1.5, -0.2), "relu")
    p = FitFunctions(degree=7)
    text = refusal(b.output(value), -2.0, 2.0, p)
    assert text == (
        "f0: with a polynomial of degree 7 for relu on -3.8 to 3.4 the outputs change by 0.27, for "
        "f1 by 0.084, for f2 by 0.084, for all 4 functions by 0.48; allowed is 0.025, 0.75 of "
        "2^-8 of outputs up to 8.5 [precision-not-reachable]\n"
        "  hint: calibrate with data like those of use: a narrower range needs less degree, or "
        "allow what degree is needed with --passes '+fit_functions{degree=0}', or lower "
        "--precision-bits to 3, or allow it with --activation-error 0.057, or replace it by a "
        "polynomial activation and fine-tune"
    )
    assert fit(b.graph, -2.0, 2.0, p, precision_bits=3.0).modified  # as the hint says
    assert fit(b.graph, -2.0, 2.0).modified  # and degree 0


def test_degrees_between_are_not_tried() -> None:
    text = refusal(applied("elu"), -2.5, 2.5, p=FitFunctions(degree=6))
    assert text.startswith("f: with a polynomial of degree 5 for elu on -5 to 7 the outputs ")


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"margin": -1.0}, "margin is -1, allowed are 0 and more"),
        ({"margin": math.inf}, "margin is inf, allowed are 0 and more"),
        ({"degree": 1}, "degree is 1, allowed are 2 to 255, and 0 for what is needed"),
        ({"degree": 256}, "degree is 256, allowed are 2 to 255, and 0 for what is needed"),
    ],
)
def test_options(options: dict[str, float], text: str) -> None:
    p = FitFunctions(**options)  # type: ignore[arg-type]
    assert refusal(applied("tanh"), 0.0, 1.0, p=p) == f"fit_functions: {text} [option-value]"
