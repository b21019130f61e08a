r"""Puts a polynomial in the place of every function that is none.

On [l, h], the range of the operand x on the calibration data, wider by `margin` of its width at
either end but no nearer to a singularity than half of what l or h is from it,

    u = (x - c) / r,  c = (l + h) / 2,  r = (h - l) / 2      affine, without depth
    y = sum_k a_k u^k                                        of least error (`functions.minimax`)

of the least degree of 2, 3, 5, 7 and 15 whose error is at most `error`. These are the degrees that
fill their depth of 1, 2, 3, 3 and 4; of the two with depth 3, degree 5 has one product less. c and
r go into the linear map that makes x where nothing else reads it. Ranges are measured again in the
end.

The polynomial is good on the interval and nowhere else: it leaves it like a_n u^n.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from fhecompile.ckks import linear_map
from fhecompile.errors import FheCompileError
from fhecompile.functions.minimax import FittedPolynomial, fit_minimax
from fhecompile.functions.table import FUNCTIONS, ElementwiseFunction
from fhecompile.ir.evaluate import evaluate
from fhecompile.ir.program import Pass, PassResult, Program
from fhecompile.ir.tensor import Affine, Function, Node, Poly, node_depth
from passes.infer_ranges import Calibration, InferRanges, Ranges

DEGREES = (2, 3, 5, 7, 15)
SPARE_BITS = 2  # the part of the output's allowed error that one function may take
MOST_SAMPLES = 16  # on which the outputs are compared
NARROWEST = 1 / 64  # width of an interval relative to its larger end, at least


@dataclass(frozen=True)
class ApproximationError:
    """What polynomials change about the outputs: rms on the calibration data, the largest one."""

    rms: float


@dataclass(frozen=True)
class FitFunctions(Pass):
    """See the module docstring; `error` is 2^-(precision_bits + 2) when it is zero."""

    margin: float = 0.1
    error: float = 0.0
    degree: int = 7

    needs: ClassVar[tuple[type, ...]] = (Ranges, Calibration)
    gives: ClassVar[tuple[type, ...]] = (Ranges,)

    def requires(self, program: Program) -> None:
        wrong = ""
        if not 0 <= self.margin < math.inf:
            wrong = f"margin is {self.margin:g}, allowed are 0 and more"
        elif not 0 <= self.error < math.inf:
            wrong = f"error is {self.error:g}, allowed are 0 and more"
        elif not DEGREES[0] <= self.degree <= DEGREES[-1]:
            wrong = f"degree is {self.degree}, allowed are {DEGREES[0]} to {DEGREES[-1]}"
        if wrong:
            raise FheCompileError("option-value", wrong, node=self.name)

    def run(self, program: Program) -> PassResult:
        users = program.graph.users()
        ranges = program.facts[Ranges]
        nodes: dict[str, Node] = dict(program.graph.nodes)
        remarks: list[str] = []
        for node in program.graph:
            if not isinstance(node, Function):
                continue
            operand = node.inputs[0]
            f = FUNCTIONS[node.function]
            fitted = self._fit(node, ranges.low[operand], ranges.high[operand], program)
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
            shape = (-1, *(1,) * len(node.shape))
            poly = Poly(
                name=node.name,
                inputs=(operand,),
                shape=node.shape,
                source=node.source,
                coefficients=fitted.coefficients.reshape(shape),
            )
            nodes[node.name] = poly
            remarks.append(
                f"{node.name}: {f.name} on {_span(fitted)} by degree {fitted.degree}, "
                f"depth {node_depth(poly)}, {_measure(f)} {fitted.error:.2g}"
            )
        if not remarks:
            return PassResult(program, False)
        graph = program.graph.rebuilt(nodes.values())
        after = InferRanges().run(replace(program, graph=graph)).program
        changed = _output_error(program, after)
        remarks.append(f"the outputs change by {changed.rms:.2g} (rms)")
        return PassResult(after.having(changed), True, tuple(remarks))

    def interval(self, f: ElementwiseFunction, low: float, high: float) -> tuple[float, float]:
        """Where the function is fitted when its operand was seen from `low` to `high`."""
        domain = f.domain_of(low, high)
        assert domain is not None  # `infer_ranges` has refused
        width = max(high - low, NARROWEST * max(abs(low), abs(high)) or 1.0)
        return domain.widened(low, high, self.margin * width + (width - (high - low)) / 2)

    def _fit(self, node: Function, low: float, high: float, program: Program) -> FittedPolynomial:
        """The polynomial for a function whose operand was seen from `low` to `high`."""
        f = FUNCTIONS[node.function]
        unit = f.unit(low, high)
        low, high = self.interval(f, low, high)
        allowed = self.error or 2.0 ** -(program.options.precision_bits + SPARE_BITS)
        best: FittedPolynomial | None = None
        for degree in (d for d in DEGREES if d <= self.degree):
            fitted = fit_minimax(f, low, high, degree, unit)
            if fitted.error <= allowed:
                return fitted
            if best is None or fitted.error < best.error:
                best = fitted
        assert best is not None
        more = fit_minimax(f, low, high, DEGREES[-1], unit)
        enough = self.degree < DEGREES[-1] and more.error <= allowed
        raise self._refusal(node, best, allowed, enough, program)

    def _refusal(
        self,
        node: Function,
        best: FittedPolynomial,
        allowed: float,
        more_is_enough: bool,
        program: Program,
    ) -> FheCompileError:
        f, tried = FUNCTIONS[node.function], max(d for d in DEGREES if d <= self.degree)
        hints = ["calibrate with data like those of use: a narrower range needs less degree"]
        if program.facts[Calibration].synthetic:
            hints = ["give real calibration data with --calibrate data.npz"]
        if more_is_enough:
            hints.append(
                f"allow more degree with --passes '+fit_functions{{degree={DEGREES[-1]}}}'"
            )
        bits = int(np.floor(-np.log2(best.error))) - SPARE_BITS
        if bits >= 1 and not self.error:
            hints.append(f"lower --precision-bits to {bits}")
        if f.domain_of(-1.0, 1.0):
            hints.append("replace it by a polynomial activation and fine-tune")
        return FheCompileError(
            "function-range",
            f"no polynomial of degree {tried} is close enough to {f.name} on "
            f"{_span(best)}: {_measure(f)} {best.error:.2g}, allowed is {allowed:.2g}",
            node=node.source or node.name,
            hint=", or ".join(hints),
        )


def _output_error(before: Program, after: Program) -> ApproximationError:
    inputs = {k: x[:MOST_SAMPLES] for k, x in before.facts[Calibration].inputs.items()}
    exact, found = evaluate(before.graph, inputs), evaluate(after.graph, inputs)
    return ApproximationError(
        max(float(np.sqrt(np.mean((found[label] - y) ** 2))) for label, y in exact.items())
    )


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
