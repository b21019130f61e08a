r"""Puts a refresh that computes it in the place of every function that is no polynomial.

The operand x of a function f is refreshed as m = unit x, and the refresh computes a Fourier series
of m (`fhecompile.ckks.bootstrap`, `fhecompile.functions.fourier`) at no depth of its own:

    u = (x - c) / r,   m = share u,   y = 2 Re sum_j c_j exp(i pi j m),

[c - r, c + r] being the operand's range on the calibration data, wider by `margin` of its width at
either end, or the range that a user gave. c goes into the bias of the linear map that makes x where
nothing else reads it. With `share` 0.8, m is safe from wrapping around at 1 as long as x is within
1.25 r of c, and a series of n terms resolves a kink 1.6 times as finely as with 0.5.

All series have the same number of terms, the fewest with which no output of any calibration sample
changes by more than

    FITTED_SHARE 2^-precision_bits (largest output),   or  activation_error (largest output).

Functions that are a polynomial of degree 2 at most on all of their operand's values are replaced by
it. Ranges are measured again in the end.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from fhecompile.ckks.bootstrap import FUNCTION_SHARE, SERIES_TERMS
from fhecompile.errors import FheCompileError
from fhecompile.functions.fourier import FourierSeries, fit_series
from fhecompile.functions.minimax import exact_polynomial
from fhecompile.functions.table import function_named
from fhecompile.ir.approximations import report_function
from fhecompile.ir.fitted_errors import FittedErrors
from fhecompile.ir.fitted_functions import FittedFunctions
from fhecompile.ir.fitted_series import FittedSeries, in_refresh
from fhecompile.ir.function_errors import FunctionErrors
from fhecompile.ir.function_options import options_by_function
from fhecompile.ir.histogram import Histogram
from fhecompile.ir.program import Pass, PassResult, Program
from fhecompile.ir.tensor import Function
from fhecompile.options import FunctionOptions
from passes.fit_functions import (
    MOST_SAMPLES,
    ApproximationError,
    FitFunctions,
    asked_range,
    promised_share,
)
from passes.infer_ranges import Calibration, InferRanges, Ranges, spread_samples

FloatArray = NDArray[np.float64]
LEAST_TERMS = 13
MOST_PIECE_DEGREE = 2
NOISE = 2.0**-16  # of exp(i pi m), about


@dataclass(frozen=True)
class FitRefreshes(Pass):
    """See the module docstring. `terms` of every series; 0: what is needed."""

    margin: float = 0.1
    share: float = FUNCTION_SHARE
    terms: int = 0

    needs: ClassVar[tuple[type, ...]] = (Ranges, Calibration)
    gives: ClassVar[tuple[type, ...]] = (Ranges, FittedFunctions)

    def requires(self, program: Program) -> None:
        wrong = ""
        if not 0 <= self.margin < math.inf:
            wrong = f"margin is {self.margin:g}, allowed are 0 and more"
        elif not 0 < self.share < 1:
            wrong = f"share is {self.share:g}, allowed are numbers between 0 and 1"
        elif self.terms and not 1 <= self.terms <= SERIES_TERMS[-1]:
            wrong = f"terms is {self.terms}, allowed are 1 to {SERIES_TERMS[-1]}, and 0 for any"
        if wrong:
            raise FheCompileError("option-value", wrong, node=self.name)

    def run(self, program: Program) -> PassResult:
        functions = [node for node in program.graph if isinstance(node, Function)]
        if not functions:
            return PassResult(program.having(FittedFunctions(())), False)
        fitted, changed = _Fit(self, program, functions).search()
        reported, remarks = [], []
        for node in functions:
            if node.name in fitted.series:
                series = fitted.series[node.name]
                report = report_function(node, series, changed)
                reported.append(report)
                remarks.append(
                    f"{node.name}: {node.function} on {report.low:.4g} to {report.high:.4g} in a "
                    f"refresh, {series.terms} terms, error over largest value there "
                    f"{series.error:.2g}"
                )
        after = InferRanges().run(replace(program, graph=fitted.written())).program
        remarks.append(f"the outputs change by {changed:.2g} at most")
        few = spread_samples(fitted.measured.samples, MOST_SAMPLES)
        facts = (
            ApproximationError(changed, program.facts[Ranges].output),
            FittedErrors(fitted.shares(few)),
            FittedFunctions(tuple(reported)),
            fitted,
        )
        return PassResult(after.having(*facts), True, tuple(remarks))


class _Fit:
    """Fits the functions of one graph."""

    def __init__(self, options: FitRefreshes, program: Program, functions: list[Function]) -> None:
        self.options, self.program = options, program
        self.functions = functions
        self.wishes = options_by_function(program.options.activations, functions)
        self.ranges = program.facts[Ranges]
        self.measured = FunctionErrors(program.graph, program.facts[Calibration].inputs)
        operands = {node.inputs[0] for node in functions}
        self.histograms = self.measured.histograms(
            {x: Histogram.empty(self.ranges.low[x], self.ranges.high[x]) for x in operands}
        )
        self.pieces = {}
        for node in functions:
            low, high = self._seen(node)
            piece = function_named(node.function).piece_of(low, high)
            if piece is not None and len(piece.coefficients) <= MOST_PIECE_DEGREE + 1:
                # On [-1, 1] its variable is x itself.
                self.pieces[node.name] = exact_polynomial(piece.coefficients, -1.0, 1.0, None)

    def search(self) -> tuple[FittedSeries, float]:
        """The series with the fewest terms that keep the promise, and what they change."""
        output = self.ranges.output or 1.0
        allowed = promised_share(self.program.options) * output
        terms = [self.options.terms] if self.options.terms else SERIES_TERMS
        for count in terms:
            if count < LEAST_TERMS and not self.options.terms:
                continue
            series = {
                node.name: self._series(node, count)
                for node in self.functions
                if node.name not in self.pieces
            }
            found = FittedSeries(
                self.program.graph,
                self.functions,
                series,
                self.pieces,
                self.measured,
                self.histograms,
                allowed,
                self.options.margin,
            )
            changed = found.changed(enough=allowed)
            if changed <= allowed:
                return found, changed
        changed = found.changed()
        share = changed / output
        raise FheCompileError(
            "precision-not-reachable",
            f"with Fourier series of {count} terms for {len(series)} functions the outputs change "
            f"by {changed:.2g}; allowed is {allowed:.2g} of outputs up to {output:.3g}",
            hint="calibrate with data like those of use: a narrower range is fitted better, or "
            f"allow it with --activation-error {share * 1.05:.2g}",
        )

    def _seen(self, node: Function) -> tuple[float, float]:
        histogram = self.histograms[node.inputs[0]]
        return histogram.low, histogram.high

    def _series(self, node: Function, terms: int) -> FourierSeries:
        f = function_named(node.function)
        asked = asked_range(node, self.wishes.get(node.name, FunctionOptions()))
        low, high = asked or FitFunctions(self.options.margin).interval(f, *self._seen(node))
        density = self.histograms[node.inputs[0]].density
        return fit_series(
            _shared(in_refresh(node)),
            low,
            high,
            terms,
            f.unit(low, high),
            density,
            NOISE,
            share=self.options.share,
        )


def _shared(node: Function) -> Callable[[FloatArray], FloatArray]:
    """What a node with one share computes of one number."""
    f, share = function_named(node.function), float(node.share.flat[0])
    return lambda x: x + share * (f(x) - x)
