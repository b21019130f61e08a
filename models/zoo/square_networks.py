"""Networks of papers on encrypted inference whose activation is x^2, for 28 x 28 digits.

Each is written with `onnx.helper`, so that nothing but onnx is needed to make one.

    mlp_square     784 - 128 - 128 - 10, a batch norm before each square
    lola           conv 2 x 2 / 2 1 -> 5, x^2, 980 - 100, x^2, 100 - 10
                   (Brutzkus, Elisha, Gilad-Bachrach, "Low Latency Privacy Preserving Inference",
                   ICML 2019; this shape is that of later comparisons)
    lenet_square   conv 5 x 5 / 2 1 -> 32, x^2, conv 5 x 5 / 2 32 -> 64, x^2,
                   3136 - 512, x^2, 512 - 10 (28 -> 14 -> 7, padding 2)
    tenseal_cnn    conv 7 x 7 / 3 1 -> 4, x^2, 256 - 64, x^2, 64 - 10
                   (Benaissa et al., "TenSEAL", 2021)

Weights are normally distributed and biases small. Of every linear layer, weights and bias are then
divided by the largest |output| over `images`, so that no value of the network is far from 1: with
r = max |W x + b| of the layer,

    W <- W / r,    b <- b / r.

A batch norm has the mean m and variance v of its channel on the same images, and one gamma for all
channels that brings its largest |output| to 1.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

OPSET = 17
EPSILON = 1e-5
CLASSES = 10

FloatArray = NDArray[np.float64]


class SquareNetwork:
    """A chain of layers under construction, with the values of every layer on some images.

    Args:
        name: of the graph.
        images: n x 1 x 28 x 28, what weights are scaled with.
        seed: of the weights.
    """

    def __init__(self, name: str, images: NDArray[np.float32], seed: int) -> None:
        self.name = name
        self.input_shape = images.shape[1:]
        self.values: FloatArray = images.astype(np.float64)
        self.random = np.random.default_rng(seed)
        self.last = "image"
        self.nodes: list[onnx.NodeProto] = []
        self.tensors: list[onnx.TensorProto] = []

    def convolve(self, channels: int, kernel: int, stride: int, padding: int = 0) -> None:
        """Conv to `channels` with a square kernel."""
        x = np.pad(self.values, ((0, 0), (0, 0), *[(padding, padding)] * 2))
        rows = sliding_window_view(x, kernel, axis=2)[:, :, ::stride]
        windows = sliding_window_view(rows, kernel, axis=3)[:, :, :, ::stride]
        weight, bias = self._draw((channels, x.shape[1], kernel, kernel))
        products = np.einsum("nchwij,ocij->nohw", windows, weight, optimize=True)
        weight, bias = self._scale(products, weight, bias, (-1, 1, 1))
        pads, strides = [padding] * 4, [stride] * 2
        self._add("Conv", {"weight": weight, "bias": bias}, pads=pads, strides=strides)

    def connect(self, width: int) -> None:
        """Gemm to `width`, behind a Flatten where there are channels."""
        if self.values.ndim > 2:
            self.values = self.values.reshape(len(self.values), -1)
            self._add("Flatten", {}, axis=1)
        weight, bias = self._draw((width, self.values.shape[1]))
        weight, bias = self._scale(self.values @ weight.T, weight, bias, (-1,))
        self._add("Gemm", {"weight": weight, "bias": bias}, transB=1)

    def normalise(self) -> None:
        """BatchNormalization of a matrix's result."""
        mean, variance = self.values.mean(axis=0), self.values.var(axis=0)
        bias = 0.1 * self.random.standard_normal(len(mean))
        normal = (self.values - mean) / np.sqrt(variance + EPSILON)
        gamma = np.full(len(mean), (1 - np.abs(bias).max()) / np.abs(normal).max())
        self.values = normal * gamma + bias
        tensors = {"scale": gamma, "bias": bias, "mean": mean, "variance": variance}
        self._add("BatchNormalization", tensors, epsilon=EPSILON)

    def square(self) -> None:
        """x * x."""
        self.values = self.values**2
        self._add("Mul", {}, self.last)

    def build(self) -> onnx.ModelProto:
        """The model: `image`, a batch of one, to `logits`."""
        self.nodes[-1].output[0] = "logits"
        shapes = {"image": (1, *self.input_shape), "logits": (1, CLASSES)}
        (image, logits) = (
            helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
            for name, shape in shapes.items()
        )
        graph = helper.make_graph(self.nodes, self.name, [image], [logits], self.tensors)
        model = helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8
        )
        onnx.checker.check_model(model, full_check=True)
        return model

    def _draw(self, shape: tuple[int, ...]) -> tuple[FloatArray, FloatArray]:
        weight = self.random.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))
        return weight, 0.05 * self.random.standard_normal(shape[0])

    def _scale(
        self, product: FloatArray, weight: FloatArray, bias: FloatArray, shape: Sequence[int]
    ) -> tuple[FloatArray, FloatArray]:
        """The weight and bias divided by the largest |output|, which this layer's values become."""
        output = product + bias.reshape(shape)
        largest = np.abs(output).max()
        self.values = output / largest
        return weight / largest, bias / largest

    def _add(
        self, kind: str, tensors: dict[str, FloatArray], *more: str, **attributes: Any
    ) -> None:
        layer = f"{kind.lower()}_{len(self.nodes)}"
        names = [f"{layer}.{name}" for name in tensors]
        for name, value in zip(names, tensors.values(), strict=True):
            self.tensors.append(numpy_helper.from_array(value.astype(np.float32), name))
        operands = [self.last, *names, *more]
        self.nodes.append(helper.make_node(kind, operands, [layer], name=layer, **attributes))
        self.last = layer


def _mlp_square(network: SquareNetwork) -> None:
    for _ in range(2):
        network.connect(128)
        network.normalise()
        network.square()
    network.connect(CLASSES)


def _lola(network: SquareNetwork) -> None:
    network.convolve(5, kernel=2, stride=2)
    network.square()
    network.connect(100)
    network.square()
    network.connect(CLASSES)


def _lenet_square(network: SquareNetwork) -> None:
    for channels in (32, 64):
        network.convolve(channels, kernel=5, stride=2, padding=2)
        network.square()
    network.connect(512)
    network.square()
    network.connect(CLASSES)


def _tenseal_cnn(network: SquareNetwork) -> None:
    network.convolve(4, kernel=7, stride=3)
    network.square()
    network.connect(64)
    network.square()
    network.connect(CLASSES)


SQUARE_NETWORKS: dict[str, Callable[[SquareNetwork], None]] = {
    "mlp_square": _mlp_square,
    "lola": _lola,
    "lenet_square": _lenet_square,
    "tenseal_cnn": _tenseal_cnn,
}


def build_square_network(name: str, images: NDArray[np.float32], seed: int = 0) -> onnx.ModelProto:
    """Returns a network with random weights that suit `images`, the same for the same arguments.

    Args:
        name: one of `SQUARE_NETWORKS`; KeyError if it is none.
        images: n x 1 x 28 x 28 in [-1, 1].
        seed: of the weights.
    """
    network = SquareNetwork(name, images, seed)
    SQUARE_NETWORKS[name](network)
    return network.build()
