"""The session users see: names, shapes, modes and refusals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fhecompile.compile import compile_model
from fhecompile.errors import FheCompileError
from fhecompile.frontend.reference import run_reference
from fhecompile.options import CompileOptions
from fhecompile.plan import Plan
from runtime.session import InferenceSession, run
from tests.support import Network, convolution_plan, convolutions

MODEL = convolutions().model("y")
PLAN = convolution_plan()
IMAGES = np.random.default_rng(4).uniform(-1, 1, (3, 2, 8, 8)).astype(np.float32)


@pytest.fixture(scope="module")
def pair() -> Plan:
    """Inputs a of 3 and b of 1 x 3, outputs total of 1 x 3 and product of 1 x 3."""
    net = Network(a=(3,), b=(1, 3))
    total, product = net.op("Add", "a", "b", name="total"), net.op("Mul", "a", "b", name="product")
    options = CompileOptions(ring_dimension=256, insecure_toy=True)
    return compile_model(net.model(total, product), None, options).plan


def text_of(call: Any, *arguments: Any, **options: Any) -> str:
    with pytest.raises(FheCompileError) as caught:
        call(*arguments, **options)
    return str(caught.value)


def test_signature(pair: Plan) -> None:
    with InferenceSession(pair, "clear") as session:
        inputs, outputs = session.get_inputs(), session.get_outputs()
    assert [(a.name, a.shape, a.type) for a in inputs] == [
        ("a", [3], "tensor(float)"),
        ("b", [1, 3], "tensor(float)"),
    ]
    assert [(a.name, a.shape) for a in outputs] == [("total", [1, 3]), ("product", [1, 3])]


def test_named_outputs(pair: Plan) -> None:
    a, b = np.array([0.1, 0.2, 0.3]), np.array([[0.5, -0.5, 1.0]])
    with InferenceSession(pair, "clear", threads=1) as session:
        total, product = session.run(None, {"a": a, "b": b})
        np.testing.assert_allclose(total, a + b, atol=1e-6)
        np.testing.assert_allclose(product, a * b, atol=1e-6)
        swapped = session.run(["product", "total"], {"a": a, "b": b})
        assert np.array_equal(swapped[0], product) and np.array_equal(swapped[1], total)
        (only,) = session.run(["product"], {"a": a, "b": b})
        assert np.array_equal(only, product)
        assert text_of(session.run, ["sum"], {"a": a, "b": b}) == (
            "there is no output sum [output-name]\n  hint: the outputs are: total, product"
        )


@pytest.mark.parametrize(
    ("given", "made"),
    [
        ((1, 2, 8, 8), (1, 5)),
        ((2, 8, 8), (1, 5)),
        ((3, 2, 8, 8), (3, 5)),
        ((3, 1, 2, 8, 8), (3, 5)),
    ],
)
def test_shapes_of_samples(given: tuple[int, ...], made: tuple[int, ...]) -> None:
    count = 1 if made[0] == 1 else 3
    with InferenceSession(PLAN, "clear", threads=1) as session:
        (found,) = session.run(None, {"x": IMAGES[:count].reshape(given)})
    expected = np.concatenate([run_reference(MODEL, {"x": x[None]})["y"] for x in IMAGES[:count]])
    assert found.dtype == np.float32
    assert found.shape == made
    np.testing.assert_allclose(found, expected.reshape(made), rtol=0, atol=1e-5)


def test_samples_of_an_output_without_a_leading_one() -> None:
    net = Network(x=(4,))
    net.op("Mul", "x", "x", name="y")
    options = CompileOptions(ring_dimension=256, insecure_toy=True)
    plan = compile_model(net.model("y"), None, options).plan
    x = np.linspace(-1, 1, 20).reshape(5, 4)
    np.testing.assert_allclose(run(plan, x, "clear")["y"], x**2, atol=1e-6)
    np.testing.assert_allclose(run(plan, x[0], "clear")["y"], x[0] ** 2, atol=1e-6)


def test_simulate_is_near_clear_and_repeatable() -> None:
    sessions = [InferenceSession(PLAN, m, threads=1) for m in ("clear", "simulate", "simulate")]
    clear, noisy, again = (s.run(None, {"x": IMAGES})[0] for s in sessions)
    error = float(np.sqrt(np.mean((clear - noisy) ** 2)))
    assert 0 < error < 10 * PLAN.program.prediction.error
    assert np.array_equal(noisy, again)
    for session in sessions:
        session.close()


def test_plan_from_a_file(tmp_path: Path) -> None:
    PLAN.save(tmp_path / "plan.fheplan")
    for source in (tmp_path / "plan.fheplan", str(tmp_path / "plan.fheplan")):
        assert run(source, IMAGES[:1], "clear")["y"].shape == (1, 5)


def test_unknown_mode() -> None:
    assert text_of(InferenceSession, PLAN, "plain") == (
        "there is no mode plain [unknown-mode]\n  hint: modes are: clear, simulate, encrypt"
    )


def test_insecure_plan() -> None:
    assert text_of(InferenceSession, PLAN, "encrypt") == (
        "the plan's parameters are not secure: it was compiled with --insecure-toy "
        "[insecure-plan]\n"
        "  hint: compile without --insecure-toy, or accept it with --insecure-toy here too"
    )


def test_one_array_for_several_inputs(pair: Plan) -> None:
    assert text_of(run, pair, np.zeros(3), "clear") == (
        "one array is given for several inputs [input-name]\n  hint: give a mapping with: a, b"
    )


def test_inputs_outside_their_range() -> None:
    with InferenceSession(PLAN, "clear") as session:
        assert "[input-range]" in text_of(session.run, None, {"x": 9 * IMAGES[:1]})


def test_timings_and_progress() -> None:
    shares: list[float] = []
    with InferenceSession(PLAN, "clear", threads=2, progress=shares.append) as session:
        session.run(None, {"x": IMAGES[:1]})
        timings = session.timings
    assert shares[-1] == pytest.approx(1.0)
    assert timings.keygen == timings.decrypt == 0.0 < timings.evaluate
    assert len(timings.executions) == 1
    assert timings.seconds_by_operation().keys() == {o.op for o in PLAN.program.operations}


@pytest.mark.parametrize(("in_flight", "chunks"), [(None, [5]), (1, [1] * 5), (2, [2, 2, 1])])
def test_encrypted_session(
    monkeypatch: pytest.MonkeyPatch, in_flight: int | None, chunks: list[int]
) -> None:
    pytest.importorskip("openfhe", reason="OpenFHE is not installed")
    monkeypatch.setattr("runtime.machine.available_bytes", lambda: 64 << 30)
    images = np.concatenate([IMAGES, -IMAGES[:2]])
    shares: list[float] = []
    with InferenceSession(
        PLAN, threads=2, insecure_toy=True, in_flight=in_flight, progress=shares.append
    ) as session:
        (found,) = session.run(None, {"x": images})
        timings = session.timings
    assert min(timings.keygen, timings.encrypt, timings.evaluate, timings.decrypt) > 0
    assert [execution.images for execution in timings.executions] == chunks
    assert np.all(np.diff(shares) > -1e-9) and shares[-1] == pytest.approx(1.0)
    assert len(shares) == 5 * len(PLAN.program.operations)
    expected = run(PLAN, images, "clear")["y"]
    assert float(np.abs(found - expected).max()) < 40 * PLAN.program.prediction.error


def test_cached_constants() -> None:
    pytest.importorskip("openfhe", reason="OpenFHE is not installed")
    with InferenceSession(PLAN, threads=2, insecure_toy=True, cache_constants=1 << 30) as session:
        encoding = []
        for image in IMAGES:
            session.run(None, {"x": image})
            (execution,) = session.timings.executions
            ahead = execution.seconds_by_operation().get("encode", 0.0)
            encoding.append(ahead + execution.inner.encode)
        (found,) = session.run(None, {"x": IMAGES})
    assert encoding[0] > 0 and encoding[1:] == [0, 0]
    expected = run(PLAN, IMAGES, "clear")["y"]
    assert float(np.abs(found - expected).max()) < 40 * PLAN.program.prediction.error
