"""Errors of fitted functions against the outputs of two graphs."""

from __future__ import annotations

import math

import numpy as np
import pytest

from fhecompile.functions.minimax import FittedPolynomial, fit_minimax
from fhecompile.functions.table import FUNCTIONS
from fhecompile.ir import function_errors
from fhecompile.ir.evaluate import Substitutes, evaluate, walk, walk_variants
from fhecompile.ir.function_errors import FunctionErrors
from fhecompile.ir.tensor import TensorGraph
from tests.graphs import Builder, matrix
from tests.support import random_inputs


def network() -> TensorGraph:
    """Two functions behind a linear map of eight inputs, one in front of the other."""
    b = Builder()
    b.input("x", 1, 8)
    b.affine("first", {"x": matrix(3, 8)})
    b.function("tanh", "first", "tanh")
    b.affine("second", {"tanh": matrix(3, 3, 1), "first": matrix(3, 3, 2)})
    b.function("exp", "second", "exp")
    return b.output("exp", "first")


def polynomials(name: str, *degrees: int) -> list[FittedPolynomial]:
    return [fit_minimax(FUNCTIONS[name], -4.0, 4.0, d, 1.0) for d in degrees]


def changed(graph: TensorGraph, inputs: dict[str, np.ndarray], variant: Substitutes) -> float:
    """Of the outputs, from values computed without any sharing."""
    values: dict[str, np.ndarray] = {}
    for node, _ in walk(graph, inputs):
        if node.name in variant:
            values[node.name] = variant[node.name](values[node.inputs[0]])
        else:
            given = {**inputs, **{n: values[n] for n in node.inputs}}
            one = Builder()
            for operand in dict.fromkeys(node.inputs):
                one.input(operand, *graph[operand].shape)
            one.graph.add(node)
            values[node.name] = {n.name: v for n, v in walk(one.graph, given)}[node.name]
    exact = evaluate(graph, inputs)
    return max(float(np.abs(values[f"out.{k}"] - y).max()) for k, y in exact.items())


@pytest.mark.parametrize("samples", [1, 40])
def test_alone_and_together(samples: int) -> None:
    graph = network()
    inputs = random_inputs(graph, samples)
    candidates = {"tanh": polynomials("tanh", 3, 7), "exp": polynomials("exp", 5)}
    measured = FunctionErrors(graph, inputs)
    alone = {n: measured.alone(n, found, np.arange(samples)) for n, found in candidates.items()}
    values = {node.name: value for node, value in walk(graph, inputs)}
    for name, found in candidates.items():
        x = values[graph[name].inputs[0]]
        for p, error in zip(found, alone[name], strict=True):
            seen = float(np.abs(p(x) - FUNCTIONS[name](x)).max())
            expected = changed(graph, inputs, {name: p}) * max(1.0, p.error / seen)
            assert error == pytest.approx(expected, rel=1e-9)
    choice = {name: found[0] for name, found in candidates.items()}
    expected = changed(graph, inputs, choice)
    assert measured.together(choice) == pytest.approx(expected, rel=1e-9)
    assert measured.together({}) == 0.0
    assert expected / 1e6 < measured.together(choice, expected / 1e6) <= expected * (1 + 1e-9)


def test_the_largest_change_may_be_in_any_sample() -> None:
    graph = network()
    inputs = {"x": np.zeros((40, 1, 8))}
    choice = {"tanh": polynomials("tanh", 3)[0]}
    low = FunctionErrors(graph, inputs).together(choice)
    for place in (0, 20, 39):
        inputs["x"][:] = 0.0
        inputs["x"][place] = 1.0
        high = FunctionErrors(graph, inputs).together(choice)
        assert high == pytest.approx(max(low, changed(graph, inputs, choice)), rel=1e-9)
        assert high > 1.5 * low


def test_what_functions_do_not_change_is_evaluated_once(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = network()
    measured = FunctionErrors(graph, random_inputs(graph, 40))
    assert list(measured.graph.nodes) == ["first", "tanh", "second", "exp", "out.exp"]
    assert {name: x.shape for name, x in measured.inputs.items()} == {"first": (40, 1, 3)}
    monkeypatch.setattr(function_errors, "BATCH", 7)
    again = FunctionErrors(graph, random_inputs(graph, 40))
    np.testing.assert_allclose(again.inputs["first"], measured.inputs["first"], atol=1e-14)


def test_a_border_larger_than_the_inputs_is_not_kept() -> None:
    b = Builder()
    b.input("x", 1, 2)
    b.affine("wide", {"x": matrix(5, 2)})
    graph = b.output(b.function("f", "wide", "exp"))
    inputs = random_inputs(graph)
    measured = FunctionErrors(graph, inputs)
    assert measured.graph is graph and measured.inputs is inputs
    choice = {"f": polynomials("exp", 3)[0]}
    assert measured.together(choice) == pytest.approx(changed(graph, inputs, choice), rel=1e-9)


def test_overflow_is_an_infinite_error() -> None:
    b = Builder()
    b.input("x", 1, 2)
    value = b.function("f", b.scaled("t", "x", 30.0), "tanh")
    for k in range(10):
        value = b.poly(f"square{k}", value, 0.0, 0.0, 1.0)
    graph = b.output(value)
    p = polynomials("tanh", 7)[0]
    measured = FunctionErrors(graph, random_inputs(graph, 20))
    assert measured.together({"f": p}) == math.inf
    assert measured.alone("f", [p], np.arange(20)) == [math.inf]


def test_variants_share_what_they_have_in_common() -> None:
    graph = network()
    p = polynomials("exp", 3)[0]
    for node, (exact, same, other) in walk_variants(
        graph, random_inputs(graph), [{}, {}, {"exp": p}]
    ):
        assert exact is same
        assert (exact is other) == (node.name not in ("exp", "out.exp"))
