"""Gives every value its scale and every affine node the scale of its constants.

The rules are in `fhecompile.ir.scales`; this pass applies the policy that `select_parameters` chose
and says how many primes each layer drops.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from fhecompile.ir.program import Pass, PassResult, Program
from fhecompile.ir.scales import ScalePlan, plan_scales
from passes.select_parameters import ScaleChoice


@dataclass(frozen=True)
class AssignScales(Pass):
    """See the module docstring."""

    needs: ClassVar[tuple[type, ...]] = (ScaleChoice,)
    gives: ClassVar[tuple[type, ...]] = (ScalePlan,)

    def run(self, program: Program) -> PassResult:
        plan = plan_scales(program.graph, program.facts[ScaleChoice].policy)
        dropping = [f"{name} drops {r}" for name, r in plan.rescales.items() if r]
        return PassResult(program.having(plan), True, (f"{len(dropping)} layers rescale",))
