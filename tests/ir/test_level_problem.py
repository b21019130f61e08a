"""Why there is no plan of levels, and what the search takes for a bug of its caller."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from fhecompile.errors import InternalError
from fhecompile.ir.level_problem import Infeasible, LevelNode, LevelProblem, price
from fhecompile.ir.level_search import solve
from tests.levels import flat


def chain(*consumed: int, refreshed: tuple[int, ...] = ()) -> tuple[LevelNode, ...]:
    """x -> n0 -> n1 -> ..., of which those `refreshed` can be."""
    nodes = [LevelNode("x")]
    for i, c in enumerate(consumed):
        cost = 5.0 if i in refreshed else math.inf
        nodes.append(LevelNode(f"n{i}", (nodes[-1].name,), c, flat(1.0), cost))
    return tuple(nodes)


@pytest.mark.parametrize(
    ("nodes", "least", "text"),
    [
        (
            chain(4, 0, 4, 4, 3, 1, refreshed=(4, 5)),
            0,
            "n3: after 'x' 15 primes are needed to get to the next value that can be refreshed, "
            "and 10 are there: n0 consumes 4, n1 consumes 0, n2 consumes 4, n3 consumes 4, "
            "n4 consumes 3",
        ),
        (
            chain(9, 1, 1, 1, refreshed=(0, 1)),
            2,
            "n0: after 'x' 11 primes are needed to get to the next value that can be refreshed, "
            "and 10 are there: n0 consumes 9",
        ),
        (
            chain(1, 9, 2, 1, refreshed=(0, 3)),
            0,
            "n2: after 'n0' 12 primes are needed to get to the next value that can be refreshed, "
            "and 10 are there: n1 consumes 9, n2 consumes 2, n3 consumes 1",
        ),
        (
            chain(3, 11, refreshed=(0,)),
            0,
            "n1: after 'n0' 11 primes are needed to get to the next value that can be refreshed, "
            "and 10 are there: n1 consumes 11",
        ),
    ],
)
def test_error_lists_the_layers(nodes: tuple[LevelNode, ...], least: int, text: str) -> None:
    end = solve(LevelProblem(nodes, 10, (nodes[-1].name,), least))
    assert isinstance(end, Infeasible)
    assert str(end.error()) == (
        f"{text} [too-deep-to-refresh]\n"
        "  hint: let functions on this path be less precise, or have a lower degree"
    )


def test_path_follows_the_operand_with_the_fewest_primes() -> None:
    nodes = (
        LevelNode("x"),
        LevelNode("long", ("x",), 3, flat(1.0)),
        LevelNode("short", ("x",), 1, flat(1.0), refresh_seconds=1.0),
        LevelNode("sum", ("short", "long"), 0, flat(1.0)),
        LevelNode("deep", ("sum",), 2, flat(1.0)),
        LevelNode("shallow", ("sum",), 1, flat(1.0)),
    )
    end = solve(LevelProblem(nodes, 4, ("deep", "shallow")))
    assert isinstance(end, Infeasible)
    assert [(s.node, s.primes, s.least, s.consumed) for s in end.path] == [
        ("long", 4, 3, 3),
        ("sum", 1, 0, 0),
        ("deep", 1, 2, 2),
    ]


def test_path_starts_where_a_node_itself_keeps_primes_away() -> None:
    # `low` runs at level 2 and no other: more primes in front of it are no help.
    nodes = (
        LevelNode("x"),
        LevelNode("low", ("x",), 1, (math.inf, math.inf, 1.0)),
        LevelNode("deep", ("low",), 2, flat(1.0)),
    )
    end = solve(LevelProblem(nodes, 10, ("deep",)))
    assert isinstance(end, Infeasible)
    assert (end.start, end.available, end.needed) == ("low", 1, 2)
    never = (*nodes[:2], replace(nodes[2], consumed=0, seconds=()))
    end = solve(LevelProblem(never, 10, ("deep",)))
    assert isinstance(end, Infeasible)
    assert end.needed == 11


@pytest.mark.parametrize(
    ("node", "fault"),
    [
        (LevelNode("x"), "x has the name of an earlier node"),
        (LevelNode("n", ("m",)), "n reads what does not come before it"),
        (LevelNode("n", ("x",), -1), "n has a negative number of primes"),
        (LevelNode("n", ("x",), least=-1), "n has a negative number of primes"),
        (LevelNode("n", fresh=-1), "n has a negative number of primes"),
        (LevelNode("n", ("x",), seconds=(-1.0,)), "n has a cost that is no number >= 0"),
        (LevelNode("n", ("x",), refresh_seconds=math.nan), "n has a cost that is no number >= 0"),
        (LevelNode("n", ("x",), 1, refreshes=True), "n refreshes and consumes"),
        (LevelNode("n", refreshes=True), "n refreshes nothing"),
        (LevelNode("n", ("x",), fresh=1), "n is neither an input nor a refresh but fresh"),
        (LevelNode("n", ("x",)), "values that nothing reads are not the outputs"),
    ],
)
def test_problems_are_checked(node: LevelNode, fault: str) -> None:
    with pytest.raises(InternalError, match=f"^level search: {fault}$"):
        LevelProblem((LevelNode("x"), node), 3, ("x",))


@pytest.mark.parametrize(
    ("levels", "refreshed", "fault"),
    [
        ({"a": 5, "b": 1}, ("x",), "x has to be refreshed and is not"),
        ({"a": 4, "b": 5}, ("a",), "b cannot run at 5"),
        ({"a": 0, "b": 0}, (), "a cannot run at 0"),
        ({"a": 4, "b": 4}, (), "a has to be refreshed and is not"),
        ({"a": 1, "b": 4}, ("a",), "a has to be refreshed and is not"),
    ],
)
def test_plans_are_checked(levels: dict[str, int], refreshed: tuple[str, ...], fault: str) -> None:
    nodes = (
        LevelNode("x"),
        LevelNode("a", ("x",), 1, flat(1.0), 5.0),
        LevelNode("b", ("a",), 1, flat(1.0)),
    )
    problem = LevelProblem(nodes, 4, ("b",), refresh_least=1)
    assert price(problem, {"a": 2, "b": 4}, ("a", "b"), "").refreshed == {"a"}
    with pytest.raises(InternalError, match=f"^level search: {fault}$"):
        price(problem, levels, refreshed, "")
