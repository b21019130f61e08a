"""A transformer block with a classifier, from ONNX to a plan that is simulated."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import runtime
from fhecompile.compile import compile_model
from fhecompile.frontend.reference import run_reference_samples
from fhecompile.ir.depth import measure_depth
from fhecompile.options import CompileOptions
from tests.support import Network

DIGITS = Path(__file__).resolve().parents[1] / "models" / "digits_calibration.npz"
TOKENS, WIDTH, HEADS, HIDDEN, CLASSES = 8, 16, 2, 32, 10
BITS = 4.0


def classifier(activation: str) -> bytes:
    """The rows of a digit are tokens; one block with normalisation before each part."""
    random = np.random.default_rng(0)
    net = Network(image=(1, 1, 8, TOKENS))

    def dense(x: str, inputs: int, outputs: int) -> str:
        weights = random.normal(size=(inputs, outputs)) / np.sqrt(inputs)
        y: str = net.op("Add", net.op("MatMul", x, weights), 0.1 * random.normal(size=outputs))
        return y

    def normalised(x: str) -> str:
        scale, shift = 1.0 + 0.1 * random.normal(size=WIDTH), 0.1 * random.normal(size=WIDTH)
        y: str = net.op("LayerNormalization", x, scale, shift, axis=-1)
        return y

    def heads(x: str, perm: list[int]) -> str:
        split = net.op("Reshape", dense(x, WIDTH, WIDTH), np.array([1, TOKENS, HEADS, -1]))
        y: str = net.op("Transpose", split, perm=perm)
        return y

    def active(x: str) -> str:
        if activation == "relu":
            return str(net.op("Relu", x))
        erf = net.op("Add", net.op("Erf", net.op("Div", x, np.sqrt(2.0))), 1.0)
        return str(net.op("Mul", net.op("Mul", x, erf), 0.5))

    rows = dense(net.op("Reshape", "image", np.array([1, TOKENS, 8])), 8, WIDTH)
    x = net.op("Add", rows, 0.3 * random.normal(size=(TOKENS, WIDTH)))
    norm = normalised(x)
    q, k, v = (heads(norm, perm) for perm in ([0, 2, 1, 3], [0, 2, 3, 1], [0, 2, 1, 3]))
    scores = net.op("Div", net.op("MatMul", q, k), np.sqrt(WIDTH / HEADS))
    mixed = net.op("MatMul", net.op("Softmax", scores, axis=-1), v)
    joined = net.op("Transpose", mixed, perm=[0, 2, 1, 3])
    attention = net.op("Reshape", joined, np.array([1, TOKENS, WIDTH]))
    x = net.op("Add", x, dense(attention, WIDTH, WIDTH))
    hidden = active(dense(normalised(x), WIDTH, HIDDEN))
    x = net.op("Add", x, dense(hidden, HIDDEN, WIDTH))
    pooled = net.op("ReduceMean", normalised(x), axes=[1], keepdims=0)
    net.op("Gemm", pooled, random.normal(size=(WIDTH, CLASSES)) / 4.0, name="y")
    return net.model("y")


@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_a_block_is_compiled_and_simulated(activation: str) -> None:
    """Its maps take depth 11, its products and squares 8, its functions 9."""
    model = classifier(activation)
    images = np.load(DIGITS)["image"][:, None]
    options = CompileOptions(
        ring_dimension=2048,
        insecure_toy=True,
        precision_bits=BITS,
        passes="+fit_functions{degree=15}",
    )
    done = compile_model(model, {"image": images}, options)
    assert measure_depth(done.program.graph).total <= 28
    expected = run_reference_samples(model, {"image": images.astype(np.float32)})["y"]
    allowed = 2.0**-BITS * np.abs(expected).max()
    few = {"image": images[::40]}
    for mode in ("clear", "simulate"):
        found = runtime.run(done.plan, few, mode)["y"]  # type: ignore[arg-type]
        error = np.abs(found.reshape(-1, CLASSES) - expected[::40].reshape(-1, CLASSES)).max()
        assert error <= allowed, mode
