"""The plan holds what the passes found, every array once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fhecompile.ckks.parameters import Parameters
from fhecompile.ir.depth import measure_depth
from fhecompile.ir.evaluate import evaluate
from fhecompile.ir.program import Program
from fhecompile.plan import Plan
from passes.infer_ranges import Calibration
from tests.graphs import run_passes
from tests.support import Network, random_inputs, relative_error, run_slots


@pytest.fixture(scope="module")
def program() -> Program:
    """Two convolutions of one geometry, squares between, and two outputs."""
    random = np.random.default_rng(0)
    net = Network(image=(1, 2, 6, 6))
    value = "image"
    for k in range(2):
        conv = net.op(
            "Conv", value, random.normal(size=(2, 2, 3, 3)) / 4, pads=[1] * 4, name=f"conv{k}"
        )
        value = net.op("Mul", conv, conv, name=f"square{k}")
    flat = net.op("Flatten", value)
    left = net.op("Gemm", flat, random.normal(size=(72, 4)) / 8, name="left")
    right = net.op("Gemm", flat, random.normal(size=(72, 3)) / 8, name="right")
    return run_passes(net.graph(left, right), "emit_plan", ring_dimension=512, insecure_toy=True)


def test_equal_arrays_are_stored_once(program: Program) -> None:
    plan = program.facts[Plan]
    used = [v.values for v in plan.program.vectors]
    for m in plan.program.maps:
        used += [m.diagonals]
        used += [name for t in m.terms for name in (t.values, t.out_index, t.in_index)]
    assert set(used) == set(plan.arrays)
    assert len(used) > len(plan.arrays)
    contents = {(a.dtype.str, a.shape, a.tobytes()) for a in plan.arrays.values()}
    assert len(contents) == len(plan.arrays)


def test_plan_is_valid_and_survives_a_file(program: Program, tmp_path: Path) -> None:
    plan = program.facts[Plan]
    plan.validate()
    plan.save(tmp_path / "small.fheplan")
    loaded = Plan.load(tmp_path / "small.fheplan")
    assert loaded.program == plan.program
    assert set(loaded.arrays) == set(plan.arrays)
    inputs = random_inputs(program.graph)
    found = run_slots(loaded, inputs)
    for label, expected in evaluate(program.graph, inputs).items():
        assert relative_error(found[label], expected) < 2.0**-40


def test_plan_says_what_was_compiled(program: Program) -> None:
    p = program.facts[Plan].program
    assert (p.model_name, p.model_sha256) == ("small", "0" * 64)
    assert p.calibration == "given"
    assert program.facts[Plan].parameters == program.facts[Parameters]
    assert p.parameters.insecure
    assert [t.name for t in p.inputs] == ["image"]
    assert [t.name for t in p.outputs] == ["left", "right"]
    assert [t.shape for t in p.outputs] == [(1, 4), (1, 3)]
    assert [layer.name for layer in p.layers] == list(program.graph.nodes)
    assert p.prediction.multiplicative_depth == measure_depth(program.graph).total
    assert p.keys.relinearisation


def test_operations_are_numbered_in_order(program: Program) -> None:
    operations = program.facts[Plan].program.operations
    assert len(operations) == len(program.slot_graph().nodes)
    for number, operation in enumerate(operations):
        assert all(0 <= i < number for i in operation.inputs)


def test_plan_says_when_calibration_was_synthetic() -> None:
    net = Network(x=(1, 4))
    graph = net.graph(net.op("MatMul", "x", np.eye(4) + 1.0))
    synthetic = Calibration(random_inputs(graph), synthetic=True)
    made = run_passes(graph, "emit_plan", facts=[synthetic], ring_dimension=64, insecure_toy=True)
    assert made.facts[Plan].program.calibration == "synthetic"
