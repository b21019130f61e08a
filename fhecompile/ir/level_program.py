r"""Cheapest levels as an integer linear programme, for graphs of any form.

Variables, all in [0, 1], with the states of `fhecompile.ir.level_states`:

    p_vx     node v is in state x
    U_vk     its operands are at level k or more     U_vk = sum of p_vx with l_x >= k
    A_vk     its users find k primes or more         A_vk = sum of p_vx with a_x >= k
    Z_v      its value is refreshed                  Z_v  = sum of p_vx of the refreshed states

    minimise    sum_vx seconds_x p_vx
    subject to  U_vk = A_vk = 1 for the least k of v, which makes p_v add up to 1
                U_wk <= A_vk   for every v that w reads and every level k of w

U_w <= A_v for all k is all that two distributions need for pairs with l_w <= a_v to be drawn from
them (Strassen 1965). So where the graph is a tree the linear relaxation is exact, on a chain it is
that of a shortest path; elsewhere Z is fractional where users of one value count on its refresh in
different plans. With all Z_v fixed the rows that are left say x <= y between variables, which is a
totally unimodular matrix: the rest is integral by itself. It is declared to be integers all the
same, because the solver branches and cuts on levels faster than on refreshes.

Where the time is over before the best plan is known, the relaxation is rounded as well: as few
values as make a plan possible are refreshed, those of the largest Z_v, and which levels are
cheapest then is a linear programme once more. The cheaper of both plans is taken.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from typing import Any

import numpy as np

from fhecompile.errors import InternalError
from fhecompile.ir.level_problem import (
    Assignment,
    Infeasible,
    LevelNode,
    LevelProblem,
    highest_levels,
    price,
)
from fhecompile.ir.level_states import States, all_states


class _Programme:
    """Columns in [low, 1] with a cost, and rows low <= sum of factor times column <= high.

    Attributes:
        operands: per node the columns U_v by k.
        values: per value the columns A_v by k.
        refreshes: the column Z_v of every value that can be refreshed.
        alternatives: per node the columns p_v of the other way to make its value.
    """

    def __init__(self, problem: LevelProblem) -> None:
        self.problem = problem
        self.costs: list[float] = []
        self.low: list[float] = []
        self.entries: list[tuple[int, int, float]] = []
        self.row_bounds: list[tuple[float, float]] = []
        self.operands: dict[str, dict[int, int]] = {}
        self.values: dict[str, dict[int, int]] = {}
        self.refreshes: dict[str, int] = {}
        self.alternatives: dict[str, list[int]] = {}
        states = all_states(problem)
        for node, of_node in zip(problem.nodes, states, strict=True):
            self._add_node(node.name, of_node)
            for name in dict.fromkeys(node.inputs):
                self._add_edge(name, node.name)
        # The solver has absolute tolerances: no plan may cost it much less than 1.
        self.unit = math.fsum(of_node.seconds.min() for of_node in states) or max(self.costs) or 1.0

    def _column(self, cost: float = 0.0, low: float = 0.0) -> int:
        self.costs.append(cost)
        self.low.append(low)
        return len(self.costs) - 1

    def _row(self, terms: Sequence[tuple[int, float]], low: float, high: float) -> None:
        self.entries += [(len(self.row_bounds), column, factor) for column, factor in terms]
        self.row_bounds.append((low, high))

    def _add_node(self, name: str, states: States) -> None:
        p = [self._column(float(seconds)) for seconds in states.seconds]
        self.operands[name] = self._tail(p, states.level.tolist())
        self.values[name] = self._tail(p, states.available.tolist())
        self.alternatives[name] = [p[i] for i in np.flatnonzero(states.alternative)]
        if states.refreshed.any():
            z = self.refreshes[name] = self._column()
            refreshed = [(c, -1.0) for c, is_r in zip(p, states.refreshed, strict=True) if is_r]
            self._row([(z, 1.0), *refreshed], 0.0, 0.0)

    def _tail(self, p: Sequence[int], keys: Sequence[int]) -> dict[int, int]:
        """Columns that are, for every k of `keys`, the sum of all p with a key of k or more."""
        ascending = sorted(set(keys))
        columns = {k: self._column(low=float(k == ascending[0])) for k in ascending}
        for k, above in zip(ascending, [*ascending[1:], None], strict=True):
            terms = [(columns[k], 1.0)]
            terms += [(c, -1.0) for c, key in zip(p, keys, strict=True) if key == k]
            terms += [] if above is None else [(columns[above], -1.0)]
            self._row(terms, 0.0, 0.0)
        return columns

    def _add_edge(self, operand: str, user: str) -> None:
        available = self.values[operand]
        for k, u in self.operands[user].items():
            enough = [j for j in available if j >= k]
            terms = [(available[min(enough)], -1.0)] if enough else []
            self._row([(u, 1.0), *terms], -math.inf, 0.0)

    def minimise(self, time_limit: float = math.inf, *, integral: bool) -> Any:
        """scipy's result, with costs in `unit`."""
        from scipy import optimize, sparse  # slow to import, and for few networks only

        rows, columns, factors = zip(*self.entries, strict=True)
        shape = (len(self.row_bounds), len(self.costs))
        matrix = sparse.csr_array((factors, (rows, columns)), shape=shape)
        low, high = zip(*self.row_bounds, strict=True)
        result = optimize.milp(
            np.array(self.costs) / self.unit,
            integrality=np.full(len(self.costs), int(integral)),
            bounds=optimize.Bounds(np.array(self.low), np.ones(len(self.low))),
            constraints=optimize.LinearConstraint(matrix, low, high),
            options={"time_limit": time_limit, "mip_rel_gap": 0.0},
        )
        if result.x is None and time_limit == math.inf:
            raise InternalError(f"level search: {result.message}")
        return result

    def plan(self, problem: LevelProblem, x: Any, method: str, bound: float) -> Assignment:
        """An integral solution as a plan for `problem`; the bound is in `unit`."""
        return price(
            problem,
            {v: max(k for k, u in us.items() if x[u] > 0.5) for v, us in self.operands.items()},
            {v for v, z in self.refreshes.items() if x[z] > 0.5},
            method,
            max(bound, 0.0) * self.unit,
            {v for v, p in self.alternatives.items() if any(x[column] > 0.5 for column in p)},
        )


def solve_by_integer_programme(problem: LevelProblem, time_limit: float) -> Assignment:
    """A cheapest plan, or the best one found.

    Args:
        problem: one that some plan exists for.
        time_limit: of the search, in seconds. Where it is over, a relaxation is solved and rounded,
            which takes as long as it takes.
    """
    programme = _Programme(problem)
    result = programme.minimise(time_limit, integral=True)
    if result.status == 0:
        return programme.plan(problem, result.x, "integer programme", result.fun)
    relaxed = programme.minimise(integral=False)
    bound = max(relaxed.fun, result.mip_dual_bound or 0.0)
    z = {name: relaxed.x[column] for name, column in programme.refreshes.items()}
    refreshed = _fewest_refreshes(problem, sorted(z, key=lambda name: -z[name]))
    fixed = _Programme(problem.with_refreshes(refreshed))
    for column in fixed.refreshes.values():
        fixed.low[column] = 1.0
    rounded = fixed.minimise(integral=True)
    plan = fixed.plan(problem, rounded.x, "rounded relaxation", bound * programme.unit / fixed.unit)
    if result.x is None:
        return plan
    found = programme.plan(problem, result.x, "integer programme", bound)
    return min(found, plan, key=lambda candidate: candidate.seconds)


def _fewest_refreshes(problem: LevelProblem, names: Sequence[str]) -> list[str]:
    """Of the first few names with which there is a plan those that the highest levels refresh."""

    def is_feasible(count: int) -> bool:
        return not isinstance(highest_levels(problem.with_refreshes(names[:count])), Infeasible)

    reduced = problem.with_refreshes(names[: bisect_left(range(len(names)), True, key=is_feasible)])
    highest = highest_levels(reduced)
    if isinstance(highest, Infeasible):
        raise InternalError("level search: no plan with all refreshes")
    return [
        name
        for name, way in highest.way.items()
        if reduced.refresh_helps(way, reduced.own_level(way, _highest_of(way, highest.level[name])))
    ]


def _highest_of(way: LevelNode, level: int) -> int:
    """The highest level that this way can run at."""
    return max((k for k in way.levels if k <= level), default=level)
