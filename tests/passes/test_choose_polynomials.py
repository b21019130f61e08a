"""Polynomials stand for refreshes where they are cheaper, and are as precise."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from fhecompile.errors import FheCompileError
from fhecompile.ir.evaluate import evaluate
from fhecompile.ir.fitted_functions import FittedFunctions
from fhecompile.ir.fitted_series import FittedSeries
from fhecompile.ir.program import PassResult, Program
from fhecompile.ir.refresh_places import PolynomialWay, RefreshPlaces
from fhecompile.ir.tensor import Function, Refresh, TensorGraph
from fhecompile.options import CompileOptions, FunctionOptions
from passes.choose_polynomials import ChoosePolynomials
from passes.fit_functions import ApproximationError
from passes.fit_refreshes import FitRefreshes
from passes.infer_ranges import Calibration, InferRanges, Ranges
from tests.graphs import Builder, matrix
from tests.support import run_pass

DATA = Calibration({"x": np.random.default_rng(3).uniform(-1, 1, (64, 1, 4))})


def chain(*functions: str) -> TensorGraph:
    """Maps with a function behind each, and one more map."""
    b = Builder()
    b.input("x", 1, 4)
    value = "x"
    for k, function in enumerate(functions):
        b.affine(f"map{k}", {value: matrix(4, 4, k)})
        value = b.function(f"f{k}", f"map{k}", function)
    return b.output(b.affine("last", {value: matrix(2, 4)}))


def fitted(graph: TensorGraph, **options: object) -> Program:
    """With a refresh for every function."""
    measured = run_pass(InferRanges(), graph, DATA, **options)
    return FitRefreshes().run(measured.program).program


def choose(graph: TensorGraph, degree: int = 63, **options: object) -> PassResult:
    p, program = ChoosePolynomials(degree), fitted(graph, **options)
    p.requires(program)
    return p.run(program)


def refreshes(program: Program) -> list[str]:
    return [node.name for node in program.graph if isinstance(node, Refresh)]


def test_shallow_networks_need_no_refresh() -> None:
    graph = chain("tanh", "silu")
    assert refreshes(fitted(graph)) == ["f0", "f1"]
    result = choose(graph)
    program = result.program
    assert result.modified and not refreshes(program)
    # The promise that the series were fitted to is kept, by what is said of it and by evaluation.
    allowed = program.facts[FittedSeries].allowed
    (exact,) = evaluate(graph, DATA.inputs).values()
    (found,) = evaluate(program.graph, DATA.inputs).values()
    changed = program.facts[ApproximationError].largest
    assert np.abs(found - exact).max() == pytest.approx(changed, rel=1e-6)
    assert 0.0 < changed <= allowed
    for report in program.facts[FittedFunctions].functions:
        assert report.depth > 0 and report.degrees[0] >= 2
        assert report.error <= program.facts[FittedSeries].series[report.node].error * 1.01
    # Ranges are those of the new graph, polynomials' values among them.
    assert set(program.facts[Ranges].largest) >= set(program.graph.nodes) - {"last.output"}


def test_shares_per_channel_are_coefficients_of_a_polynomial() -> None:
    graph = chain("tanh")
    function = graph["f0"]
    assert isinstance(function, Function)
    graph.nodes["f0"] = replace(function, share=np.array([0.5, 1.0, 0.0, 1.2]))
    assert refreshes(fitted(graph)) == ["f0.whole"]
    program = choose(graph).program
    assert not refreshes(program) and "f0.whole" not in program.graph.nodes
    (exact,) = evaluate(graph, DATA.inputs).values()
    (found,) = evaluate(program.graph, DATA.inputs).values()
    assert 0.0 < np.abs(found - exact).max() <= program.facts[FittedSeries].allowed


def test_a_kink_that_polynomials_do_not_resolve_stays_in_a_refresh() -> None:
    result = choose(chain("relu"), degree=7, precision_bits=8)
    assert not result.modified and refreshes(result.program) == ["f0"]
    assert result.remarks == ("every function is computed in a refresh",)


def test_degree_zero_takes_none() -> None:
    result = choose(chain("tanh"), degree=0)
    assert not result.modified and refreshes(result.program) == ["f0"]


def test_without_functions_nothing_happens() -> None:
    assert not choose(chain()).modified


@pytest.mark.parametrize(
    "wish", [FunctionOptions(degree=5), FunctionOptions(degree=5, function="minimax")]
)
def test_a_polynomial_that_is_asked_for_is_taken(wish: FunctionOptions) -> None:
    result = choose(chain("relu", "tanh"), degree=0, activations={"f0": wish}, activation_error=0.5)
    assert refreshes(result.program) == ["f1"]
    first, second = result.program.facts[FittedFunctions].functions
    assert (first.node, second.node) == ("f0", "f1")
    assert first.degrees[0] in (4, 5) and first.depth == 3
    assert second.depth == 0
    assert result.remarks[0].startswith("f0: relu on ")


def test_a_polynomial_that_is_asked_for_keeps_the_promise() -> None:
    with pytest.raises(FheCompileError) as caught:
        choose(chain("relu", "tanh"), activations={"f0": FunctionOptions(degree=5)})
    assert caught.value.render() == (
        "f0: with a polynomial of degree 5 for relu on -1.963 to 1.818 the outputs change by "
        "0.038, for f1 by 5.6e-07, for all 2 functions by 0.046; allowed is 0.0021, 0.75 of 2^-8 "
        "of outputs up to 0.71 [precision-not-reachable]\n"
        "  hint: calibrate with data like those of use: a narrower range needs less degree, or "
        "lower --precision-bits to 3, or allow it with --activation-error 0.065, or replace it by "
        "a polynomial activation and fine-tune"
    )


def test_what_cannot_be_had_is_refused() -> None:
    with pytest.raises(FheCompileError) as caught:
        choose(chain("relu"), activations={"f0": FunctionOptions(degree=3, error=1e-9)})
    error = caught.value
    assert error.render().startswith("f0: no approximation of relu on -")
    assert error.reason.endswith(" is what the options for it ask for")
    assert error.hint == "allow more error, more degree, or another function"
    assert error.code == "activation-options"


@pytest.mark.parametrize("degree", [1, 256, -3])
def test_degrees_out_of_range_are_refused(degree: int) -> None:
    with pytest.raises(FheCompileError) as caught:
        choose(chain("tanh"), degree=degree)
    assert caught.value.render() == (
        f"choose_polynomials: degree is {degree}, allowed are 2 to 255, and 0 for no polynomials "
        "[option-value]"
    )


def places_without(program: Program) -> RefreshPlaces:
    return RefreshPlaces(program.graph, CompileOptions(), program.facts[Ranges].largest, {})


def test_some_functions_are_refreshed_where_primes_are_few() -> None:
    """Eight functions of depth 4: the primes between two refreshes do not suffice for all."""
    program = fitted(chain(*("tanh",) * 8))
    ways = {
        f"f{k}": PolynomialWay(f"map{k}", 4, ((program.graph[f"map{k}"], 0),)) for k in range(8)
    }
    places = RefreshPlaces(program.graph, CompileOptions(), program.facts[Ranges].largest, {}, ways)
    cost, taken = places.estimate()
    assert cost < places_without(program).estimate()[0]
    assert 0 < len(taken) < 8
    # A refresh between two of them is never dearer than one more of a function.
    assert "f0" in taken  # inputs have all primes left
