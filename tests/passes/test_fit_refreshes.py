"""Fourier series stand for functions on the calibrated range, as precisely as was asked for."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fhecompile.errors import FheCompileError
from fhecompile.functions.table import FUNCTIONS
from fhecompile.ir.evaluate import evaluate
from fhecompile.ir.fitted_errors import FittedErrors
from fhecompile.ir.fitted_functions import FittedFunctions
from fhecompile.ir.program import PassResult
from fhecompile.ir.tensor import Affine, Function, Refresh, TensorGraph
from fhecompile.options import FunctionOptions
from passes.fit_functions import ApproximationError
from passes.fit_refreshes import FitRefreshes
from passes.infer_ranges import Calibration, InferRanges, Ranges
from tests.graphs import Builder, of_kind
from tests.support import FloatArray, run_pass


def applied(function: str, readers: int = 1, share: object = 1.0) -> TensorGraph:
    """x -> 2 x + 1 -> function; with two readers the linear map is an output too."""
    b = Builder()
    b.input("x", 1, 2)
    b.scaled("t", "x", 2.0, 1.0)
    b.function("f", "t", function)
    node = b.graph["f"]
    assert isinstance(node, Function)
    b.graph.nodes["f"] = replace(node, share=np.asarray(share, np.float64))
    return b.output("f", *["t"][: readers - 1])


def summed(**weights: float) -> TensorGraph:
    """The sum of functions of x, which are called like their weights."""
    b = Builder()
    b.input("x", 1, 2)
    for name in weights:
        b.function(name, "x", name)
    b.affine("sum", {name: weight * np.eye(2) for name, weight in weights.items()})
    return b.output("sum")


def between(low: float, high: float) -> FloatArray:
    """Samples at equal distances, one element the other way round."""
    x = np.linspace(low, high, 65)
    return np.stack([x, x[::-1]], axis=-1)[:, None]


def fit(
    before: TensorGraph, low: float, high: float, p: FitRefreshes | None = None, **options: object
) -> PassResult:
    """The pass on a graph whose input takes values from low to high."""
    calibration = Calibration({"x": between(low, high)})
    ranges = run_pass(InferRanges(), before, calibration).program.facts[Ranges]
    return run_pass(p or FitRefreshes(), before, ranges, calibration, **options)


def changes(before: TensorGraph, after: TensorGraph, x: FloatArray) -> tuple[float, float]:
    """The largest change of an output, and the largest output."""
    exact, found = evaluate(before, {"x": x}), evaluate(after, {"x": x})
    change = max(float(np.abs(found[k] - y).max()) for k, y in exact.items())
    return change, max(float(np.abs(y).max()) for y in exact.values())


def terms(result: PassResult) -> set[int]:
    return {node.terms for node in of_kind(result.program.graph, Refresh)}


KINKED = {"abs": 7.0, "relu": 8.0, "clip": 7.0, "hard_swish": 9.0}  # bits that are reached


@pytest.mark.parametrize("name", sorted(set(FUNCTIONS) - {"sign", "thresholded_relu"}))
def test_errors_are_as_small_as_asked_for(name: str) -> None:
    low, high = (0.5, 1.5) if FUNCTIONS[name].domain_of(-1.0, 1.0) is None else (-3.0, 1.5)
    before, x = applied(name), between(low, high)
    for bits in (3.0, KINKED.get(name, 10.0)):
        result = fit(before, low, high, precision_bits=bits)
        after = result.program.graph
        assert [node.op for node in after] == ["input", "affine", "refresh", "output"]
        change, largest = changes(before, after, x)
        assert 0.0 < change <= 0.75 * 2.0**-bits * largest
        error = result.program.facts[ApproximationError]
        assert (error.largest, error.output_range) == pytest.approx((change, largest), rel=1e-6)
        if FUNCTIONS[name].domain_of(-1.0, 1.0):  # and in the margin
            (fitted,) = result.program.facts[FittedFunctions].functions
            unit = FUNCTIONS[name].unit(fitted.low, fitted.high)
            assert unit is not None
            inside = between((fitted.low - 1) / 2, (fitted.high - 1) / 2)
            assert changes(before, after, inside)[0] <= fitted.error * unit * (1 + 1e-6)


def test_what_the_refresh_says() -> None:
    result = fit(applied("relu"), -1.0, 1.0, precision_bits=4.0)
    graph = result.program.graph
    (node,) = of_kind(graph, Refresh)
    assert (node.low, node.high) == pytest.approx((-2.4, 2.4))  # [-1, 3] and a tenth of 4
    assert node.unit == pytest.approx(0.8 / 2.4)
    map_ = graph["t"]
    assert isinstance(map_, Affine)
    assert map_.bias == pytest.approx(1.0 - 1.0)  # the centre is 1
    u = np.linspace(-2.4, 2.4, 4001)
    largest = float(np.abs(node.value(u)).max())
    assert node.gain * largest == pytest.approx(0.8, rel=1e-3)
    assert result.remarks[0] == (
        "f: relu on -1.4 to 3.4 in a refresh, 13 terms, error over largest value there 0.006"
    )
    change, _ = changes(applied("relu"), graph, between(-1.0, 1.0))
    assert result.remarks[1:] == (f"the outputs change by {change:.2g} at most",)
    (fitted,) = result.program.facts[FittedFunctions].functions
    assert (fitted.node, fitted.function, fitted.depth) == ("f", "relu", 0)
    assert fitted.degrees == (13,)
    assert (fitted.low, fitted.high) == pytest.approx((-1.4, 3.4))


def test_ranges_are_those_of_the_new_graph() -> None:
    result = fit(applied("relu"), -1.0, 1.0)
    ranges, graph = result.program.facts[Ranges], result.program.graph
    assert ranges.current
    assert set(ranges.largest) == set(graph.nodes)
    assert (ranges.low["t"], ranges.high["t"]) == pytest.approx((-2.0, 2.0))
    y = evaluate(graph, {"x": between(-1.0, 1.0)})["f"]
    assert (ranges.low["f"], ranges.high["f"]) == pytest.approx((y.min(), y.max()), rel=1e-9)
    assert ranges.output == pytest.approx(y.max(), rel=1e-9)


@pytest.mark.parametrize(
    ("bits", "expected"), [(2.0, 13), (5.0, 13), (7.0, 27), (8.0, 59), (9.0, 119)]
)
def test_the_fewest_terms(bits: float, expected: int) -> None:
    before = applied("relu")
    assert terms(fit(before, -1.0, 1.0, precision_bits=bits)) == {expected}
    fewer = {27: 13, 59: 27, 119: 59}.get(expected)
    if fewer:
        with pytest.raises(FheCompileError):
            fit(before, -1.0, 1.0, FitRefreshes(terms=fewer), precision_bits=bits)


def test_all_series_have_the_same_number_of_terms() -> None:
    assert terms(fit(summed(tanh=1.0), -1.0, 1.0)) == {13}
    result = fit(summed(tanh=1.0, relu=1.0), -1.0, 1.0)
    assert len(of_kind(result.program.graph, Refresh)) == 2
    assert terms(result) == {59}


def test_options_are_obeyed() -> None:
    before = applied("tanh")
    result = fit(
        before, -1.0, 1.0, FitRefreshes(margin=0.0, share=0.5, terms=20), precision_bits=4.0
    )
    (node,) = of_kind(result.program.graph, Refresh)
    assert (node.low, node.high, node.unit, node.terms) == pytest.approx((-2.0, 2.0, 0.25, 20))


def test_functions_may_change_outputs_by_the_activation_error() -> None:
    before = applied("relu")
    assert terms(fit(before, -1.0, 1.0, precision_bits=12.0, activation_error=0.01)) == {13}
    change, largest = changes(
        before,
        fit(before, -1.0, 1.0, activation_error=0.002).program.graph,
        between(-1.0, 1.0),
    )
    assert change <= 0.002 * largest


@settings(max_examples=15, deadline=None)
@given(
    st.lists(st.floats(-2.0, 2.0), min_size=2, max_size=2),
    st.floats(-1.9, 0.5),
    st.floats(1.0, 8.0),
)
def test_the_promise_is_kept_or_refused(weights: list[float], low: float, bits: float) -> None:
    before = summed(**dict(zip(("relu", "tanh"), weights, strict=True)))
    high = low + 2.0
    try:
        result = fit(before, low, high, precision_bits=bits)
    except FheCompileError as error:
        assert error.code == "precision-not-reachable"
        return
    change, largest = changes(before, result.program.graph, between(low, high))
    assert change <= 0.75 * 2.0**-bits * (largest or 1.0) * (1 + 1e-9)


# ---------------------------------------------------------------------------- pieces and shares


@pytest.mark.parametrize(
    ("name", "low", "high"),
    [("relu", 0.0, 1.0), ("relu", -2.0, -0.5), ("clip", -1.0, 0.0), ("hard_swish", -2.0, 1.0)],
)
def test_a_function_that_is_a_polynomial_takes_no_refresh(
    name: str, low: float, high: float
) -> None:
    before = applied(name)
    result = fit(before, low, high, precision_bits=30.0)
    assert not of_kind(result.program.graph, Refresh, Function)
    assert result.modified
    assert result.program.facts[FittedFunctions].functions == ()
    assert result.remarks == ("the outputs change by 0 at most",)
    change, _ = changes(before, result.program.graph, between(low, high))
    assert change <= 1e-12


def test_only_the_others_are_refreshed() -> None:
    b = Builder()
    b.input("x", 1, 2)
    b.scaled("up", "x", 0.5, 2.0)
    b.function("inside", "up", "relu")
    b.function("outside", "x", "relu")
    before = b.output(b.sum("sum", "inside", "outside"))
    result = fit(before, -1.0, 1.0)
    (node,) = of_kind(result.program.graph, Refresh)
    assert node.name == "outside"
    change, largest = changes(before, result.program.graph, between(-1.0, 1.0))
    assert 0.0 < change <= 0.75 * 2.0**-8 * largest


@pytest.mark.parametrize("share", [0.99, 0.75, 1.5, 0.0])
def test_one_slope_for_all_channels(share: float) -> None:
    """A leaky relu is no harder than a relu, and its error is measured as what it computes."""
    before = applied("relu", share=share)
    result = fit(before, -1.0, 1.0, precision_bits=8.0)
    assert terms(result) <= {13, 27, 59}
    change, largest = changes(before, result.program.graph, between(-1.0, 1.0))
    assert change <= 0.75 * 2.0**-8 * largest
    if share:
        error = result.program.facts[ApproximationError]
        assert error.largest == pytest.approx(change, rel=1e-6)


@settings(max_examples=15, deadline=None)
@given(st.permutations(range(-4, 13)), st.floats(-1.5, -0.75))
def test_slopes_per_channel(eighths: list[int], low: float) -> None:
    """The refresh computes the function itself, a map of two values the node's."""
    before = applied("relu", share=np.array(eighths[:2]) / 8)
    result = fit(before, low, 1.0, precision_bits=6.0)
    graph = result.program.graph
    assert [node.op for node in graph][1:] == ["affine", "poly", "refresh", "affine", "output"]
    assert graph["f"].inputs == ("t", "f.whole")
    change, largest = changes(before, graph, between(low, 1.0))
    assert change <= 0.75 * 2.0**-6 * largest
    error = result.program.facts[ApproximationError]
    assert error.largest == pytest.approx(change, rel=1e-6)
    (report,) = result.program.facts[FittedFunctions].functions
    assert report.node == "f"
    # What the values are off by, as a share of their range; of the refresh alone nothing is known.
    shares = result.program.facts[FittedErrors].by_layer(graph)
    assert shares["f"] and shares["out.f"] == shares["f"] and not shares["t"]
    assert shares["f.whole"] is None


def test_slopes_per_channel_of_a_polynomial() -> None:
    graph = fit(applied("relu", share=[0.9, 0.8]), 0.0, 1.0).program.graph
    assert [node.op for node in graph] == ["input", "affine", "poly", "output"]


# ---------------------------------------------------------------------------- the operand


def test_a_map_with_other_readers_is_left_alone() -> None:
    before = applied("relu", readers=2)
    graph = fit(before, -1.0, 1.0, precision_bits=6.0).program.graph
    assert list(graph.nodes) == ["x", "t", "f.centred", "f", "out.f", "out.t"]
    assert graph["t"] is before["t"]
    change, _ = changes(before, graph, between(-1.0, 1.0))
    assert change <= 0.75 * 2.0**-6 * 3.0


def test_nothing_is_shifted_where_the_centre_is_zero() -> None:
    graph = fit(summed(relu=1.0), -1.0, 1.0).program.graph
    assert list(graph.nodes) == ["x", "relu", "sum", "out.sum"]


def test_functions_behind_each_other() -> None:
    b = Builder()
    b.input("x", 1, 2)
    b.function("first", "x", "relu")
    b.scaled("t", "first", 2.0, -0.5)
    b.function("f", "t", "relu")
    before = b.output("f")
    result = fit(before, -1.0, 1.0)
    assert [remark.split(":")[0] for remark in result.remarks[:-1]] == ["first", "f"]
    change, largest = changes(before, result.program.graph, between(-1.0, 1.0))
    assert 0.0 < change <= 0.75 * 2.0**-8 * largest


def test_without_functions_nothing_happens() -> None:
    b = Builder()
    b.input("x", 1, 2)
    before = b.output(b.poly("p", "x", 0.0, 1.0))
    result = fit(before, 0.0, 1.0)
    assert not result.modified and result.program.graph is before
    assert result.program.facts[FittedFunctions].functions == ()


# ---------------------------------------------------------------------------- refusals


def refusal(
    before: TensorGraph, low: float, high: float, p: FitRefreshes | None = None, **more: object
) -> str:
    with pytest.raises(FheCompileError) as caught:
        fit(before, low, high, p, **more)
    return caught.value.render()


def test_what_no_series_reaches() -> None:
    before = applied("relu")
    assert refusal(before, -1.0, 1.0, precision_bits=10.0) == (
        "with Fourier series of 119 terms for 1 functions the outputs change by 0.0025; allowed is "
        "0.0022 of outputs up to 3 [precision-not-reachable]\n"
        "  hint: calibrate with data like those of use: a narrower range is fitted better, or "
        "allow it with --activation-error 0.00087"
    )
    assert fit(before, -1.0, 1.0, activation_error=0.00087).modified  # as the hint says


def test_what_so_few_terms_do_not_reach() -> None:
    p = FitRefreshes(terms=5)
    assert refusal(applied("relu"), -1.0, 1.0, p) == (
        "with Fourier series of 5 terms for 1 functions the outputs change by 0.048; allowed is "
        "0.0088 of outputs up to 3 [precision-not-reachable]\n"
        "  hint: calibrate with data like those of use: a narrower range is fitted better, or "
        "allow it with --activation-error 0.017"
    )
    assert terms(fit(applied("relu"), -1.0, 1.0, p, activation_error=0.017)) == {5}


def test_values_outside_of_the_domain() -> None:
    assert refusal(applied("log"), -1.0, 1.0) == (
        "f: log is applied to values from -1 to 3 on the calibration data, but needs all of them "
        "above 0 [function-range]\n"
        "  hint: take out samples that are empty or unlike those the network was trained on"
    )


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"margin": -1.0}, "margin is -1, allowed are 0 and more"),
        ({"margin": math.inf}, "margin is inf, allowed are 0 and more"),
        ({"margin": math.nan}, "margin is nan, allowed are 0 and more"),
        ({"share": 0.0}, "share is 0, allowed are numbers between 0 and 1"),
        ({"share": 1.0}, "share is 1, allowed are numbers between 0 and 1"),
        ({"terms": -1}, "terms is -1, allowed are 1 to 119, and 0 for any"),
        ({"terms": 120}, "terms is 120, allowed are 1 to 119, and 0 for any"),
    ],
)
def test_options(options: dict[str, float], text: str) -> None:
    p = FitRefreshes(**options)  # type: ignore[arg-type]
    assert refusal(applied("tanh"), 0.0, 1.0, p=p) == f"fit_refreshes: {text} [option-value]"


def test_the_range_that_is_asked_for() -> None:
    wish = FunctionOptions(range=(-4.0, 8.0))
    result = fit(applied("tanh"), -1.0, 1.0, activations={"f": wish})
    node = result.program.graph["f"]
    assert isinstance(node, Refresh) and (node.low, node.high) == (-6.0, 6.0)
    assert result.remarks[0].startswith("f: tanh on -4 to 8 in a refresh, ")
    with pytest.raises(FheCompileError) as caught:
        fit(applied("sqrt"), 0.0, 1.0, activations={"f": FunctionOptions(range=(-1.0, 4.0))})
    assert caught.value.render() == (
        "f: sqrt is not defined on all of the range -1 to 4 [activation-options]\n"
        "  hint: it needs numbers at least 0"
    )
