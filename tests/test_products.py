"""Products of encrypted tensors from ONNX to a plan."""

from __future__ import annotations

import numpy as np
import pytest

import runtime
from fhecompile.compile import compile_model
from fhecompile.frontend.reference import run_reference_samples
from fhecompile.ir.depth import measure_depth
from fhecompile.options import CompileOptions
from tests.support import Network

RING = 1024


def projected(net: Network, x: str, weights: np.ndarray, heads: int) -> str:
    """x W in the shape (1, heads, tokens, width)."""
    split = net.op("Reshape", net.op("MatMul", x, weights), np.array([1, -1, heads, 4]))
    moved: str = net.op("Transpose", split, perm=[0, 2, 1, 3])
    return moved


@pytest.mark.parametrize("heads", [1, 2])
def test_attention_without_softmax(heads: int) -> None:
    """(q k^T) v and a projection: a linear map before and after each of two products."""
    tokens, width = 5, 4 * heads
    random = np.random.default_rng(heads)
    weights = random.normal(size=(4, width, width)) / 2.0
    net = Network(x=(1, tokens, width))
    q, k, v = (projected(net, "x", w, heads) for w in weights[:3])
    scores = net.op("Div", net.op("MatMul", q, net.op("Transpose", k, perm=[0, 1, 3, 2])), 2.0)
    mixed = net.op("Transpose", net.op("MatMul", scores, v), perm=[0, 2, 1, 3])
    joined = net.op("Reshape", mixed, np.array([1, tokens, width]))
    net.op("MatMul", joined, weights[3], name="y")
    model, x = net.model("y"), random.uniform(-1.0, 1.0, (4, 1, tokens, width))
    options = CompileOptions(ring_dimension=RING, insecure_toy=True, precision_bits=10)
    done = compile_model(model, {"x": x}, options)
    assert measure_depth(done.program.graph).total == 5
    expected = run_reference_samples(model, {"x": x.astype(np.float32)})["y"]
    largest = np.abs(expected).max()
    for mode, bits in (("clear", 20), ("simulate", 10)):
        found = runtime.run(done.plan, x, mode)["y"].reshape(expected.shape)  # type: ignore[arg-type]
        assert np.abs(found - expected).max() <= 2.0**-bits * largest, mode


def test_max_pool() -> None:
    """Two levels of abs, at the least precision that degree 15 allows."""
    random = np.random.default_rng(3)
    net = Network(x=(1, 1, 4, 4))
    pooled = net.op("MaxPool", "x", kernel_shape=[2, 2], strides=[2, 2])
    flat = net.op("Flatten", pooled)
    net.op("Gemm", flat, random.normal(size=(4, 2)), name="y")
    model, x = net.model("y"), random.uniform(-1.0, 1.0, (64, 1, 1, 4, 4))
    bits = 2.0
    options = CompileOptions(
        ring_dimension=RING,
        insecure_toy=True,
        precision_bits=bits,
        passes="+fit_functions{degree=15}",
    )
    done = compile_model(model, {"x": x}, options)
    expected = run_reference_samples(model, {"x": x.astype(np.float32)})["y"]
    found = runtime.run(done.plan, x[:4], "simulate")["y"]  # type: ignore[arg-type]
    error = np.abs(found.reshape(4, *expected.shape[1:]) - expected[:4]).max()
    assert 2.0**-12 * np.abs(expected).max() < error <= 2.0**-bits * np.abs(expected).max()
