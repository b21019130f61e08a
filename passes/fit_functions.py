r"""Puts a polynomial in the place of every function that is none.

On [l, h], the range of the operand x on the calibration data, wider by `margin` of its width at
either end but no nearer to a singularity than half of what l or h is from it,

    u = (x - c) / r,  c = (l + h) / 2,  r = (h - l) / 2      affine, without depth
    y = sum_k a_k u^k                                        of least error (`functions.minimax`)

of a degree of 2, 3, 5, 7, 15, 31, 63 or 127. These are the degrees that fill their depth of 1 to 7;
of the two with depth 3, degree 5 has one product less. For functions of lines with kinks (relu,
abs, clip) there is `functions.composite` as well, with composites of the degrees `COMPOSITES`: of
all those of 7, 15 and 31 the ones that are more precise than any of less depth, and than a
polynomial of degree 127. c and r go into the linear map that makes x
where nothing else reads it. Ranges are measured again in the end.

Where the function is a polynomial on all of [min x, max x] as measured, that is taken, whatever its
degree: relu of what is never negative on the calibration data is x, without depth or error.

All polynomials together may change no output of any calibration sample by more than

    FITTED_SHARE 2^-precision_bits (largest output),

nor may any of them alone, where it is worst on its interval. Both is measured
(`fhecompile.ir.function_errors`). Of the choices that are cheapest for what they change
(`fhecompile.functions.degrees`) the cheapest that keeps this is found by bisection, then of every
function the cheapest polynomial that still does: one whose errors hardly reach the outputs gets a
low degree. Depth is what costs, a product little.

The polynomial is good on the interval and nowhere else: it leaves it like a_n u^n.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from typing import ClassVar

import numpy as np

from fhecompile.ckks import linear_map
from fhecompile.errors import FheCompileError
from fhecompile.functions.approximation import Approximation
from fhecompile.functions.composite import fit_composite, lines_of
from fhecompile.functions.degrees import Choice, chain_of_choices
from fhecompile.functions.minimax import exact_polynomial, fit_minimax
from fhecompile.functions.table import ElementwiseFunction, function_named
from fhecompile.ir.approximations import approximation_nodes
from fhecompile.ir.function_errors import FunctionErrors
from fhecompile.ir.program import Pass, PassResult, Program
from fhecompile.ir.tensor import Affine, Function, Node, node_depth
from passes.infer_ranges import Calibration, InferRanges, Ranges, spread_samples
from passes.lower_polynomials import count_products, lowered

DEGREES = (2, 3, 5, 7, 15, 31, 63, 127, 255)
# Off by 2^-9.3, 2^-10.3, 2^-11.3, 2^-12.4 and 2^-14.7 in depths of 11, 12, 13, 14 and 17; a
# polynomial of degree 127 by 2^-8.8 in depth 7 (abs on [-1, 1]).
COMPOSITES = ((7, 7, 15), (7, 15, 15), (15, 15, 15), (15, 15, 31), (15, 15, 15, 15))
# Noise gets the rest: two bits of scale are cheap, two bits of a polynomial are not.
FITTED_SHARE = 3 / 4
COST_OF_PRODUCT = 1 / 32  # in levels
AT_ONCE = 4  # candidates of a function that are evaluated together
NEGLIGIBLE = 1 / 4  # of a function's part of what is allowed
MOST_SAMPLES = 16  # on which polynomials are looked at alone
MOST_NAMED = 3  # functions in an error
NARROWEST = 1 / 64  # width of an interval relative to its larger end, at least

Approximations = Mapping[str, Approximation]  # by the functions' names


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

    needs: ClassVar[tuple[type, ...]] = (Ranges, Calibration)
    gives: ClassVar[tuple[type, ...]] = (Ranges,)

    def requires(self, program: Program) -> None:
        wrong = ""
        if not 0 <= self.margin < math.inf:
            wrong = f"margin is {self.margin:g}, allowed are 0 and more"
        elif self.degree and not DEGREES[0] <= self.degree <= DEGREES[-1]:
            allowed = f"{DEGREES[0]} to {DEGREES[-1]}, and 0 for what is needed"
            wrong = f"degree is {self.degree}, allowed are {allowed}"
        if wrong:
            raise FheCompileError("option-value", wrong, node=self.name)

    def run(self, program: Program) -> PassResult:
        functions = [node for node in program.graph if isinstance(node, Function)]
        if not functions:
            return PassResult(program, False)
        polynomials, changed = _Search(self, program, functions).run()
        users = program.graph.users()
        nodes: dict[str, Node] = dict(program.graph.nodes)
        remarks: list[str] = []
        for node in functions:
            operand, fitted = node.inputs[0], polynomials[node.name]
            producer = nodes[operand]
            if isinstance(producer, Affine) and users[operand] == [node]:
                nodes[operand] = _centred(producer, fitted)
            else:
                one = linear_map.diagonal(np.ones(()), node.shape)
                centred = Affine(
                    name=f"{node.name}.centred",
                    inputs=node.inputs,
                    shape=node.shape,
                    source=node.source,
                    maps=(one,),
                    bias=np.zeros(()),
                )
                nodes[centred.name] = _centred(centred, fitted)
                operand = centred.name
            made = approximation_nodes(node, operand, fitted)
            nodes |= {new.name: new for new in made}
            f = function_named(node.function)
            remarks.append(
                f"{node.name}: {f.name} on {_span(fitted)} by degree {_degrees(fitted)}, "
                f"depth {_depth(made)}, {_measure(f)} {fitted.error:.2g}"
            )
        graph = program.graph.rebuilt(nodes.values())
        after = InferRanges().run(replace(program, graph=graph)).program
        remarks.append(f"the outputs change by {changed.largest:.2g} at most")
        return PassResult(after.having(changed), True, tuple(remarks))

    def interval(self, f: ElementwiseFunction, low: float, high: float) -> tuple[float, float]:
        """Where the function is fitted when its operand was seen from `low` to `high`."""
        domain = f.domain_of(low, high)
        assert domain is not None  # `infer_ranges` has refused
        width = max(high - low, NARROWEST * max(abs(low), abs(high)) or 1.0)
        return domain.widened(low, high, self.margin * width + (width - (high - low)) / 2)

    def candidates(self, node: Function, ranges: Ranges) -> Iterator[Approximation]:
        """What may stand for the function in the range that was measured, the cheapest first."""
        f, operand = function_named(node.function), node.inputs[0]
        low, high = ranges.low[operand], ranges.high[operand]
        unit, interval = f.unit(low, high), self.interval(f, low, high)
        if piece := f.piece_of(low, high):
            yield exact_polynomial(piece.coefficients, *interval, unit)
            return
        for degree in DEGREES:
            if degree <= (self.degree or DEGREES[-1]):
                yield fit_minimax(f, *interval, degree, unit)
        if not self.degree and unit is not None and lines_of(f, *interval):
            for degrees in COMPOSITES:
                yield fit_composite(f, *interval, degrees, unit)


class _Search:
    """Finds the polynomials of one graph."""

    def __init__(self, options: FitFunctions, program: Program, functions: list[Function]) -> None:
        self.options, self.program = options, program
        self.functions = {node.name: node for node in functions}
        self.ranges = program.facts[Ranges]
        # Outputs that are zero on all calibration data have no range to be relative to.
        self.range = self.ranges.output or 1.0
        self.allowed: float = FITTED_SHARE * self.range * 2.0**-program.options.precision_bits
        self.measured = FunctionErrors(program.graph, program.facts[Calibration].inputs)
        self.few = spread_samples(self.measured.samples, MOST_SAMPLES)

    def run(self) -> tuple[Approximations, ApproximationError]:
        """The polynomials to take, and the error of all of them together."""
        candidates: dict[str, list[Approximation]] = {}
        alone: dict[str, list[float]] = {}
        for name, node in self.functions.items():
            candidates[name], alone[name] = self._candidates(node)
        costs = {
            name: [_cost(self.functions[name], p) for p in found]
            for name, found in candidates.items()
        }

        def taken(choice: Choice) -> Approximations:
            return {name: candidates[name][k] for name, k in choice.items()}

        def error(choice: Choice) -> float:
            worst = max(alone[name][k] for name, k in choice.items())
            if worst > self.allowed:
                return worst
            return self.measured.together(taken(choice), self.allowed)

        chain = chain_of_choices(costs, alone)
        last = len(chain) - 1
        changed = error(chain[last])
        if changed > self.allowed:
            own = {name: alone[name][k] for name, k in chain[last].items()}
            raise self._refusal(taken(chain[last]), own)
        first = 0
        while first < last:
            middle = (first + last) // 2
            found = error(chain[middle])
            if found <= self.allowed:
                last, changed = middle, found
            else:
                first = middle + 1
        best = chain[last]
        for name, price in costs.items():
            for k in sorted(range(len(price)), key=price.__getitem__):
                if price[k] >= price[best[name]]:
                    break
                found = error({**best, name: k})
                if found <= self.allowed:
                    best, changed = {**best, name: k}, found
                    break
        return taken(best), ApproximationError(changed, self.ranges.output)

    def _candidates(self, node: Function) -> tuple[list[Approximation], list[float]]:
        """Candidates with their errors, up to one whose error will not matter."""
        found: list[Approximation] = []
        errors: list[float] = []
        remaining = self.options.candidates(node, self.ranges)
        while batch := list(islice(remaining, AT_ONCE)):
            found += batch
            errors += self.measured.alone(node.name, batch, self.few)
            if min(errors) <= self.allowed * NEGLIGIBLE / len(self.functions):
                break
        return found, errors

    def _refusal(self, best: Approximations, alone: Mapping[str, float]) -> FheCompileError:
        """Says what the most precise polynomials change, and what would help."""
        changed = max(self.measured.together(best), *alone.values())
        first, *others = sorted(alone, key=lambda name: -alone[name])
        node, fitted = self.functions[first], best[first]
        f, degree = function_named(node.function), self.options.degree
        kind = "composite of degrees" if len(fitted.degrees) > 1 else "polynomial of degree"
        text = (
            f"with a {kind} {_degrees(fitted)} for {f.name} on {_span(fitted)} the outputs change "
            f"by {alone[first]:.2g}"
        )
        for name in others[: MOST_NAMED - 1]:
            text += f", for {_place(self.functions[name])} by {alone[name]:.2g}"
        if others:
            text += f", for all {len(alone)} functions by {changed:.2g}"
        hints = ["calibrate with data like those of use: a narrower range needs less degree"]
        if self.program.facts[Calibration].synthetic:
            hints = ["give real calibration data with --calibrate data.npz"]
        if degree and self._is_enough():
            hints.append("allow what degree is needed with --passes '+fit_functions{degree=0}'")
        bits = math.floor(-math.log2(changed / (FITTED_SHARE * self.range)))
        if bits >= 1:
            hints.append(f"lower --precision-bits to {bits}")
        if f.domain_of(-1.0, 1.0):
            hints.append("replace it by a polynomial activation and fine-tune")
        return FheCompileError(
            "precision-not-reachable",
            f"{text}; allowed is {self.allowed:.2g}, {FITTED_SHARE:g} of "
            f"2^-{self.program.options.precision_bits:g} of outputs up to {self.range:.3g}",
            node=_place(node),
            hint=", or ".join(hints),
        )

    def _is_enough(self) -> bool:
        """Whether the promise could be kept with any degree."""
        options = replace(self.options, degree=0)
        best = {
            name: min(options.candidates(node, self.ranges), key=lambda p: p.error)
            for name, node in self.functions.items()
        }
        return self.measured.together(best, self.allowed) <= self.allowed


def _depth(nodes: Iterable[Node]) -> int:
    """Of nodes in order, the first of which is the operand's reader."""
    depth: dict[str, int] = {}
    for node in nodes:
        depth[node.name] = max(depth.get(name, 0) for name in node.inputs) + node_depth(node)
    return max(depth.values())


def _cost(node: Function, fitted: Approximation) -> float:
    nodes = approximation_nodes(node, node.inputs[0], fitted)
    return _depth(nodes) + COST_OF_PRODUCT * count_products(lowered(nodes))


def _degrees(fitted: Approximation) -> str:
    """`15, 15, 31`."""
    return ", ".join(map(str, fitted.degrees))


def _place(node: Function) -> str:
    return node.source or node.name


def _measure(f: ElementwiseFunction) -> str:
    return "relative error" if f.relative else "error over largest value"


def _span(fitted: Approximation) -> str:
    low, high = fitted.centre - fitted.radius, fitted.centre + fitted.radius
    return f"{low:.4g} to {high:.4g}"


def _centred(node: Affine, fitted: Approximation) -> Affine:
    """The map with (y - centre) / radius for its result y."""
    scale = np.full(node.size, 1.0 / fitted.radius)
    maps = tuple(linear_map.scale_outputs(m, scale) for m in node.maps)
    return replace(node, maps=maps, bias=(node.bias - fitted.centre) / fitted.radius)
