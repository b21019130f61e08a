"""The slot graph computes what the tensor graph does, whatever the layouts and levels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest

from fhecompile.ir import slots
from fhecompile.ir.evaluate import evaluate
from fhecompile.ir.program import Program
from fhecompile.ir.tensor import TensorGraph
from fhecompile.plan import Plan
from tests.graphs import FIXED_SCALES, Builder, matrix, run_passes
from tests.support import Network, random_inputs, relative_error, run_slots


def quadratic() -> TensorGraph:
    """Both terms and the constant of a quadratic, with coefficients per channel."""
    b = Builder()
    b.input("x", 1, 6)
    b.affine("map", {"x": matrix(6, 6)}, bias=np.arange(6.0) / 6)
    b.poly("p", "map", np.linspace(-1, 1, 6), np.linspace(1, 2, 6), -0.5)
    return b.output(b.affine("last", {"p": matrix(3, 6)}, bias=1.0))


def sums_at_different_levels() -> TensorGraph:
    """Sums and products of values that are apart in level and scale."""
    b = Builder()
    b.input("x", 1, 6)
    b.input("y", 1, 6)
    b.affine("map", {"x": matrix(6, 6)})
    b.poly("square", "map", 0.0, 0.0, 3.0)
    b.poly("fourth", "square", 0.0, 0.0, 0.7)
    b.sum("sum", "fourth", "y")
    b.mul("product", "sum", "map")
    return b.output("sum", "product")


def sum_of_all() -> TensorGraph:
    """The mean of all elements, which gates the elements themselves."""
    b = Builder()
    b.input("x", 1, 40)
    b.affine("map", {"x": matrix(40, 40)})
    b.affine("mean", {"map": np.full((1, 40), 1 / 40)}, bias=2.0)
    b.mul("gated", "map", "mean")
    b.scaled("negated", "gated", -1.5, 0.25)
    return b.output("negated")


def rows_of_zeros() -> TensorGraph:
    """A map whose last ciphertexts are zero."""
    weights = matrix(64, 8)
    weights[20:] = 0.0
    b = Builder()
    b.input("x", 1, 8)
    b.affine("map", {"x": weights}, bias=1.0)
    b.poly("square", "map", 1.0, 1.0, 1.0)
    return b.output("square")


def two_operands() -> TensorGraph:
    """A map of two operands of different periods."""
    b = Builder()
    b.input("x", 1, 5)
    b.input("y", 1, 30)
    b.poly("square", "x", 0.0, 0.0, 1.0)
    b.affine("both", {"square": matrix(12, 5), "y": matrix(12, 30)})
    b.poly("p", "both", 0.0, 1.0, 1.0)
    return b.output("p")


def convolutions() -> TensorGraph:
    """A strided convolution, a batch norm, a square, a residual and a dense layer."""
    random = np.random.default_rng(0)
    net = Network(x=(1, 2, 6, 6))
    conv = net.op("Conv", "x", random.normal(size=(3, 2, 3, 3)), strides=[2, 2], pads=[1, 1, 1, 1])
    norm = net.batch_norm(net.op("Mul", conv, conv), np.array([1.0, -2.0, 0.5]), np.ones(3))
    inner = net.op("Conv", norm, random.normal(size=(3, 3, 3, 3)), pads=[1, 1, 1, 1])
    total = net.op("Add", net.op("Mul", inner, inner), norm)
    return net.graph(net.op("Gemm", net.op("Flatten", total), matrix(27, 10)))


NETWORKS = [
    quadratic,
    sums_at_different_levels,
    sum_of_all,
    rows_of_zeros,
    two_operands,
    convolutions,
]


@pytest.mark.parametrize("options", ["", "complex=false", "spill=false"])
@pytest.mark.parametrize("ring", [32, 256])
@pytest.mark.parametrize("network", NETWORKS)
def test_slots_compute_the_tensor_graph(
    network: Callable[[], TensorGraph], ring: int, options: str
) -> None:
    graph = network()
    passes = {"assign_layouts": options, "select_parameters": FIXED_SCALES}
    program = run_passes(graph, "emit_plan", passes, ring_dimension=ring, insecure_toy=True)
    slots.verify(program.slot_graph())
    inputs = random_inputs(graph)
    found = run_slots(program.facts[Plan], inputs)
    for label, expected in evaluate(graph, inputs).items():
        assert relative_error(found[label], expected) < 2.0**-40


def build(graph: TensorGraph, ring: int) -> Program:
    passes = {"select_parameters": FIXED_SCALES}
    return run_passes(graph, "build_slots", passes, ring_dimension=ring, insecure_toy=True)


def test_rotations_are_not_shared_yet() -> None:
    program = build(convolutions(), 256)
    graph = program.slot_graph()
    operations = Counter(node.op for node in graph)
    assert not {"hoist", "rotate_hoisted", "rotate_extended", "key_switch_down"} & set(operations)
    assert operations["rotate_sum"] > 0
    assert {node.layer for node in graph} <= set(program.graph.nodes)


def test_the_bias_comes_after_the_rescale() -> None:
    graph = build(quadratic(), 64).slot_graph()
    biases = [n for n in graph if n.op == "add_plain" and n.layer == "map"]
    assert biases
    assert all(graph[n.inputs[0]].op == "rescale" for n in biases)
