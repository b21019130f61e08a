"""The search for levels at the size of networks, by both methods."""

from __future__ import annotations

import math
import random
import time

import pytest

from fhecompile.ir import level_elimination
from fhecompile.ir.level_elimination import elimination_order, solve_by_elimination
from fhecompile.ir.level_meets import share_operands
from fhecompile.ir.level_problem import Assignment, LevelNode, LevelProblem
from fhecompile.ir.level_program import solve_by_integer_programme
from fhecompile.ir.level_search import solve
from fhecompile.ir.level_states import all_states
from tests.levels import PRIMES, check, dense, found, residual, rising


def test_long_chain() -> None:
    draw = random.Random(1)
    nodes = [LevelNode("x")]
    for i in range(2000):
        c = draw.choice((0, 1, 1, 2, 3))
        seconds = rising(draw.uniform(0.1, 1), c)
        nodes.append(LevelNode(f"n{i}", (nodes[-1].name,), c, seconds, draw.uniform(5, 20)))
    start = time.process_time()
    plan = found(LevelProblem(tuple(nodes), PRIMES, (nodes[-1].name,), refresh_least=1))
    assert time.process_time() - start < 2.0
    # The shortest path over (layer, primes that are left).
    left = {PRIMES: 0.0}
    for node in nodes[1:]:
        after: dict[int, float] = {}
        for has, cost in left.items():
            for k in range(node.consumed, has + 1):
                now = cost + node.seconds[k]
                after[k - node.consumed] = min(after.get(k - node.consumed, math.inf), now)
        refreshed = min(cost for k, cost in after.items() if k >= 1) + node.refresh_seconds
        left = {**after, PRIMES: min(after.get(PRIMES, math.inf), refreshed)}
    assert plan.seconds == pytest.approx(min(left.values()), rel=1e-12)
    assert len(plan.refreshed) > 100


def test_residual_network_of_110_layers() -> None:
    problem = residual(54)
    start = time.process_time()
    plan = found(problem)
    assert time.process_time() - start < 2.0
    programme = solve_by_integer_programme(problem, 60.0)
    assert programme.is_optimal
    assert plan.seconds == pytest.approx(programme.seconds, rel=1e-9)
    assert plan.method == "elimination" and plan.refreshed


def test_dense_network_by_an_integer_programme() -> None:
    problem = dense(60, block=8)
    start = time.process_time()
    programme = solve_by_integer_programme(problem, 60.0)
    assert time.process_time() - start < 10.0
    assert programme.is_optimal and programme.method == "integer programme"
    assert found(problem).seconds == pytest.approx(programme.seconds, rel=1e-9)


def test_dense_networks_are_chains_of_triangles() -> None:
    # Every layer reads all before it: a complete graph, but for the sets that are shared.
    problem = dense(60, block=60)
    assert elimination_order(problem, all_states(problem)) is None
    shared = share_operands(problem)
    order = elimination_order(shared, all_states(shared))
    assert order is not None and max(len(others) for _, others in order) == 2
    start = time.process_time()
    assert len(found(problem).refreshed) > 40
    assert time.process_time() - start < 2.0


def test_equal_operand_sets_are_shared() -> None:
    inputs = tuple(LevelNode(name) for name in "abc")
    users = tuple(LevelNode(name, ("a", "b", "c"), 1, rising(1.0, 1)) for name in "uvw")
    meet, *read = share_operands(LevelProblem((*inputs, *users), PRIMES, ("u", "v", "w"))).nodes[3:]
    assert meet.inputs == ("a", "b", "c") and set(meet.seconds) == {0.0}
    assert [node.inputs for node in read] == [(meet.name,)] * 3


def test_graphs_of_any_form_take_the_integer_programme(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = dense(10, block=10, share=0.5)
    by_tables = found(problem)
    monkeypatch.setattr(level_elimination, "MAX_ENTRIES", 1000)
    assert solve_by_elimination(problem) is None
    plan = found(problem)
    assert (by_tables.method, plan.method) == ("elimination", "integer programme")
    assert plan.seconds == pytest.approx(by_tables.seconds, rel=1e-9)


def test_plan_is_found_when_the_time_is_over() -> None:
    problem = dense(20, block=20, share=0.6)
    assert solve_by_elimination(problem) is None
    plan = solve(problem, time_limit=0.0)
    assert isinstance(plan, Assignment)
    check(problem, plan)
    assert plan.method == "rounded relaxation" and not plan.is_optimal
    assert plan.bound < plan.seconds < 2 * plan.bound
