r"""Puts a polynomial in the place of every function that is none.

On [l, h], the range of the operand x on the calibration data, wider by `margin` of its width at
either end but no nearer to a singularity than half of what l or h is from it,

    u = (x - c) / r,  c = (l + h) / 2,  r = (h - l) / 2      affine, without depth
    y = sum_k a_k u^k                                        of least error (`functions.minimax`)

of a degree of 2, 3, 5, 7 or 15. These are the degrees that fill their depth of 1, 2, 3, 3 and 4;
of the two with depth 3, degree 5 has one product less. c and r go into the linear map that makes x
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
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from fhecompile.ckks import linear_map
from fhecompile.errors import FheCompileError
from fhecompile.functions.degrees import Choice, chain_of_choices
from fhecompile.functions.minimax import FittedPolynomial, exact_polynomial, fit_minimax
from fhecompile.functions.table import ElementwiseFunction, function_named
from fhecompile.ir.function_errors import FunctionErrors
from fhecompile.ir.program import Pass, PassResult, Program
from fhecompile.ir.tensor import Affine, Function, Node, Poly, node_depth
from passes.infer_ranges import Calibration, InferRanges, Ranges, spread_samples

DEGREES = (2, 3, 5, 7, 15)
# Noise gets the rest: two bits of scale are cheap, two bits of a polynomial are not.
FITTED_SHARE = 3 / 4
COST_OF_DEGREE = 1 / 64  # in levels
MOST_SAMPLES = 16  # on which polynomials are looked at alone
MOST_NAMED = 3  # functions in an error
NARROWEST = 1 / 64  # width of an interval relative to its larger end, at least

Polynomials = Mapping[str, FittedPolynomial]  # by the functions' names


@dataclass(frozen=True)
class ApproximationError:
    """The most that polynomials change an output by, over all calibration samples.

    `output_range` is the largest output before that change, which errors are relative to.
    """

    largest: float
    output_range: float


@dataclass(frozen=True)
class FitFunctions(Pass):
    """See the module docstring; `degree` is the highest that may be taken."""

    margin: float = 0.1
    degree: int = 7

    needs: ClassVar[tuple[type, ...]] = (Ranges, Calibration)
    gives: ClassVar[tuple[type, ...]] = (Ranges,)

    def requires(self, program: Program) -> None:
        wrong = ""
        if not 0 <= self.margin < math.inf:
            wrong = f"margin is {self.margin:g}, allowed are 0 and more"
        elif not DEGREES[0] <= self.degree <= DEGREES[-1]:
            wrong = f"degree is {self.degree}, allowed are {DEGREES[0]} to {DEGREES[-1]}"
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
            poly = _poly(node, operand, fitted)
            nodes[node.name] = poly
            f = function_named(node.function)
            remarks.append(
                f"{node.name}: {f.name} on {_span(fitted)} by degree {fitted.degree}, "
                f"depth {node_depth(poly)}, {_measure(f)} {fitted.error:.2g}"
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

    def candidates(self, node: Function, ranges: Ranges) -> list[FittedPolynomial]:
        """The polynomials of all degrees allowed, for the range that was measured."""
        f, operand = function_named(node.function), node.inputs[0]
        low, high = ranges.low[operand], ranges.high[operand]
        unit, interval = f.unit(low, high), self.interval(f, low, high)
        if piece := f.piece_of(low, high):
            return [exact_polynomial(piece.coefficients, *interval, unit)]
        return [fit_minimax(f, *interval, d, unit) for d in DEGREES if d <= self.degree]


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

    def run(self) -> tuple[Polynomials, ApproximationError]:
        """The polynomials to take, and the error of all of them together."""
        candidates = {
            name: self.options.candidates(node, self.ranges)
            for name, node in self.functions.items()
        }
        costs = {
            name: [_depth(self.functions[name], p) + COST_OF_DEGREE * p.degree for p in found]
            for name, found in candidates.items()
        }
        alone = self.measured.alone(candidates, self.few)

        def taken(choice: Choice) -> Polynomials:
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

    def _refusal(self, best: Polynomials, alone: Mapping[str, float]) -> FheCompileError:
        """Says what the most precise polynomials change, and what would help."""
        changed = max(self.measured.together(best), *alone.values())
        first, *others = sorted(alone, key=lambda name: -alone[name])
        node, fitted = self.functions[first], best[first]
        f, degree = function_named(node.function), self.options.degree
        text = (
            f"with a polynomial of degree {max(d for d in DEGREES if d <= degree)} for {f.name} on "
            f"{_span(fitted)} the outputs change by {alone[first]:.2g}"
        )
        for name in others[: MOST_NAMED - 1]:
            text += f", for {_place(self.functions[name])} by {alone[name]:.2g}"
        if others:
            text += f", for all {len(alone)} functions by {changed:.2g}"
        hints = ["calibrate with data like those of use: a narrower range needs less degree"]
        if self.program.facts[Calibration].synthetic:
            hints = ["give real calibration data with --calibrate data.npz"]
        if degree < DEGREES[-1] and self._is_enough(DEGREES[-1]):
            hints.append(
                f"allow more degree with --passes '+fit_functions{{degree={DEGREES[-1]}}}'"
            )
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

    def _is_enough(self, degree: int) -> bool:
        """Whether polynomials of a higher degree are precise enough."""
        options = replace(self.options, degree=degree)
        best = {
            name: options.candidates(node, self.ranges)[-1:]
            for name, node in self.functions.items()
        }
        alone = self.measured.alone(best, self.few)
        if max(e for (e,) in alone.values()) > self.allowed:
            return False
        together = self.measured.together({name: p for name, (p,) in best.items()}, self.allowed)
        return together <= self.allowed


def _poly(node: Function, operand: str, fitted: FittedPolynomial) -> Poly:
    """The node with the polynomial of the centred operand."""
    own = fitted.coefficients.reshape(-1, *(1,) * len(node.shape))
    x = np.zeros_like(own)
    x[0], x[1] = fitted.centre, fitted.radius
    return Poly(
        name=node.name,
        inputs=(operand,),
        shape=node.shape,
        source=node.source,
        coefficients=own if node.is_whole() else x + node.share * (own - x),
    )


def _depth(node: Function, fitted: FittedPolynomial) -> int:
    return node_depth(_poly(node, node.inputs[0], fitted))


def _place(node: Function) -> str:
    return node.source or node.name


def _measure(f: ElementwiseFunction) -> str:
    return "relative error" if f.relative else "error over largest value"


def _span(fitted: FittedPolynomial) -> str:
    low, high = fitted.centre - fitted.radius, fitted.centre + fitted.radius
    return f"{low:.4g} to {high:.4g}"


def _centred(node: Affine, fitted: FittedPolynomial) -> Affine:
    """The map with (y - centre) / radius for its result y."""
    scale = np.full(node.size, 1.0 / fitted.radius)
    maps = tuple(linear_map.scale_outputs(m, scale) for m in node.maps)
    return replace(node, maps=maps, bias=(node.bias - fitted.centre) / fitted.radius)
