"""A network with ReLU whose values are refreshed: all modes against ONNX Runtime."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from fhecompile.compile import compile, compile_model, default_pipeline
from fhecompile.errors import FheCompileError
from fhecompile.frontend import import_model
from fhecompile.frontend.reference import run_reference
from fhecompile.options import CompileOptions
from fhecompile.plan import Plan
from models.zoo.catalogue import shipped_path
from passes import DEFAULT_PIPELINE, REFRESHED_PIPELINE
from runtime.keys import ServerContext, generate_keys
from runtime.server import check_keys
from runtime.session import InferenceSession, run
from tests.support import REFRESHING, Network

MODEL = shipped_path("digits_relu_mlp")
DATA = MODEL.parent / "digits_calibration.npz"
TOY = {"ring_dimension": 2048, "insecure_toy": True, "precision_bits": 5.0}


@pytest.fixture(scope="module")
def plan() -> Plan:
    return compile(MODEL, calibration=DATA, passes=REFRESHING, **TOY)


@pytest.fixture(scope="module")
def images(plan: Plan) -> np.ndarray:
    (given,) = plan.program.inputs
    with np.load(DATA) as file:
        samples: np.ndarray = file[given.name]
    return samples[5:7].astype(np.float32)


@pytest.fixture(scope="module")
def clear(plan: Plan, images: np.ndarray) -> np.ndarray:
    (found,) = run(plan, images, "clear").values()
    return np.asarray(found, np.float64)


@pytest.fixture(scope="module")
def session(plan: Plan) -> Iterator[InferenceSession]:
    pytest.importorskip("openfhe", reason="OpenFHE is not installed")
    with InferenceSession(plan, "encrypt", insecure_toy=True, threads=1) as made:
        yield made


def reference(images: np.ndarray) -> np.ndarray:
    (name,) = import_model(MODEL).graph.given()
    found = [run_reference(MODEL, {name: x[None]}) for x in images]
    return np.concatenate([next(iter(y.values())).reshape(1, -1) for y in found])


def test_the_plan_refreshes(plan: Plan) -> None:
    operations = [info for info in plan.program.operations if info.op == "refresh"]
    assert len(operations) == 1
    bootstrap = plan.parameters.bootstrap
    assert bootstrap is not None and plan.parameters.insecure
    assert {info.attributes["level"] for info in operations} == {bootstrap.output_level}
    assert plan.program.keys.refreshes == (operations[0].attributes["slots"],)
    assert plan.program.keys.relinearisation and plan.program.keys.conjugation


def test_clear_is_within_the_fitted_error(
    plan: Plan, images: np.ndarray, clear: np.ndarray
) -> None:
    error = np.abs(clear.reshape(2, -1) - reference(images)).max()
    prediction = plan.program.prediction
    assert 0.0 < error <= prediction.fitted_error + 1e-4
    assert prediction.fitted_error <= 2.0**-5 * prediction.output_range


def test_simulation_is_near_it(plan: Plan, images: np.ndarray, clear: np.ndarray) -> None:
    (noisy,) = run(plan, images, "simulate").values()
    error = np.abs(noisy.reshape(clear.shape) - clear).max()
    assert 0.0 < error <= 6.0 * plan.program.prediction.error


def test_encrypted_is_near_it(
    session: InferenceSession, images: np.ndarray, clear: np.ndarray
) -> None:
    (found,) = session.run(None, {session.get_inputs()[0].name: images[:1]})
    assert np.abs(found.reshape(1, -1) - clear.reshape(2, -1)[:1]).max() <= 1e-4


def test_slopes_per_channel_encrypted() -> None:
    """A refresh computes relu of all channels alike, the map behind it a slope for each."""
    pytest.importorskip("openfhe", reason="OpenFHE is not installed")
    random, net, value = np.random.default_rng(1), Network(x=(1, 4)), "x"
    for _ in range(2):
        value = net.op("Gemm", value, random.normal(size=(4, 4)) / 2, random.normal(size=4) / 4)
        value = net.op("PRelu", value, np.array([0.25, 0.0, -0.5, 1.0]))
    model = net.model(net.op("Gemm", value, random.normal(size=(4, 3)) / 2))
    x = random.uniform(-1.0, 1.0, (40, 1, 4)).astype(np.float32)
    plan = compile(model, calibration=x, passes=REFRESHING, **TOY | {"ring_dimension": 512})
    assert [info.op for info in plan.program.operations].count("refresh") == 2
    (exact,) = run_reference(model, {"x": x[0]}).values()
    (clear,) = run(plan, x[:1], "clear").values()
    assert np.abs(clear.reshape(exact.shape) - exact).max() <= plan.program.prediction.fitted_error
    (found,) = run(plan, x[:1], "encrypt", insecure_toy=True, threads=1).values()
    assert np.abs(found - clear).max() <= 1e-4


def test_missing_refresh_keys_are_named(plan: Plan) -> None:
    pytest.importorskip("openfhe", reason="OpenFHE is not installed")
    keys = plan.program.keys
    without = type(keys)(keys.rotations, keys.conjugation, keys.relinearisation)
    _, server = generate_keys(plan.parameters, without)
    try:
        assert server.missing_keys(keys) == ["refresh"]
        with pytest.raises(FheCompileError) as caught:
            check_keys(plan, server)
        assert str(caught.value) == (
            "1 evaluation keys are missing: refresh [evaluation-key-missing]\n"
            "  hint: generate the keys for this very plan"
        )
    finally:
        server.release()


def test_a_second_session_and_released_keys(
    plan: Plan, images: np.ndarray, clear: np.ndarray
) -> None:
    """Its keys are others; they are gone when it is closed, and the first one's are not."""
    pytest.importorskip("openfhe", reason="OpenFHE is not installed")
    secret, server = generate_keys(plan.parameters, plan.program.keys)
    assert server.missing_keys(plan.program.keys) == []
    server.release()
    missing = server.missing_keys(plan.program.keys)
    assert "refresh" in missing and "relinearisation" in missing
    assert len(missing) == len(plan.program.keys.rotations) + 3
    with InferenceSession(plan, "encrypt", insecure_toy=True, threads=1) as second:
        (found,) = second.run(None, {second.get_inputs()[0].name: images[1:]})
    assert np.abs(found.reshape(1, -1) - clear.reshape(2, -1)[1:]).max() <= 1e-4
    assert isinstance(server, ServerContext) and secret.secret_key is not None


@pytest.mark.filterwarnings("ignore::runtime.inputs.CalibrationWarning")
def test_simulation_refuses_what_wraps_around(plan: Plan, images: np.ndarray) -> None:
    with (
        InferenceSession(plan, "simulate", ignore_range=True) as session,
        pytest.raises(FheCompileError) as caught,
    ):
        session.run(None, {session.get_inputs()[0].name: 6.0 * images[:1]})
    assert caught.value.code == "value-overflow"
    assert caught.value.reason == (
        "a value of 3.03 wraps around in a refresh, where 1 is the end; an encrypted run would be "
        "wrong"
    )


# ---------------------------------------------------------------------------- which pipeline


def deep(layers: int) -> bytes:
    net, random, value = Network(x=(1, 4)), np.random.default_rng(0), "x"
    for k in range(layers):
        orthogonal = np.linalg.qr(random.normal(size=(4, 4)))[0]
        value = net.op("MatMul", value, orthogonal, name=f"map{k}")
        value = net.op("Relu", value, name=f"relu{k}")
    return net.model(value)


def test_the_pipeline_that_is_taken_first() -> None:
    shallow, many = (import_model(deep(layers)).graph for layers in (2, 8))
    options = CompileOptions()
    assert default_pipeline(shallow, options) == DEFAULT_PIPELINE
    assert default_pipeline(many, options) == REFRESHED_PIPELINE  # 8 times 9 levels
    assert default_pipeline(many, CompileOptions(precision_bits=4)) == DEFAULT_PIPELINE
    assert default_pipeline(many, CompileOptions(bootstrap=False)) == DEFAULT_PIPELINE
    assert default_pipeline(shallow, CompileOptions(level_budget=5)) == REFRESHED_PIPELINE
    assert default_pipeline(many, CompileOptions(activation_error=0.1)) == DEFAULT_PIPELINE


def test_what_is_too_deep_without_refreshes_gets_them() -> None:
    """There are no functions in it, from which that is expected beforehand."""
    net, value = Network(x=(1, 4)), "x"
    for k in range(50):
        value = net.op("Gemm", value, np.eye(4) * 0.4, np.full(4, 0.2), name=f"map{k}")
        square = net.op("Mul", value, value, name=f"square{k}")
        value = net.op("Add", value, square, name=f"sum{k}")
    model = net.model(value)
    assert default_pipeline(import_model(model).graph, CompileOptions()) == DEFAULT_PIPELINE
    x = {"x": np.random.default_rng(0).uniform(-0.4, 0.4, (20, 1, 4))}
    options = {"ring_dimension": 1 << 16, "precision_bits": 9}
    with pytest.raises(FheCompileError) as caught:
        compile(model, calibration=x, bootstrap=False, **options)
    assert caught.value.code == "too-deep"
    made = compile_model(model, x, CompileOptions(**options))  # type: ignore[arg-type]
    assert made.plan.parameters.bootstrap is not None
    assert made.plan.parameters.is_secure()
    assert "place_refreshes" in [record.name for record in made.records]


@pytest.mark.parametrize(("bits", "refreshed"), [(6.0, True), (20.0, False)])
def test_a_larger_ring_is_for_what_refreshes_do_not_reach(
    bits: float, refreshed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.modules["fhecompile.compile"], "REFRESHED_RING", 1 << 12)
    x = {"x": np.random.default_rng(0).uniform(-1.0, 1.0, (40, 1, 4))}
    options = CompileOptions(precision_bits=bits, passes="+choose_polynomials{degree=0}")
    net = Network(x=(1, 4))
    model = net.model(net.op("Tanh", net.op("MatMul", "x", np.eye(4))))
    parameters = compile_model(model, x, options).plan.parameters
    assert (parameters.bootstrap is not None) == refreshed
    assert parameters.ring_dimension > 1 << 12


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"level_budget": -1}, "level_budget is -1, allowed are 0 to 60"),
        ({"level_budget": 61}, "level_budget is 61, allowed are 0 to 60"),
        (
            {"level_budget": 5, "bootstrap": False},
            "level_budget is given without refreshes, for which it is meant",
        ),
    ],
)
def test_options(options: dict[str, int], text: str) -> None:
    with pytest.raises(FheCompileError) as caught:
        compile(MODEL, calibration=DATA, **options)
    assert str(caught.value) == f"{text} [option-value]"


def test_a_plan_keeps_its_refreshes(plan: Plan, tmp_path: Path, images: np.ndarray) -> None:
    plan.save(tmp_path / "plan.fheplan")
    loaded = Plan.load(tmp_path / "plan.fheplan")
    assert loaded.parameters == plan.parameters
    assert loaded.program == plan.program
    (a,), (b,) = run(loaded, images, "clear").values(), run(plan, images, "clear").values()
    assert np.array_equal(a, b)


def test_transforms_live_as_long_as_any_server_needs_them(
    plan: Plan, images: np.ndarray, session: InferenceSession
) -> None:
    """OpenFHE has one context for equal parameters: closing one server must not stop another."""
    feeds = {plan.program.inputs[0].name: images[:1]}
    with InferenceSession(plan, "encrypt", insecure_toy=True, threads=1) as other:
        other.run(None, feeds)
    other.close()  # a second time
    session.run(None, feeds)


def test_keys_that_cannot_be_written_are_told(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    openfhe = pytest.importorskip("openfhe")
    monkeypatch.setattr(openfhe, "SerializeEvalBootstrapKey", lambda *_: False)
    with pytest.raises(FheCompileError) as caught:
        generate_keys(plan.parameters, plan.program.keys)
    text = caught.value.render()
    assert "OpenFHE failed while generating the keys of refreshes: its keys cannot be wri" in text
    assert text.split("[")[1].startswith("openfhe-failed]")
