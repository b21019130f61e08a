"""A small network that gives templates, faces to enrol, and what their scores are to be."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fhecompile.compile import compile
from fhecompile.ir.evaluate import evaluate
from tests.support import Network

ERROR = 1e-3
RANDOM = np.random.default_rng(8)
MATRIX = RANDOM.normal(size=(6, 12)) / 4
FACES = RANDOM.normal(size=(40, 12)) * 0.1 + np.linspace(-1, 1, 12)
NAMES = [f"person-{k}" for k in range(40)]


def network() -> Network:
    """Embeddings of 6 numbers."""
    net = Network(x=(1, 12))
    net.op("Gemm", "x", MATRIX, np.full(6, 1.0), transB=1, name="y")
    return net


def units(x: NDArray[np.float64]) -> NDArray[np.float64]:
    y = evaluate(network().graph("y"), {"x": x[:, None]})["y"][:, 0]
    return np.asarray(y / np.linalg.norm(y, axis=1, keepdims=True))


COSINES = units(FACES) @ units(FACES).T
PLAN = compile(
    network().model("y"),  # type: ignore[arg-type]
    calibration=FACES,
    match="gallery",
    precision_bits=16,
    ring_dimension=512,
    insecure_toy=True,
)
