r"""Refreshes values in between where a network takes more primes than there are.

Which values are refreshed, as they are, is the plan of the fewest predicted seconds
(`fhecompile.ir.refresh_places`). With `level_budget`, that many primes are used between two
refreshes at most, for fresh inputs as well.

A value is refreshed as m = unit x by the Fourier series of m, which converges so fast that 5 terms
err by 5e-6 at `PLAIN_SHARE`; where refreshes evaluate functions the series may have as many terms
as those, up to the most of `PLAIN_TERMS`. Nothing is refreshed where there are primes enough. What
the series change about the outputs is measured, and counts as what fitted functions change.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from fhecompile.ir.fitted_errors import FittedErrors
from fhecompile.ir.function_errors import FunctionErrors
from fhecompile.ir.program import Pass, PassResult, Program
from fhecompile.ir.refresh_places import PolynomialWay, RefreshPlaces, refreshed_name
from passes.infer_ranges import Calibration, Ranges
from passes.lower_polynomials import LoweredPolynomials
from passes.select_parameters import fitted_error


@dataclass(frozen=True)
class PlaceRefreshes(Pass):
    """See the module docstring."""

    needs: ClassVar[tuple[type, ...]] = (Ranges, Calibration)

    def run(self, program: Program) -> PassResult:
        places = find_places(program)
        found = places.search()
        if not found.refreshed:
            return PassResult(program, False, ("no value is refreshed between functions",))
        graph = program.graph.rebuilt(places.refreshed_nodes(found).values())
        ranges = program.facts[Ranges]
        largest = dict(ranges.largest)
        low, high, square = dict(ranges.low), dict(ranges.high), dict(ranges.mean_square)
        for name in found.refreshed:
            for table in (largest, low, high, square):
                table[refreshed_name(name)] = table[name]
        measured = replace(ranges, largest=largest, low=low, high=high, mean_square=square)
        remarks = [f"{name} is refreshed" for name in sorted(found.refreshed)]
        remarks.append(f"{len(found.refreshed)} values refreshed, by {found.method}")
        changes = FunctionErrors(graph, program.facts[Calibration].inputs)
        changed, shares = changes.by_layer({refreshed_name(x): np.asarray for x in found.refreshed})
        remarks.append(f"their series change the outputs by {changed:.2g} at most")
        functions = fitted_error(program)
        known = program.facts[FittedErrors] if FittedErrors in program.facts else FittedErrors()
        facts = (
            measured,
            replace(functions, largest=functions.largest + changed),
            replace(known, refreshes=shares),
        )
        return PassResult(replace(program.having(*facts), graph=graph), True, tuple(remarks))


def find_places(
    program: Program, ways: Mapping[str, PolynomialWay] | None = None, all_ways: bool = False
) -> RefreshPlaces:
    """The search for the places of a program's refreshes; `ways` and `all_ways` as there."""
    facts = program.facts
    polynomials = facts[LoweredPolynomials].nodes if LoweredPolynomials in facts else {}
    largest = facts[Ranges].largest
    return RefreshPlaces(program.graph, program.options, largest, polynomials, ways, all_ways)
