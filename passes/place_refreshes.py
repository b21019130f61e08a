r"""Refreshes values in between where a network takes more primes than there are.

A node consumes as many primes as the scale plan of a refreshed network drops there
(`fhecompile.ir.scales`). Of the primes that a secure ring has, refreshes take their part, so that R
are left between two of them. Which values are refreshed, as they are, is the plan of the fewest
predicted seconds (`fhecompile.ir.level_search`), over all R that are possible: more primes mean
fewer refreshes and dearer operations. With `level_budget`, R is that, for fresh inputs as well.

A value is refreshed as m = unit x by the Fourier series of m, which converges so fast that
`PLAIN_TERMS` terms err by 5e-6 at `PLAIN_SHARE`; where refreshes evaluate functions the series may
have as many terms as those. Nothing is refreshed where there are primes enough.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from fhecompile.ckks.bootstrap import Bootstrap
from fhecompile.ckks.parameters import MAX_LOG_QP, Parameters
from fhecompile.errors import FheCompileError
from fhecompile.functions.fourier import FourierSeries, fit_series
from fhecompile.ir.level_problem import Assignment, Infeasible, LevelNode, LevelProblem
from fhecompile.ir.level_search import solve
from fhecompile.ir.program import Pass, PassResult, Program
from fhecompile.ir.scales import ScalePlan, ScalePolicy, plan_scales
from fhecompile.ir.tensor import Input, Node, Output, Refresh, replace_input
from fhecompile.ir.work_model import node_seconds, value_refresh_seconds
from passes.infer_ranges import Ranges
from passes.select_refreshes import SLACK_BITS

PRIME_BITS = 45  # that primes are counted with before their size is chosen
TRANSFORM_LEVELS = 3
PLAIN_TERMS = (5, 9, 13)
PLAIN_SHARE = 0.4
MARGIN = 1.25  # of the range beyond what was seen
MOST_PRIMES = 40  # between two refreshes
MOST_DIGITS = 9
COST_RING = 1 << 16  # operations are priced with
COST_DIGITS = 3
LIFT_PRIMES = 1  # a value that no linear map makes is brought to its scale by a product


@dataclass(frozen=True)
class PlaceRefreshes(Pass):
    """See the module docstring."""

    needs: ClassVar[tuple[type, ...]] = (Ranges,)

    def run(self, program: Program) -> PassResult:
        placement = _Placement(program)
        found = placement.search()
        if not found.refreshed:
            return PassResult(program, False, ("no value is refreshed between functions",))
        graph = program.graph.rebuilt(placement.refreshed_nodes(found).values())
        ranges = program.facts[Ranges]
        largest = dict(ranges.largest)
        low, high, square = dict(ranges.low), dict(ranges.high), dict(ranges.mean_square)
        for name in found.refreshed:
            for table in (largest, low, high, square):
                table[_refreshed(name)] = table[name]
        measured = replace(ranges, largest=largest, low=low, high=high, mean_square=square)
        remarks = [f"{name} is refreshed" for name in sorted(found.refreshed)]
        remarks.append(f"{len(found.refreshed)} values refreshed, by {found.method}")
        return PassResult(replace(program.having(measured), graph=graph), True, tuple(remarks))


class _Placement:
    """The levels of one network."""

    def __init__(self, program: Program) -> None:
        self.program, self.graph = program, program.graph
        self.budget = program.options.level_budget
        functions = [node.terms for node in self.graph if isinstance(node, Refresh)]
        self.plain = fit_plain(max(functions, default=0))
        terms = max([*functions, self.plain.terms])
        self.bootstrap = Bootstrap(TRANSFORM_LEVELS, TRANSFORM_LEVELS, terms)
        least = PRIME_BITS - SLACK_BITS
        self.policy = ScalePolicy(least, least, PRIME_BITS, 0.0, self.bootstrap)

    def search(self) -> Assignment:
        """The cheapest plan over all numbers of primes between two refreshes."""
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
            moved = node
            for name in dict.fromkeys(node.inputs):
                late = node.name in found.level and found.level[node.name] > found.own[name]
                if name in found.refreshed and late:
                    moved = replace_input(moved, name, _refreshed(name))
            nodes[node.name] = moved
            if node.name in found.refreshed:
                nodes[_refreshed(node.name)] = self._refresh(node)
        return nodes

    def _most_primes(self) -> int:
        """R of the ring that a user asks for, or of the smallest one that has any."""
        options = self.program.options
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
        bits = self.program.options.security_bits
        return Parameters(
            n, levels, PRIME_BITS, PRIME_BITS + 1, digits, bits, bootstrap=self.bootstrap
        )

    def _problem(self, primes: int, scales: ScalePlan) -> LevelProblem:
        n = self.program.options.ring_dimension or COST_RING
        bottom = self.bootstrap.output_level + primes
        parameters = self._parameters(n, bottom + self.bootstrap.operand_primes, COST_DIGITS)
        fresh = primes if self.budget else bottom
        nodes = []
        for node in self.graph:
            if isinstance(node, Input):
                nodes.append(LevelNode(node.name, fresh=fresh))
                continue
            seconds = tuple(node_seconds(node, bottom - r, parameters) for r in range(fresh + 1))
            if isinstance(node, Refresh):
                lifted = scales.lifts[node.name].rescales
                nodes.append(
                    LevelNode(
                        node.name,
                        node.inputs,
                        0,
                        seconds,
                        refreshes=True,
                        least=lifted,
                        fresh=primes,
                    )
                )
                continue
            cost = value_refresh_seconds(node.size, self.plain.terms, parameters)
            nodes.append(
                LevelNode(
                    node.name,
                    node.inputs,
                    scales.rescales[node.name],
                    seconds,
                    math.inf if isinstance(node, Output) else cost,
                )
            )
        outputs = tuple(node.name for node in self.graph.outputs())
        return LevelProblem(tuple(nodes), primes, outputs, LIFT_PRIMES)

    def _refresh(self, node: Node) -> Refresh:
        """What refreshes the value of a node as it is."""
        radius = MARGIN * (self.program.facts[Ranges].largest[node.name] or 1.0)
        c = radius * self.plain.coefficients
        unit = PLAIN_SHARE / radius
        return Refresh(
            name=_refreshed(node.name),
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


def _refreshed(name: str) -> str:
    return f"{name}.refreshed"
