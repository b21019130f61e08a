r"""Which polynomial for which function: the cheapest choice that is precise enough.

Function i has candidates k with a cost c_ik and an error e_ik of the outputs. For every price q of
an error the candidates with the least c_ik + q e_ik make the cheapest choice with at most their sum
of errors (Everett 1963). As q grows from 0, one function after the other goes on to its next
candidate on the lower convex hull of the points (c_ik, e_ik), steepest step first: a chain of
choices, from the cheapest to the most precise one. Errors add up to less than their sum, so what
choice is precise enough is for a measurement to say.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

Choice = Mapping[str, int]  # number of the candidate by name of the function


def chain_of_choices(
    costs: Mapping[str, Sequence[float]], errors: Mapping[str, Sequence[float]]
) -> list[Choice]:
    """The choices of the module docstring, each but the first with one other candidate.

    Args:
        costs: of the candidates, by name of the function; at least one each.
        errors: of the same candidates, at least zero, maybe infinite.
    """
    hulls = {name: lower_hull(costs[name], errors[name]) for name in costs}
    steps = [
        (_slope(costs[name], errors[name], hull[k], hull[k + 1]), order, k, name)
        for order, (name, hull) in enumerate(hulls.items())
        for k in range(len(hull) - 1)
    ]
    choice = {name: hull[0] for name, hull in hulls.items()}
    chain: list[Choice] = [choice]
    for _, _, k, name in sorted(steps):
        choice = {**choice, name: hulls[name][k + 1]}
        chain.append(choice)
    return chain


def lower_hull(costs: Sequence[float], errors: Sequence[float]) -> list[int]:
    """The candidates on the lower convex hull, the cheapest first, the most precise one last."""
    hull: list[int] = []
    for k in sorted(range(len(costs)), key=lambda k: (costs[k], errors[k])):
        if hull and errors[k] >= errors[hull[-1]]:
            continue
        while len(hull) > 1 and _slope(costs, errors, hull[-2], hull[-1]) >= _slope(
            costs, errors, hull[-1], k
        ):
            hull.pop()
        hull.append(k)
    return hull


def _slope(costs: Sequence[float], errors: Sequence[float], a: int, b: int) -> float:
    """Of the line from candidate a to b; minus infinity from an infinite error."""
    if math.isinf(errors[a]):
        return -math.inf
    return (errors[b] - errors[a]) / (costs[b] - costs[a])
