"""Every value fits the modulus of its level; a chain that is too short is a bug of ours."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fhecompile.ckks.parameters import FIRST_PRIME_BITS, Parameters
from fhecompile.errors import InternalError
from fhecompile.ir.program import Program
from fhecompile.ir.scales import ScalePlan
from passes.assign_levels import AssignLevels, Levels
from passes.infer_ranges import Ranges
from tests.graphs import Builder, matrix, run_passes
from tests.support import run_pass


def program() -> Program:
    b = Builder()
    b.input("x", 1, 4)
    b.affine("first", {"x": matrix(4, 4)})
    b.poly("square", "first", 0.0, 1.0, 1.0)
    b.affine("last", {"square": matrix(2, 4)})
    return run_passes(b.output("last"), "assign_scales", ring_dimension=1 << 14)


def test_levels_are_those_of_the_scale_plan() -> None:
    before = program()
    facts = [before.facts[kind] for kind in (ScalePlan, Parameters, Ranges)]
    result = run_pass(AssignLevels(), before.graph, *facts)
    levels = result.program.facts[Levels]
    assert levels.level == before.facts[ScalePlan].level
    assert levels.total == before.facts[Parameters].levels
    assert all(0 <= level <= levels.total for level in levels.level.values())
    deepest = max(levels.level.values())
    assert result.remarks == (f"{deepest} of {levels.total} primes are dropped by the last layer",)


def test_a_chain_that_is_too_short() -> None:
    before = program()
    parameters = before.facts[Parameters]
    short = replace(parameters, levels=parameters.levels - 1)
    facts = [before.facts[ScalePlan], short, before.facts[Ranges]]
    message = f"{parameters.levels} primes needed, {short.levels} chosen"
    with pytest.raises(InternalError, match=f"^{message}$"):
        run_pass(AssignLevels(), before.graph, *facts)


def test_large_values_need_room() -> None:
    before = program()
    plan, ranges = before.facts[ScalePlan], before.facts[Ranges]
    enlarged = {name: value * 2.0**59 for name, value in ranges.largest.items()}
    needed = plan.levels(ranges.largest, FIRST_PRIME_BITS)
    assert plan.levels(enlarged, FIRST_PRIME_BITS) == needed + 1
