"""Noise of every layer: predicted, drawn by the simulator, and measured on ciphertexts.

A prediction is a standard deviation of one draw per node; a measured one is of the values of two or
more samples, and constants are rounded once for all of them. With four values or more per layer
both are within a factor of 2.5 of each other. OpenFHE's refreshes in rings smaller than those that
their error was measured for are better than predicted, here 12 times.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence

import msgspec
import numpy as np
import pytest

from fhecompile.compile import compile_model
from fhecompile.errors import FheCompileError
from fhecompile.options import CompileOptions
from fhecompile.plan import Plan
from runtime.precision import LayerPrecision, precision_lines
from runtime.session import InferenceSession, Mode
from tests.runtime.conftest import Call, Files
from tests.support import REFRESHING, Network, convolution_plan

Golden = Callable[[str, str], None]
LEVELED = convolution_plan(1024)
FACTOR = 2.5
BETTER = 20.0  # of small refreshes
IMAGES = np.random.default_rng(5).uniform(-1, 1, (4, 2, 8, 8)).astype(np.float32)
VECTORS = np.random.default_rng(6).uniform(-1, 1, (16, 1, 8)).astype(np.float32)


def refreshed_plan() -> Plan:
    """8 - 8 - relu - 8 - square - refresh - 8 - 4, with primes of 42 bits on a toy ring."""
    net, value, random = Network(x=(1, 8)), "x", np.random.default_rng(0)
    for k in range(5):
        matrix = 0.8 * np.linalg.qr(random.normal(size=(8, 8)))[0]
        value = net.op("MatMul", value, matrix, name=f"map{k}")
        if k == 0:
            value = net.op("Relu", value, name="relu")
        elif k < 4:
            value = net.op("Add", value, net.op("Mul", value, value), name=f"bent{k}")
    options = CompileOptions(
        ring_dimension=2048,
        insecure_toy=True,
        precision_bits=5.0,
        level_budget=4,
        passes=REFRESHING.replace("select_refreshes", "select_refreshes{prime_bits=42}"),
    )
    return compile_model(net.model(value), VECTORS, options).plan


@pytest.fixture(scope="module")
def refreshed() -> Plan:
    return refreshed_plan()


def measure(plan: Plan, x: np.ndarray, mode: Mode) -> tuple[LayerPrecision, ...]:
    with InferenceSession(plan, mode, insecure_toy=True, threads=1, precision=True) as session:
        session.run(None, {session.get_inputs()[0].name: x})
        return session.precision()


def check_all(plan: Plan, layers: Sequence[LayerPrecision], better: float = FACTOR) -> None:
    """Every value of the plan is there, and as precise as predicted."""
    names = [info.name for info in plan.program.layers if info.op != "output" and info.values]
    assert [layer.layer for layer in layers] == names
    fresh = True
    for layer in layers:
        fresh = fresh and layer.op != "refresh"
        lowest = layer.predicted / (FACTOR if fresh else better)
        assert lowest < layer.rms < FACTOR * layer.predicted, layer
        assert layer.rms <= layer.error
        assert not layer.is_worse


def test_a_leveled_network_simulated() -> None:
    layers = measure(LEVELED, IMAGES, "simulate")
    assert [layer.layer for layer in layers] == ["x", "norm", "square", "y"]
    check_all(LEVELED, layers)


def test_a_refreshed_network_simulated(refreshed: Plan) -> None:
    kinds = [info.op for info in refreshed.program.operations]
    assert kinds.count("refresh") >= 2
    layers = measure(refreshed, VECTORS[:4], "simulate")
    assert {"relu", "bent1.refreshed"} & {layer.layer for layer in layers}
    check_all(refreshed, layers)


def test_a_leveled_network_encrypted() -> None:
    pytest.importorskip("openfhe", reason="OpenFHE is not installed")
    check_all(LEVELED, measure(LEVELED, IMAGES, "encrypt"))


def test_a_refreshed_network_encrypted(refreshed: Plan) -> None:
    pytest.importorskip("openfhe", reason="OpenFHE is not installed")
    check_all(refreshed, measure(refreshed, VECTORS[:2], "encrypt"), BETTER)


def test_what_is_measured_is_the_difference_to_the_clear_run(refreshed: Plan) -> None:
    """Of the last layer it is what a user sees of two runs."""
    name = refreshed.program.inputs[0].name
    found = []
    for mode in ("clear", "simulate"):
        with InferenceSession(refreshed, mode, threads=1, precision=mode != "clear") as session:  # type: ignore[arg-type]
            (y,) = session.run(None, {name: VECTORS[:3]})
            found.append(y.astype(np.float64))
    last = session.precision()[-1]
    seen = np.abs(found[0] - found[1]).max()
    assert seen / 8 < last.rms < last.error
    assert seen <= last.error + 1e-6  # float32


def test_a_call_measures_itself_alone() -> None:
    with InferenceSession(LEVELED, "simulate", threads=1, precision=True) as session:
        name = session.get_inputs()[0].name
        assert session.precision() == ()
        session.run(None, {name: IMAGES})
        many = session.precision()
        session.run(None, {name: IMAGES[:1]})
        one = session.precision()
    assert [layer.layer for layer in one] == [layer.layer for layer in many]
    assert one != many


def test_images_in_flight_are_told_apart() -> None:
    """Each is compared with its own values: otherwise errors were as large as values."""
    pytest.importorskip("openfhe", reason="OpenFHE is not installed")
    with InferenceSession(
        LEVELED, "encrypt", insecure_toy=True, threads=2, in_flight=2, precision=True
    ) as session:
        session.run(None, {session.get_inputs()[0].name: IMAGES[:3]})
        check_all(LEVELED, session.precision())


def test_sessions_that_measure_nothing() -> None:
    with pytest.raises(FheCompileError) as caught:
        InferenceSession(LEVELED, "clear", precision=True)
    assert caught.value.render() == (
        "a clear run has no noise that could be measured [clear-precision]\n"
        "  hint: measure in the modes simulate or encrypt"
    )
    with InferenceSession(LEVELED, "simulate") as session, pytest.raises(FheCompileError) as caught:
        session.precision()
    assert caught.value.render() == (
        "this session does not measure precision [no-precision]\n"
        "  hint: open it with precision=True"
    )


# ---------------------------------------------------------------------------- what people see


LAYERS = (
    LayerPrecision("x", "", "input", 1.0, 1e-9, 1.1e-9, 4e-9),
    LayerPrecision("norm", "conv1 norm", "affine", 1.8, 2e-4, 9e-4, 3.1e-3),
    LayerPrecision("empty", "", "poly", 0.0, 1e-5, 0.0, 0.0),
)


def test_the_table(golden: Golden) -> None:
    good = (LAYERS[0], LAYERS[2])
    text = "\n".join([*precision_lines(LAYERS), "", *precision_lines(good)])
    golden("precision.txt", text + "\n")


def test_what_is_worse_is_three_times_the_prediction() -> None:
    for rms, worse in ((2.99e-4, False), (3.01e-4, True)):
        layer = LayerPrecision("a", "", "affine", 1.0, 1e-4, rms, 1e-3)
        assert layer.is_worse == worse
        assert ("WORSE" in "".join(precision_lines([layer]))) == worse
    assert LAYERS[1].predicted_bits == pytest.approx(np.log2(9000))
    assert LAYERS[1].measured_bits == pytest.approx(np.log2(2000))
    assert LAYERS[2].measured_bits is None


def test_a_plan_that_promises_too_much_is_found_out() -> None:
    """With a tenth of the noise predicted for one layer that one is named."""
    program = LEVELED.program
    layers = tuple(
        msgspec.structs.replace(info, noise=info.noise / (10 if info.name == "square" else 1))
        for info in program.layers
    )
    changed = Plan(msgspec.structs.replace(program, layers=layers), LEVELED.arrays)
    found = measure(changed, IMAGES, "simulate")
    assert [layer.layer for layer in found if layer.is_worse] == ["square"]
    assert precision_lines(found)[-1] == "noise is more than 3 times what was predicted: square"


def test_the_command_line(call: Call, made: Files) -> None:
    done = call(made.plan, "--input", made.inputs, "--mode", "simulate", "--precision", "--json")
    assert done.code == 0
    found = json.loads(done.out)["precision"]
    assert [row["layer"] for row in found] == ["x", "hidden", "active", "y"]
    assert set(found[0]) == {
        *("layer", "source", "op", "largest", "predicted", "rms", "error"),
        *("predicted_bits", "measured_bits", "is_worse"),
    }
    lines = done.err.splitlines()
    start = lines.index("noise by layer, predicted (rms) and measured:")
    assert lines[start + 1].split() == [
        *("layer", "op", "range", "predicted", "bits", "rms", "largest", "bits")
    ]
    assert [line.split()[0] for line in lines[start + 2 : start + 6]] == [
        *("x", "first", "activation", "last")
    ]
    assert lines[start + 6] == "no layer's noise is 3 times what was predicted"
    quiet = call(made.plan, "--input", made.inputs, "--mode", "simulate")
    assert "noise by layer" not in quiet.out


def test_clear_and_precision_exclude_each_other(call: Call, made: Files) -> None:
    done = call(made.plan, "--input", made.inputs, "--mode", "clear", "--precision")
    assert done.code == 2
    assert "error: a clear run has no noise that could be measured" in done.err
