"""Values are refreshed where primes run out, as they are, and nowhere else."""

from __future__ import annotations

import numpy as np
import pytest

from fhecompile.ckks.bootstrap import Bootstrap
from fhecompile.errors import FheCompileError
from fhecompile.ir.evaluate import evaluate
from fhecompile.ir.program import Program
from fhecompile.ir.refresh_places import MARGIN, PLAIN_TERMS, fit_plain
from fhecompile.ir.scales import ScalePolicy, plan_scales
from fhecompile.ir.tensor import Input, Refresh, TensorGraph
from passes import REFRESHED_PIPELINE
from passes.infer_ranges import Ranges
from tests.graphs import Builder, of_kind, run_passes
from tests.support import random_inputs

TOY = {"ring_dimension": 2048, "insecure_toy": True}


def quadratics(depth: int, skips: int = 0) -> TensorGraph:
    """`depth` times a rotation and 0.05 + 0.8 x + 0.2 x^2, and a last map.

    With `skips`, every so many of them have a sum around them.
    """
    b, random = Builder(), np.random.default_rng(0)
    value = kept = b.input("x", 1, 4)
    for k in range(depth):
        orthogonal = np.linalg.qr(random.normal(size=(4, 4)))[0]
        b.affine(f"map{k}", {value: 0.7 * orthogonal})
        value = b.poly(f"poly{k}", f"map{k}", 0.05, 0.8, 0.2)
        if skips and k % skips == skips - 1:
            value = kept = b.sum(f"sum{k}", value, kept)
    return b.output(b.affine("last", {value: np.ones((2, 4)) / 4}))


def place(graph: TensorGraph, **options: object) -> Program:
    return run_passes(graph, "place_refreshes", pipeline=REFRESHED_PIPELINE, **options)


def primes_between(graph: TensorGraph) -> int:
    """The most primes that are dropped from an input or a refresh to the next refresh or output."""
    policy = ScalePolicy(37, 37, 45, 0.0, Bootstrap(3, 3, PLAIN_TERMS[-1]))
    scales = plan_scales(graph, policy)
    dropped: dict[str, int] = {}
    most = 0
    for node in graph:
        before = max((dropped[name] for name in node.inputs), default=0)
        if isinstance(node, Refresh):
            most = max(most, before + scales.lifts[node.name].rescales)
            dropped[node.name] = 0
        else:
            dropped[node.name] = before + scales.rescales[node.name]
            most = max(most, dropped[node.name])
    return most


def test_nothing_is_refreshed_where_nothing_needs_it() -> None:
    program = place(quadratics(3))
    assert not of_kind(program.graph, Refresh)
    assert place(quadratics(3), level_budget=20).graph.nodes.keys() == program.graph.nodes.keys()


def test_functions_that_refresh_are_enough() -> None:
    b = Builder()
    value = b.input("x", 1, 4)
    for k in range(6):
        b.affine(f"map{k}", {value: np.linalg.qr(np.random.default_rng(k).normal(size=(4, 4)))[0]})
        value = b.function(f"relu{k}", f"map{k}", "relu")
    graph = b.output(b.affine("last", {value: np.ones((2, 4))}))
    refreshes = of_kind(place(graph, precision_bits=5).graph, Refresh)
    assert [node.name for node in refreshes] == [f"relu{k}" for k in range(6)]


def test_an_input_that_nothing_reads() -> None:
    graph = quadratics(8)
    graph.add(Input(name="unused", shape=(1, 3)))
    assert len(of_kind(place(graph, level_budget=6).graph, Input)) == 2


@pytest.mark.parametrize("skips", [0, 2])
@pytest.mark.parametrize("budget", [4, 5, 6, 8])
def test_the_budget_is_kept(budget: int, skips: int) -> None:
    before = quadratics(8, skips)
    graph = place(before, level_budget=budget, **TOY).graph
    assert of_kind(graph, Refresh)
    assert 2 <= primes_between(graph) <= budget


def test_a_smaller_budget_takes_more_refreshes() -> None:
    counts = [
        len(of_kind(place(quadratics(10), level_budget=budget, **TOY).graph, Refresh))
        for budget in (4, 6, 8, 12, 30)
    ]
    assert counts == sorted(counts, reverse=True)
    assert counts[0] > counts[2] > counts[-1] == 0


def test_a_deep_network_is_refreshed_without_a_budget() -> None:
    program = place(quadratics(30))
    refreshes = of_kind(program.graph, Refresh)
    assert 1 <= len(refreshes) <= 15
    assert {node.inputs[0] + ".refreshed" for node in refreshes} == {n.name for n in refreshes}


@pytest.mark.parametrize("skips", [0, 3])
def test_values_stay_what_they_are(skips: int) -> None:
    before = quadratics(9, skips)
    after = place(before, level_budget=5, **TOY).graph
    refreshes = of_kind(after, Refresh)
    inputs = random_inputs(before, 40)
    exact, found = evaluate(before, inputs)["last"], evaluate(after, inputs)["last"]
    plain = fit_plain(0)
    largest = max(MARGIN * node.high for node in refreshes)
    assert 0.0 < np.abs(found - exact).max() <= len(refreshes) * 3.0 * plain.error * largest
    for node in refreshes:
        assert after[node.inputs[0]].shape == node.shape
        assert (node.unit, -node.low) == pytest.approx((0.4 / node.high, node.high))
        assert node.gain == node.unit
        x = np.linspace(node.low, node.high, 101)
        assert np.abs(node.value(x) - x).max() <= 1.01 * plain.error * node.high


def test_ranges_are_known_of_the_refreshed_values() -> None:
    program = place(quadratics(8), level_budget=5, **TOY)
    ranges = program.facts[Ranges]
    for node in of_kind(program.graph, Refresh):
        for table in (ranges.largest, ranges.low, ranges.high, ranges.mean_square):
            assert table[node.name] == table[node.inputs[0]]
        assert node.high == pytest.approx(MARGIN * ranges.largest[node.inputs[0]])


def test_early_users_read_the_value_itself() -> None:
    """Of the readers of one value only those behind the refresh are moved."""
    graph = place(quadratics(8, 2), level_budget=5, **TOY).graph
    refreshed = {node.inputs[0]: node.name for node in of_kind(graph, Refresh)}
    assert refreshed
    for node in graph:
        for name in node.inputs:
            assert name not in refreshed or refreshed[name] != node.name or node.op == "refresh"
    users = graph.users()
    assert all(users[name] for name in refreshed.values())


@pytest.mark.parametrize(("terms", "taken"), [(0, 5), (5, 5), (8, 5), (9, 9), (27, 13), (119, 13)])
def test_plain_series_are_no_longer_than_those_of_functions(terms: int, taken: int) -> None:
    fitted = fit_plain(terms)
    assert fitted.terms == taken
    u = np.linspace(-1.0, 1.0, 2001)
    assert np.abs(fitted.on_unit(u) - u).max() <= {5: 2e-5, 9: 1e-8, 13: 1e-8}[taken]


# ---------------------------------------------------------------------------- refusals


def refusal(graph: TensorGraph, **options: object) -> str:
    with pytest.raises(FheCompileError) as caught:
        place(graph, **options)
    return caught.value.render()


def test_a_budget_that_is_too_small() -> None:
    assert refusal(quadratics(6), level_budget=1, **TOY) == (
        "map0: 2 primes are needed behind x up to the next value that can be refreshed, 1 are "
        "there: map0 takes 1 [too-deep]\n"
        "  hint: allow 2 with --level-budget 2, lower --precision-bits, or use activations of a "
        "lower degree"
    )


def test_a_budget_that_is_too_small_behind_refreshes() -> None:
    assert refusal(quadratics(6), level_budget=3, **TOY) == (
        "no refreshes were found with 3 primes between two of them, 4 are the fewest [too-deep]\n"
        "  hint: allow 4 with --level-budget 4"
    )
    assert place(quadratics(6), level_budget=4, **TOY).graph  # as the hint says


def test_a_ring_that_has_no_room_for_refreshes() -> None:
    assert refusal(quadratics(6), ring_dimension=1 << 14, level_budget=5) == (
        "no ring dimension that is allowed is secure at 128 bits with the 21 primes that refreshes "
        "take [too-deep]\n"
        "  hint: allow a larger ring, or make the network shallower"
    )
