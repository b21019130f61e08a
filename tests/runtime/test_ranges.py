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
from runtime.session import InferenceSession
from tests.support import REFRESHING, FloatArray, Network, convolution_plan

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
    slots = plan.parameters.slots
    for number in range(len(operations)):
        watch.see(number, np.full(slots, 1e6 - 1e9j), 1.0)
        assert bool(watch.text()) == (number in leaving)
        watch.clear()
    number, high = min(leaving), layers[min(leaving)].high
    for value, error, seen in ((1.49, 0.0, ""), (-1.51, 0.0, "layer"), (1.51, 0.02 * high, "")):
        watch.see(number, np.full(slots, value * high, np.complex128), error)
        assert watch.text()[:5] == seen
        watch.clear()


# ---------------------------------------------------------------------------- what refreshes read


@pytest.fixture(scope="module")
def refreshed() -> Plan:
    """relu of half the sum of x in a refresh, seen on [-1, 1] and so fitted on [-1.2, 1.2]."""
    net = Network(x=(1, FEATURES))
    y = net.op("MatMul", "x", np.ones((FEATURES, 2)) / 2, name="sum")
    y = net.op("Relu", y, name="relu")
    net.op("MatMul", y, np.array([[1.0, 0.5], [0.0, 1.0]]), name="y")
    means = np.linspace(-0.25, 0.25, 41)[:, None, None]
    x = 0.75 * (-1.0) ** np.arange(FEATURES) + means
    options = CompileOptions(
        ring_dimension=2048, insecure_toy=True, precision_bits=4.0, passes=REFRESHING
    )
    return compile_model(net.model("y"), x, options).plan


def inputs_of(operand: float) -> FloatArray:
    """Inputs, all of them in their range, for which the relu's operand is so large."""
    return np.full((1, FEATURES), operand / 4)


SERIES = "layer relu refreshes values of up to {:.3g} times the range its series was fitted on"


@pytest.mark.parametrize("mode", ["clear", "simulate"])
def test_a_refresh_beyond_what_it_was_fitted_on(refreshed: Plan, mode: str) -> None:
    for operand, seen in ((1.0, False), (-1.2, False), (1.3, True), (-1.3, True)):
        found = [text for text in complaints(refreshed, inputs_of(operand), mode) if "relu" in text]
        expected = [SERIES.format(1.3 / 1.2) + "; results may be wrong"] if seen else []
        assert found == expected


def test_what_wraps_around_is_told_in_clear(refreshed: Plan) -> None:
    first, second, *others = complaints(refreshed, inputs_of(1.8), "clear")
    assert first == (
        "layer sum reaches a magnitude of 1.8, calibrated for -1 .. 1; results may be wrong"
    )
    assert second == (
        SERIES.format(1.5) + ", which wrap around from 1.25 times on; results may be wrong"
    )
    assert others == []  # relu of 1.8 - 3 is zero: nothing else would tell


def test_what_wraps_around_is_refused_in_simulation(refreshed: Plan) -> None:
    with pytest.raises(FheCompileError) as caught:
        complaints(refreshed, inputs_of(1.8), "simulate")
    assert caught.value.render() == (
        "relu: a value of 1.2 wraps around in a refresh, where 1 is the end; an encrypted run "
        "would be wrong [value-overflow]\n"
        "  hint: layer sum reaches a magnitude of 1.8, calibrated for -1 .. 1: calibrate with data "
        "that covers this input and compile again"
    )


def test_an_encrypted_run_wraps_around_as_the_clear_one_does(refreshed: Plan) -> None:
    """Half a period is 1.5: at 1.3 the series is off, 1.8 is -1.2 again, and -2.2 is 0.8."""
    pytest.importorskip("openfhe", reason="OpenFHE is not installed")
    x = np.stack([inputs_of(value) for value in (0.7, 1.3, 1.8, -2.2)])
    found = {}
    for mode in ("clear", "encrypt"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", CalibrationWarning)
            with InferenceSession(refreshed, mode, insecure_toy=True, threads=1) as session:  # type: ignore[arg-type]
                (found[mode],) = session.run(None, {"x": x})
    assert np.abs(found["encrypt"] - found["clear"]).max() < 1e-5
    y = found["encrypt"][:, 0]
    assert y[0] == pytest.approx(0.7, abs=0.05) and y[1] == pytest.approx(1.3, abs=0.4)
    assert y[2] == pytest.approx(0.0, abs=0.05) and y[3] == pytest.approx(0.8, abs=0.05)


def test_an_encrypted_run_that_measures_tells_it(refreshed: Plan) -> None:
    """Otherwise the client knows outputs alone, and these are in their range."""
    pytest.importorskip("openfhe", reason="OpenFHE is not installed")
    for precision in (True, False):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", CalibrationWarning)
            with InferenceSession(
                refreshed, "encrypt", insecure_toy=True, threads=1, precision=precision
            ) as session:
                session.run(None, {"x": inputs_of(1.8)})
        texts = session.outside.texts
        if not precision:
            assert texts == {}
            continue
        assert list(texts) == ["layer sum", "refresh of layer relu"]
        assert texts["layer sum"].startswith("layer sum reaches a magnitude of 1.8, calibrated ")
        assert texts["refresh of layer relu"] == (
            SERIES.format(1.5) + ", which wrap around from 1.25 times on; results may be wrong"
        )
