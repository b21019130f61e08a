"""Plans of levels against all plans there are, and against what is worked out by hand."""

from __future__ import annotations

import math
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from fhecompile.ir.level_elimination import elimination_order
from fhecompile.ir.level_problem import Assignment, Infeasible, LevelNode, LevelProblem
from fhecompile.ir.level_program import solve_by_integer_programme
from fhecompile.ir.level_search import solve
from fhecompile.ir.level_states import all_states
from tests.levels import acyclic, cheapest, check, flat, found, series_parallel


def check_path(problem: LevelProblem) -> None:
    """That there is no plan, and a chain of the graph that shows it."""
    end = solve(problem, refresh_only_if_needed=False)
    assert isinstance(end, Infeasible)
    assert end.needed > end.available
    nodes = {node.name: node for node in problem.nodes}
    before, primes = end.start, end.available
    for step in end.path:
        assert before in nodes[step.node].inputs
        assert (step.primes, step.consumed) == (primes, nodes[step.node].consumed)
        before, primes = step.node, primes - step.consumed
    assert any(step.primes < step.least for step in end.path) or primes < problem.refresh_least


@given(series_parallel())
def test_series_parallel_graphs(problem: LevelProblem) -> None:
    best = cheapest(problem)
    if best == math.inf:
        assert isinstance(solve(problem), Infeasible)
        return
    order = elimination_order(problem, all_states(problem))
    assert order is not None and all(len(others) <= 2 for _, others in order)
    plan = found(problem)
    assert (plan.seconds, plan.bound, plan.method) == (best, best, "elimination")
    programme = solve_by_integer_programme(problem, 60.0)
    check(problem, programme)
    assert programme.seconds == best and programme.is_optimal


@given(acyclic())
def test_any_graph(problem: LevelProblem) -> None:
    best = cheapest(problem)
    if best == math.inf:
        check_path(problem)
        return
    assert found(problem).seconds == best
    programme = solve_by_integer_programme(problem, 60.0)
    check(problem, programme)
    assert programme.seconds == best and programme.is_optimal
    # Without the time for it a plan is found all the same, with a bound that holds.
    hurried = solve_by_integer_programme(problem, 0.0)
    check(problem, hurried)
    assert hurried.bound <= best * (1 + 1e-9) and hurried.seconds >= best


@given(acyclic())
def test_refreshes_only_if_needed(problem: LevelProblem) -> None:
    plan = solve(problem)
    leveled = cheapest(problem.with_refreshes(()))
    if leveled < math.inf:
        assert isinstance(plan, Assignment)
        assert (plan.seconds, plan.refreshed) == (leveled, frozenset())
    elif isinstance(plan, Assignment):
        assert plan.refreshed and plan.seconds == cheapest(problem)


@given(acyclic(), st.integers(0, 9))
def test_more_primes_never_cost_more(problem: LevelProblem, seconds: int) -> None:
    plan = solve(problem, refresh_only_if_needed=False)
    if isinstance(plan, Infeasible):
        return
    more = replace(
        problem,
        primes=problem.primes + 1,
        nodes=tuple(
            replace(node, seconds=(*node.seconds, float(seconds))) for node in problem.nodes
        ),
    )
    assert found(more).seconds <= plan.seconds


def test_a_refresh_is_paid_once_and_not_by_all() -> None:
    # `fork` has 3 of 4 primes: `cheap` reads it as it is, the other two the refreshed copy.
    nodes = (
        LevelNode("x"),
        LevelNode("fork", ("x",), 1, flat(1.0), refresh_seconds=10.0),
        LevelNode("cheap", ("fork",), 1, (math.inf, 1.0, 2.0, 3.0, 100.0)),
        LevelNode("deep", ("fork",), 4, flat(1.0)),
        LevelNode("deeper", ("fork",), 4, flat(2.0)),
    )
    plan = found(LevelProblem(nodes, 4, ("cheap", "deep", "deeper")))
    assert plan.refreshed == {"fork"}
    assert plan.own["fork"] <= 3
    assert plan.level["cheap"] == 1 and plan.level["deep"] == plan.level["deeper"] == 4
    assert plan.seconds == 1.0 + 10.0 + 1.0 + 1.0 + 2.0


def test_operations_run_low_and_refreshes_are_bought_when_they_save() -> None:
    # At level 5 `big` takes 50 s more than at 1: a refresh of 7 s behind it is worth that.
    nodes = (
        LevelNode("x"),
        LevelNode("big", ("x",), 1, (math.inf, 10.0, 20.0, 30.0, 40.0, 60.0), 7.0),
        LevelNode("deep", ("big",), 4, flat(1.0)),
    )
    problem = LevelProblem(nodes, 5, ("deep",))
    plan = found(problem)
    assert (plan.level["big"], plan.refreshed, plan.seconds) == (1, {"big"}, 18.0)
    plan = found(problem, refresh_only_if_needed=True)
    assert (plan.level["big"], plan.refreshed, plan.seconds) == (5, frozenset(), 61.0)
    assert found(replace(problem, refresh_least=3)).level["big"] == 4


def test_inputs_may_have_more_primes_and_less() -> None:
    nodes = (
        LevelNode("x", fresh=7, refresh_seconds=1.0),
        LevelNode("y", fresh=2),
        LevelNode("a", ("x",), 5, flat(1.0)),
        LevelNode("b", ("a", "y"), 2, flat(1.0)),
    )
    plan = found(LevelProblem(nodes, 4, ("b",)))
    assert plan.own == {"x": 7, "y": 2, "a": 2, "b": 0}
    assert plan.seconds == 2.0 and not plan.refreshed


def test_functions_in_a_refresh_leave_what_they_leave() -> None:
    nodes = (
        LevelNode("x"),
        LevelNode("a", ("x",), 3, flat(1.0)),
        LevelNode("f", ("a",), 0, flat(20.0), refreshes=True, least=1, fresh=2),
        LevelNode("b", ("f",), 2, flat(1.0)),
    )
    problem = LevelProblem(nodes, 4, ("b",))
    plan = found(problem)
    assert (plan.own["f"], plan.level["f"], plan.seconds) == (2, 1, 22.0)
    low = replace(problem, nodes=(*nodes[:2], replace(nodes[2], least=2), nodes[3]))
    end = solve(low)
    assert isinstance(end, Infeasible)
    assert (end.start, [step.node for step in end.path]) == ("x", ["a", "f"])
    assert (end.needed, end.available) == (5, 4)


def test_nothing_costs_nothing() -> None:
    assert found(LevelProblem((), 3, ())).seconds == 0.0
    assert found(LevelProblem((LevelNode("x"),), 3, ("x",))).own == {"x": 3}


def test_alternatives_are_taken_where_they_save_refreshes() -> None:
    """Three functions, each in a refresh or of depth 2: with 5 primes one is refreshed."""
    nodes, last = [LevelNode("x")], "x"
    for name in "abc":
        polynomial = LevelNode(name, (last,), 2, flat(1.0, 6), 20.0)
        refresh = LevelNode(name, (last,), 0, flat(20.0, 6), 20.0, refreshes=True)
        nodes.append(replace(refresh, alternative=polynomial))
        last = name
    plan = found(LevelProblem(tuple(nodes), 5, ("c",)))
    assert (plan.seconds, plan.refreshed) == (22.0, frozenset())
    assert len(plan.alternatives) == 2
    programme = solve_by_integer_programme(LevelProblem(tuple(nodes), 5, ("c",)), 60.0)
    assert (programme.seconds, len(programme.alternatives)) == (22.0, 2)
