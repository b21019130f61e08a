"""Chains of choices against every choice there is."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fhecompile.functions.degrees import chain_of_choices, lower_hull

POINTS = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 30)), min_size=1, max_size=4)


@given(st.lists(POINTS, min_size=1, max_size=4))
def test_nothing_is_cheaper_and_more_precise(functions: list[list[tuple[int, int]]]) -> None:
    costs = {str(n): [c for c, _ in points] for n, points in enumerate(functions)}
    errors = {str(n): [e for _, e in points] for n, points in enumerate(functions)}
    every = [
        (sum(c for c, _ in points), sum(e for _, e in points))
        for points in itertools.product(*functions)
    ]
    chain = [
        (sum(costs[n][k] for n, k in choice.items()), sum(errors[n][k] for n, k in choice.items()))
        for choice in chain_of_choices(costs, errors)
    ]
    for cost, error in chain:
        assert (cost, error) in every
        assert not any((c <= cost and e < error) or (c < cost and e <= error) for c, e in every)
    assert chain[0] == min(every)
    assert chain[-1] == min(every, key=lambda x: (x[1], x[0]))
    for (c0, e0), (c1, e1) in itertools.pairwise(chain):
        assert c0 < c1 and e0 > e1


@pytest.mark.parametrize(
    ("costs", "errors", "expected"),
    [
        ([1, 2, 3], [8.0, 4.0, 2.0], [0, 1, 2]),
        ([1, 2, 3], [8.0, 7.0, 2.0], [0, 2]),
        ([1, 2, 3], [8.0, 5.0, 2.0], [0, 2]),  # on the line between the two
        ([3, 2, 1], [2.0, 4.0, 8.0], [2, 1, 0]),
        ([1, 1, 2], [8.0, 4.0, 5.0], [1]),
        ([1, 2, 3], [math.inf, math.inf, 2.0], [0, 2]),
        ([1, 2, 3], [math.inf, 3.0, 2.0], [0, 1, 2]),
        ([1, 2], [0.0, 0.0], [0]),
    ],
)
def test_lower_hull(costs: list[float], errors: list[float], expected: list[int]) -> None:
    assert lower_hull(costs, errors) == expected


def test_the_steepest_step_is_first() -> None:
    costs = {"a": [1.0, 2.0], "b": [1.0, 3.0, 4.0]}
    errors = {"a": [1.0, 0.5], "b": [math.inf, 2.0, 0.25]}
    assert chain_of_choices(costs, errors) == [
        {"a": 0, "b": 0},
        {"a": 0, "b": 1},
        {"a": 0, "b": 2},
        {"a": 1, "b": 2},
    ]
