"""Networks with functions that are no polynomials, from ONNX to slots and ciphertexts."""

from __future__ import annotations

import numpy as np
import pytest

import runtime
from fhecompile.compile import Compilation, compile_model
from fhecompile.errors import FheCompileError
from fhecompile.frontend import import_model
from fhecompile.frontend.reference import run_reference_samples
from fhecompile.ir.evaluate import evaluate
from fhecompile.ir.tensor import Function
from fhecompile.options import CompileOptions
from tests.support import FloatArray, Network

TOY = {"ring_dimension": 256, "insecure_toy": True}
FEATURES = 12
FIT = 0.75 * 2.0**-8  # what fit_functions allows at 8 bits


def embedding(head: str) -> bytes:
    """A fully connected layer, then x / |x| as torch or as ONNX writes it."""
    random = np.random.default_rng(5)
    net = Network(x=(1, FEATURES))
    weights = random.normal(size=(8, FEATURES)) / 12
    y = net.op("Gemm", "x", weights, random.normal(size=8), transB=1, name="dense")
    if head == "normalize":
        norm = net.op("ReduceL2", y, axes=[1], keepdims=1)
        norm = net.op("Clip", norm, np.float32(1e-12))
        norm = net.op("Expand", norm, net.op("Shape", y))
        net.op("Div", y, norm, name="y")
    else:
        net.op("LpNormalization", y, axis=1, p=2, name="y")
    return net.model("y")


def activated(kind: str) -> bytes:
    """Two fully connected layers with an activation between them."""
    random = np.random.default_rng(6)
    net = Network(x=(1, FEATURES))
    h = net.op("Gemm", "x", random.normal(size=(8, FEATURES)) / 8, transB=1)
    h = net.op("Mul", h, net.op("Sigmoid", h)) if kind == "Silu" else net.op(kind, h)
    net.op("Gemm", h, random.normal(size=(5, 8)) / 3, random.normal(size=5), transB=1, name="y")
    return net.model("y")


def samples(count: int = 40) -> FloatArray:
    return np.random.default_rng(7).uniform(-1.0, 1.0, (count, 1, FEATURES))


def compiled(model: bytes, **options: object) -> Compilation:
    return compile_model(model, samples(), CompileOptions(**TOY, **options))  # type: ignore[arg-type]


def remarks(compilation: Compilation) -> tuple[str, ...]:
    (record,) = [r for r in compilation.records if r.name == "fit_functions"]
    return record.remarks


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("head", ["normalize", "LpNormalization"])
def test_normalised_embeddings(head: str, batch: int) -> None:
    model = embedding(head)
    done = compiled(model, batch=batch)
    remark, _ = remarks(done)
    name = "y.inverse" + batch // 3 * ".each8"
    assert remark.startswith(f"{name}: inverse_sqrt on ")
    x = samples(5)
    expected = run_reference_samples(model, {"x": x.astype(np.float32)})["y"]
    assert np.allclose(np.linalg.norm(expected, axis=-1), 1.0, atol=1e-6)
    errors = {}
    for mode in ("clear", "simulate"):
        found = runtime.run(done.plan, x, mode)["y"].reshape(expected.shape)  # type: ignore[arg-type]
        errors[mode] = np.abs(found - expected).max()
        # One factor for all elements of an embedding: its direction is exact.
        norms = np.linalg.norm(found, axis=-1)
        assert np.abs(norms - 1.0).max() <= FIT + 2e-3 * (mode == "simulate")
        direction = np.sum(found * expected, axis=-1) / norms
        assert direction.min() >= 1.0 - (1e-5 if mode == "simulate" else 1e-6)
    prediction = done.plan.program.prediction
    assert errors["clear"] <= FIT
    assert errors["simulate"] <= 2.0**-8
    assert errors["clear"] <= 1.1 * prediction.fitted_error
    assert prediction.largest_error <= prediction.allowed_error == 2.0**-8 * prediction.output_range


@pytest.mark.parametrize("batch", [1, 2])
def test_rows_are_normalised_each_by_itself(batch: int) -> None:
    net = Network(x=(3, 6))
    net.op("LpNormalization", "x", axis=1, name="y")
    x = np.random.default_rng(8).uniform(0.5, 1.0, (16, 3, 6))
    options = CompileOptions(**TOY, batch=batch)  # type: ignore[arg-type]
    plan = compile_model(net.model("y"), x, options).plan
    found = runtime.run(plan, x, "clear")["y"].reshape(x.shape)
    expected = x / np.linalg.norm(x, axis=2, keepdims=True)
    assert np.abs(found - expected).max() <= FIT
    assert np.abs(found / x - (found / x)[:, :, :1]).max() <= 1e-6


def test_branches_share_a_polynomial() -> None:
    """Both take the range of the wider one, as they are evaluated together."""
    random = np.random.default_rng(9)
    net = Network(x=(1, FEATURES))
    parts = [
        net.op("Tanh", net.op("MatMul", "x", random.normal(size=(FEATURES, 4)) / 20 * scale))
        for scale in (1, 3)
    ]
    joined = net.op("Concat", *parts, axis=1)
    net.op("MatMul", joined, random.normal(size=(8, 2)), name="y")
    model = net.model("y")
    done = compiled(model)
    assert len(remarks(done)) == 2
    expected = evaluate(import_model(model).graph, {"x": samples()})["y"]
    found = runtime.run(done.plan, samples(), "clear")["y"].reshape(expected.shape)
    assert np.abs(found - expected).max() <= 2.0**-8 * np.abs(expected).max()


@pytest.mark.parametrize("bits", [3.0, 6.0, 9.0])
def test_noise_and_functions_keep_the_promise_together(bits: float) -> None:
    """Three layers of them, of which none alone would show in the outputs."""
    random = np.random.default_rng(10)
    net, y, size = Network(x=(1, FEATURES)), "x", FEATURES
    for kind in ("Tanh", "Sigmoid", "Tanh"):
        y = net.op(kind, net.op("MatMul", y, random.normal(size=(size, 8)) / 4))
        size = 8
    net.op("MatMul", y, random.normal(size=(8, 3)), name="y")
    model = net.model("y")
    plan = compiled(model, precision_bits=bits, passes="+fit_functions{degree=15}").plan
    p, exact = plan.program.prediction, evaluate(import_model(model).graph, {"x": samples()})["y"]
    assert p.output_range == pytest.approx(np.abs(exact).max(), rel=1e-9)
    assert p.allowed_error == pytest.approx(2.0**-bits * p.output_range, rel=1e-12)
    assert p.fitted_error <= 0.75 * p.allowed_error
    assert p.fitted_error + p.noise_error == p.largest_error <= p.allowed_error
    found = {}
    for mode in ("clear", "simulate"):
        y = runtime.run(plan, samples(), mode)["y"].reshape(exact.shape)  # type: ignore[arg-type]
        found[mode] = np.abs(y - exact).max()
    assert found["clear"] == pytest.approx(p.fitted_error, rel=0.01)
    assert found["simulate"] <= p.allowed_error


@pytest.mark.parametrize("kind", ["Sigmoid", "Tanh", "Silu", "Exp"])
def test_activations(kind: str) -> None:
    model = activated(kind)
    done = compiled(model, batch=2)
    x = samples(4)
    graph = import_model(model).graph
    (function,) = [node.function for node in graph.rebuilt(graph) if isinstance(node, Function)]
    assert function == kind.lower()
    expected = evaluate(graph, {"x": x})["y"]
    largest = np.abs(expected).max()
    for mode, allowed in (("clear", 2.0**-8), ("simulate", 2.0**-7)):
        found = runtime.run(done.plan, x, mode)["y"].reshape(expected.shape)  # type: ignore[arg-type]
        assert np.abs(found - expected).max() <= allowed * largest
    assert len(remarks(done)) == 2


@pytest.mark.parametrize(
    ("kind", "constants", "attributes", "bits"),
    [
        ("PRelu", (np.linspace(-0.25, 0.75, 8),), {}, 3.0),
        ("LeakyRelu", (), {"alpha": 0.1}, 3.0),
        ("Clip", (np.float32(-0.5), np.float32(0.75)), {}, 4.0),
        ("HardSigmoid", (), {"alpha": 0.6}, 4.0),
        ("HardSwish", (), {}, 12.0),  # as a quadratic: nothing comes near its kinks
        ("Elu", (), {"alpha": 0.5}, 5.0),
        ("Softplus", (), {}, 8.0),
    ],
)
@pytest.mark.parametrize("batch", [1, 2])
def test_activations_with_kinks(
    kind: str,
    constants: tuple[FloatArray, ...],
    attributes: dict[str, float],
    bits: float,
    batch: int,
) -> None:
    random = np.random.default_rng(6)
    net = Network(x=(1, FEATURES))
    h = net.op("Gemm", "x", random.normal(size=(8, FEATURES)) / 4, transB=1)
    h = net.op(kind, h, *constants, **attributes)
    net.op("Gemm", h, random.normal(size=(5, 8)) / 3, random.normal(size=5), transB=1, name="y")
    model, x = net.model("y"), samples()
    done = compiled(model, batch=batch, precision_bits=bits)
    expected = run_reference_samples(model, {"x": x.astype(np.float32)})["y"]
    largest = np.abs(expected).max()
    for mode, allowed in (("clear", 0.75 * 2.0**-bits + 1e-6), ("simulate", 2.0**-bits + 1e-6)):
        found = runtime.run(done.plan, x, mode)["y"].reshape(expected.shape)  # type: ignore[arg-type]
        assert np.abs(found - expected).max() <= allowed * largest


def test_clamps_that_are_never_reached_cost_nothing() -> None:
    depths = []
    for clamp in (None, "Clip", "Relu"):
        net = Network(x=(1, FEATURES))
        h = net.op("Gemm", "x", np.full((8, FEATURES), 0.02), np.full(8, 1.0), transB=1)
        if clamp:
            h = net.op(clamp, h, *(np.float32(b) for b in ((0, 6) if clamp == "Clip" else ())))
        net.op("Gemm", h, np.full((5, 8), 0.25), transB=1, name="y")
        model = net.model("y")
        plan = compiled(model, precision_bits=12.0).plan
        depths.append(plan.program.prediction.multiplicative_depth)
        expected = evaluate(import_model(model).graph, {"x": samples()})["y"]
        found = runtime.run(plan, samples(), "clear")["y"].reshape(expected.shape)
        assert np.abs(found - expected).max() <= 2.0**-16
    assert depths[0] <= depths[1] == depths[2] == 2


@pytest.mark.parametrize("kind", ["normalize", "Relu"])
def test_encrypted(kind: str) -> None:
    pytest.importorskip("openfhe", reason="OpenFHE is not installed")
    model = embedding(kind) if kind == "normalize" else activated(kind)
    plan = compiled(model).plan
    x = samples(1)
    expected = run_reference_samples(model, {"x": x.astype(np.float32)})["y"]
    found = runtime.run(plan, x, insecure_toy=True)["y"].reshape(expected.shape)
    assert np.abs(found - expected).max() <= 2.0**-8 * plan.program.prediction.output_range


def test_precision_asks_for_degree() -> None:
    model = embedding("normalize")
    depths = []
    for bits, passes in ((4.0, ""), (8.0, ""), (16.0, "+fit_functions{degree=15}")):
        done = compiled(model, precision_bits=bits, passes=passes)
        depths.append(done.plan.program.prediction.multiplicative_depth)
        expected = evaluate(import_model(model).graph, {"x": samples()})["y"]
        found = runtime.run(done.plan, samples(), "clear")["y"].reshape(expected.shape)
        assert np.abs(found - expected).max() <= 0.75 * 2.0**-bits
    assert depths == sorted(depths) and depths[0] < depths[-1]


@pytest.mark.parametrize(("kind", "depth"), [("Relu", 6), ("Abs", 7)])
def test_kinks_are_compiled_by_default(kind: str, depth: int) -> None:
    """At 8 bits and with what degree that needs, beside two maps with products."""
    model, x = activated(kind), samples()
    done = compiled(model)
    assert f"depth {depth}, " in remarks(done)[0]
    assert done.plan.program.prediction.multiplicative_depth == depth + 2
    expected = run_reference_samples(model, {"x": x.astype(np.float32)})["y"]
    largest = np.abs(expected).max()
    for mode, allowed in (("clear", FIT), ("simulate", 2.0**-8)):
        found = runtime.run(done.plan, x, mode)["y"].reshape(expected.shape)  # type: ignore[arg-type]
        assert np.abs(found - expected).max() <= (allowed + 1e-6) * largest


@pytest.mark.parametrize("batch", [1, 2])
def test_composites(batch: int) -> None:
    """At 13 bits, with two kinks or with a slope of its own for every element."""
    for kind, constants in (
        ("Abs", ()),
        ("PRelu", (np.linspace(-0.25, 0.75, 8),)),
        ("Clip", (np.float32(-0.5), np.float32(0.75))),
    ):
        random = np.random.default_rng(6)
        net = Network(x=(1, FEATURES))
        h = net.op("Gemm", "x", random.normal(size=(8, FEATURES)) / 4, transB=1)
        h = net.op(kind, h, *constants)
        net.op("Gemm", h, random.normal(size=(5, 8)) / 3, random.normal(size=5), transB=1, name="y")
        model, x = net.model("y"), samples()
        done = compiled(model, batch=batch, precision_bits=11.0)
        assert " by degree 15, 15, " in remarks(done)[0]
        expected = run_reference_samples(model, {"x": x.astype(np.float32)})["y"]
        largest = np.abs(expected).max()
        for mode, allowed in (("clear", 0.75 * 2.0**-11), ("simulate", 2.0**-11)):
            found = runtime.run(done.plan, x, mode)["y"].reshape(expected.shape)  # type: ignore[arg-type]
            assert np.abs(found - expected).max() <= (allowed + 1e-6) * largest


def test_an_empty_sample_is_refused() -> None:
    net = Network(x=(1, 4))
    net.op("LpNormalization", "x", name="y")
    x = np.concatenate([np.ones((3, 1, 4)), np.zeros((1, 1, 4))])
    with pytest.raises(FheCompileError) as caught:
        compile_model(net.model("y"), x, CompileOptions(**TOY))  # type: ignore[arg-type]
    assert caught.value.render() == (
        "y: inverse_sqrt is applied to values from 0 to 4 on the calibration data, but needs all "
        "of them above 0 [function-range]\n"
        "  hint: take out samples that are empty or unlike those the network was trained on"
    )
