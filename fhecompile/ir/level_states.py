"""The states of a node that can be part of a cheapest plan.

A state is (l, a, seconds, refreshed, alternative): the level a node runs at, the level its users
find its value at, what both together cost, and how it is made (`fhecompile.ir.level_problem`). Less
l asks less of the operands,
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
    alternative: npt.NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.level)


def node_states(problem: LevelProblem, node: LevelNode, highest: int) -> States:
    """The states that no other one replaces, of levels up to `highest`."""
    found: list[tuple[int, int, float, bool, bool]] = []
    for is_other, way in enumerate(node.ways):
        for level in way.levels if way.inputs else (highest,):
            if level <= highest:
                own = problem.own_level(way, level)
                seconds = way.seconds[level] if way.inputs else 0.0
                found.append((level, own, seconds, False, bool(is_other)))
                if problem.refresh_helps(way, own):
                    seconds += way.refresh_seconds
                    found.append((level, problem.primes, seconds, True, bool(is_other)))
    if not found:
        raise InternalError(f"level search: {node.name} has no state")
    # Ascending in (l, seconds, refreshed, -a): what replaces a state comes before it.
    found.sort(key=lambda state: (state[0], state[2], state[3], -state[1]))
    kept: list[tuple[int, int, float, bool, bool]] = []
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
    return [node_states(problem, node, highest.level[node.name]) for node in problem.nodes]
