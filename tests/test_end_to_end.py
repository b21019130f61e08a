"""Random networks through the whole road, against ONNX Runtime and the tensor graph's evaluator."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fhecompile.compile import compile_model
from fhecompile.frontend import import_model
from fhecompile.frontend.reference import run_reference_samples
from fhecompile.ir.evaluate import evaluate
from fhecompile.ir.scales import MATCH_BITS
from fhecompile.options import CompileOptions
from runtime.session import InferenceSession
from tests.networks import RandomNetwork
from tests.support import Network, random_inputs, relative_error, run_slots

# Slots per ciphertext are half of it, tensors have up to 6 x 12 x 12 elements.
RINGS = [256, 512, 1024, 2048]
# As chosen; no values in holes; no imaginary parts; the first layout that comes to hand.
PASSES = [
    "",
    "+assign_layouts{spill=false}",
    "+assign_layouts{complex=false}",
    "+assign_layouts{beam=1}",
]


@st.composite
def models(draw: st.DrawFn) -> bytes:
    network = RandomNetwork(draw)
    network.grow()
    return network.model()


@settings(max_examples=60)
@given(models(), st.sampled_from(RINGS), st.sampled_from(PASSES))
def test_random_networks(model: bytes, ring: int, passes: str) -> None:
    imported = import_model(model)
    samples = random_inputs(imported.graph, samples=2)
    options = CompileOptions(insecure_toy=True, ring_dimension=ring, passes=passes)
    plan = compile_model(model, samples, options).plan
    exact = evaluate(imported.graph, samples)
    reference = run_reference_samples(model, samples)
    clear = run_slots(plan, samples)
    noisy = run_slots(plan, samples, noise=True)
    for label, value in exact.items():
        assert relative_error(clear[label], value) <= 1e-9
        assert relative_error(clear[label], reference[label].astype(np.float64)) <= 1e-4
        rms = float(np.sqrt(np.mean((noisy[label] - value) ** 2)))
        # Where summands' scales are matched, the integers have MATCH_BITS bits.
        matching = 2.0**-MATCH_BITS * float(np.abs(value).max())
        assert rms <= 10 * (plan.program.prediction.error + matching)


# ---------------------------------------------------------------------------- encrypted


def several_ciphertexts(random: np.random.Generator) -> Network:
    """1,536 elements in, 600 out, 512 in a ciphertext."""
    net = Network(x=(1, 6, 16, 16))
    x = net.op("Conv", "x", random.normal(size=(6, 6, 3, 3)) / 8, pads=[1] * 4)
    x = net.op("Mul", x, x)
    net.op("Conv", x, random.normal(size=(6, 6, 7, 7)) / 20, name="y")
    return net


def residual(random: np.random.Generator) -> Network:
    """A strided convolution, then a block whose input is added to its output."""
    net = Network(x=(1, 3, 9, 7))
    x = net.op("Conv", "x", random.normal(size=(4, 3, 3, 3)) / 5, strides=[2, 2], pads=[1] * 4)
    z = net.batch_norm(x, random.uniform(-1, 1, 4), random.normal(size=4) / 4)
    z = net.op("Add", net.op("Mul", z, z), x)
    z = net.op("Conv", z, random.normal(size=(4, 4, 3, 3)) / 6, pads=[1] * 4)
    net.op("Add", z, x, name="y")
    return net


def parallel(random: np.random.Generator) -> Network:
    """Four patches, each with its own convolution and square, joined by a linear layer."""
    net = Network(x=(1, 2, 8, 8))
    features = []
    for top, left in ((0, 0), (0, 4), (4, 0), (4, 4)):
        starts, ends = np.array([top, left]), np.array([top + 4, left + 4])
        patch = net.op("Slice", "x", starts, ends, np.array([2, 3]))
        patch = net.op("Conv", patch, random.normal(size=(3, 2, 3, 3)) / 4, pads=[1] * 4)
        features.append(net.op("Flatten", net.op("Mul", patch, patch)))
    joined = net.op("Concat", *features, axis=1)
    net.op("Gemm", joined, random.normal(size=(192, 10)) / 14, random.normal(size=10), name="y")
    return net


def perceptron(random: np.random.Generator) -> Network:
    """Two hidden layers with cubics."""
    net = Network(x=(1, 20))
    x = "x"
    for out in (16, 8):
        x = net.op("MatMul", x, random.normal(size=(20 if out == 16 else 16, out)) / 4)
        x = net.op("Sub", x, net.op("Mul", net.op("Pow", x, 3.0), 0.1))
    net.op("MatMul", x, random.normal(size=(8, 3)) / 3, name="y")
    return net


def gated(random: np.random.Generator) -> Network:
    """Two inputs, a product of ciphertexts, and a mean of everything as a factor."""
    net = Network(x=(1, 2, 6, 6), z=(1, 2, 6, 6))
    x = net.op("Mul", net.op("Conv", "x", random.normal(size=(2, 2, 1, 1))), "z")
    mean = net.op("ReduceMean", x, axes=[1, 2, 3], keepdims=1)
    net.op("Add", net.op("Mul", x, mean), "x", name="y")
    return net


@pytest.mark.parametrize("network", [several_ciphertexts, residual, parallel, perceptron, gated])
def test_encrypted(network: Callable[[np.random.Generator], Network]) -> None:
    pytest.importorskip("openfhe", reason="OpenFHE is not installed")
    model = network(np.random.default_rng(11)).model("y")
    samples = random_inputs(import_model(model).graph, samples=2)
    options = CompileOptions(insecure_toy=True, ring_dimension=1024)
    plan = compile_model(model, samples, options).plan
    first = {name: x[0] for name, x in samples.items()}
    with InferenceSession(plan, insecure_toy=True, threads=2) as session:
        (found,) = session.run(None, first)
    with InferenceSession(plan, "clear") as session:
        (clear,) = session.run(None, first)
    assert relative_error(found, clear) < 1e-2
    if network is several_ciphertexts:
        ends = (plan.program.inputs[0].views[0].layout, plan.program.outputs[0].layout)
        assert [plan.layouts[number].ciphertexts > 1 for number in ends] == [True, True]
