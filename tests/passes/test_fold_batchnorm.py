"""Per-channel scales and shifts go into the linear map in front of them."""

from __future__ import annotations

import numpy as np

from fhecompile.ir.tensor import Affine, TensorGraph
from passes.fold_batchnorm import FoldBatchnorm
from tests.support import Network, assert_same_function, outline, random_inputs, run_pass

RANDOM = np.random.default_rng(0)


def fold(before: TensorGraph) -> tuple[TensorGraph, tuple[str, ...]]:
    result = run_pass(FoldBatchnorm(), before)
    after = result.program.graph
    assert_same_function(before, after, random_inputs(before), bits=45)
    assert result.modified == (outline(after) != outline(before))
    return after, result.remarks


def batch_norm(net: Network, x: str, name: str, channels: int = 3) -> str:
    scale, shift, mean = RANDOM.normal(size=(3, channels))
    variance = RANDOM.uniform(0.5, 2.0, channels)
    return net.batch_norm(x, scale, shift, mean, variance, name=name)


def convolution(net: Network, x: str, name: str, bias: bool = True) -> str:
    operands = [RANDOM.normal(size=(3, 3, 3, 3)), *([RANDOM.normal(size=3)] if bias else [])]
    return net.op("Conv", x, *operands, pads=[1, 1, 1, 1], name=name)


def test_after_a_convolution() -> None:
    net = Network(x=(1, 3, 5, 5))
    before = net.graph(batch_norm(net, convolution(net, "x", "conv"), "norm"))
    after, remarks = fold(before)
    assert outline(after) == ["norm = affine(x)"]
    assert remarks == ("1 folded",)
    node = after["norm"]
    assert isinstance(node, Affine)
    assert node.source == "conv norm"
    # The kernel is still stored once, and the bias per channel.
    assert node.maps[0].terms[0].values.shape == (3, 3, 3, 3, 1, 1)
    assert node.bias.shape == (1, 3, 1, 1)


def test_chain() -> None:
    net = Network(x=(1, 3, 5, 5))
    x = convolution(net, "x", "conv", bias=False)
    for name in ("a", "b", "c"):
        x = batch_norm(net, x, name)
    after, remarks = fold(net.graph(x))
    assert outline(after) == ["c = affine(x)"]
    assert remarks == ("3 folded",)


def test_after_a_difference() -> None:
    net = Network(x=(1, 3, 5, 5), z=(1, 3, 5, 5))
    after, _ = fold(net.graph(batch_norm(net, net.op("Sub", "x", "z", name="sub"), "norm")))
    assert outline(after) == ["norm = affine(x, z)"]


def test_before_a_convolution_it_stays() -> None:
    """Padding is zero after the batch norm, not before; `merge_affine` multiplies the maps."""
    net = Network(x=(1, 3, 5, 5))
    before = net.graph(convolution(net, batch_norm(net, "x", "norm"), "conv"))
    after, remarks = fold(before)
    assert outline(after) == ["norm = affine(x)", "conv = affine(norm)"]
    assert remarks == ()


def test_behind_an_addition_it_stays() -> None:
    net = Network(x=(1, 3, 5, 5))
    x = convolution(net, "x", "conv")
    x = net.op("Add", x, net.op("Mul", x, x, name="square"), name="sum")
    after, remarks = fold(net.graph(batch_norm(net, x, "norm")))
    assert outline(after)[-1] == "norm = affine(sum)"
    assert remarks == ()


def test_shared_convolution_stays() -> None:
    net = Network(x=(1, 3, 5, 5))
    x = convolution(net, "x", "conv")
    normed = batch_norm(net, x, "norm")
    y = net.op("Add", net.op("Mul", x, x, name="square"), normed, name="y")
    before = net.graph(y)
    after, remarks = fold(before)
    assert outline(after) == outline(before)
    assert remarks == ("norm kept: conv is also read by square",)


def test_pooling_is_no_batch_norm() -> None:
    net = Network(x=(1, 3, 4, 4))
    x = net.op("AveragePool", convolution(net, "x", "conv"), kernel_shape=[2, 2], name="pool")
    after, remarks = fold(net.graph(x))
    assert outline(after) == ["conv = affine(x)", "pool = affine(conv)"]
    assert remarks == ()
