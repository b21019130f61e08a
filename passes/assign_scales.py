"""Gives every value its scale and every affine node the scale of its constants.

The rules are in `fhecompile.ir.scales`; this pass applies the policy that `select_parameters` chose
and says how many primes each layer drops. Inputs of a refreshed network are encrypted at the level
that their first refresh leaves room for.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from fhecompile.ckks.parameters import Parameters
from fhecompile.ir.program import Pass, PassResult, Program
from fhecompile.ir.scales import ScalePlan, latest_inputs, plan_scales
from passes.infer_ranges import Ranges
from passes.select_parameters import ScaleChoice


@dataclass(frozen=True)
class AssignScales(Pass):
    """See the module docstring."""

    needs: ClassVar[tuple[type, ...]] = (ScaleChoice,)
    gives: ClassVar[tuple[type, ...]] = (ScalePlan,)

    def run(self, program: Program) -> PassResult:
        policy = program.facts[ScaleChoice].policy
        plan = plan_scales(program.graph, policy)
        if policy.bootstrap is not None:
            largest, parameters = program.facts[Ranges].largest, program.facts[Parameters]
            start = latest_inputs(program.graph, plan, largest, parameters)
            plan = plan_scales(program.graph, policy, start)
        dropping = [f"{name} drops {r}" for name, r in plan.rescales.items() if r]
        return PassResult(program.having(plan), True, (f"{len(dropping)} layers rescale",))
