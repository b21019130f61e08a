"""What fitted functions change about every layer, against both networks evaluated."""

from __future__ import annotations

import functools
import re

import numpy as np
import pytest

from fhecompile.ir.evaluate import walk
from fhecompile.ir.fitted_errors import FittedErrors
from fhecompile.ir.program import Program
from fhecompile.ir.tensor import Refresh, TensorGraph
from passes import DEFAULT_PIPELINE, REFRESHED_PIPELINE
from passes.infer_ranges import Calibration, Ranges
from passes.predict_precision import LayerErrors, PredictPrecision
from passes.select_parameters import ScaleChoice
from tests.graphs import Builder, matrix, run_passes

TOY = {"ring_dimension": 2048, "insecure_toy": True, "precision_bits": 6}
SAMPLES = 16  # all of them are looked at
X = {"x": np.random.default_rng(0).uniform(-1.0, 1.0, (SAMPLES, 1, 8))}


def network(function: str) -> TensorGraph:
    """8 - 8 - f - 4, and its square."""
    b = Builder()
    b.input("x", 1, 8)
    shift = 3.0 if function in ("sqrt", "log") else 0.0
    b.affine("first", {"x": matrix(8, 8)}, bias=shift)
    b.affine("second", {b.function("f", "first", function): matrix(4, 8, 1)})
    return b.output(b.poly("square", "second", 0.0, 0.0, 1.0), "second")


def predict(graph: TensorGraph, pipeline: str = DEFAULT_PIPELINE, **options: object) -> Program:
    given = {**TOY, **options}
    return run_passes(
        graph, "predict_precision", facts=[Calibration(X)], pipeline=pipeline, **given
    )


@functools.cache
def predicted_relu(pipeline: str = DEFAULT_PIPELINE) -> Program:
    return predict(network("relu"), pipeline)


def values(graph: TensorGraph) -> dict[str, np.ndarray]:
    return {node.name: value for node, value in walk(graph, X)}


def rms(x: np.ndarray) -> float:
    return float(np.sqrt(np.mean(x**2)))


@pytest.mark.parametrize("pipeline", [DEFAULT_PIPELINE, REFRESHED_PIPELINE])
def test_fitted_errors_are_those_of_the_two_networks(pipeline: str) -> None:
    graph, program = network("relu"), predicted_relu(pipeline)
    exact, fitted = values(graph), values(program.graph)
    found = program.facts[LayerErrors].fitted
    assert found["x"] == found["first"] == 0.0
    for name in ("f", "second", "square", "out.square", "out.second"):
        expected = rms(fitted[name] - exact[name])
        assert expected > 1e-4
        assert found[name] == pytest.approx(expected, rel=0.05), name
    powers = [node for node in program.graph if node.name.startswith("f.") and node.op == "mul"]
    assert bool(powers) == (pipeline == DEFAULT_PIPELINE)
    assert all(found[node.name] is None for node in powers)


def test_values_that_are_scaled_afterwards() -> None:
    """The parabola for sqrt opens downwards: its operand is scaled, it is made with a minus."""
    graph = network("sqrt")
    program = predict(graph, precision_bits=4)
    exact, fitted = values(graph), values(program.graph)
    assert fitted["f"] == pytest.approx(-exact["f"], abs=0.05)
    found = program.facts[LayerErrors].fitted
    for name in ("f", "second"):
        change = rms(np.abs(fitted[name]) - np.abs(exact[name]))
        assert found[name] == pytest.approx(change, rel=0.05)
    assert found["first"] == 0.0


def test_no_functions_no_errors() -> None:
    b = Builder()
    b.input("x", 1, 8)
    graph = b.output(b.poly("cube", b.affine("map", {"x": matrix(8, 8)}), 0.0, 0.5, 0.0, 0.25))
    errors = predict(graph).facts[LayerErrors]
    assert set(errors.fitted.values()) == {0.0}
    assert min(errors.noise.values()) > 0.0
    assert set(errors.noise) == set(errors.fitted)


def test_the_least_precise_value_is_told() -> None:
    program = predicted_relu()
    facts = program.facts
    (remark,) = PredictPrecision().run(program).remarks
    told = re.fullmatch(r"(\S+) is the least precise, (\S+) bits", remark)
    assert told is not None
    name, bits = told.groups()
    errors, largest = facts[LayerErrors], facts[Ranges].largest
    found = {
        k: largest[k] / np.hypot(noise, errors.fitted[k] or 0.0)
        for k, noise in errors.noise.items()
    }
    assert min(found, key=lambda k: found[k]) == name
    assert np.log2(found[name]) == pytest.approx(float(bits), abs=0.06)


def test_noise_of_the_outputs_is_that_which_scales_were_chosen_for() -> None:
    """Scales are rounded up, so that it is less; the model before scales are known is coarser."""
    for pipeline in (DEFAULT_PIPELINE, REFRESHED_PIPELINE):
        program = predicted_relu(pipeline)
        errors, choice = program.facts[LayerErrors], program.facts[ScaleChoice]
        largest = max(errors.noise[f"out.{name}"] for name in ("square", "second"))
        assert choice.predicted_error / 3 < largest < 2 * choice.predicted_error


# ---------------------------------------------------------------------------- refreshes as they are


def test_the_series_of_plain_refreshes_count() -> None:
    b, random = Builder(), np.random.default_rng(0)
    value = b.input("x", 1, 8)
    for k in range(4):
        b.affine(f"map{k}", {value: 0.7 * np.linalg.qr(random.normal(size=(8, 8)))[0]})
        value = b.poly(f"poly{k}", f"map{k}", 0.05, 0.8, 0.2)
    graph = b.output(b.affine("last", {value: matrix(4, 8)}))
    program = predict(graph, REFRESHED_PIPELINE, level_budget=4)
    refreshed = [node.name for node in program.graph if isinstance(node, Refresh)]
    assert refreshed and all(name.endswith(".refreshed") for name in refreshed)
    exact, fitted = values(graph), values(program.graph)
    change = float(np.abs(fitted["out.last"] - exact["out.last"]).max())
    assert 0.0 < change < 1e-4
    assert program.facts[ScaleChoice].fitted_error == pytest.approx(change, rel=1e-6)
    found = program.facts[LayerErrors].fitted
    assert found["last"] == pytest.approx(rms(fitted["last"] - exact["last"]), rel=0.05)
    first = refreshed[0].removesuffix(".refreshed")
    assert found[first] == 0.0
    expected = rms(fitted[refreshed[0]] - fitted[first])
    assert found[refreshed[0]] == pytest.approx(expected, rel=0.05)
    assert program.facts[FittedErrors].functions == {}


def test_both_kinds_of_errors_add_up() -> None:
    b = Builder()
    b.input("x", 1, 2)
    b.affine("map", {"x": matrix(2, 2)})
    b.affine("inner", {"map": matrix(2, 2)})
    b.affine("last", {"inner": matrix(2, 2)})
    graph = b.output(b.poly("shifted", "last", 0.5, 1.0))
    errors = FittedErrors(
        {"x": 0.0, "map": 0.0, "last": 0.03}, {"map": 0.01, "last": 0.04, "shifted": 0.04}
    )
    assert errors.by_layer(graph) == {
        "x": 0.0,
        "map": 0.01,
        "inner": None,
        "last": pytest.approx(0.05),
        "shifted": pytest.approx(0.05),
        "out.shifted": pytest.approx(0.03),
    }
