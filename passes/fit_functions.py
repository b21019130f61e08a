r"""Puts a polynomial in the place of every function that is none.

On [l, h], the range of the operand x on the calibration data, wider by `margin` of its width at
either end but no nearer to a singularity than half of what l or h is from it,

    u = (x - c) / r,  c = (l + h) / 2,  r = (h - l) / 2      affine, without depth
    y = p(u)                                                 of `fhecompile.functions.candidates`

c and r go into the linear map that makes x where nothing else reads it. Ranges are measured again
in the end. With `quantile` below 1, l and h are those of that share of the values.

Where the function is a polynomial on all of [min x, max x] as measured, that is taken, whatever its
degree: relu of what is never negative on the calibration data is x, without depth or error.

All polynomials together may change no output of any calibration sample by more than

    FITTED_SHARE 2^-precision_bits (largest output),   or  activation_error (largest output),

nor may any of them alone, where it is worst on its interval. Both is measured
(`fhecompile.ir.function_errors`), and the cheapest ones are taken that keep it
(`fhecompile.ir.function_search`). Depth is what costs, a product little.

A polynomial is good on the interval and nowhere else: it leaves it like u^n. Of n samples and one
more, all alike, the one more has the largest value with probability 1 / (n + 1), and the same for
the least: below `WANTED_SAMPLES` it leaves the range that was seen with more than 5 %.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

from fhecompile.errors import FheCompileError
from fhecompile.functions.approximation import Approximation
from fhecompile.functions.candidates import DEGREES, candidates
from fhecompile.functions.table import ElementwiseFunction, function_named
from fhecompile.ir.approximations import (
    approximation_depth,
    approximation_nodes,
    report_function,
    write_approximation,
)
from fhecompile.ir.fitted_errors import FittedErrors
from fhecompile.ir.fitted_functions import FittedFunction, FittedFunctions
from fhecompile.ir.function_errors import FunctionErrors
from fhecompile.ir.function_options import options_by_function
from fhecompile.ir.function_search import Found, search_approximations
from fhecompile.ir.histogram import Histogram
from fhecompile.ir.program import Pass, PassResult, Program
from fhecompile.ir.tensor import Function, Node
from fhecompile.options import CompileOptions, FunctionOptions
from passes.infer_ranges import Calibration, InferRanges, Ranges, spread_samples
from passes.lower_polynomials import count_products, lowered

# Noise gets the rest: two bits of scale are cheap, two bits of a polynomial are not.
FITTED_SHARE = 3 / 4
COST_OF_PRODUCT = 1 / 32  # in levels
MOST_SAMPLES = 16  # on which polynomials are looked at alone
MOST_NAMED = 3  # functions in an error
NARROWEST = 1 / 64  # width of an interval relative to its larger end, at least
WANTED_SAMPLES = 39
LEAST_GAP = 2.0**-14  # of the sign's operand, relative to its range


@dataclass(frozen=True)
class ApproximationError:
    """The most that polynomials change an output by, over all calibration samples.

    `output_range` is the largest output before that change, which errors are relative to.
    """

    largest: float
    output_range: float


@dataclass(frozen=True)
class FitFunctions(Pass):
    """See the module docstring.

    `degree` is the highest that may be taken, of polynomials alone; 0: whatever is needed.
    """

    margin: float = 0.1
    degree: int = 0
    quantile: float = 1.0

    needs: ClassVar[tuple[type, ...]] = (Ranges, Calibration)
    gives: ClassVar[tuple[type, ...]] = (Ranges, FittedFunctions)

    def requires(self, program: Program) -> None:
        wrong = ""
        if not 0 <= self.margin < math.inf:
            wrong = f"margin is {self.margin:g}, allowed are 0 and more"
        elif self.degree and not DEGREES[0] <= self.degree <= DEGREES[-1]:
            allowed = f"{DEGREES[0]} to {DEGREES[-1]}, and 0 for what is needed"
            wrong = f"degree is {self.degree}, allowed are {allowed}"
        elif not 0.5 <= self.quantile <= 1:
            wrong = f"quantile is {self.quantile:g}, allowed are 0.5 to 1"
        if wrong:
            raise FheCompileError("option-value", wrong, node=self.name)

    def run(self, program: Program) -> PassResult:
        functions = [node for node in program.graph if isinstance(node, Function)]
        wishes = options_by_function(program.options.activations, functions)
        if not functions:
            return PassResult(program.having(FittedFunctions(())), False)
        search = _Search(self, program, functions, wishes)
        found = search.run()
        users = program.graph.users()
        nodes: dict[str, Node] = dict(program.graph.nodes)
        remarks: list[str] = []
        reported: list[FittedFunction] = []
        for node in functions:
            fitted = found.approximations[node.name]
            made = write_approximation(nodes, users, node, fitted)
            report = report_function(node, fitted, found.alone[node.name], made)
            reported.append(report)
            remarks.append(
                f"{node.name}: {report.function} on {_span(fitted)} by degree {_degrees(fitted)}, "
                f"depth {report.depth}, {_measure(node)} {fitted.error:.2g}"
            )
            remarks += search.remarks(node)
        graph = program.graph.rebuilt(nodes.values())
        after = InferRanges().run(replace(program, graph=graph)).program
        remarks.append(f"the outputs change by {found.changed:.2g} at most")
        samples = search.measured.samples * program.options.batch
        warnings = _warnings(program.facts[Calibration], samples)
        few = spread_samples(search.measured.samples, MOST_SAMPLES)
        facts = (
            ApproximationError(found.changed, search.ranges.output),
            FittedErrors(search.measured.by_layer(found.approximations, few)[1]),
            FittedFunctions(tuple(reported), warnings),
        )
        return PassResult(after.having(*facts), True, (*remarks, *warnings))

    def interval(self, f: ElementwiseFunction, low: float, high: float) -> tuple[float, float]:
        """Where the function is fitted when its operand was seen from `low` to `high`."""
        domain = f.domain_of(low, high)
        assert domain is not None  # `infer_ranges` has refused
        width = max(high - low, NARROWEST * max(abs(low), abs(high)) or 1.0)
        return domain.widened(low, high, self.margin * width + (width - (high - low)) / 2)


class _Search:
    """Finds the polynomials of one graph."""

    def __init__(
        self,
        options: FitFunctions,
        program: Program,
        functions: list[Function],
        wishes: Mapping[str, FunctionOptions],
    ) -> None:
        self.options, self.program = options, program
        self.functions = {node.name: node for node in functions}
        self.ranges = program.facts[Ranges]
        # Outputs that are zero on all calibration data have no range to be relative to.
        self.range = self.ranges.output or 1.0
        self.allowed = promised_share(program.options) * self.range
        self.measured = FunctionErrors(program.graph, program.facts[Calibration].inputs)
        operands = {node.inputs[0] for node in functions}
        self.histograms = self.measured.histograms(
            {x: Histogram.empty(self.ranges.low[x], self.ranges.high[x]) for x in operands}
        )
        self.intervals: dict[str, tuple[float, float]] = {}
        self.wishes: dict[str, FunctionOptions] = {}
        for node in functions:
            wish = wishes.get(node.name, FunctionOptions())
            self.intervals[node.name] = self._interval(node, wish)
            self.wishes[node.name] = self._with_gap(node, wish)

    def run(self) -> Found:
        """What to take for every function."""
        few = spread_samples(self.measured.samples, MOST_SAMPLES)
        found = search_approximations(
            {name: self._candidates(node) for name, node in self.functions.items()},
            lambda name, fitted: _cost(self.functions[name], fitted),
            self.measured,
            few,
            self.allowed,
        )
        if not found.kept:
            raise self._refusal(found)
        return found

    def remarks(self, node: Function) -> list[str]:
        """What else there is to say of a function."""
        found = []
        histogram = self.histograms[node.inputs[0]]
        outside = histogram.outside(*self.intervals[node.name])
        if outside:
            found.append(
                f"{node.name}: up to {outside} of {histogram.total} values of the calibration data "
                "are outside of that range"
            )
        wish = self.wishes[node.name]
        if node.function == "sign" and wish.gap:
            found.append(
                f"{node.name}: the sign of values above {wish.gap:.2g} in magnitude; on the "
                f"calibration data the least is {histogram.nearest:.2g}"
            )
        return found

    def _interval(self, node: Function, wish: FunctionOptions) -> tuple[float, float]:
        f, histogram = function_named(node.function), self.histograms[node.inputs[0]]
        central = histogram.central(self.options.quantile)
        return asked_range(node, wish) or self.options.interval(f, *central)

    def _with_gap(self, node: Function, wish: FunctionOptions) -> FunctionOptions:
        """The wish with the gap of a sign."""
        histogram = self.histograms[node.inputs[0]]
        degree = wish.degree or self.options.degree
        if node.function != "sign" or histogram.low >= 0.0 or histogram.high <= 0.0:
            return replace(wish, degree=degree)
        low, high = self.intervals[node.name]
        gap = histogram.nearest / 2 if wish.gap is None else wish.gap
        least = LEAST_GAP * max(-low, high)
        text, hint = "", "give the gap that values keep from zero with --activations"
        if gap < least:
            text = f"a sign of values from {low:.4g} to {high:.4g} as near to zero as {gap:.2g}"
            hint = f"{hint}, {least:.2g} or more"
        elif gap > histogram.nearest:
            text = (
                f"the gap {gap:.4g} of a sign is wider than what the calibration data keep from "
                f"zero, {histogram.nearest:.4g}"
            )
            hint = "give a smaller gap, or other calibration data"
        if text:
            raise FheCompileError("sign-near-zero", text, node=_place(node), hint=hint)
        return replace(wish, gap=gap, degree=degree)

    def _candidates(
        self, node: Function, wish: FunctionOptions | None = None
    ) -> Iterator[Approximation]:
        histogram, wish = self.histograms[node.inputs[0]], wish or self.wishes[node.name]
        seen, interval = (histogram.low, histogram.high), self.intervals[node.name]
        found = candidates(function_named(node.function), seen, interval, histogram.density, wish)
        first = next(found, None)
        if first is None:
            raise FheCompileError(
                "activation-options",
                f"no approximation of {node.function} on {interval[0]:.4g} to {interval[1]:.4g} is "
                "what the options for it ask for",
                node=_place(node),
                hint="allow more error, more degree, or another function",
            )
        yield first
        yield from found

    def _refusal(self, found: Found) -> FheCompileError:
        """Says what the most precise polynomials change, and what would help."""
        enough = bool(self.options.degree) and self._is_enough()
        return promise_refusal(self.program, self.functions, found, self.allowed, enough)

    def _is_enough(self) -> bool:
        """Whether the promise could be kept with any degree."""
        best = {
            name: min(
                self._candidates(node, replace(self.wishes[name], degree=0)), key=lambda p: p.error
            )
            for name, node in self.functions.items()
        }
        return self.measured.together(best, self.allowed) <= self.allowed


def promised_share(options: CompileOptions) -> float:
    """The most that fitted functions may change an output by, relative to the largest one."""
    if options.activation_error is not None:
        return options.activation_error
    return FITTED_SHARE * math.pow(2.0, -options.precision_bits)


def asked_range(node: Function, wish: FunctionOptions) -> tuple[float, float] | None:
    """Where a user wants the function to be fitted; None: where its operand was seen."""
    f = function_named(node.function)
    if wish.range is not None and f.domain_of(*wish.range) is None:
        raise FheCompileError(
            "activation-options",
            f"{f.name} is not defined on all of the range {wish.range[0]:g} to {wish.range[1]:g}",
            node=_place(node),
            hint=f"it needs numbers {' or all '.join(map(str, f.domains))}",
        )
    return wish.range


def promise_refusal(
    program: Program,
    functions: Mapping[str, Function],
    found: Found,
    allowed: float,
    more_degree: bool = False,
) -> FheCompileError:
    """Says what the polynomials that were found change, and what would help.

    Args:
        program: whose options made the promise.
        functions: by name.
        found: `alone` may also tell of functions that are no polynomials.
        allowed: the most that outputs may change by.
        more_degree: whether a higher degree of all polynomials would do.
    """
    alone, options = found.alone, program.options
    output = allowed / promised_share(options)
    first, *others = sorted(alone, key=lambda n: (n not in found.approximations, -alone[n]))
    node, fitted = functions[first], found.approximations[first]
    f = function_named(node.function)
    kind = "composite of degrees" if len(fitted.degrees) > 1 else "polynomial of degree"
    text = (
        f"with a {kind} {_degrees(fitted)} for {f.name} on {_span(fitted)} the outputs change "
        f"by {alone[first]:.2g}"
    )
    for name in others[: MOST_NAMED - 1]:
        text += f", for {_place(functions[name])} by {alone[name]:.2g}"
    if others:
        text += f", for all {len(alone)} functions by {found.changed:.2g}"
    hints = ["calibrate with data like those of use: a narrower range needs less degree"]
    if program.facts[Calibration].synthetic:
        hints = ["give real calibration data with --calibrate data.npz"]
    if more_degree:
        hints.append("allow what degree is needed with --passes '+fit_functions{degree=0}'")
    bits = math.floor(-math.log2(found.changed / (FITTED_SHARE * output)))
    promise = f"{FITTED_SHARE:g} of 2^-{options.precision_bits:g}"
    if options.activation_error is not None:
        promise = f"{options.activation_error:g}"
    elif bits >= 1:
        hints.append(f"lower --precision-bits to {bits}")
    if found.changed < output:
        hints.append(f"allow it with --activation-error {_above(found.changed / output)}")
    if f.domain_of(-1.0, 1.0):
        hints.append("replace it by a polynomial activation and fine-tune")
    return FheCompileError(
        "precision-not-reachable",
        f"{text}; allowed is {allowed:.2g}, {promise} of outputs up to {output:.3g}",
        node=_place(node),
        hint=", or ".join(hints),
    )


def _warnings(calibration: Calibration, samples: int) -> tuple[str, ...]:
    if calibration.synthetic or samples >= WANTED_SAMPLES:
        return ()
    return (
        f"{samples} calibration samples tell little about ranges: a value of the next one is "
        f"outside of what was seen with a probability of {200 / (samples + 1):.0f} %; "
        f"{WANTED_SAMPLES} or more are wanted, as polynomials are wrong outside",
    )


def _cost(node: Function, fitted: Approximation) -> float:
    nodes = approximation_nodes(node, node.inputs[0], fitted)
    return approximation_depth(nodes) + COST_OF_PRODUCT * count_products(lowered(nodes))


def _degrees(fitted: Approximation) -> str:
    """`15, 15, 31`."""
    return ", ".join(map(str, fitted.degrees))


def _place(node: Function) -> str:
    return node.source or node.name


def _measure(node: Function) -> str:
    f = function_named(node.function)
    return "relative error" if f.relative else "error over largest value"


def _above(share: float) -> str:
    """With two digits, not below."""
    step = 10.0 ** (math.floor(math.log10(share)) - 1)
    return f"{math.ceil(share / step) * step:.2g}"


def _span(fitted: Approximation) -> str:
    low, high = fitted.centre - fitted.radius, fitted.centre + fitted.radius
    return f"{low:.4g} to {high:.4g}"
