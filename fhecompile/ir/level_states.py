"""The states of a node that can be part of a cheapest plan.

A state is (l, a, seconds, refreshed): the level a node runs at, the level its users find its value
at, and what both together cost (`fhecompile.ir.level_problem`). Less l asks less of the operands,
more a gives more to the users: a state is left out when another one has no more l, no less a and
costs no more. Of the refreshed states with costs that grow with the level only the lowest remains.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fhecompile.errors import InternalError
from fhecompile.ir.level_problem import Infeasible, LevelNode, LevelProblem, highest_levels


@dataclass(frozen=True, eq=False)
class States:
    """States of a node, as arrays of one shape (states,)."""

    level: npt.NDArray[np.int64]
    available: npt.NDArray[np.int64]
    seconds: npt.NDArray[np.float64]
    refreshed: npt.NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.level)


def node_states(problem: LevelProblem, node: LevelNode, highest: int) -> States:
    """The states that no other one replaces, of levels up to `highest`."""
    found: list[tuple[int, int, float, bool]] = []
    for level in node.levels if node.inputs else (highest,):
        if level <= highest:
            own = problem.own_level(node, level)
            seconds = node.seconds[level] if node.inputs else 0.0
            found.append((level, own, seconds, False))
            if problem.refresh_helps(node, own):
                found.append((level, problem.primes, seconds + node.refresh_seconds, True))
    if not found:
        raise InternalError(f"level search: {node.name} has no state")
    # Ascending in (l, seconds, refreshed, -a): what replaces a state comes before it.
    found.sort(key=lambda state: (state[0], state[2], state[3], -state[1]))
    kept: list[tuple[int, int, float, bool]] = []
    for state in found:
        if not any(other[1] >= state[1] and other[2] <= state[2] for other in kept):
            kept.append(state)
    columns = (np.array(column) for column in zip(*kept, strict=True))
    return States(*columns)


def all_states(problem: LevelProblem) -> list[States]:
    """Per node of a problem that some plan exists for its states."""
    highest = highest_levels(problem)
    if isinstance(highest, Infeasible):
        raise InternalError(f"level search: no plan to be had after {highest.start}")
    return [node_states(problem, node, highest[node.name]) for node in problem.nodes]
