r"""Cheapest levels by eliminating one node after another.

With a state x_v per node (`fhecompile.ir.level_states`) the seconds of a plan are

    sum_v s_v(x_v) + sum_{v read by w} e_vw(x_v, x_w)     e_vw = 0 if l_w <= a_v, else infinite

a sum of tables of one or two nodes each. A node v is eliminated by adding up the tables that it is
in, those of (v, n_1), ..., (v, n_d), and taking the minimum over x_v, which leaves one table of
its neighbours n_1, ..., n_d:

    d = 1    the last node of a chain
    d = 2    (A * B)[x, y] = min_k A[x, k] + B[k, y], the min-plus product of a chain's tables; then
             the tables of branches from one fork to one join are added, which leaves a chain

Nodes of degree 1 and 2 come first, so that the graphs that are series-parallel between their forks
and joins, residual networks and whatever is nested of such blocks, are solved with tables of two
nodes, in O(S^3) a node for S states (partial 2-trees: Wald and Colbourn 1983). A fork is one
variable for all its branches, and its refresh is in its own table: it is paid once. Other graphs
leave tables of more nodes and go the same way while these are small (non-serial dynamic
programming: Bertelè and Brioschi 1972). Dense blocks become nearly series-parallel by
`fhecompile.ir.level_meets`.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from fhecompile.errors import InternalError
from fhecompile.ir.level_meets import share_operands
from fhecompile.ir.level_problem import Assignment, LevelProblem, price
from fhecompile.ir.level_states import States, all_states

MAX_ENTRIES = 1 << 22  # of the largest table, over the eliminated node and its neighbours

Table = npt.NDArray[np.float64]


def elimination_order(
    problem: LevelProblem, states: Sequence[States]
) -> list[tuple[int, tuple[int, ...]]] | None:
    """Nodes in the order of their elimination, with their neighbours then, as ascending indices.

    None where a table of more than two neighbours would have over `MAX_ENTRIES` entries.
    """
    index = {node.name: i for i, node in enumerate(problem.nodes)}
    neighbours: list[set[int]] = [set() for _ in problem.nodes]
    for w, node in enumerate(problem.nodes):
        for name in node.inputs:
            neighbours[w].add(index[name])
            neighbours[index[name]].add(w)

    def rank(v: int) -> tuple[int, int, int]:
        return len(neighbours[v]), math.prod(len(states[n]) for n in neighbours[v]), v

    queue = [rank(v) for v in range(len(neighbours))]
    heapq.heapify(queue)
    order: list[tuple[int, tuple[int, ...]]] = []
    eliminated: set[int] = set()
    while queue:
        ranked = heapq.heappop(queue)
        degree, entries, v = ranked
        if v in eliminated or ranked != rank(v):
            continue  # changed since; its present rank is in the queue too
        if degree > 2 and entries * len(states[v]) > MAX_ENTRIES:
            return None
        eliminated.add(v)
        order.append((v, tuple(sorted(neighbours[v]))))
        for n in neighbours[v]:
            neighbours[n] |= neighbours[v]
            neighbours[n] -= {n, v}
            heapq.heappush(queue, rank(n))
    return order


def solve_by_elimination(problem: LevelProblem) -> Assignment | None:
    """A cheapest plan; None where the graph is too far from series-parallel.

    Args:
        problem: one that some plan exists for.
    """
    shared = share_operands(problem)
    states = all_states(shared)
    order = elimination_order(shared, states)
    if order is None:
        return None
    index = {node.name: i for i, node in enumerate(shared.nodes)}
    # Tables wait at the first of their nodes to be eliminated, each with its nodes ascending.
    rank = {v: position for position, (v, _) in enumerate(order)}
    waiting: list[list[tuple[tuple[int, ...], Table]]] = [[] for _ in order]
    for w, node in enumerate(shared.nodes):
        waiting[w].append(((w,), states[w].seconds))
        for v in {index[name] for name in node.inputs}:  # operands come before their users
            allowed = states[v].available[:, None] >= states[w].level[None, :]
            waiting[min(v, w, key=rank.__getitem__)].append(
                ((v, w), np.where(allowed, 0.0, math.inf))
            )
    best: list[npt.NDArray[np.intp]] = []
    for v, others in order:
        nodes = tuple(sorted((v, *others)))
        total = np.zeros([len(states[n]) for n in nodes])
        for members, table in waiting[v]:
            total += table.reshape([len(states[n]) if n in members else 1 for n in nodes])
        waiting[v].clear()
        axis = nodes.index(v)
        best.append(total.argmin(axis))
        if others:
            waiting[min(others, key=rank.__getitem__)].append((others, total.min(axis)))
        elif not np.isfinite(total.min()):
            raise InternalError("level search: no plan where one has to be")
    chosen: dict[int, int] = {}
    for (v, others), choice in zip(reversed(order), reversed(best), strict=True):
        chosen[v] = int(choice[tuple(chosen[n] for n in others)])
    return price(
        problem,
        {node.name: int(states[v].level[chosen[v]]) for v, node in enumerate(shared.nodes)},
        {node.name for v, node in enumerate(shared.nodes) if states[v].refreshed[chosen[v]]},
        "elimination",
        alternatives={
            node.name for v, node in enumerate(shared.nodes) if states[v].alternative[chosen[v]]
        },
    )
