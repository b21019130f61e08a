r"""Chooses ring dimension, primes, digits and the shape of refreshes for a graph that has some.

A refresh works at scale 2^q, q the bits of a prime, and so does all between two: a linear map or a
product drops one prime. What is chosen are q, the levels of both transforms of a refresh, and the
digits; the number of primes follows from the levels of the graph. All of them that are secure are
listed, the cheapest predicted first (`fhecompile.ir.work_model`), of equal ones the largest primes
first, and the first that are precise enough taken: as in `passes.select_parameters`, with the
errors of refreshes, which are measured in units of 2^-q. Where nothing is refreshed, that pass does
all of it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import ClassVar

from fhecompile.ckks.bootstrap import Bootstrap
from fhecompile.ckks.gallery import template_levels
from fhecompile.ckks.noise import PEAK_TO_RMS
from fhecompile.ckks.parameters import MAX_LOG_QP, MAX_PRIME_BITS, Parameters
from fhecompile.errors import FheCompileError
from fhecompile.ir.program import Pass, PassResult, Program
from fhecompile.ir.scales import (
    SLACK_BITS,
    ScalePlan,
    latest_inputs,
    plan_scales,
    refreshed_policy,
)
from fhecompile.ir.tensor import Refresh
from fhecompile.ir.work_model import predict_work
from passes.infer_ranges import Calibration, Ranges
from passes.select_parameters import ScaleChoice, SelectParameters, fitted_error, measure_errors

MOST_PRIME_BITS = 56
LEAST_PRIME_BITS = 38
TRANSFORM_LEVELS = (2, 3, 4)
TOY_PRIME_BITS = 50
MOST_TRANSFORM_LEVELS = 6
MOST_DIGITS = 9


@dataclass(frozen=True)
class SelectRefreshes(Pass):
    """See the module docstring; zero for the options means chosen."""

    prime_bits: int = 0
    digits: int = 0
    encode_levels: int = 0
    decode_levels: int = 0

    needs: ClassVar[tuple[type, ...]] = (Ranges, Calibration)
    gives: ClassVar[tuple[type, ...]] = (Parameters, ScaleChoice)

    def requires(self, program: Program) -> None:
        SelectParameters().requires(program)
        wrong = ""
        for field in ("encode_levels", "decode_levels"):
            if not 0 <= getattr(self, field) <= MOST_TRANSFORM_LEVELS:
                allowed = f"allowed are 1 to {MOST_TRANSFORM_LEVELS}, and 0 for any"
                wrong = f"{field} is {getattr(self, field)}, {allowed}"
        if self.prime_bits and not 20 <= self.prime_bits < MAX_PRIME_BITS:
            allowed = f"allowed are 20 to {MAX_PRIME_BITS - 1}, and 0 for any"
            wrong = f"prime_bits is {self.prime_bits}, {allowed}"
        elif self.digits < 0:
            wrong = f"digits is {self.digits}, allowed are 1 and more, and 0 for any"
        if wrong:
            raise FheCompileError("option-value", wrong, node=self.name)

    def run(self, program: Program) -> PassResult:
        if not any(isinstance(node, Refresh) for node in program.graph):
            return SelectParameters().run(program)
        parameters, choice = _Search(self, program).run()
        b = parameters.bootstrap
        assert b is not None
        refreshes = [node for node in program.graph if isinstance(node, Refresh)]
        remark = (
            f"N = 2^{parameters.ring_dimension.bit_length() - 1}, {parameters.levels} primes of "
            f"{parameters.prime_bits} bits, {parameters.digits} digits, log QP "
            f"{parameters.log_qp}; {len(refreshes)} refreshes of {b.encode_levels} and "
            f"{b.decode_levels} levels to level {b.output_level}, "
            f"predicted error {choice.predicted_error:.2g}"
        )
        return PassResult(program.having(parameters, choice), True, (remark,))


class _Search:
    """Finds the cheapest parameters of one program that are secure and precise enough."""

    def __init__(self, options: SelectRefreshes, program: Program) -> None:
        self.options, self.program = options, program
        self.measured = measure_errors(program)
        self.largest = program.facts[Ranges].largest
        range_ = self.measured.output_range or 1.0
        functions = range_ * (program.options.activation_error or 0.0)
        self.promised = range_ * 2.0**-program.options.precision_bits + functions
        self.fitted = fitted_error(program).largest
        self.reserved = max(self.fitted, functions)
        self.range = range_
        self.plans: dict[tuple[Bootstrap, int], tuple[ScalePlan, int]] = {}

    def run(self) -> tuple[Parameters, ScaleChoice]:
        """Of the smallest ring with parameters that are precise enough the cheapest ones."""
        options, secure = self.program.options, []
        wanted = options.ring_dimension
        for n in [wanted] if wanted else sorted(MAX_LOG_QP[options.security_bits]):
            for _, _, group in sorted(self._groups(n), key=lambda found: found[:2]):
                secure += group
                for p in group:
                    error = self._error(p)
                    if p.insecure or PEAK_TO_RMS * error + self.reserved <= self.promised:
                        assert p.bootstrap is not None
                        policy = refreshed_policy(p.prime_bits, p.bootstrap)
                        return p, ScaleChoice(
                            policy, error, self.measured.output_range, self.promised, self.fitted
                        )
        raise self._too_imprecise(secure) if secure else self._too_deep()

    def _groups(self, n: int) -> Iterator[tuple[float, int, list[Parameters]]]:
        """Secure parameters of one ring that take equally long, with their predicted seconds.

        The largest primes are the first in every group.
        """
        graph, options = self.program.graph, self.program.options
        for number, bootstrap in enumerate(self._bootstraps()):
            plans = {q: self._plan(bootstrap, q) for q in self._sizes()}
            for digits in [self.options.digits] if self.options.digits else range(1, MOST_DIGITS):
                groups: dict[tuple[int, int], list[Parameters]] = {}
                for q, (_, levels) in plans.items():
                    p = Parameters(
                        n, levels, q, q + 1, digits, options.security_bits, bootstrap=bootstrap
                    )
                    if not p.is_secure() and options.insecure_toy and options.ring_dimension:
                        p = replace(p, insecure=True)
                    if p.uses_all_digits and (p.is_secure() or p.insecure):
                        groups.setdefault((levels, p.special_primes), []).append(p)
                for group in groups.values():
                    plan, _ = plans[group[0].prime_bits]
                    start = latest_inputs(graph, plan, self.largest, group[0])
                    sunk = plan_scales(graph, plan.policy, start)
                    yield predict_work(graph, sunk, group[0]), number, group

    def _bootstraps(self) -> Iterator[Bootstrap]:
        refreshes = [node for node in self.program.graph if isinstance(node, Refresh)]
        terms = max(node.terms for node in refreshes)
        o = self.options
        encode = [o.encode_levels] if o.encode_levels else TRANSFORM_LEVELS
        decode = [o.decode_levels] if o.decode_levels else TRANSFORM_LEVELS
        for e, d in product(encode, decode):
            yield Bootstrap(e, d, terms)

    def _sizes(self) -> Sequence[int]:
        if self.options.prime_bits:
            return [self.options.prime_bits]
        if self.program.options.insecure_toy:
            return [TOY_PRIME_BITS]
        return range(MOST_PRIME_BITS, LEAST_PRIME_BITS - 1, -1)

    def _plan(self, bootstrap: Bootstrap, q: int) -> tuple[ScalePlan, int]:
        """Scales, and how many primes they take; small primes may be too narrow for some values."""
        if (bootstrap, q) not in self.plans:
            plan = plan_scales(self.program.graph, refreshed_policy(q, bootstrap))
            levels = plan.levels(self.largest, q + 1)
            if self.program.options.match == "gallery":
                (output,) = self.program.graph.outputs()
                place = plan.level[output.name], plan.scale[output.name]
                levels = max(levels, template_levels(*place, q, q + 1))
            self.plans[bootstrap, q] = plan, levels
        return self.plans[bootstrap, q]

    def _error(self, p: Parameters) -> float:
        least = p.prime_bits - SLACK_BITS
        return self.measured.error(p.ring_dimension, least, least, p.prime_bits)

    def _too_deep(self) -> FheCompileError:
        options = self.program.options
        levels = min(self._plan(b, LEAST_PRIME_BITS)[1] for b in self._bootstraps())
        return FheCompileError(
            "too-deep",
            f"no ring dimension is secure at {options.security_bits} bits for the {levels} primes "
            "that refreshes and what is between two of them take",
            hint="make the network shallower between two activations",
        )

    def _too_imprecise(self, possible: list[Parameters]) -> FheCompileError:
        error = min(PEAK_TO_RMS * self._error(p) for p in possible) / self.range
        if self.program.options.activation_error is None:
            error += self.fitted / self.range
        return FheCompileError(
            "precision-not-reachable",
            f"{self.program.options.precision_bits:g} bits of precision are asked for, refreshes "
            f"reach {math.floor(-math.log2(error))}",
            hint="lower --precision-bits",
        )
