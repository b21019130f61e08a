"""Fewer rotation keys, the same function."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from fhecompile.ckks.bootstrap import Bootstrap, refresh_rotations
from fhecompile.ckks.parameters import Parameters
from fhecompile.errors import FheCompileError
from fhecompile.ir import slots
from fhecompile.ir.evaluate import evaluate
from fhecompile.ir.program import Facts, Program
from fhecompile.ir.slots import SlotGraph
from fhecompile.ir.tensor import TensorGraph
from fhecompile.options import CompileOptions
from fhecompile.plan import Plan
from passes.limit_keys import OTHER_KEYS, LimitKeys, key_budget
from tests.graphs import FIXED_SCALES, Builder, matrix, run_passes
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


@pytest.mark.parametrize("fewer", [1, 3, 5, 7])
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


def test_what_is_composed_may_be_composed_of_what_is() -> None:
    """Of nine rotations 1, 2, ..., 9 four make all the others, in several steps."""
    graph = slots.SlotGraph(59)
    x = graph.emit("input", (), "x", tensor=0, part=0, level=0, scale=60.0)
    turned = [graph.emit("rotate", (x,), "y", offset=k) for k in range(1, 10)]
    spread = graph.emit("rotate_sum", tuple(turned), "y", offsets=list(range(9)))
    graph.emit("output", (spread,), "y", tensor=0, part=0)
    parameters = Parameters(256, 1, 59, 60, 1, 128, insecure=True)
    program = Program(
        TensorGraph("g"), CompileOptions(max_keys=4), Facts([parameters]), slots=graph
    )
    limited = LimitKeys().run(program).program
    slots.verify(limited.slot_graph())
    assert len(rotations(limited)) == 4
    random = np.random.default_rng(0).normal(size=128)
    assert np.allclose(_evaluated(limited.slot_graph(), random), _evaluated(graph, random))


def _evaluated(graph: slots.SlotGraph, x: NDArray[np.float64]) -> NDArray[np.float64]:
    """The output of rotations and sums of one vector."""
    values: dict[int, NDArray[np.float64]] = {}
    for node in graph:
        operands = [values[i] for i in node.inputs]
        if node.op == "rotate":
            values[node.id] = np.roll(operands[0], -node.attributes["offset"])
        elif node.op == "rotate_sum":
            turns = zip(operands, node.attributes["offsets"], strict=True)
            values[node.id] = np.sum([np.roll(v, -k) for v, k in turns], axis=0)
        elif node.op == "add":
            values[node.id] = operands[0] + operands[1]
        else:
            values[node.id] = operands[0] if operands else x
    return values[node.id]


def test_a_budget_that_cannot_be_kept() -> None:
    with pytest.raises(FheCompileError) as caught:
        compiled("limit_keys", 1)
    text = re.sub(r"\d+", "N", str(caught.value))
    assert text == (
        "N rotation keys are too few, this network needs N [key-budget]\n"
        "  hint: allow N with --max-keys, or more memory with --max-memory"
    )


def test_memory_counts_keys_of_refreshes_and_max_keys_does_not() -> None:
    b = Builder()
    b.affine("map", {b.input("x", 1, 8): matrix(8, 8)})
    b.output(b.refresh("again", "map"))
    given = Program(b.graph, CompileOptions(max_keys=3))
    bootstrap = Bootstrap(3, 3, 13)
    p = Parameters(2048, 21, 50, 51, 2, 128, insecure=True, bootstrap=bootstrap)
    slots = SlotGraph(50)
    x = slots.emit("input", (), "x", tensor=0, part=0, level=17, scale=50.0)
    slots.emit("refresh", (x,), "again", series=0, slots=256, level=17, scale=50.0)
    program = replace(given.having(p), slots=slots)
    count = len(refresh_rotations(bootstrap, 256, 1024))
    assert key_budget(program) == count + 3
    small = replace(program, options=CompileOptions(max_keys=3, max_memory=20 * p.key_bytes))
    assert key_budget(small) == 10 - OTHER_KEYS < count
