r"""Chooses ring dimension, primes, digits and the scale policy for a leveled evaluation.

Precision: one noisy evaluation of the tensor graph with the constants' rounding alone and one with
the ciphertexts' noise alone give two error figures, A at constant scale 2^a0 and B at activation
scale 2^s0. Errors are small, so that they scale linearly and add up as independent:

    error(s, a)^2 = (A 2^(a0 - a))^2 + (B 2^(s0 - s))^2.

For each total t = s + a the best split is  2^(2 (s - a)) = (B 2^s0)^2 / (A 2^a0)^2. Rescaling
primes have `prime_bits` = 59 bits (whole machine words). Of all totals with which the promise of
`precision_bits` is kept, 4 error(s, a) + what fitted functions change at most 2^-precision_bits of
the largest output, the one with the fewest primes wins, and of those the most precise. A and B are
evaluated once: the first grows with sqrt(N), the second with N.

Of the secure ring dimensions and numbers of digits those with the least predicted time are taken
(`fhecompile.ir.work_model`). More digits mean fewer special primes but bigger keys, so that one
digit more must save `DIGIT_WORTH` of the time.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar

from fhecompile.ckks.gallery import TEMPLATE_BITS
from fhecompile.ckks.noise import PEAK_TO_RMS
from fhecompile.ckks.parameters import (
    FIRST_PRIME_BITS,
    MAX_LOG_QP,
    Parameters,
)
from fhecompile.errors import FheCompileError, InternalError
from fhecompile.ir.depth import measure_depth
from fhecompile.ir.noise_model import predict_error
from fhecompile.ir.program import Pass, PassResult, Program
from fhecompile.ir.scales import ScalePlan, ScalePolicy, plan_scales
from fhecompile.ir.tensor import Function
from fhecompile.ir.work_model import predict_work
from passes.fit_functions import ApproximationError
from passes.infer_ranges import Calibration, Ranges

MIN_SCALE_BITS = 15
DIGIT_WORTH = 0.02


@dataclass(frozen=True)
class MeasuredErrors:
    """A and B of the module docstring at the reference scales, and the outputs' magnitude.

    They depend on the graph alone: who selects parameters for one graph many times stores them as a
    fact before.
    """

    constants: float
    noise: float
    output_range: float

    REFERENCE: ClassVar[tuple[int, float, float]] = (1 << 16, 35.0, 24.0)

    def at(self, n: int) -> tuple[float, float]:
        """(A 2^a0, B 2^s0) for ring dimension n."""
        n0, s0, a0 = self.REFERENCE
        growth = n / n0
        return self.constants * math.sqrt(growth) * 2.0**a0, self.noise * growth * 2.0**s0

    def error(self, n: int, s: float, a: float) -> float:
        """Predicted rms error of the outputs."""
        constants, noise = self.at(n)
        return math.hypot(constants * 2.0**-a, noise * 2.0**-s)

    def best_split(self, n: int, total: int) -> tuple[float, float]:
        """s and a of the smallest error for s + a = total."""
        constants, noise = (max(x, 1e-30) for x in self.at(n))
        s = round((total + math.log2(noise / constants)) / 2)
        s = min(max(s, MIN_SCALE_BITS), total - MIN_SCALE_BITS)
        return float(s), float(total - s)


def measure_errors(program: Program) -> MeasuredErrors:
    """The two noisy evaluations; nothing when their result is a fact already."""
    if MeasuredErrors in program.facts:
        return program.facts[MeasuredErrors]
    ranges = program.facts[Ranges]
    # The widest outputs are what errors are relative to, and mostly have the largest ones.
    chosen = sorted({ranges.widest, 0 if ranges.widest else 1})
    inputs = {k: x[chosen[: len(x)]] for k, x in program.facts[Calibration].inputs.items()}
    constants, noise, _ = predict_error(program.graph, inputs, *MeasuredErrors.REFERENCE)
    return MeasuredErrors(constants, noise, fitted_error(program).output_range)


@dataclass(frozen=True, eq=False)
class ScaleChoice:
    """The scale policy, and the errors of the outputs in their own unit.

    `predicted_error` is the noise's (rms), `fitted_error` the measured one of fitted functions, and
    `allowed_error` what is promised of both (largest).
    """

    policy: ScalePolicy
    predicted_error: float
    output_range: float
    allowed_error: float
    fitted_error: float = 0.0

    def allows(self, noise: float) -> bool:
        """Whether the promise is kept with noise of this rms error."""
        return PEAK_TO_RMS * noise + self.fitted_error <= self.allowed_error


@dataclass(frozen=True)
class SelectParameters(Pass):
    """See the module docstring; zero for `activation_bits` and `constant_bits` means chosen."""

    prime_bits: int = 59
    activation_bits: float = 0.0
    constant_bits: float = 0.0
    digits: int = 0

    needs: ClassVar[tuple[type, ...]] = (Ranges, Calibration)
    gives: ClassVar[tuple[type, ...]] = (Parameters, ScaleChoice)

    def requires(self, program: Program) -> None:
        left = [node.name for node in program.graph if isinstance(node, Function)]
        if left:
            raise InternalError(f"no polynomial stands for the function {left[0]}: fit_functions")

    def run(self, program: Program) -> PassResult:
        options = program.options
        tried: list[str] = []
        imprecise = 0  # smallest ring dimension at which no scales are precise enough
        wanted = options.ring_dimension
        measured = measure_errors(program)
        rings = [wanted] if wanted else sorted(MAX_LOG_QP[options.security_bits])
        best: tuple[float, Parameters, ScaleChoice] | None = None
        for n in rings:
            found = self._scales(program, n, measured)
            if found is None:
                imprecise = imprecise or n
                continue
            choice, levels = found
            secure = self._parameters(program, n, levels)
            if not secure:
                tried.append(f"2^{n.bit_length() - 1} ({levels} primes)")
                continue
            plan = plan_scales(program.graph, choice.policy)
            for parameters in secure:
                work = predict_work(program.graph, plan, parameters)
                work *= 1.0 + DIGIT_WORTH * parameters.digits
                if best is None or work < best[0]:
                    best = (work, parameters, choice)
        if best is not None:
            _, parameters, choice = best
            remark = (
                f"N = 2^{parameters.ring_dimension.bit_length() - 1}, {parameters.levels} primes "
                f"of {self.prime_bits} bits, {parameters.digits} digits, log QP "
                f"{parameters.log_qp}; activations 2^{choice.policy.activation_bits:g}, "
                f"constants 2^{choice.policy.constant_bits:g}, "
                f"predicted error {choice.predicted_error:.2g}"
            )
            return PassResult(program.having(parameters, choice), True, (remark,))
        if imprecise and not tried:
            raise self._too_imprecise(program, imprecise, measured)
        depth = measure_depth(program.graph)
        raise FheCompileError(
            "too-deep",
            f"no ring dimension is secure at {options.security_bits} bits for multiplicative depth "
            f"{depth.total}; tried {', '.join(tried)}",
            node=depth.path[-1] if depth.path else "",
            hint="lower --precision-bits, or make the network shallower",
        )

    def _template_levels(self, program: Program, scales: ScalePlan) -> int:
        """Primes that let the output be made a template (`fhecompile.ckks.gallery`)."""
        (output,) = program.graph.outputs()
        above = scales.scale[output.name] - (self.prime_bits + TEMPLATE_BITS)
        return scales.level[output.name] + 1 + max(0, math.ceil(above / self.prime_bits))

    def _parameters(self, program: Program, n: int, levels: int) -> list[Parameters]:
        """The secure parameters by number of digits, or one insecure choice if that is allowed."""
        options = program.options
        tried = [self.digits] if self.digits else range(1, levels + 2)
        made = [
            Parameters(n, levels, self.prime_bits, FIRST_PRIME_BITS, d, options.security_bits)
            for d in tried
        ]
        secure = [p for p in made if p.is_secure()]
        if not secure and options.insecure_toy:
            return [replace(made[0], insecure=True)]
        return secure

    def _too_imprecise(self, program: Program, n: int, measured: MeasuredErrors) -> FheCompileError:
        s, a = measured.best_split(n, 2 * self.prime_bits)
        error = PEAK_TO_RMS * measured.error(n, s, a) + fitted_error(program).largest
        reached = (measured.output_range or 1.0) / error
        return FheCompileError(
            "precision-not-reachable",
            f"{program.options.precision_bits:g} bits of precision are asked for, primes of "
            f"{self.prime_bits} bits reach {math.floor(math.log2(reached))}",
            hint="lower --precision-bits",
        )

    def _scales(
        self, program: Program, n: int, measured: MeasuredErrors
    ) -> tuple[ScaleChoice, int] | None:
        """The policy with the fewest primes that is precise enough, and that number of primes."""
        largest = program.facts[Ranges].largest
        # Outputs that are zero on all calibration data have no range to be relative to.
        promised = (measured.output_range or 1.0) * 2.0**-program.options.precision_bits
        changed = fitted_error(program).largest
        fixed = bool(self.activation_bits and self.constant_bits)
        highest = 2 * self.prime_bits
        best: tuple[int, float, ScalePolicy] | None = None
        for total in range(2 * MIN_SCALE_BITS, highest + 1):
            s, a = measured.best_split(n, total)
            if fixed:
                s, a = self.activation_bits, self.constant_bits
            error = measured.error(n, s, a)
            if PEAK_TO_RMS * error + changed > promised and not fixed:
                continue
            fewest = self.prime_bits * len(program.graph.nodes)
            for bump in range(0, self.prime_bits, 3):
                policy = ScalePolicy(s, a, self.prime_bits, float(bump))
                scales = plan_scales(program.graph, policy)
                levels = scales.levels(largest, FIRST_PRIME_BITS)
                if program.options.match == "gallery":
                    levels = max(levels, self._template_levels(program, scales))
                fewest = min(fewest, levels)
                if best is None or (levels, error) < best[:2]:
                    best = (levels, error, policy)
            if fixed or (best is not None and fewest > best[0]):
                break
        if best is None:
            return None
        levels, error, policy = best
        choice = ScaleChoice(policy, error, measured.output_range, promised, changed)
        return choice, max(1, levels)


def fitted_error(program: Program) -> ApproximationError:
    """What fitted functions change: nothing, where there are none."""
    if ApproximationError in program.facts:
        return program.facts[ApproximationError]
    return ApproximationError(0.0, program.facts[Ranges].output)
