"""Fewer rotation keys, the same function."""

from __future__ import annotations

import re

import numpy as np
import pytest

from fhecompile.errors import FheCompileError
from fhecompile.ir import slots
from fhecompile.ir.evaluate import evaluate
from fhecompile.ir.program import Program
from fhecompile.ir.tensor import TensorGraph
from fhecompile.plan import Plan
from passes.limit_keys import LimitKeys
from tests.graphs import FIXED_SCALES, matrix, run_passes
from tests.support import Network, random_inputs, relative_error, run_slots


def network() -> TensorGraph:
    """Two convolutions and a dense layer: rotations by rows, columns, channels and replicas."""
    random = np.random.default_rng(0)
    net = Network(x=(1, 2, 7, 6))
    x = net.op("Conv", "x", random.normal(size=(4, 2, 3, 3)) / 4, pads=[1] * 4)
    x = net.op("Conv", net.op("Mul", x, x), random.normal(size=(4, 4, 3, 3)) / 6, strides=[2, 1])
    x = net.op("Flatten", net.op("Mul", x, x))
    return net.graph(net.op("Gemm", x, matrix(48, 5), name="y"))


def compiled(last: str, max_keys: int) -> Program:
    passes = {"select_parameters": FIXED_SCALES}
    toy = {"ring_dimension": 256, "insecure_toy": True, "max_keys": max_keys}
    return run_passes(network(), last, passes, **toy)


def rotations(program: Program) -> set[int]:
    """Offsets that need a key."""
    found = {0}
    for node in program.slot_graph():
        found |= {node.attributes.get("offset", 0) % 128}
        found |= {offset % 128 for offset in node.attributes.get("offsets", [])}
    return found - {0}


def test_a_budget_that_suffices_changes_nothing() -> None:
    before = compiled("build_slots", 64)
    result = LimitKeys().run(before)
    assert not result.modified and result.program is before
    assert result.remarks == (f"{len(rotations(before))} rotations, 0 composed of others",)


@pytest.mark.parametrize("fewer", [1, 3, 5])
def test_the_budget_is_kept_and_so_is_the_function(fewer: int) -> None:
    needed = rotations(compiled("build_slots", 64))
    budget = len(needed) - fewer
    limited = compiled("limit_keys", budget)
    slots.verify(limited.slot_graph())
    assert len(rotations(limited)) <= budget
    assert rotations(limited) <= needed
    plan = compiled("emit_plan", budget).facts[Plan]
    assert len(plan.program.keys.rotations) <= budget
    inputs = random_inputs(network())
    found = run_slots(plan, inputs)["y"]
    assert relative_error(found, evaluate(network(), inputs)["y"]) < 1e-12


def test_a_budget_that_cannot_be_kept() -> None:
    with pytest.raises(FheCompileError) as caught:
        compiled("limit_keys", 1)
    text = re.sub(r"\d+", "N", str(caught.value))
    assert text == (
        "N rotation keys are too few, this network needs N [key-budget]\n"
        "  hint: allow N with --max-keys, or more memory with --max-memory"
    )
