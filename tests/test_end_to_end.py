"""Random networks through the whole road, against ONNX Runtime and the tensor graph's evaluator."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from fhecompile.compile import compile_model
from fhecompile.frontend import import_model
from fhecompile.frontend.reference import run_reference_samples
from fhecompile.ir.evaluate import evaluate
from fhecompile.ir.scales import MATCH_BITS
from fhecompile.options import CompileOptions
from runtime.session import InferenceSession
from tests.support import Network, random_inputs, relative_error, run_slots

# Slots per ciphertext are half of it, tensors have up to 6 x 12 x 12 elements.
RINGS = [256, 512, 1024, 2048]
CHANNELS = 6
# As chosen; folds and pairs wherever they fit; no imaginary parts.
PASSES = ["", "+assign_layouts{fold_above=0}", "+assign_layouts{complex=false}"]


@dataclass(frozen=True)
class Window:
    """Geometry of a convolution."""

    kernel: list[int]
    pads: list[int]
    strides: list[int]
    dilations: list[int]
    groups: int

    def attributes(self) -> dict[str, Any]:
        return {
            "kernel_shape": self.kernel,
            "pads": self.pads,
            "strides": self.strides,
            "dilations": self.dilations,
            "group": self.groups,
        }

    def result(self, spatial: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(
            (n + self.pads[a] + self.pads[a + 2] - (self.kernel[a] - 1) * self.dilations[a] - 1)
            // self.strides[a]
            + 1
            for a, n in enumerate(spatial)
        )


class RandomNetwork:
    """Draws a network block by block; the weights keep the size of values near 1.

    `value` is the last value made, of shape (1, *shape): channels, height and width, or features.
    """

    def __init__(self, draw: st.DrawFn) -> None:
        self.draw = draw
        self.random = np.random.default_rng(draw(st.integers(0, 2**31)))
        self.value, self.shape = "x", (self.pick(1, CHANNELS), self.pick(1, 12), self.pick(1, 12))
        self.network = Network(x=(1, *self.shape))
        self.outputs: list[str] = []
        blocks = [
            self.convolve,
            self.activate,
            self.add_residual,
            self.pool,
            self.branch,
            self.transpose,
            self.gate,
            self.add_input,
            self.flatten,
        ]
        for block in draw(st.lists(st.sampled_from(blocks), min_size=1, max_size=5)):
            if len(self.shape) == 3 or block == self.activate:
                block()
        if draw(st.booleans()):
            self.outputs.append(self.value)
            self.connect()
        self.outputs.append(self.value)

    def model(self) -> bytes:
        return self.network.model(*dict.fromkeys(self.outputs))

    # ------------------------------------------------------------------ blocks

    def convolve(self) -> None:
        window = self.window(same=False)
        channels = window.groups * self.pick(1, CHANNELS // window.groups)
        self.value = self.convolution(self.value, channels, window)
        self.shape = (channels, *window.result(self.shape[1:]))
        if self.draw(st.booleans()):
            self.value = self.batch_norm(self.value)

    def activate(self) -> None:
        self.value = self.polynomial(self.value, self.pick(0, 3))

    def add_residual(self) -> None:
        inner = self.convolution(self.value, self.shape[0], self.window(same=True))
        if self.draw(st.booleans()):
            inner = self.polynomial(inner, self.pick(0, 3))
            inner = self.convolution(inner, self.shape[0], self.window(same=True))
        self.value = self.network.op("Add", inner, self.value)

    def pool(self) -> None:
        kernel = [self.pick(1, min(3, n)) for n in self.shape[1:]]
        strides = [self.pick(1, 3) for _ in kernel]
        self.value = self.network.op(
            "AveragePool", self.value, kernel_shape=kernel, strides=strides
        )
        window = Window(kernel, [0] * 4, strides, [1, 1], 1)
        self.shape = (self.shape[0], *window.result(self.shape[1:]))

    def branch(self) -> None:
        """Two branches alike, added or concatenated."""
        window, kind = self.window(same=False), self.pick(0, 3)
        channels = window.groups * self.pick(1, CHANNELS // window.groups)
        values = [self.convolution(self.value, channels, window) for _ in range(2)]
        self.shape = (channels, *window.result(self.shape[1:]))
        values = [self.polynomial(x, kind) for x in values]
        if self.draw(st.booleans()):
            again = self.window(same=True)
            values = [self.convolution(x, channels, again) for x in values]
        if self.draw(st.booleans()):
            self.value = self.network.op("Concat", *values, axis=1)
            self.shape = (2 * channels, *self.shape[1:])
        else:
            self.value = self.network.op("Add", *values)

    def transpose(self) -> None:
        order = self.draw(st.permutations(range(3)))
        self.value = self.network.op("Transpose", self.value, perm=[0, *(a + 1 for a in order)])
        self.shape = tuple(self.shape[a] for a in order)

    def gate(self) -> None:
        """Times the mean of all elements."""
        mean = self.network.op("ReduceMean", self.value, axes=[1, 2, 3], keepdims=1)
        self.value = self.network.op("Mul", self.value, mean)

    def add_input(self) -> None:
        name = f"x{len(self.network.inputs)}"
        self.network.inputs[name] = (1, *self.shape)
        self.value = self.network.op("Add", self.value, name)

    def flatten(self) -> None:
        self.value = self.network.op("Flatten", self.value)
        self.shape = (math.prod(self.shape),)

    def connect(self) -> None:
        """One or two fully connected layers."""
        if len(self.shape) > 1:
            self.flatten()
        for layer in range(self.pick(1, 2)):
            if layer:
                self.activate()
            out = self.pick(1, 40)
            operands = self.weights(out, *self.shape), self.random.normal(size=out) / 4
            self.value = self.network.op("Gemm", self.value, *operands, transB=1)
            self.shape = (out,)

    # ------------------------------------------------------------------ parts of blocks

    def pick(self, low: int, high: int) -> int:
        return self.draw(st.integers(low, high))

    def weights(self, *shape: int) -> NDArray[np.float64]:
        return self.random.normal(size=shape) / math.sqrt(math.prod(shape[1:]))

    def window(self, same: bool) -> Window:
        """A geometry that fits the value; `same` keeps height and width."""
        spatial = self.shape[1:]
        dilations = [self.pick(1, 2) for _ in spatial]
        groups = self.draw(st.sampled_from([g for g in (1, 2, 3) if self.shape[0] % g == 0]))
        if same:
            kernel = [self.draw(st.sampled_from([1, 3])) for _ in spatial]
            half = [(k - 1) * d // 2 for k, d in zip(kernel, dilations, strict=True)]
            return Window(kernel, half + half, [1, 1], dilations, groups)
        pads = [self.pick(0, 2) for _ in range(4)]
        kernel = []
        for a, n in enumerate(spatial):
            longest = (n + pads[a] + pads[a + 2] - 1) // dilations[a] + 1
            kernel.append(self.pick(1, min(4, longest)))
        return Window(kernel, pads, [self.pick(1, 3) for _ in spatial], dilations, groups)

    def convolution(self, value: str, channels: int, window: Window) -> str:
        operands = [self.weights(channels, self.shape[0] // window.groups, *window.kernel)]
        if self.draw(st.booleans()):
            operands.append(self.random.normal(size=channels) / 4)
        return self.network.op("Conv", value, *operands, **window.attributes())

    def batch_norm(self, value: str) -> str:
        channels = self.shape[0]
        scale = self.random.uniform(0.5, 1.0, channels) * self.random.choice([-1, 1], channels)
        shift, mean = self.random.normal(size=(2, channels)) / 4
        variance = self.random.uniform(1.0, 2.0, channels)
        return self.network.batch_norm(value, scale, shift, mean, variance)

    def polynomial(self, x: str, kind: int) -> str:
        """A square, a quadratic per channel, a cubic, or the product with its batch norm."""
        op = self.network.op
        if kind == 0:
            return op("Mul", x, x)
        if kind == 1:
            return op("Add", self.batch_norm(op("Mul", x, x)), self.batch_norm(x))
        if kind == 2:
            return op("Sub", op("Mul", op("Pow", x, 3.0), 0.1), x)
        return op("Mul", x, self.batch_norm(x))


@st.composite
def models(draw: st.DrawFn) -> bytes:
    return RandomNetwork(draw).model()


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
        layouts = [plan.layouts[t.layout] for t in (*plan.program.inputs, *plan.program.outputs)]
        assert [layout.ciphertexts > 1 for layout in layouts] == [True, True]
