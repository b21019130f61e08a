r"""Which values of a network are refreshed between functions, as the fewest predicted seconds.

A node consumes as many primes as the scale plan of a refreshed network drops there
(`fhecompile.ir.scales`). Of the primes that a secure ring has, refreshes take their part, so that R
are left between two of them; all R that are possible are looked at, since more primes mean fewer
refreshes and dearer operations (`fhecompile.ir.level_search`).

A polynomial of one value is one node here, however many products it takes: what is computed on the
way is not refreshed, unless there is no plan otherwise. A chain of polynomials stays a chain then.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from fhecompile.ckks.bootstrap import Bootstrap
from fhecompile.ckks.parameters import MAX_LOG_QP, Parameters
from fhecompile.errors import FheCompileError
from fhecompile.functions.fourier import FourierSeries, fit_series
from fhecompile.ir.level_problem import Assignment, Infeasible, LevelNode, LevelProblem
from fhecompile.ir.level_search import solve
from fhecompile.ir.scales import ScalePlan, plan_scales, refreshed_policy
from fhecompile.ir.tensor import Input, Node, Output, Refresh, TensorGraph, replace_input
from fhecompile.ir.work_model import node_seconds, value_refresh_seconds
from fhecompile.options import CompileOptions

PRIME_BITS = 45  # that primes are counted with before their size is chosen
TRANSFORM_LEVELS = 3
PLAIN_TERMS = (5, 9, 13)
PLAIN_SHARE = 0.4
MARGIN = 1.25  # of the range beyond what was seen
MOST_PRIMES = 40  # between two refreshes
MOST_DIGITS = 9
COST_RING = 1 << 16  # operations are priced with
COST_DIGITS = 3  # where nothing is secure, as on a toy ring
LIFT_PRIMES = 1  # a value that no linear map makes is brought to its scale by a product


@dataclass(frozen=True)
class PolynomialWay:
    """How a polynomial computes its value.

    Args:
        operand: the value that it is a polynomial of.
        consumed: primes between that and its own value.
        steps: its nodes, and how many primes are dropped before each.
    """

    operand: str
    consumed: int
    steps: tuple[tuple[Node, int], ...]

    def level_node(
        self, node: Node, fresh: int, bottom: int, refresh_seconds: float, parameters: Parameters
    ) -> LevelNode:
        """What makes a node's value in the search for levels.

        Args:
            node: it.
            fresh: the most primes that its operand can have left.
            bottom: the level with none left.
            refresh_seconds: of its value.
            parameters: what operations are priced with.
        """
        seconds = [math.inf] * (fresh + 1)
        for r in range(self.consumed, fresh + 1):
            seconds[r] = sum(
                node_seconds(step, bottom - r + dropped, parameters) for step, dropped in self.steps
            )
        return LevelNode(node.name, (self.operand,), self.consumed, tuple(seconds), refresh_seconds)


class RefreshPlaces:
    """The search for one network.

    Args:
        graph: without functions, and polynomials lowered to products.
        options: ring, security and `level_budget`, which is R then, for fresh inputs as well.
        largest: the largest value of every node.
        polynomials: what has been lowered, by name: the names of its nodes.
        ways: polynomials that may stand for refreshes, by the names of these.
        all_ways: whether all of them do, which shortens the longest series.
    """

    def __init__(
        self,
        graph: TensorGraph,
        options: CompileOptions,
        largest: Mapping[str, float],
        polynomials: Mapping[str, Collection[str]],
        ways: Mapping[str, PolynomialWay] | None = None,
        all_ways: bool = False,
    ) -> None:
        self.all_ways = all_ways
        self.graph, self.options, self.largest = graph, options, largest
        self.ways = ways or {}
        self.budget = options.level_budget
        self.wholes = _wholes(graph, polynomials)
        gone = self.ways if all_ways else {}
        refreshes = [node for node in graph if isinstance(node, Refresh)]
        functions = [node.terms for node in refreshes if node.name not in gone]
        self.plain = fit_plain(max(functions, default=0))
        terms = max([*functions, self.plain.terms])
        self.bootstrap = Bootstrap(TRANSFORM_LEVELS, TRANSFORM_LEVELS, terms)
        self.policy = refreshed_policy(PRIME_BITS, self.bootstrap)

    @cached_property
    def inside(self) -> dict[str, str]:
        """The polynomial that a node is only a part of."""
        return {part: name for name, parts in self.wholes.items() for part in parts if part != name}

    def search(self) -> Assignment:
        """The cheapest plan over all numbers of primes between two refreshes.

        Raises:
            FheCompileError: `too-deep`.
        """
        try:
            return self._search()
        except FheCompileError:
            if not self.wholes:
                raise
            self.wholes, self.inside = {}, {}
            return self._search()

    def _search(self) -> Assignment:
        scales = plan_scales(self.graph, self.policy)
        most = self._most_primes()
        if self.budget:
            return self._within(min(self.budget, most), scales)
        best: Assignment | None = None
        refused: Infeasible | None = None
        for primes in range(1, most + 1):
            found = solve(self._problem(primes, scales))
            if isinstance(found, Infeasible):
                refused = found
            elif best is None or found.seconds < best.seconds:
                best = found
            if best is not None and not best.refreshed:
                break  # more primes would only make it dearer
        if best is None:
            assert refused is not None
            raise self._too_deep(refused)
        return best

    def estimate(self) -> tuple[float, frozenset[str]]:
        """The least seconds sqrt(bytes of a key) over all R, and the polynomials taken then.

        More primes save refreshes, and make keys larger.
        """
        scales = plan_scales(self.graph, self.policy)
        most = self._most_primes()
        best, taken = math.inf, frozenset[str]()
        for primes in range(1, min(self.budget or most, most) + 1):
            found = solve(self._problem(primes, scales), refresh_only_if_needed=False)
            if isinstance(found, Assignment):
                cost = found.seconds * math.sqrt(self._at(primes).key_bytes)
                if cost < best:
                    best, taken = cost, found.alternatives
        return best, taken

    def _within(self, budget: int, scales: ScalePlan) -> Assignment:
        """The plan for the most primes that takes no more than the budget.

        Refreshes give values other scales, and what follows may drop a prime more for that.
        """
        closest = 0
        for primes in range(budget, 0, -1):
            found = solve(self._problem(primes, scales))
            if isinstance(found, Infeasible):
                if primes == budget:
                    raise self._too_deep(found)
                break
            used = self._most_used(found)
            if used <= budget:
                return found
            closest = min(closest or used, used)
        raise FheCompileError(
            "too-deep",
            f"no refreshes were found with {budget} primes between two of them, {closest} are the "
            "fewest",
            hint=f"allow {closest} with --level-budget {closest}",
        )

    def _most_used(self, found: Assignment) -> int:
        """The most primes dropped from an input or a refresh up to the next one."""
        graph = self.graph.rebuilt(self.refreshed_nodes(found).values())
        scales = plan_scales(graph, self.policy)
        used: dict[str, int] = {}
        most = 0
        for node in graph:
            before = max((used[name] for name in node.inputs), default=0)
            refreshes = isinstance(node, Refresh)
            dropped = scales.lifts[node.name].rescales if refreshes else scales.rescales[node.name]
            most = max(most, before + dropped)
            used[node.name] = 0 if refreshes else before + dropped
        return most

    def refreshed_nodes(self, found: Assignment) -> Mapping[str, Node]:
        """The nodes of the graph with those that refresh values, and their users behind them."""
        nodes: dict[str, Node] = {}
        for node in self.graph:
            moved, place = node, self.inside.get(node.name, node.name)
            for name in dict.fromkeys(node.inputs):
                late = place in found.level and found.level[place] > found.own.get(name, math.inf)
                if name in found.refreshed and late:
                    moved = replace_input(moved, name, refreshed_name(name))
            nodes[node.name] = moved
            if node.name in found.refreshed:
                nodes[refreshed_name(node.name)] = self._refresh(node)
        return nodes

    def _most_primes(self) -> int:
        """R of the ring that a user asks for, or of the smallest one that has any."""
        options = self.options
        if options.insecure_toy and options.ring_dimension:
            return MOST_PRIMES
        bounds = MAX_LOG_QP[options.security_bits]
        rings = [options.ring_dimension] if options.ring_dimension else sorted(bounds)
        reserved = self.bootstrap.output_level + self.bootstrap.operand_primes
        for n in rings:
            most = 0
            for levels in range(reserved + 1, reserved + MOST_PRIMES):
                if any(self._parameters(n, levels, d).is_secure() for d in range(1, MOST_DIGITS)):
                    most = levels - reserved
            if most:
                return most
        raise FheCompileError(
            "too-deep",
            f"no ring dimension that is allowed is secure at {options.security_bits} bits with the "
            f"{reserved + 1} primes that refreshes take",
            hint="allow a larger ring, or make the network shallower",
        )

    def _parameters(self, n: int, levels: int, digits: int) -> Parameters:
        bits = self.options.security_bits
        return Parameters(
            n, levels, PRIME_BITS, PRIME_BITS + 1, digits, bits, bootstrap=self.bootstrap
        )

    def _at(self, primes: int) -> Parameters:
        """With R, and the fewest digits that are secure: more primes take more."""
        n = self.options.ring_dimension or COST_RING
        levels = self.bootstrap.output_level + primes + self.bootstrap.operand_primes
        found = [self._parameters(n, levels, d) for d in range(1, MOST_DIGITS)]
        return next((p for p in found if p.is_secure()), found[COST_DIGITS - 1])

    def _problem(self, primes: int, scales: ScalePlan) -> LevelProblem:
        bottom, parameters = self.bootstrap.output_level + primes, self._at(primes)
        fresh = primes if self.budget else bottom
        nodes = []
        users = self.graph.users()
        for node in self.graph:
            if node.name in self.inside:
                continue
            if isinstance(node, Input):
                if users[node.name]:  # users may have inputs that nothing reads
                    nodes.append(LevelNode(node.name, fresh=fresh))
                continue
            cost = math.inf
            if not isinstance(node, Output):
                cost = value_refresh_seconds(node.size, self.plain.terms, parameters)
            if node.name in self.wholes:
                whole = self._whole(node.name, scales)
                nodes.append(whole.level_node(node, fresh, bottom, cost, parameters))
                continue
            seconds = tuple(node_seconds(node, bottom - r, parameters) for r in range(fresh + 1))
            made = LevelNode(node.name, node.inputs, scales.rescales[node.name], seconds, cost)
            if isinstance(node, Refresh):
                other = None
                if node.name in self.ways:
                    way = self.ways[node.name]
                    other = way.level_node(node, fresh, bottom, cost, parameters)
                    if self.all_ways:
                        nodes.append(other)
                        continue
                made = replace(
                    made,
                    consumed=0,
                    refreshes=True,
                    least=scales.lifts[node.name].rescales,
                    fresh=primes,
                    alternative=other,
                )
            nodes.append(made)
        outputs = tuple(node.name for node in self.graph.outputs())
        return LevelProblem(tuple(nodes), primes, outputs, LIFT_PRIMES)

    def _whole(self, name: str, scales: ScalePlan) -> PolynomialWay:
        """A polynomial of the graph."""
        parts = self.wholes[name]
        nodes = [node for node in self.graph if node.name in parts]
        (operand,) = {i for node in nodes for i in node.inputs if i not in parts}
        start = scales.level[operand]
        steps = tuple((n, max(scales.level[i] for i in n.inputs) - start) for n in nodes)
        return PolynomialWay(operand, scales.level[name] - start, steps)

    def _refresh(self, node: Node) -> Refresh:
        """What refreshes the value of a node as it is."""
        radius = MARGIN * (self.largest[node.name] or 1.0)
        c = radius * self.plain.coefficients
        unit = PLAIN_SHARE / radius
        return Refresh(
            name=refreshed_name(node.name),
            inputs=(node.name,),
            shape=node.shape,
            source=node.source,
            unit=unit,
            gain=unit,
            low=-radius,
            high=radius,
            coefficients=np.stack([c.real, c.imag]),
        )

    def _too_deep(self, refused: Infeasible) -> FheCompileError:
        """Names the critical path layer by layer, and what would help."""
        layers = ", ".join(
            f"{self._place(step.node)} takes {step.consumed}"
            for step in refused.path
            if step.consumed
        )
        more = ""
        if 0 < self.budget < refused.needed:
            more = f"allow {refused.needed} with --level-budget {refused.needed}, "
        return FheCompileError(
            "too-deep",
            f"{refused.needed} primes are needed behind {self._place(refused.start)} up to the "
            f"next value that can be refreshed, {refused.available} are there: {layers}",
            node=self._place(refused.path[-1].node),
            hint=f"{more}lower --precision-bits, or use activations of a lower degree",
        )

    def _place(self, name: str) -> str:
        return self.graph[name].source or name


def fit_plain(terms: int) -> FourierSeries:
    """The series of x itself on [-1, 1]; of those with up to `terms` terms the longest."""
    count = max([k for k in PLAIN_TERMS if k <= terms], default=PLAIN_TERMS[0])
    return fit_series(lambda x: x, -1.0, 1.0, count, 1.0, share=PLAIN_SHARE)


def refreshed_name(name: str) -> str:
    """Of a value, refreshed as it is."""
    return f"{name}.refreshed"


def _wholes(
    graph: TensorGraph, polynomials: Mapping[str, Collection[str]]
) -> dict[str, frozenset[str]]:
    """Of the polynomials those that are still nodes of one operand, with one result."""
    users = graph.users()
    found: dict[str, frozenset[str]] = {}
    for name, made in polynomials.items():
        parts = frozenset(part for part in made if part in graph.nodes)
        operands = {i for part in parts for i in graph[part].inputs} - parts
        leaving = {part for part in parts for user in users[part] if user.name not in parts}
        if len(operands) == 1 and leaving == {name}:
            found[name] = parts
    return found
