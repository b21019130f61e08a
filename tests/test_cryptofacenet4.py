"""CryptoFaceNet4 with its trained weights: what the project promises of it, at full size.

The data lies beside the checkout and is never part of the project. ONNX Runtime evaluates in
float32 and is itself up to 4e-4 away from the exact result of this network (it folds a batch norm
of a constant in float32), so tight bounds are checked against the float64 evaluator.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from fhecompile.compile import Compilation, compile_model
from fhecompile.frontend import import_model
from fhecompile.ir.evaluate import evaluate
from fhecompile.options import CompileOptions
from fhecompile.plan import Plan
from fhecompile.plan.summary import PlanSummary, summarise
from runtime import InferenceSession
from runtime.machine import peak_bytes

DATA = Path(__file__).parents[1] / "../shared/data/cryptofacenet4"
pytestmark = [
    pytest.mark.shared_data,
    pytest.mark.skipif(not DATA.exists(), reason="../shared/data/cryptofacenet4 is not there"),
    pytest.mark.timeout(900),
]

Array = NDArray[np.float64]


@pytest.fixture(scope="session")
def samples() -> dict[str, Array]:
    with np.load(DATA / "samples.npz") as file:
        return {name: file[name] for name in file.files}


@pytest.fixture(scope="session")
def exact(samples: dict[str, Array]) -> Array:
    graph = import_model(DATA / "cryptofacenet4.onnx").graph
    images = np.asarray(samples["images"], np.float64)[:, None]
    return next(iter(evaluate(graph, {"image": images}).values()))[:, 0]


def compiled(
    samples: dict[str, Array], name: str, precision_bits: float = 8.0
) -> tuple[Compilation, float]:
    started = time.perf_counter()
    options = CompileOptions(precision_bits=precision_bits)
    compilation = compile_model(DATA / f"{name}.onnx", samples["images"], options)
    return compilation, time.perf_counter() - started


@pytest.fixture(scope="session")
def embedding(samples: dict[str, Array]) -> tuple[Compilation, float]:
    return compiled(samples, "cryptofacenet4")


@pytest.fixture(scope="session")
def plan(embedding: tuple[Compilation, float]) -> Plan:
    return embedding[0].plan


@pytest.fixture(scope="session")
def summary(plan: Plan) -> PlanSummary:
    return summarise(plan)


def test_compiles_in_a_minute(embedding: tuple[Compilation, float]) -> None:
    assert embedding[1] < 60


def test_depth_levels_and_security(summary: PlanSummary) -> None:
    assert summary.multiplicative_depth == 23
    assert summary.levels <= 16
    assert summary.bootstraps == 0
    assert summary.ring_dimension == 1 << 15
    assert summary.security_bits == 128 and summary.log_qp <= 1747


def test_plan_is_small(summary: PlanSummary) -> None:
    assert summary.plan_bytes <= 60e6


def test_normalised_model(samples: dict[str, Array]) -> None:
    compilation, _ = compiled(samples, "cryptofacenet4_l2")
    summary = summarise(compilation.plan)
    assert summary.multiplicative_depth <= 26
    assert summary.bootstraps == 0 and summary.log_qp <= 1747
    with InferenceSession(compilation.plan, "simulate") as session:
        (found,) = session.run(None, {"image": samples["images"][:2]})
    assert np.abs(found - samples["embeddings_l2"][:2]).max() < 1e-3


@pytest.fixture(scope="session")
def simulated(plan: Plan, samples: dict[str, Array]) -> Array:
    """Of all images, four at a time: sixteen at once would take more memory than encrypted."""
    images = samples["images"]
    with InferenceSession(plan, "simulate") as session:
        found = [session.run(None, {"image": images[k : k + 4]})[0] for k in range(0, 16, 4)]
    return np.concatenate(found).astype(np.float64)


def test_simulated_embeddings_of_all_samples(
    simulated: Array, samples: dict[str, Array], exact: Array
) -> None:
    assert np.abs(simulated - samples["embeddings"]).max() <= 3e-2
    assert cosines(simulated, samples["embeddings"]).min() >= 0.9999
    assert np.abs(simulated - exact).max() <= 3e-2


def test_sixteen_bits_of_precision(samples: dict[str, Array], exact: Array) -> None:
    compilation, _ = compiled(samples, "cryptofacenet4", 16)
    assert compilation.plan.parameters.is_secure()
    with InferenceSession(compilation.plan, "simulate") as session:
        (found,) = session.run(None, {"image": samples["images"][:2]})
    assert np.abs(found - exact[:2]).max() <= 1e-4


@pytest.fixture(scope="session")
def encrypted(plan: Plan, samples: dict[str, Array]) -> Iterator[tuple[Array, InferenceSession]]:
    pytest.importorskip("openfhe", exc_type=ImportError)
    with InferenceSession(plan, "encrypt") as session:
        (found,) = session.run(None, {"image": samples["images"][0]})
        yield np.asarray(found, np.float64), session


@pytest.mark.full_size
def test_encrypted_embedding(
    encrypted: tuple[Array, InferenceSession],
    samples: dict[str, Array],
    simulated: Array,
    exact: Array,
    plan: Plan,
) -> None:
    found, _ = encrypted
    expected = samples["embeddings"][:1]
    assert np.abs(found - expected).max() <= 3e-2
    assert cosines(found, expected).min() >= 0.9999
    measured, predicted = rms(found - exact[:1]), rms(simulated[:1] - exact[:1])
    assert predicted / 4 <= measured <= predicted * 4
    assert plan.program.prediction.error / 4 <= measured <= plan.program.prediction.error * 4


@pytest.mark.full_size
def test_memory_is_predicted(encrypted: tuple[Array, InferenceSession], plan: Plan) -> None:
    assert peak_bytes() <= 10e9
    assert peak_bytes() == pytest.approx(plan.program.prediction.peak_bytes, rel=0.4)


def cosines(a: Array, b: Array) -> Array:
    """Cosine of every row of a with the same row of b."""
    return np.sum(a * b, -1) / np.linalg.norm(a, axis=-1) / np.linalg.norm(b, axis=-1)


def rms(x: Array) -> float:
    """Root of the mean square."""
    return float(np.sqrt(np.mean(x**2)))
