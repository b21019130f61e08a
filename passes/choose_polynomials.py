r"""Puts polynomials in the place of refreshes that compute functions, where that is cheaper.

A refresh computes any function, and takes seconds; a polynomial takes levels, of which few are left
between two refreshes. So what is cheaper for one function depends on the others on its path.

    polynomial of f     the cheapest that errs no more than the refresh's series; none where
                        polynomials of `degree` cannot, as at the kink of relu
    each of them        consumes the primes, and takes the seconds, of its products by themselves
    choice              the cheapest levels of the network where every function can be either
                        (`fhecompile.ir.level_search`), or polynomials for all that have one: then
                        series of what is left, or of values as they are, are shorter
    taken               the one with the least seconds sqrt(bytes of a key), as more primes make
                        larger keys, if that saves a twentieth of what refreshes alone take, and if
                        it keeps the promise that the series were fitted to

A function that a user gave a degree or a kind of polynomial for gets that polynomial, which has to
keep the promise. Ranges are measured again in the end.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from fhecompile.errors import FheCompileError
from fhecompile.functions.approximation import Approximation
from fhecompile.functions.candidates import DEGREES, candidates
from fhecompile.functions.table import function_named
from fhecompile.functions.weighted import fit_weighted
from fhecompile.ir.approximations import approximation_nodes, report_function
from fhecompile.ir.fitted_errors import FittedErrors
from fhecompile.ir.fitted_functions import FittedFunctions
from fhecompile.ir.fitted_series import FittedSeries, in_refresh
from fhecompile.ir.function_options import options_by_function
from fhecompile.ir.function_search import Found
from fhecompile.ir.program import Pass, PassResult, Program
from fhecompile.ir.refresh_places import PolynomialWay
from fhecompile.ir.scales import plan_scales
from fhecompile.ir.tensor import Function, Input, Node, Output, TensorGraph
from fhecompile.options import FunctionOptions
from passes.fit_functions import MOST_SAMPLES, ApproximationError, promise_refusal
from passes.infer_ranges import Calibration, InferRanges, Ranges, spread_samples
from passes.lower_polynomials import LowerPolynomials, lowered
from passes.place_refreshes import find_places

WORTH = 0.95

Polynomials = Mapping[str, Approximation]  # by the functions' names


@dataclass(frozen=True)
class ChoosePolynomials(Pass):
    """See the module docstring. `degree` is the highest that may be taken; 0: no polynomials."""

    degree: int = 63

    needs: ClassVar[tuple[type, ...]] = (Ranges, Calibration, FittedFunctions)
    gives: ClassVar[tuple[type, ...]] = (Ranges, FittedFunctions)

    def requires(self, program: Program) -> None:
        if self.degree and not DEGREES[0] <= self.degree <= DEGREES[-1]:
            allowed = f"{DEGREES[0]} to {DEGREES[-1]}, and 0 for no polynomials"
            raise FheCompileError(
                "option-value", f"degree is {self.degree}, allowed are {allowed}", node=self.name
            )

    def run(self, program: Program) -> PassResult:
        if FittedSeries not in program.facts:
            return PassResult(program, False)
        fitted = program.facts[FittedSeries]
        choice = _Choice(self, program, fitted)
        chosen = choice.cheapest()
        if not chosen:
            return PassResult(program, False, ("every function is computed in a refresh",))
        changed = fitted.changed(chosen)
        remarks = []
        before = program.facts[FittedFunctions]
        reports = {report.node: report for report in before.functions}
        for node in fitted.functions:
            if node.name in chosen:
                p = chosen[node.name]
                made = approximation_nodes(node, node.inputs[0], p)
                reports[node.name] = report = report_function(node, p, changed, made)
                degrees = ", ".join(map(str, p.degrees))
                remarks.append(
                    f"{node.name}: {node.function} on {report.low:.4g} to {report.high:.4g} by "
                    f"degree {degrees}, depth {report.depth}, error {p.error:.2g}"
                )
        remarks.append(f"the outputs change by {changed:.2g} at most")
        graph = fitted.written(chosen)
        after = InferRanges().run(replace(program, graph=graph)).program
        few = spread_samples(fitted.measured.samples, MOST_SAMPLES)
        facts = (
            ApproximationError(changed, program.facts[Ranges].output),
            FittedErrors(fitted.shares(few, chosen)),
            FittedFunctions(tuple(reports.values()), before.warnings),
        )
        return PassResult(after.having(*facts), True, tuple(remarks))


class _Choice:
    """What polynomials are taken in one network."""

    def __init__(self, options: ChoosePolynomials, program: Program, fitted: FittedSeries) -> None:
        self.options, self.program, self.fitted = options, program, fitted
        self.wishes = options_by_function(program.options.activations, fitted.functions)
        self.policy = find_places(program).policy
        self.steps: dict[Hashable, tuple[int, tuple[tuple[Node, int], ...]]] = {}

    def cheapest(self) -> Polynomials:
        """By name of the functions that get one."""
        fitted = self.fitted
        asked: dict[str, Approximation] = {}
        possible: dict[str, Approximation] = {}
        for node in fitted.functions:
            if node.name not in fitted.series:
                continue
            wish = self.wishes.get(node.name, FunctionOptions())
            if wish.degree or wish.function:
                asked[node.name] = self._best(node, wish)
            elif found := self._precise_enough(node):
                possible[node.name] = found
        self._check(asked)
        if not possible:
            return asked
        given = self._lowered(asked)
        # By the refreshes' names. Of shares that differ the map is counted, which falls away.
        nodes = {in_refresh(n).name: n for n in fitted.functions if n.name in possible}
        ways = {name: self._way(name, n, possible[n.name]) for name, n in nodes.items()}
        least, _ = find_places(given).estimate()
        mixed_cost, mixed = find_places(given, ways).estimate()
        all_cost, _ = find_places(given, ways, all_ways=True).estimate()
        taken = {nodes[name].name for name in mixed}
        some = {name: p for name, p in possible.items() if name in taken}
        choices = [(mixed_cost, some), (all_cost, possible)]
        for cost, chosen in sorted(choices, key=lambda choice: choice[0]):
            if not chosen or cost > WORTH * least:
                break
            if fitted.changed(asked | chosen) <= fitted.allowed:
                return asked | chosen
        return asked

    def _check(self, asked: Polynomials) -> None:
        """Holds what a user asks for to the promise, like `fit_functions` does."""
        fitted = self.fitted
        few = spread_samples(fitted.measured.samples, MOST_SAMPLES)
        alone = {name: fitted.measured.alone(name, [p], few)[0] for name, p in asked.items()}
        if not asked or max(changed := fitted.changed(asked), *alone.values()) <= fitted.allowed:
            return
        for name, series in fitted.stand_ins().items():
            if name not in asked:
                alone[name] = fitted.measured.together({name: series})
        found = Found(asked, alone, max(changed, *alone.values()), False)
        functions = {node.name: node for node in fitted.functions}
        raise promise_refusal(self.program, functions, found, fitted.allowed)

    def _precise_enough(self, node: Function) -> Approximation | None:
        """The cheapest polynomial that errs no more than the series."""
        series, f = self.fitted.series[node.name], function_named(node.function)
        if not self.options.degree or series.unit is None:
            return None
        histogram = self.fitted.histograms[node.inputs[0]]
        allowed = series.error * series.unit
        share = float(np.abs(in_refresh(node).share).max())
        interval = series.centre - series.radius, series.centre + series.radius
        # The highest degree tells at once where there is nothing to look for.
        quick = fit_weighted(f, *interval, self.options.degree, 1.0, histogram.density)
        if quick.error * share > 2.0 * allowed:
            return None
        seen = histogram.low, histogram.high
        # Nearest where values are frequent, as the series is; the others take long to find.
        wish = FunctionOptions(degree=self.options.degree, function="weighted")
        for p in candidates(f, seen, interval, histogram.density, wish):
            if p.unit is not None and p.error * p.unit * share <= allowed:
                return p
        return None

    def _best(self, node: Function, wish: FunctionOptions) -> Approximation:
        """The most precise polynomial that a user asks for."""
        series, f = self.fitted.series[node.name], function_named(node.function)
        histogram = self.fitted.histograms[node.inputs[0]]
        interval = series.centre - series.radius, series.centre + series.radius
        seen = histogram.low, histogram.high
        found = list(candidates(f, seen, interval, histogram.density, wish))
        if not found:
            raise FheCompileError(
                "activation-options",
                f"no approximation of {node.function} on {interval[0]:.4g} to {interval[1]:.4g} is "
                "what the options for it ask for",
                node=node.source or node.name,
                hint="allow more error, more degree, or another function",
            )
        return min(found, key=lambda p: p.error)

    def _lowered(self, polynomials: Polynomials) -> Program:
        graph = self.fitted.written(polynomials)
        return LowerPolynomials().run(replace(self.program, graph=graph)).program

    def _way(self, refresh: str, node: Function, p: Approximation) -> PolynomialWay:
        """What the polynomial takes by itself, behind a value that has just been rescaled."""
        (operand,) = self.program.graph[refresh].inputs
        key = node.shape, type(p), p.degrees
        if key not in self.steps:
            nodes: list[Node] = [Input(name=operand, shape=node.shape)]
            nodes += lowered(approximation_nodes(node, operand, p))
            end = Output(
                name=f"{node.name}.output", inputs=(node.name,), shape=node.shape, label=node.name
            )
            graph = TensorGraph(node.name, {n.name: n for n in [*nodes, end]})
            plan = plan_scales(graph, replace(self.policy, bootstrap=None))
            steps = tuple((n, max(plan.level[i] for i in n.inputs)) for n in nodes[1:])
            self.steps[key] = plan.level[node.name], steps
        return PolynomialWay(operand, *self.steps[key])
