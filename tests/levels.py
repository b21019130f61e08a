"""Problems for the search for levels, and all plans there are for small ones."""

from __future__ import annotations

import math
import random
from dataclasses import replace

from hypothesis import strategies as st

from fhecompile.ir.level_problem import Assignment, LevelNode, LevelProblem
from fhecompile.ir.level_search import solve


def cheapest(problem: LevelProblem) -> float:
    """Seconds of the cheapest plan, of all levels of all nodes; infinite where there is none."""
    best = math.inf
    level: dict[str, int] = {}
    made: dict[str, LevelNode] = {}

    def refreshes() -> float:
        """Seconds of those that these levels need: each paid once, whoever needs it."""
        total = 0.0
        for first in problem.nodes:
            if first.name not in level:
                break
            node = made[first.name]
            own = level[node.name] - node.consumed
            if node.refreshes or not node.inputs:
                own = problem.primes if node.fresh is None else node.fresh
            most = max(
                (level.get(u.name, 0) for u in problem.nodes if node.name in u.inputs), default=0
            )
            if most > own:
                possible = most <= problem.primes and own >= problem.refresh_least
                total += node.refresh_seconds if possible else math.inf
        return total

    def visit(i: int, seconds: float) -> None:
        nonlocal best
        if seconds + refreshes() >= best:
            return
        if i == len(problem.nodes):
            best = seconds + refreshes()
            return
        for node in problem.nodes[i].ways:
            for k, cost in enumerate(node.seconds if node.inputs else (0.0,)):
                if not node.inputs or k >= max(node.consumed, node.least):
                    level[node.name], made[node.name] = k, node
                    visit(i + 1, seconds + cost)
                    del level[node.name]

    visit(0, 0.0)
    return best


def check(problem: LevelProblem, plan: Assignment) -> None:
    """That the plan keeps all rules and costs what it says."""
    costs = []
    for first in problem.nodes:
        node = first.ways[first.name in plan.alternatives]
        given = problem.primes if node.fresh is None else node.fresh
        if not node.inputs:
            assert plan.own[node.name] == given
            assert node.name not in plan.level
        else:
            k = plan.level[node.name]
            assert k >= max(node.consumed, node.least)
            assert plan.own[node.name] == (given if node.refreshes else k - node.consumed)
            costs.append(node.seconds[k])
            for name in node.inputs:
                assert k <= plan.own[name] or (name in plan.refreshed and k <= problem.primes)
        if node.name in plan.refreshed:
            assert plan.own[node.name] >= problem.refresh_least
            costs.append(node.refresh_seconds)
    assert plan.seconds == math.fsum(costs) < math.inf


def found(problem: LevelProblem, *, refresh_only_if_needed: bool = False) -> Assignment:
    plan = solve(problem, refresh_only_if_needed=refresh_only_if_needed)
    assert isinstance(plan, Assignment)
    check(problem, plan)
    assert plan.is_optimal
    return plan


COSTS = (0.0, 1.0, 1.0, 2.0, 3.0, 5.0, 8.0, math.inf)


@st.composite
def nodes_on(draw: st.DrawFn, name: str, inputs: tuple[str, ...], primes: int) -> LevelNode:
    refresh_seconds = draw(st.sampled_from(COSTS))
    alternative = None
    if draw(st.sampled_from((False, False, True))):
        alternative = draw(ways_on(name, inputs, primes, refresh_seconds))
    return replace(draw(ways_on(name, inputs, primes, refresh_seconds)), alternative=alternative)


@st.composite
def ways_on(
    draw: st.DrawFn, name: str, inputs: tuple[str, ...], primes: int, refresh_seconds: float
) -> LevelNode:
    cost = st.sampled_from(COSTS)
    level_cost = st.lists(cost, min_size=primes + 1, max_size=primes + 3)
    refreshes = draw(st.sampled_from((False, False, False, True)))
    return LevelNode(
        name,
        inputs,
        consumed=0 if refreshes else draw(st.integers(0, 2)),
        seconds=tuple(draw(level_cost)),
        refresh_seconds=refresh_seconds,
        refreshes=refreshes,
        least=draw(st.integers(0, 2)),
        fresh=draw(st.sampled_from((None, *range(primes + 3)))) if refreshes else None,
    )


def problem_of(draw: st.DrawFn, nodes: list[LevelNode], primes: int) -> LevelProblem:
    read = {name for node in nodes for name in node.inputs}
    outputs = tuple(node.name for node in nodes if node.name not in read)
    return LevelProblem(tuple(nodes), primes, outputs, refresh_least=draw(st.integers(0, 2)))


@st.composite
def acyclic(draw: st.DrawFn) -> LevelProblem:
    """Any graph of up to 6 nodes and 2 inputs."""
    primes = draw(st.integers(1, 4))
    fresh = st.sampled_from((None, *range(primes + 3)))
    nodes = [
        LevelNode(
            f"in{i}", fresh=draw(fresh), refresh_seconds=draw(st.sampled_from((2.0, math.inf)))
        )
        for i in range(draw(st.integers(1, 2)))
    ]
    for i in range(draw(st.integers(1, 6))):
        operands = st.lists(st.sampled_from([node.name for node in nodes]), min_size=1, max_size=4)
        nodes.append(draw(nodes_on(f"n{i}", tuple(draw(operands)), primes)))
    return problem_of(draw, nodes, primes)


@st.composite
def series_parallel(draw: st.DrawFn) -> LevelProblem:
    """Chains and forks that join again, composed of each other, with up to 7 nodes."""
    primes = draw(st.integers(1, 4))
    nodes = [LevelNode("x", fresh=draw(st.sampled_from((None, *range(1, primes + 3)))))]

    def compose(start: str, size: int) -> str:
        """The last value of a graph of `size` nodes that begins at `start`."""
        if size == 0:
            return start
        if size >= 3 and draw(st.booleans()):
            left = draw(st.integers(0, size - 1))
            ends = (compose(start, left), compose(start, size - 1 - left))
        elif size >= 2 and draw(st.booleans()):
            return compose(compose(start, size // 2), size - size // 2)
        else:
            ends = (compose(start, size - 1),)
        nodes.append(draw(nodes_on(f"n{len(nodes)}", ends, primes)))
        return nodes[-1].name

    compose("x", draw(st.integers(1, 7)))
    return problem_of(draw, nodes, primes)


def flat(cost: float, levels: int = 11) -> tuple[float, ...]:
    return (cost,) * levels


PRIMES = 10  # R of the networks


def rising(cost: float, consumed: int) -> tuple[float, ...]:
    return tuple(cost * (1 + r) if r >= consumed else math.inf for r in range(PRIMES + 1))


def residual(blocks: int) -> LevelProblem:
    """Blocks of two convolutions with a function in a refresh between them, a skip and a sum."""
    draw = random.Random(2)
    nodes, last = [LevelNode("x")], "x"
    for b in range(blocks):
        nodes += [
            LevelNode(f"conv{b}", (last,), 1, rising(draw.uniform(1, 2), 1), 30.0),
            LevelNode(f"f{b}", (f"conv{b}",), 0, rising(3.0, 0), 30.0, True, least=2, fresh=7),
            LevelNode(f"second{b}", (f"f{b}",), 1, rising(draw.uniform(1, 2), 1), 30.0),
            LevelNode(f"sum{b}", (f"second{b}", last), 0, rising(0.01, 0), 30.0),
            LevelNode(f"g{b}", (f"sum{b}",), draw.choice((0, 3)), rising(3.0, 3), 30.0),
        ]
        last = f"g{b}"
    return LevelProblem(tuple(nodes), PRIMES, (last,), refresh_least=1)


def dense(layers: int, block: int, share: float = 1.0) -> LevelProblem:
    """Layers that read the one before, and this share of the others in their block."""
    draw = random.Random(3)
    nodes = [LevelNode("x")]
    for i in range(layers):
        *others, last = [node.name for node in nodes][i // block * block :]
        c = draw.choice((1, 1, 2))
        inputs = (last, *(name for name in others if draw.random() < share))
        seconds = rising(draw.uniform(0.1, 1), c)
        nodes.append(LevelNode(f"n{i}", inputs, c, seconds, draw.uniform(5, 20)))
    return LevelProblem(tuple(nodes), PRIMES, (nodes[-1].name,), refresh_least=1)
