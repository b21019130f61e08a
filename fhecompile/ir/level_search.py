"""The cheapest levels of a network: which values are refreshed, and where every node runs.

    fhecompile.ir.level_problem       the rules, and why there is no plan where there is none
    fhecompile.ir.level_states        per node what can be part of a cheapest plan
    fhecompile.ir.level_meets         sets of operands that several nodes have
    fhecompile.ir.level_elimination   dynamic programming, for nearly series-parallel graphs
    fhecompile.ir.level_program       an integer linear programme, for all others

Both are exact. The refresh of a value is the one thing that makes this hard: without refreshes all
conditions say that one level is not more than another, and the linear programme has integer
solutions. Fhelipe (Krastev et al. 2024) and Orion (Ebel et al. 2025) place refreshes by dynamic
programming over the levels too, along a chain into which branches are folded.
"""

from __future__ import annotations

from fhecompile.ir.level_elimination import solve_by_elimination
from fhecompile.ir.level_problem import Assignment, Infeasible, LevelProblem, highest_levels
from fhecompile.ir.level_program import solve_by_integer_programme


def solve(
    problem: LevelProblem, *, refresh_only_if_needed: bool = True, time_limit: float = 60.0
) -> Assignment | Infeasible:
    """The plan of the fewest seconds, or the path on which none can go on.

    Args:
        refresh_only_if_needed: take a plan without refreshes wherever there is one, also where
            refreshes would save time. Nodes that refresh by themselves do not count.
        time_limit: of the integer programme, in seconds; see `Assignment.is_optimal`.
    """
    if refresh_only_if_needed:
        without = problem.with_refreshes(())
        if not isinstance(highest_levels(without), Infeasible):
            problem = without
    highest = highest_levels(problem)
    if isinstance(highest, Infeasible):
        return highest
    return solve_by_elimination(problem) or solve_by_integer_programme(problem, time_limit)
