r"""Finds the cheapest approximations that keep a promise about a network's outputs.

Of the choices that are cheapest for what they change (`fhecompile.functions.degrees`) the cheapest
one that changes no output by more than is allowed is found by bisection, then of every function the
cheapest approximation that still does: one whose errors hardly reach the outputs gets a low degree.
What each changes alone is measured in the order of costs, until one changes so little that nothing
more precise can matter.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from fhecompile.functions.approximation import Approximation
from fhecompile.functions.degrees import Choice, chain_of_choices
from fhecompile.ir.function_errors import FunctionErrors

AT_ONCE = 4  # candidates of a function that are evaluated together
NEGLIGIBLE = 1 / 4  # of a function's part of what is allowed

Approximations = Mapping[str, Approximation]  # by the functions' names


@dataclass(frozen=True, eq=False)
class Found:
    """The best choice, what each of it changes alone and all together, and whether that is kept."""

    approximations: Approximations
    alone: Mapping[str, float]
    changed: float
    kept: bool


def search_approximations(
    candidates: Mapping[str, Iterator[Approximation]],
    cost: Callable[[str, Approximation], float],
    measured: FunctionErrors,
    few: NDArray[np.intp],
    allowed: float,
) -> Found:
    """See the module docstring; the most precise choice where none keeps the promise.

    Args:
        candidates: by name of the function, at least one each.
        cost: of a candidate for a function.
        measured: the network.
        few: the samples that candidates are looked at alone on.
        allowed: the most that outputs may change by, in their unit.
    """
    tried: dict[str, list[Approximation]] = {}
    alone: dict[str, list[float]] = {}
    for name, remaining in candidates.items():
        tried[name], alone[name] = [], []
        while batch := list(islice(remaining, AT_ONCE)):
            tried[name] += batch
            alone[name] += measured.alone(name, batch, few)
            if min(alone[name]) <= allowed * NEGLIGIBLE / len(candidates):
                break
    costs = {name: [cost(name, p) for p in found] for name, found in tried.items()}

    def taken(choice: Choice) -> Approximations:
        return {name: tried[name][k] for name, k in choice.items()}

    def error(choice: Choice) -> float:
        worst = max(alone[name][k] for name, k in choice.items())
        return worst if worst > allowed else measured.together(taken(choice), allowed)

    chain = chain_of_choices(costs, alone)
    first, last = 0, len(chain) - 1
    changed = error(chain[last])
    if changed > allowed:
        own = {name: alone[name][k] for name, k in chain[last].items()}
        best = taken(chain[last])
        return Found(best, own, max(measured.together(best), *own.values()), False)
    while first < last:
        middle = (first + last) // 2
        found = error(chain[middle])
        if found <= allowed:
            last, changed = middle, found
        else:
            first = middle + 1
    best_choice = dict(chain[last])
    for name, price in costs.items():
        for k in sorted(range(len(price)), key=price.__getitem__):
            if price[k] >= price[best_choice[name]]:
                break
            found = error({**best_choice, name: k})
            if found <= allowed:
                best_choice[name], changed = k, found
                break
    own = {name: alone[name][k] for name, k in best_choice.items()}
    return Found(taken(best_choice), own, changed, True)
