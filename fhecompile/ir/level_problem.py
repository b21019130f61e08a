r"""What a search for levels is given, and what it gives back.

A ciphertext has r usable primes left, its level. A node runs on operands that meet at one level,
for which those with more primes drop some for free, and consumes c of them:

    node v          runs at level l_v with  l_v <= a_u  for every operand u, and costs s_v(l_v)
    its value       own level o_v = l_v - c_v >= 0, or `fresh` where v is evaluated in a refresh
    refresh of it   costs f_v once, needs o_v >= `refresh_least`, and leaves R = `primes`
    its users       find it at a_v = o_v, or at a_v = max(o_v, R) where it is refreshed
    alternative     another way to make the same value: other c_v, s_v, or evaluated in a refresh

A user that is content with o_v reads the value itself, any other one the refreshed copy; both cost
the user the same at the same level, so that a_v is all that users have to know.

All conditions are monotone: with more primes in its operands a node can run wherever it could, and
its value has no fewer. So running every node at the highest level there is, with every refresh that
is possible, reaches the end if anything does, and where it stops no plan goes on: on the chain back
to where primes were last there (`Infeasible`).
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from fhecompile.errors import FheCompileError, InternalError

PROOF = 1e-6  # relative: how near to the bound an integer programme's solution is called optimal


@dataclass(frozen=True)
class LevelNode:
    """One operation and its value, or one input where there are no operands.

    Attributes:
        consumed: c_v, primes between the operands and the value.
        seconds: s_v(l) at index l; `inf` and levels past the end are impossible. Unused by inputs.
        refresh_seconds: f_v of all ciphertexts of the value; `inf` where it cannot be refreshed.
        refreshes: evaluated inside of a refresh, which consumes nothing and leaves `fresh` primes.
        least: fewest primes in the operands.
        fresh: primes of an input, or of the value of a node that refreshes; R where it is None.
        alternative: the other way to make the value, of the same name, inputs and f_v; has none.
    """

    name: str
    inputs: tuple[str, ...] = ()
    consumed: int = 0
    seconds: tuple[float, ...] = ()
    refresh_seconds: float = math.inf
    refreshes: bool = False
    least: int = 0
    fresh: int | None = None
    alternative: LevelNode | None = None

    @property
    def ways(self) -> tuple[LevelNode, ...]:
        """Itself and its alternative."""
        return (self,) if self.alternative is None else (self, self.alternative)

    def changed(self, **fields: Any) -> LevelNode:
        """With other fields, in its alternative as well."""
        other = self.alternative and replace(self.alternative, **fields)
        return replace(self, alternative=other, **fields)

    @property
    def levels(self) -> tuple[int, ...]:
        """All levels at which it can run, ascending; () for inputs."""
        lowest = max(self.consumed, self.least)
        return tuple(k for k, s in enumerate(self.seconds) if k >= lowest and s < math.inf)


@dataclass(frozen=True)
class LevelProblem:
    """All nodes in topological order; every value that nothing reads is an output.

    Attributes:
        primes: R, of a refreshed value.
        refresh_least: primes that a value must have left to be refreshed.

    Raises:
        InternalError: the nodes are no such graph, or a number makes no sense.
    """

    nodes: tuple[LevelNode, ...]
    primes: int
    outputs: tuple[str, ...]
    refresh_least: int = 0

    def __post_init__(self) -> None:
        seen: set[str] = set()
        for node in self.nodes:
            faults = {
                "has the name of an earlier node": node.name in seen,
                "reads what does not come before it": not seen.issuperset(node.inputs),
            }
            for way in node.ways:
                faults |= _faults(node, way)
            for fault, found in faults.items():
                if found:
                    raise InternalError(f"level search: {node.name} {fault}")
            seen.add(node.name)
        unread = seen.difference(*(node.inputs for node in self.nodes))
        if not unread <= set(self.outputs) <= seen:
            raise InternalError("level search: values that nothing reads are not the outputs")
        if min(self.primes, self.refresh_least) < 0:
            raise InternalError("level search: a negative number of primes")

    @cached_property
    def users(self) -> dict[str, tuple[LevelNode, ...]]:
        """Per value the nodes that read it, each once."""
        found: dict[str, list[LevelNode]] = {node.name: [] for node in self.nodes}
        for node in self.nodes:
            for name in dict.fromkeys(node.inputs):
                found[name].append(node)
        return {name: tuple(nodes) for name, nodes in found.items()}

    def with_refreshes(self, names: Collection[str]) -> LevelProblem:
        """The problem where no other value can be refreshed."""
        return replace(
            self,
            nodes=tuple(
                node if node.name in names else node.changed(refresh_seconds=math.inf)
                for node in self.nodes
            ),
        )

    def own_level(self, node: LevelNode, level: int) -> int:
        """o_v of a node that runs at `level`, which inputs ignore."""
        if node.refreshes or not node.inputs:
            return self.primes if node.fresh is None else node.fresh
        return level - node.consumed

    def refresh_helps(self, node: LevelNode, own: int) -> bool:
        """Whether a value with `own` primes can be refreshed, and has more of them then."""
        return node.refresh_seconds < math.inf and self.refresh_least <= own < self.primes


def _faults(node: LevelNode, way: LevelNode) -> dict[str, bool]:
    """What may be wrong about one way to make a node's value."""
    return {
        "has a negative number of primes": min(way.consumed, way.least, way.fresh or 0) < 0,
        "has a cost that is no number >= 0": not all(
            s >= 0 for s in (*way.seconds, way.refresh_seconds)
        ),
        "refreshes and consumes": way.refreshes and way.consumed > 0,
        "refreshes nothing": way.refreshes and not way.inputs,
        "is neither an input nor a refresh but fresh": way.fresh is not None
        and not (way.refreshes or not way.inputs),
        "has an alternative of another value": (way.name, way.inputs, way.refresh_seconds)
        != (node.name, node.inputs, node.refresh_seconds)
        or (way is not node and way.alternative is not None),
    }


@dataclass(frozen=True)
class Assignment:
    """A plan of levels.

    Attributes:
        level: l_v, primes left in the operands of every node that has some.
        own: o_v of every value, before a refresh of it.
        refreshed: the values that are refreshed.
        alternatives: the nodes whose values are made in the other way.
        seconds: of all nodes and refreshes.
        bound: no plan takes fewer seconds.
        method: "elimination", "integer programme", or "rounded relaxation" where the time was over
            and that is the better plan.
    """

    level: Mapping[str, int]
    own: Mapping[str, int]
    refreshed: frozenset[str]
    alternatives: frozenset[str]
    seconds: float
    bound: float
    method: str

    @property
    def is_optimal(self) -> bool:
        """Whether it is proven that no plan takes less, up to `PROOF`."""
        return self.seconds <= self.bound * (1 + PROOF) + 1e-300


@dataclass(frozen=True)
class PathStep:
    """A node of a critical path.

    Attributes:
        primes: left in its operands on this path; below zero where the path had too few before.
        least: fewest primes in its operands with which it can run.
        consumed: by it.
    """

    node: str
    primes: int
    least: int
    consumed: int


@dataclass(frozen=True)
class Infeasible:
    """No plan exists: a chain of nodes needs more primes than there are where it begins.

    Attributes:
        start: the value that the chain begins at, with as many primes as it can have.
        available: these primes.
        path: the nodes from there, each reading the one before, to the first value that has too few
            primes left to be refreshed, or past the first node that cannot run to the next value
            that could be refreshed, the next node that refreshes, or an output.
        needed: primes at `start` with which all of the path could run, and its end be refreshed
            where that costs less than infinity; more than `available`.
    """

    start: str
    available: int
    path: tuple[PathStep, ...]
    needed: int

    def error(self) -> FheCompileError:
        """The error for the user, which lists the layers."""
        layers = ", ".join(f"{step.node} consumes {step.consumed}" for step in self.path)
        return FheCompileError(
            "too-deep-to-refresh",
            f"after {self.start!r} {self.needed} primes are needed to get to the next value that "
            f"can be refreshed, and {self.available} are there: {layers}",
            node=next(
                (step.node for step in self.path if step.primes < step.least), self.path[-1].node
            ),
            hint="let functions on this path be less precise, or have a lower degree",
        )


@dataclass(frozen=True)
class HighestLevels:
    """The highest level that any plan runs a node at (o_v of inputs), with all refreshes there are.

    `way` is what makes each value with the most primes then.
    """

    level: Mapping[str, int]
    way: Mapping[str, LevelNode]


def highest_levels(problem: LevelProblem) -> HighestLevels | Infeasible:
    """See `HighestLevels`; or why there is no plan."""
    level: dict[str, int] = {}
    chosen: dict[str, LevelNode] = {}
    available: dict[str, int] = {}
    bounding: dict[str, str | None] = {}  # the operand that a value's level comes from
    for node in problem.nodes:
        bound = min(node.inputs, key=available.__getitem__, default=None)
        found: list[tuple[int, int, LevelNode]] = []  # (primes for its users, level, way)
        for way in node.ways:
            if bound is None:
                highest: int | None = problem.own_level(way, 0)
            else:
                highest = max((k for k in way.levels if k <= available[bound]), default=None)
            if highest is not None:
                own = problem.own_level(way, highest)
                most = problem.primes if problem.refresh_helps(way, own) else own
                found.append((most, highest, way))
        if not found:
            assert bound is not None
            return _critical_path(problem, node, bound, available, bounding, chosen)
        most, highest, way = max(found, key=lambda entry: entry[0])
        level[node.name] = max(entry[1] for entry in found)
        chosen[node.name], available[node.name] = way, most
        own = problem.own_level(way, highest)
        is_source = problem.refresh_helps(way, own) or way.refreshes or bound is None
        bounding[node.name] = None if is_source or highest < available[bound or ""] else bound
    return HighestLevels(level, chosen)


def _critical_path(
    problem: LevelProblem,
    failing: LevelNode,
    bound: str,
    available: Mapping[str, int],
    bounding: Mapping[str, str | None],
    chosen: Mapping[str, LevelNode],
) -> Infeasible:
    nodes = {node.name: chosen.get(node.name, node) for node in problem.nodes}
    path, name = [failing], bound
    while (operand := bounding[name]) is not None:
        path.insert(0, nodes[name])
        name = operand
    # On to where primes would be there again: the most that is consumed on the way decides.
    rest: dict[str, int] = {}
    for node in reversed(problem.nodes):
        following = [user.consumed + rest[user.name] for user in problem.users[node.name]]
        ends = any(w.refreshes for w in node.ways) or node.refresh_seconds < math.inf
        rest[node.name] = 0 if ends else max(following, default=0)
    while rest[path[-1].name] > 0:
        users = problem.users[path[-1].name]
        path.append(max(users, key=lambda user: user.consumed + rest[user.name]))

    # A node that runs at no level at all needs more than any value has.
    nowhere = 1 + max([problem.primes, *available.values()])
    steps: list[PathStep] = []
    primes = needed = available[name]
    for node in path:
        least = min(node.levels, default=max(nowhere, node.consumed, node.least))
        steps.append(PathStep(node.name, primes, least, node.consumed))
        needed = max(needed, available[name] - primes + least)
        primes -= node.consumed
        if node.refresh_seconds < math.inf and primes < problem.refresh_least:
            needed = max(needed, available[name] - primes + problem.refresh_least)
            break
    return Infeasible(name, available[name], tuple(steps), needed)


def price(
    problem: LevelProblem,
    levels: Mapping[str, int],
    refreshed: Collection[str],
    method: str,
    bound: float | None = None,
    alternatives: Collection[str] = (),
) -> Assignment:
    """The plan with these levels, without those of the refreshes that no user needs.

    Args:
        levels: l_v of all nodes with operands; others are ignored.
        alternatives: nodes whose values are made in the other way.
        bound: of all plans, in seconds; None where this one is optimal.

    Raises:
        InternalError: it breaks a rule of the module docstring.
    """
    level: dict[str, int] = {}
    own: dict[str, int] = {}
    nodes = [node.ways[node.name in alternatives] for node in problem.nodes]
    for node in nodes:
        if node.inputs:
            level[node.name] = levels[node.name]
        own[node.name] = problem.own_level(node, level.get(node.name, 0))
    needed = frozenset(
        name for node in nodes for name in node.inputs if level[node.name] > own[name]
    )
    costs = []
    for node in nodes:
        highest = min(
            (max(own[i], problem.primes) if i in needed else own[i] for i in node.inputs),
            default=0,
        )
        if node.inputs and (level[node.name] > highest or level[node.name] not in node.levels):
            raise InternalError(f"level search: {node.name} cannot run at {level[node.name]}")
        if node.name in needed and not (
            node.name in refreshed and problem.refresh_helps(node, own[node.name])
        ):
            raise InternalError(f"level search: {node.name} has to be refreshed and is not")
        costs += [node.seconds[level[node.name]]] if node.inputs else []
        costs += [node.refresh_seconds] if node.name in needed else []
    seconds = math.fsum(costs)
    bound = seconds if bound is None else min(bound, seconds)
    return Assignment(level, own, needed, frozenset(alternatives), seconds, bound, method)
