"""Refreshes in tensor graphs: their text, values, rules, scales, errors and costs."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fhecompile.ckks.bootstrap import Bootstrap
from fhecompile.ckks.noise import refresh_error
from fhecompile.ckks.parameters import Parameters
from fhecompile.ckks.refresh_cost import refresh_seconds
from fhecompile.errors import FheCompileError, InternalError
from fhecompile.ir.depth import expect_depth
from fhecompile.ir.evaluate import evaluate
from fhecompile.ir.noise_model import predict_error
from fhecompile.ir.scales import (
    MATCH_BITS,
    Lift,
    ScalePolicy,
    latest_inputs,
    lift,
    plan_scales,
    refreshed_scales,
)
from fhecompile.ir.tensor import Refresh, TensorGraph
from fhecompile.ir.tensor_rules import verify
from fhecompile.ir.text import collect_constants, print_tensor_graph
from fhecompile.ir.text_reader import parse_tensor_graph
from fhecompile.ir.work_model import node_seconds, value_refresh_seconds
from tests.graphs import Builder, matrix

Q = 45
BOOTSTRAP = Bootstrap(3, 3, 13)
POLICY = ScalePolicy(Q - 8, Q - 8, Q, 0.0, BOOTSTRAP)


def refreshed(radius: float = 2.0, square: bool = False) -> TensorGraph:
    """x -> map (-> square) -> refresh -> map."""
    b = Builder()
    b.input("x", 1, 4)
    value = b.affine("map", {"x": matrix(4, 4)})
    if square:
        value = b.poly("square", "map", 0.0, 0.0, 1.0)
    b.refresh("r", value, radius)
    return b.output(b.affine("last", {"r": matrix(2, 4)}))


def changed(**fields: object) -> TensorGraph:
    graph = refreshed()
    node = graph["r"]
    return graph.rebuilt([*(replace(n, **fields) if n is node else n for n in graph)])  # type: ignore[arg-type]


# ---------------------------------------------------------------------------- text


def test_text() -> None:
    graph = refreshed()
    text = print_tensor_graph(graph)
    line = next(line for line in text.splitlines() if "refresh" in line)
    head, hash_, tail = line.partition("#")
    assert head.strip() == (
        "%r = refresh(%map) {unit=0.25, gain=0.25, low=-2.0, high=2.0, coefficients=f64[2,14]"
    )
    assert tail[8:] == "} : 1x4" and hash_
    read = parse_tensor_graph(text, collect_constants(graph))
    assert print_tensor_graph(read) == text
    before, after = graph["r"], read["r"]
    assert isinstance(before, Refresh) and isinstance(after, Refresh)
    assert np.array_equal(after.coefficients, before.coefficients)
    verify(read)


@given(st.floats(1e-30, 1e30), st.floats(1e-30, 1e30), st.floats(-1e30, 1e30))
def test_numbers_are_read_as_they_were(unit: float, gain: float, low: float) -> None:
    graph = changed(unit=unit, gain=gain, low=low)
    found = parse_tensor_graph(print_tensor_graph(graph), collect_constants(graph))["r"]
    assert isinstance(found, Refresh)
    assert (found.unit, found.gain, found.low, found.high) == (unit, gain, low, 2.0)


def test_text_that_is_no_refresh() -> None:
    graph = refreshed()
    text = print_tensor_graph(graph).replace("gain=", "loss=")
    with pytest.raises(FheCompileError, match="ir-syntax"):
        parse_tensor_graph(text, collect_constants(graph))


# ---------------------------------------------------------------------------- values and rules


def test_values() -> None:
    x = np.random.default_rng(0).uniform(-1, 1, (50, 1, 4))
    found = evaluate(refreshed(), {"x": x})["last"]
    assert np.abs(found - x @ matrix(4, 4).T @ matrix(2, 4).T).max() <= 1e-6


def test_series_with_holes_are_zero_there() -> None:
    b = Builder()
    b.input("x", 1, 4)
    b.refresh("r", "x", 2.0)
    node = b.graph["r"]
    assert isinstance(node, Refresh)
    shifted = node.coefficients + np.eye(2, 14) * 0.5  # x + 1
    node = replace(node, coefficients=shifted)
    whole, nothing = node.stored_series(has_holes=False)
    assert nothing == 0.0
    assert whole == pytest.approx(node.gain * shifted, abs=1e-15)
    holed, at_zero = node.stored_series(has_holes=True)
    assert at_zero == pytest.approx(1.0, abs=1e-6)
    assert replace(node, coefficients=holed).value(np.zeros(())) == pytest.approx(0.0, abs=1e-15)
    assert whole[0, 0] - holed[0, 0] == pytest.approx(node.gain * at_zero / 2)
    assert np.array_equal(node.coefficients, shifted)


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"unit": 0.5}, "refreshes values from -2 to 2 at 0.5"),
        ({"low": -4.0}, "refreshes values from -4 to 2 at 0.25"),
        ({"coefficients": np.zeros((1, 4))}, "has no pairs of coefficients"),
        ({"shape": (4,)}, "maps [(1, 4)] to (4,)"),
        ({"inputs": ("x", "map")}, "maps [(1, 4), (1, 4)] to (1, 4)"),
    ],
)
def test_rules(fields: dict[str, object], text: str) -> None:
    verify(refreshed())
    with pytest.raises(InternalError) as caught:
        verify(changed(**fields))
    assert str(caught.value) == f"tensor graph g: refresh r {text}"


def test_expected_depth_counts_functions() -> None:
    b = Builder()
    b.input("x", 1, 4)
    b.function("f", b.affine("map", {"x": matrix(4, 4)}), "relu")
    b.function("g", b.poly("square", "f", 0.0, 0.0, 1.0), "relu")
    b.function("h", "x", "relu")
    graph = b.output(b.sum("sum", "g", "h"))
    assert expect_depth(graph, 8) == 2 * 9
    assert expect_depth(refreshed(), 8) == 0


# ---------------------------------------------------------------------------- scales


@given(st.floats(1.0, 200.0), st.floats(1.0, 200.0), st.integers(0, 30))
def test_a_lift_hits_its_scale(scale: float, wanted: float, level: int) -> None:
    found = lift(scale, level, wanted, Q)
    assert scale + found.bits - found.rescales * Q == pytest.approx(wanted, abs=1e-9)
    assert found.level == level + found.rescales
    assert found.bits >= MATCH_BITS - 1e-9 or found.rescales == 0
    assert found.bits < MATCH_BITS + Q or found.rescales == 0 or wanted > scale


def test_lifts_by_whole_bits_are_free() -> None:
    assert lift(40.0, 3, 43.0, Q) == Lift(3.0, 0, 3)
    assert lift(40.25, 3, 43.25, Q) == Lift(3.0, 0, 3)
    assert lift(43.0, 3, 43.0, Q) == Lift(0.0, 0, 3)
    assert lift(43.0, 3, 40.0, Q) == Lift(Q - 3.0, 1, 4)
    assert lift(40.0, 3, 40.5, Q) == Lift(Q + 0.5, 1, 4)


@pytest.mark.parametrize("radius", [0.01, 1.0, 3.0, 1000.0])
def test_maps_hit_the_scale_of_the_refresh_behind_them(radius: float) -> None:
    graph = refreshed(radius)
    wanted = Q + math.log2(0.5 / radius)
    assert refreshed_scales(graph, Q) == {"map": pytest.approx(wanted)}
    plan = plan_scales(graph, POLICY)
    assert plan.scale["map"] == pytest.approx(wanted, abs=1e-9)
    assert plan.lifts["r"] == Lift(0.0, 0, plan.level["map"])
    assert plan.scale["r"] == pytest.approx(wanted)  # unit and gain are equal
    assert plan.level["r"] == BOOTSTRAP.output_level == 17
    assert plan.level["last"] == 17 + plan.rescales["last"]


def test_other_values_are_brought_to_it() -> None:
    graph = refreshed(3.0, square=True)
    plan = plan_scales(graph, POLICY)
    found = plan.lifts["r"]
    wanted = Q + math.log2(0.5 / 3.0)
    assert plan.scale["square"] + found.bits - Q * found.rescales == pytest.approx(wanted)
    assert found.level == plan.level["square"] + found.rescales


def test_primes_are_those_behind_a_refresh_or_in_front_of_it() -> None:
    plan = plan_scales(refreshed(), POLICY)
    largest = dict.fromkeys(refreshed().nodes, 1.0)
    assert plan.levels(largest, Q + 1) == max(
        plan.lifts["r"].level + 4,
        plan.level["last"],
        math.ceil(17 + (plan.raw["last"] - Q + 3) / Q),
    )


def test_inputs_are_as_late_as_their_refresh_allows() -> None:
    graph = refreshed(square=True)
    plan = plan_scales(graph, POLICY)
    largest = dict.fromkeys(graph.nodes, 1.0)
    parameters = Parameters(1 << 16, 25, Q, Q + 1, 3, 128, bootstrap=BOOTSTRAP)
    (level,) = latest_inputs(graph, plan, largest, parameters).values()
    sunk = plan_scales(graph, POLICY, {"x": level})
    assert sunk.lifts["r"].level == parameters.deepest_operand == 21
    assert sunk.levels(largest, Q + 1) <= 25
    assert sunk.scale == plan.scale
    later = plan_scales(graph, POLICY, {"x": level + 1})
    assert later.levels(largest, Q + 1) > 25


def test_a_policy_without_refreshes() -> None:
    with pytest.raises(InternalError, match=r"^r is a refresh, the parameters have none$"):
        plan_scales(refreshed(), replace(POLICY, bootstrap=None))


# ---------------------------------------------------------------------------- errors and costs


def test_errors_of_refreshes_are_in_units_of_m() -> None:
    """x of unit u is off by 1 / u in front and again behind a refresh that is x."""
    b = Builder()
    b.input("x", 1, 64)
    graph = b.output(b.refresh("r", "x", 2.0))
    x = {"x": np.random.default_rng(0).uniform(-1, 1, (64, 1, 64))}
    found = predict_error(graph, x, 1 << 16, 35.0, 24.0).refreshes
    assert found == pytest.approx(math.sqrt(2.0) / 0.25, rel=0.05)
    b = Builder()
    b.input("x", 1, 64)
    plain = predict_error(b.output(b.scaled("y", "x", 2.0)), x, 1 << 16, 35.0, 24.0)
    assert plain.refreshes == 0.0
    assert refresh_error(1 << 16, Q) > 0


def test_seconds_of_a_refresh() -> None:
    parameters = Parameters(1 << 12, 25, Q, Q + 1, 3, 128, insecure=True, bootstrap=BOOTSTRAP)
    node = refreshed()["r"]
    one = refresh_seconds(parameters, 4, 13)
    assert node_seconds(node, 0, parameters) == node_seconds(node, 20, parameters) == one
    whole = refresh_seconds(parameters, 1 << 11, 13)
    assert value_refresh_seconds(3 << 11, 13, parameters) == pytest.approx(3 * whole)
    assert value_refresh_seconds(5, 13, parameters) == refresh_seconds(parameters, 8, 13)
