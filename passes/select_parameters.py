r"""Chooses ring dimension, primes, digits and the scale policy for a leveled evaluation.

Precision: one noisy evaluation of the tensor graph with the constants' rounding alone and one with
the ciphertexts' noise alone give two error figures, A at constant scale 2^a0 and B at activation
scale 2^s0. Errors are small, so that they scale linearly and add up as independent:

    error(s, a)^2 = (A 2^(a0 - a))^2 + (B 2^(s0 - s))^2.

For each total t = s + a the best split is  2^(2 (s - a)) = (B 2^s0)^2 / (A 2^a0)^2. Of all totals
with which the promise of `precision_bits` is kept, 4 error(s, a) + what fitted functions change at
most 2^-precision_bits of the largest output, the one with the fewest primes wins, and of those the
most precise. With an `activation_error` fitted functions have that and noise has all of
2^-precision_bits. A and B are evaluated once: the first grows with sqrt(N), the second with N.

An operation takes as long with a small prime as with one of `PRIME_BITS`, a whole machine word, but
a small one leaves more of log QP: for a smaller ring, or for fewer digits or special primes. So
secure parameters of all sizes of primes are listed, with as few primes as the largest ones need and
one more, and looked at in the order of their predicted time (`fhecompile.ir.work_model`), of equal
ones the largest primes first, until some are precise enough. More digits mean fewer special primes
but bigger keys, so that one digit more must save `DIGIT_WORTH` of the time.

Primes are 1 modulo 2N, about 0.35 q 2N apart on average, and lie on both sides of 2^q, q their
size, so that L of them are within

    L / 2 * 0.35 q 2N 2^-q

of it, relatively, or four times that where primes are rare. The scales of the plan ignore it. What
it changes is measured like the noise, and may be `SPREAD_SHARE` of the promise at most.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from fhecompile.ckks.gallery import template_levels
from fhecompile.ckks.noise import PEAK_TO_RMS, refresh_error
from fhecompile.ckks.parameters import (
    FIRST_PRIME_BITS,
    MAX_LOG_QP,
    Parameters,
)
from fhecompile.errors import FheCompileError, InternalError
from fhecompile.ir.depth import describe_path, measure_depth
from fhecompile.ir.noise_model import predict_error
from fhecompile.ir.program import Pass, PassResult, Program
from fhecompile.ir.scales import Room, ScalePolicy, plan_scales
from fhecompile.ir.tensor import Function
from fhecompile.ir.work_model import predict_work
from passes.fit_functions import ApproximationError
from passes.infer_ranges import Calibration, Ranges

MIN_SCALE_BITS = 15
PRIME_BITS = 59
LEAST_PRIME_BITS = 30
MORE_PRIMES = 1  # than with the largest primes, at most
SPREAD_SHARE = 1 / 16
DIGIT_WORTH = 0.02


@dataclass(frozen=True)
class MeasuredErrors:
    """A and B of the module docstring at the reference scales, and the outputs' magnitude.

    `primes` is the error of the outputs for primes that are 1, relatively, from a power of two.

    They depend on the graph alone: who selects parameters for one graph many times stores them as a
    fact before.
    """

    constants: float
    noise: float
    primes: float
    refreshes: float
    output_range: float

    REFERENCE: ClassVar[tuple[int, float, float]] = (1 << 16, 35.0, 24.0)

    def at(self, n: int) -> tuple[float, float]:
        """(A 2^a0, B 2^s0) for ring dimension n."""
        n0, s0, a0 = self.REFERENCE
        growth = n / n0
        return self.constants * math.sqrt(growth) * 2.0**a0, self.noise * growth * 2.0**s0

    def error(self, n: int, s: float, a: float, q: int) -> float:
        """Predicted rms error of the outputs."""
        constants, noise = self.at(n)
        refreshed = self.refreshes * refresh_error(n, q) if self.refreshes else 0.0
        return math.hypot(constants * 2.0**-a, noise * 2.0**-s, refreshed)

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
    inputs = noise_samples(program)
    found = predict_error(program.graph, inputs, *MeasuredErrors.REFERENCE)
    output_range = fitted_error(program).output_range
    return MeasuredErrors(found.constants, found.noise, found.primes, found.refreshes, output_range)


def noise_samples(program: Program) -> dict[str, NDArray[np.float64]]:
    """The calibration samples that noise is measured on, (2 or less, *shape) by input name.

    The widest outputs are what errors are relative to, and mostly have the largest ones.
    """
    widest = program.facts[Ranges].widest
    chosen = sorted({widest, 0 if widest else 1})
    return {k: x[chosen[: len(x)]] for k, x in program.facts[Calibration].inputs.items()}


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
    """See the module docstring; zero for the other options means chosen, for the ring any."""

    prime_bits: int = 0
    activation_bits: float = 0.0
    constant_bits: float = 0.0
    digits: int = 0
    largest_ring: int = 0

    needs: ClassVar[tuple[type, ...]] = (Ranges, Calibration)
    gives: ClassVar[tuple[type, ...]] = (Parameters, ScaleChoice)

    def requires(self, program: Program) -> None:
        left = [node.name for node in program.graph if isinstance(node, Function)]
        if left:
            raise InternalError(f"no polynomial stands for the function {left[0]}: fit_functions")

    def run(self, program: Program) -> PassResult:
        parameters, choice = _Search(self, program).run()
        if 0 < self.largest_ring < parameters.ring_dimension:
            raise FheCompileError(
                "large-ring",
                f"without refreshes the network needs the ring dimension "
                f"{parameters.ring_dimension}, allowed are up to {self.largest_ring}",
                node=self.name,
                hint="allow a larger ring, or lower --precision-bits",
            )
        remark = (
            f"N = 2^{parameters.ring_dimension.bit_length() - 1}, {parameters.levels} primes "
            f"of {parameters.prime_bits} bits, {parameters.digits} digits, log QP "
            f"{parameters.log_qp}; activations 2^{choice.policy.activation_bits:g}, "
            f"constants 2^{choice.policy.constant_bits:g}, "
            f"predicted error {choice.predicted_error:.2g}"
        )
        return PassResult(program.having(parameters, choice), True, (remark,))


class _Search:
    """Finds the cheapest parameters of one program that are secure and precise enough."""

    def __init__(self, options: SelectParameters, program: Program) -> None:
        self.options, self.program = options, program
        self.measured = measure_errors(program)
        self.largest = program.facts[Ranges].largest
        # Outputs that are zero on all calibration data have no range to be relative to.
        self.range = self.measured.output_range or 1.0
        self.promise = 2.0**-program.options.precision_bits
        functions = self.range * (program.options.activation_error or 0.0)
        self.promised = self.range * self.promise + functions
        self.fitted = fitted_error(program).largest
        self.reserved = max(self.fitted, functions)  # of what is promised, for functions
        self.widest = options.prime_bits or PRIME_BITS
        self.rooms: dict[ScalePolicy, tuple[Room, int]] = {}

    def run(self) -> tuple[Parameters, ScaleChoice]:
        """Looks at possible parameters, the cheapest first, until some are precise enough."""
        options = self.program.options
        wanted = options.ring_dimension
        tried: list[str] = []
        imprecise: tuple[int, int] | None = None  # smallest ring without precise scales, primes
        possible: list[tuple[float, int, list[Parameters]]] = []
        for n in [wanted] if wanted else sorted(MAX_LOG_QP[options.security_bits]):
            reference = self._scales(n, self.widest, FIRST_PRIME_BITS)
            if reference is None or self._spread(n, reference[1], self.widest) > self.promise:
                imprecise = imprecise or (n, reference[1] if reference else 1)
                continue
            choice, levels = reference
            plan = plan_scales(self.program.graph, choice.policy)
            groups = self._secure(n, levels)
            for group in groups:
                work = predict_work(self.program.graph, plan, group[0])
                work *= 1.0 + DIGIT_WORTH * group[0].digits
                possible.append((work, len(possible), group))
            tried.append(f"2^{n.bit_length() - 1} ({levels} primes)")
        for _, _, group in sorted(possible):
            for parameters in group:
                if precise := self._precise(parameters):
                    return parameters, precise
        if imprecise:
            raise self._too_imprecise(*imprecise)
        depth = measure_depth(self.program.graph)
        raise FheCompileError(
            "too-deep",
            f"no ring dimension is secure at {options.security_bits} bits for multiplicative depth "
            f"{depth.total}; tried {', '.join(tried)}; levels by layer: "
            f"{describe_path(self.program.graph)}",
            node=depth.path[-1] if depth.path else "",
            hint="lower --precision-bits, use activations of a lower degree or fewer layers, or "
            "refresh values on the way, without --no-bootstrap",
        )

    def _secure(self, n: int, fewest: int) -> list[list[Parameters]]:
        """Secure parameters that take equally long, the largest primes first in every group."""
        bits = self.program.options.security_bits
        groups: dict[tuple[int, int, int], list[Parameters]] = {}
        for levels in range(fewest, fewest + MORE_PRIMES + 1):
            for digits, (q, first) in product(self._digits(levels), self._sizes()):
                p = Parameters(n, levels, q, first, digits, bits)
                if p.is_secure() and p.uses_all_digits:
                    group = groups.setdefault((levels, digits, p.special_primes), [])
                    # Of the first primes that go with a size the largest one is enough.
                    if not group or group[-1].prime_bits != q:
                        group.append(p)
        found = list(groups.values())
        if not found and self.program.options.insecure_toy:
            digits = self._digits(fewest)[0]
            found.append(
                [Parameters(n, fewest, self.widest, FIRST_PRIME_BITS, digits, bits, insecure=True)]
            )
        return found

    def _precise(self, p: Parameters) -> ScaleChoice | None:
        """The most precise scales that these primes are enough for, if they are precise enough."""
        if self._spread(p.ring_dimension, p.levels, p.prime_bits) > self.promise:
            return None
        found = self._scales(p.ring_dimension, p.prime_bits, p.first_prime_bits, p.levels)
        return found[0] if found else None

    def _digits(self, levels: int) -> Sequence[int]:
        return [self.options.digits] if self.options.digits else range(1, levels + 2)

    def _sizes(self) -> list[tuple[int, int]]:
        """Bits of the rescaling primes and of the first one, the largest first."""
        if self.options.prime_bits or self.program.options.insecure_toy:
            sizes = range(self.widest, self.widest - 1, -1)
        else:
            sizes = range(PRIME_BITS, LEAST_PRIME_BITS - 1, -1)
        # A gallery's scores need all of the first prime (`fhecompile.ckks.gallery`).
        whole = self.program.options.match == "gallery"
        return [
            (q, first)
            for q in sizes
            for first in range(FIRST_PRIME_BITS, FIRST_PRIME_BITS - 1 if whole else q - 1, -1)
        ]

    def _spread(self, n: int, levels: int, q: int) -> float:
        """What primes unlike 2^q change, relative to the outputs, over their share."""
        apart = levels / 2 * 0.35 * q * 2 * n * 2.0**-q
        return float(apart * self.measured.primes / self.range / SPREAD_SHARE)

    def _scales(
        self, n: int, q: int, first: int, most: int | None = None
    ) -> tuple[ScaleChoice, int] | None:
        """The policy that is precise enough with the fewest primes, and that number of primes.

        With `most` it is the most precise policy that takes no more primes; None: there is none.
        """
        options, graph = self.options, self.program.graph
        fixed = bool(options.activation_bits and options.constant_bits)
        best: tuple[int, float, ScalePolicy] | None = None
        for total in range(2 * MIN_SCALE_BITS, 2 * q + 1):
            s, a = self.measured.best_split(n, total)
            if fixed:
                s, a = options.activation_bits, options.constant_bits
            error = self.measured.error(n, s, a, q)
            if PEAK_TO_RMS * error + self.reserved > self.promised and not fixed:
                continue
            fewest = q * len(graph.nodes)
            for bump in range(0, q, 3):
                policy = ScalePolicy(s, a, q, float(bump))
                levels = self._levels(policy, first)
                fewest = min(fewest, levels)
                levels = max(levels, most or 0)
                if best is None or (levels, error) < best[:2]:
                    best = (levels, error, policy)
            assert best is not None
            if fixed or fewest > best[0]:
                break
        if best is None or (most and best[0] > most):
            return None
        levels, error, policy = best
        choice = ScaleChoice(policy, error, self.measured.output_range, self.promised, self.fitted)
        return choice, max(1, levels)

    def _levels(self, policy: ScalePolicy, first: int) -> int:
        """Rescaling primes that scales need; what does not depend on the first prime is kept."""
        if policy not in self.rooms:
            scales = plan_scales(self.program.graph, policy)
            template = 0
            if self.program.options.match == "gallery":
                (output,) = self.program.graph.outputs()
                level, scale = scales.level[output.name], scales.scale[output.name]
                template = template_levels(level, scale, policy.prime_bits, FIRST_PRIME_BITS)
            self.rooms[policy] = scales.room(self.largest), template
        room, template = self.rooms[policy]
        return max(room.levels(first), template)

    def _too_imprecise(self, n: int, levels: int) -> FheCompileError:
        q = self.widest
        s, a = self.measured.best_split(n, 2 * q)
        error = PEAK_TO_RMS * self.measured.error(n, s, a, q) / self.range
        if self.program.options.activation_error is None:
            error += self.fitted / self.range
        reached = 1.0 / max(error, self._spread(n, levels, q))
        return FheCompileError(
            "precision-not-reachable",
            f"{self.program.options.precision_bits:g} bits of precision are asked for, primes of "
            f"{q} bits reach {math.floor(math.log2(reached))}",
            hint="lower --precision-bits",
        )


def fitted_error(program: Program) -> ApproximationError:
    """What fitted functions change: nothing, where there are none."""
    if ApproximationError in program.facts:
        return program.facts[ApproximationError]
    return ApproximationError(0.0, program.facts[Ranges].output)
