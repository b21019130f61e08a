"""The simulator names the layer whose values leave their calibrated range."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest

import runtime
from fhecompile.compile import compile_model
from fhecompile.errors import FheCompileError
from fhecompile.options import CompileOptions
from fhecompile.plan import Plan
from runtime.inputs import CalibrationWarning
from runtime.ranges import RangeWatch
from tests.support import FloatArray, Network, convolution_plan

MODELS = Path(__file__).parents[2] / "models"
FEATURES = 8


def plan_of_sum() -> Plan:
    """tanh of the sum of inputs that nearly cancel on the calibration data, and its square."""
    net = Network(x=(1, FEATURES))
    y = net.op("MatMul", "x", np.ones((FEATURES, 2)) / 4, name="sum")
    y = net.op("Tanh", y, name="tanh")
    net.op("Mul", y, y, name="y")
    options = CompileOptions(ring_dimension=256, insecure_toy=True)
    return compile_model(net.model("y"), alternating(), options).plan


def alternating() -> FloatArray:
    signs = (-1.0) ** np.arange(FEATURES)
    return np.stack([signs, -signs, signs + 0.1, signs - 0.1])[:, None]


def complaints(plan: Plan, x: FloatArray, mode: str = "simulate") -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", CalibrationWarning)
        runtime.run(plan, x, mode)  # type: ignore[arg-type]
    return [str(w.message) for w in caught if w.category is CalibrationWarning]


def test_the_first_layer_is_named() -> None:
    """Every input is in its range, and the sum of all is three times what it was."""
    plan = plan_of_sum()
    assert complaints(plan, alternating()) == []
    first, last = complaints(plan, np.full((1, FEATURES), 0.3))
    assert first == (
        "layer sum reaches a magnitude of 2.5, calibrated for -0.8333 .. 0.8333, and so do 2 "
        "layers behind it; results may be wrong"
    )
    assert last.startswith("output y reaches ")


def test_an_overflow_says_where_it_began() -> None:
    with pytest.raises(FheCompileError) as caught:
        runtime.run(plan_of_sum(), np.full((1, FEATURES), 1.6), "simulate")
    assert caught.value.node == "y.output" and caught.value.hint is not None
    assert caught.value.hint.startswith("layer sum reaches a magnitude of 13.33, calibrated for ")
    assert caught.value.hint.endswith(
        " layers behind it: calibrate with data that covers this input and compile again"
    )


def test_a_little_more_than_calibrated_is_fine() -> None:
    plan = plan_of_sum()
    for value, seen in ((0.14, False), (0.16, True)):  # calibrated for 0.1
        found = complaints(plan, np.full((1, FEATURES), value))
        assert any(text.startswith("layer ") for text in found) == seen


def test_what_stands_in_holes_is_no_value() -> None:
    """The digits network leaves sums larger than any value behind."""
    x = np.load(MODELS / "digits_calibration.npz")["image"][:4]
    plan = compile_model(MODELS / "digits_cnn.onnx", x, CompileOptions()).plan
    assert any(plan.layouts[m.target].spill for m in plan.program.maps)
    assert complaints(plan, x) == []


def test_only_what_leaves_a_linear_layer_is_looked_at() -> None:
    plan = convolution_plan()
    watch, operations = RangeWatch(plan), plan.program.operations
    layers = [plan.program.layers[info.layer] for info in operations]
    read = {(i, info.layer) for info in operations for i in info.inputs}
    leaving = {
        i for i, reader in read if layers[i].op == "affine" and operations[i].layer != reader
    }
    assert {layers[i].name for i in leaving} == {"norm", "y"}
    for number in range(len(operations)):
        watch.see(number, np.full(4, 1e6 - 1e9j), 1.0)
        assert bool(watch.text()) == (number in leaving)
        watch.clear()
    number, high = min(leaving), layers[min(leaving)].high
    for value, error, seen in ((1.49, 0.0, ""), (-1.51, 0.0, "layer"), (1.51, 0.02 * high, "")):
        watch.see(number, np.full(4, value * high, np.complex128), error)
        assert watch.text()[:5] == seen
        watch.clear()
