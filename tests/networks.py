"""Random networks, drawn block by block."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests.support import Network


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

    def __init__(self, draw: st.DrawFn, channels: int = 6, side: int = 12) -> None:
        self.draw = draw
        self.random = np.random.default_rng(draw(st.integers(0, 2**31)))
        self.channels = channels
        self.value, self.shape = "x", (self.pick(1, channels), *(self.pick(1, side) for _ in "hw"))
        self.network = Network(x=(1, *self.shape))
        self.outputs: list[str] = []

    def grow(self, largest: int = 5) -> None:
        """Up to `largest` blocks of any kind, and sometimes fully connected layers."""
        blocks = [
            self.convolve,
            self.activate,
            self.add_residual,
            self.pool,
            self.branch,
            self.transpose,
            self.gate,
            self.resample,
            self.add_input,
            self.flatten,
        ]
        for block in self.draw(st.lists(st.sampled_from(blocks), min_size=1, max_size=largest)):
            if len(self.shape) == 3 or block == self.activate:
                block()
        if self.draw(st.booleans()):
            self.outputs.append(self.value)
            self.connect()

    def model(self) -> bytes:
        """The bytes of the model; the last value is an output."""
        return self.network.model(*dict.fromkeys([*self.outputs, self.value]))

    # ------------------------------------------------------------------ blocks

    def convolve(self) -> None:
        window = self.window(same=False)
        channels = window.groups * self.pick(1, self.channels // window.groups)
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
        channels = window.groups * self.pick(1, self.channels // window.groups)
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

    def resample(self) -> None:
        """A larger image, a padded one, running sums, or mixed channels."""
        op, (channels, *spatial) = self.network.op, self.shape
        match self.pick(0, 3):
            case 0 if max(spatial) <= 6:
                kernel = self.weights(channels, self.pick(1, 3), 3, 2) * math.sqrt(6 / channels)
                self.value = op("ConvTranspose", self.value, kernel, strides=[2, 2])
                height, width = (2 * (n - 1) for n in spatial)
                self.shape = (kernel.shape[1], height + 3, width + 2)
            case 0 | 1:
                self.shape = (channels, *(self.pick(1, 12) for _ in spatial))
                none, sizes = np.zeros(0), np.array([1, *self.shape])
                mode = self.draw(st.sampled_from(["nearest", "linear", "cubic"]))
                self.value = op("Resize", self.value, none, none, sizes, mode=mode)
            case 2:
                mode = self.draw(st.sampled_from(["edge", "constant", "reflect"]))
                pads = [self.pick(0, min(2, n - 1)) for n in (*spatial, *spatial)]
                given = np.array([0, 0, *pads[:2], 0, 0, *pads[2:]])
                self.value = op("Pad", self.value, given, mode=mode)
                grown = (n + pads[a] + pads[a + 2] for a, n in enumerate(spatial))
                self.shape = (channels, *grown)
            case 3:
                axis = self.pick(1, 3)
                self.value = op("CumSum", self.value, np.array(axis))
                mix = self.weights(self.pick(1, 4), channels)
                self.value = op("Einsum", self.value, mix, equation="bchw,dc->bdhw")
                self.shape = (mix.shape[0], *spatial)

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
