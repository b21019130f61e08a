"""Functions of several values share a refresh, and compute what they did."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from fhecompile.errors import FheCompileError
from fhecompile.frontend.calibration import synthetic_calibration
from fhecompile.functions.table import FUNCTIONS
from fhecompile.ir.evaluate import evaluate
from fhecompile.ir.fitted_functions import FittedFunctions
from fhecompile.ir.fitted_series import FittedSeries
from fhecompile.ir.program import PassResult
from fhecompile.ir.tensor import Function, Mul, Refresh, TensorGraph
from fhecompile.options import FunctionOptions
from passes.fit_functions import ApproximationError
from passes.fit_refreshes import FitRefreshes
from passes.infer_ranges import Calibration, InferRanges, Ranges
from passes.merge_refreshes import MergeRefreshes
from tests.graphs import Builder, matrix, of_kind
from tests.support import assert_same_function, outline, run_pass

TOY = {"ring_dimension": 2048, "insecure_toy": True, "activation_error": 0.5, "level_budget": 9}


def merge(graph: TensorGraph, widening: float = 2.0, **options: object) -> PassResult:
    """What the pass makes of a graph whose functions are refreshed."""
    data = Calibration(synthetic_calibration(graph))
    measured = run_pass(InferRanges(), graph, data, **{**TOY, **options})
    fitted = FitRefreshes().run(measured.program).program
    p = MergeRefreshes(widening)
    p.requires(fitted)
    return p.run(fitted)


def exact(result: PassResult) -> TensorGraph:
    """The graph of the result with its functions themselves."""
    return result.program.facts[FittedSeries].graph


def refreshed(result: PassResult) -> list[str]:
    return [node.name for node in of_kind(result.program.graph, Refresh)]


def branches(*functions: str, scale: float = 1.0, features: int = 8) -> TensorGraph:
    """Functions of maps of one value; the k-th has k more features, `scale` times as large."""
    b = Builder()
    b.input("x", 1, 4)
    for k, function in enumerate(functions):
        b.affine(f"map{k}", {"x": scale**k * matrix(features + k, 4, k)})
        b.function(f"f{k}", f"map{k}", function)
    last = {f"f{k}": matrix(3, features + k, 9) for k in range(len(functions))}
    return b.output(b.affine("last", last))


def test_branches_share_one_refresh_at_no_map_more() -> None:
    graph = branches("relu", "relu", "relu", scale=3.0)  # of any size: relu only scales
    result = merge(graph)
    assert refreshed(result) == ["f0.joint"]
    assert result.remarks == ("f0, f1, f2 share a refresh of 1 x 27",)
    assert outline(exact(result)) == [
        "f0.operands = affine(x)",
        "f0.joint = function(f0.operands)",
        "last = affine(f0.joint)",
    ]
    assert_same_function(graph, exact(result), synthetic_calibration(graph), bits=40)
    # The operands have one size now, that of the largest.
    ranges, before = result.program.facts[Ranges], merge(graph, 0.0).program.facts[Ranges]
    assert ranges.largest["f0.joint"] == pytest.approx(
        max(before.largest[f"f{k}"] for k in range(3)), rel=0.02
    )
    facts = result.program.facts
    (report,) = facts[FittedFunctions].functions
    assert report.node == "f0.joint"
    assert facts[ApproximationError].largest <= facts[FittedSeries].allowed


def test_ranges_that_differ_keep_their_refreshes() -> None:
    graph = branches("tanh", "tanh", scale=3.0)
    result = merge(graph)
    assert not result.modified and refreshed(result) == ["f0", "f1"]
    assert refreshed(merge(graph, widening=9.0)) == ["f0.joint"]


@pytest.mark.parametrize(
    "graph",
    [
        branches("tanh", "sigmoid"),
        branches("relu"),
        branches("relu", "relu", features=600),  # of 1024 slots
    ],
    ids=["other functions", "one", "full ciphertexts"],
)
def test_what_is_not_merged(graph: TensorGraph) -> None:
    result = merge(graph)
    assert not result.modified and not result.remarks
    assert refreshed(result) == [node.name for node in of_kind(graph, Function)]


def test_functions_that_depend_on_each_other_stay_apart() -> None:
    """Two towers of which each reads the other's first value: only equal heights can be merged."""
    b = Builder()
    b.input("x", 1, 4)
    for tower in "ab":
        b.affine(f"map.{tower}", {"x": matrix(4, 4, ord(tower))})
        b.function(f"low.{tower}", f"map.{tower}", "relu")
    for tower, other in ("ab", "ba"):
        operands = {f"low.{other}": matrix(4, 4, 1), f"low.{tower}": matrix(4, 4, 2)}
        b.affine(f"again.{tower}", operands)
        b.function(f"high.{tower}", f"again.{tower}", "relu")
    graph = b.output(b.affine("last", {f"high.{t}": matrix(2, 4, ord(t)) for t in "ab"}))
    result = merge(graph)
    assert refreshed(result) == ["low.a.joint", "high.a.joint"]
    assert_same_function(graph, exact(result), synthetic_calibration(graph), bits=40)


def test_values_that_are_multiplied_are_picked_by_maps_where_that_is_worth_it() -> None:
    b = Builder()
    b.input("x", 1, 4)
    for gate in "if":
        b.affine(f"map.{gate}", {"x": matrix(8, 4, ord(gate))})
        b.function(gate, f"map.{gate}", "sigmoid")
    graph = b.output(b.mul("product", "i", "f"))
    result = merge(graph)
    assert refreshed(result) == ["i.joint"]
    assert outline(exact(result)) == [
        "i.operands = affine(x)",
        "i.joint = function(i.operands)",
        "i = affine(i.joint)",
        "f = affine(i.joint)",
        "product = mul(i, f)",
    ]
    assert of_kind(result.program.graph, Mul)
    assert_same_function(graph, exact(result), synthetic_calibration(graph), bits=40)


def test_what_a_user_asks_for_one_function_keeps_it_apart() -> None:
    graph = branches("relu", "relu", "relu")
    asked = {"f1": FunctionOptions(degree=7)}
    assert refreshed(merge(graph, activations=asked)) == ["f0.joint", "f1"]


def test_a_promise_that_is_not_kept_keeps_them_apart() -> None:
    """On the range of both the series of a sigmoid has too few terms."""
    b = Builder()
    b.input("x", 1, 4)
    for k, centre in enumerate((-6.0, 6.0)):
        b.affine(f"map{k}", {"x": 3.0 * matrix(8, 4, k)}, bias=centre)
        b.function(f"f{k}", f"map{k}", "sigmoid")
    graph = b.output(b.affine("last", {f"f{k}": matrix(3, 8, 9) for k in range(2)}))
    fits = {"widening": 4.0, "activation_error": None}
    terms = {}
    for bits in range(2, 20):
        result = merge(graph, **fits, precision_bits=float(bits))
        terms[bits] = (of_kind(result.program.graph, Refresh)[0].terms, result.modified)
    assert {modified for _, modified in terms.values()} == {True, False}


@pytest.mark.parametrize("widening", [0.5, -1.0, float("inf")])
def test_option_values(widening: float) -> None:
    with pytest.raises(FheCompileError) as caught:
        merge(branches("relu"), widening)
    assert caught.value.render() == (
        f"merge_refreshes: widening is {widening:g}, allowed are 1 and more, and 0 to merge "
        "nothing [option-value]"
    )


def test_which_functions_are_homogeneous() -> None:
    x = np.linspace(-4.0, 4.0, 81)
    for name, f in FUNCTIONS.items():
        with np.errstate(all="ignore"):
            found = np.allclose(f(3.0 * x), 3.0 * f(x), equal_nan=True)
        assert found == f.homogeneous, name


@st.composite
def networks(draw: st.DrawFn) -> TensorGraph:
    """Maps, functions, sums and products of any values before them, of two shapes."""
    b = Builder()
    values = {2: [b.input("x", 2, 3)], 4: [b.input("z", 4, 3)]}
    size = {2: 6, 4: 12}
    kinds = st.sampled_from(["map", "relu", "tanh", "relu", "sum", "mul"])
    for k, kind in enumerate(draw(st.lists(kinds, min_size=4, max_size=10))):
        rows = draw(st.sampled_from([2, 4]))
        if kind == "map":
            other = draw(st.sampled_from([2, 4]))
            name = draw(st.sampled_from(values[other]))
            made = b.affine(f"v{k}", {name: matrix(size[rows], size[other], k)}, (rows, 3))
        elif kind in ("relu", "tanh"):
            made = b.function(f"v{k}", draw(st.sampled_from(values[rows])), kind)
        else:
            of = draw(st.sampled_from(values[rows])), draw(st.sampled_from(values[rows]))
            made = b.sum(f"v{k}", *of) if kind == "sum" else b.mul(f"v{k}", *of)
        values[rows].append(made)
    graph = b.output(values[2][-1], values[4][-1])
    return graph.rebuilt(graph.nodes.values())


@settings(max_examples=25)
@given(networks())
def test_networks_compute_what_they_did(graph: TensorGraph) -> None:
    assume(of_kind(graph, Function))
    result = merge(graph, widening=8.0)
    assert_same_function(graph, exact(result), synthetic_calibration(graph), bits=36)
    functions = len(of_kind(graph, Function))
    assert len(refreshed(result)) + len(result.remarks) <= functions
    program = result.program
    (found,) = list(evaluate(program.graph, synthetic_calibration(graph)).values())[:1]
    assert np.isfinite(found).all()
    again = MergeRefreshes(8.0).run(replace(program))
    assert not again.modified or len(refreshed(again)) < len(refreshed(result))
