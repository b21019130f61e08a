"""Checks that the leveled evaluation fits the modulus chain and fixes every value's level.

Levels count dropped primes from the top. A value at level l must satisfy
value * 2^scale < Q_l / 2 over the calibrated range, before and after its rescales; operands of one
operation meet at the deeper of their levels (a level is dropped at no cost).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from fhecompile.ckks.parameters import Parameters
from fhecompile.errors import InternalError
from fhecompile.ir.program import Pass, PassResult, Program
from fhecompile.ir.scales import ScalePlan
from passes.infer_ranges import Ranges


@dataclass(frozen=True)
class Levels:
    """Level of every value, and the number of rescaling primes of the chain."""

    level: dict[str, int]
    total: int


@dataclass(frozen=True)
class AssignLevels(Pass):
    """See the module docstring."""

    needs: ClassVar[tuple[type, ...]] = (ScalePlan, Parameters, Ranges)
    gives: ClassVar[tuple[type, ...]] = (Levels,)

    def run(self, program: Program) -> PassResult:
        plan, parameters = program.facts[ScalePlan], program.facts[Parameters]
        needed = plan.levels(program.facts[Ranges].largest, parameters.first_prime_bits)
        if needed > parameters.levels:
            raise InternalError(f"{needed} primes needed, {parameters.levels} chosen")
        levels = Levels(dict(plan.level), parameters.levels)
        deepest = max(plan.level.values(), default=0)
        remark = f"{deepest} of {parameters.levels} primes are dropped by the last layer"
        return PassResult(program.having(levels), True, (remark,))
