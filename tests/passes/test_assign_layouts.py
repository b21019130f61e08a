"""Rows and columns stay where they are, channels fill what strides leave, and nothing collides."""

from __future__ import annotations

import numpy as np
import pytest

from fhecompile.ckks.layout import Layout
from fhecompile.ir.tensor import TensorGraph
from passes.assign_layouts import Layouts
from tests.graphs import FIXED_SCALES, Builder, matrix, run_passes
from tests.support import Network


def strided_network() -> TensorGraph:
    """Two convolutions of stride 2 with squares, and a dense layer."""
    random = np.random.default_rng(0)
    net = Network(x=(1, 2, 8, 8))
    geometry = {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}
    net.op("Conv", "x", random.normal(size=(4, 2, 3, 3)), name="conv1", **geometry)
    net.op("Mul", "conv1", "conv1", name="square1")
    net.op("Conv", "square1", random.normal(size=(8, 4, 3, 3)), name="conv2", **geometry)
    net.op("Mul", "conv2", "conv2", name="square2")
    net.op("Gemm", net.op("Flatten", "square2"), random.normal(size=(32, 6)), name="gemm")
    return net.graph("gemm")


def assign(graph: TensorGraph, slots: int, options: str = "") -> Layouts:
    program = run_passes(
        graph,
        "assign_layouts",
        {"assign_layouts": options, "select_parameters": FIXED_SCALES},
        ring_dimension=2 * slots,
        insecure_toy=True,
    )
    return program.facts[Layouts]


def strides(layout: Layout, axis: int, place: str = "slot") -> list[int]:
    """Distance of neighbours along the bits of an axis, finest first."""
    digits = sorted((d for d in layout.digits if d.axis == axis), key=lambda d: d.divisor)
    return [d.stride << bit for d in digits if d.place == place for bit in range(bits(d.radix))]


def bits(radix: int) -> int:
    return (radix - 1).bit_length()


@pytest.mark.parametrize("slots", [64, 128, 1024])
def test_strided_convolutions_leave_rows_and_columns_where_they_are(slots: int) -> None:
    layout = assign(strided_network(), slots).layout
    x, first, second = layout["x"], layout["conv1"], layout["conv2"]
    for axis in (2, 3):
        assert strides(first, axis) == strides(x, axis)[1:]
        assert strides(second, axis) == strides(x, axis)[2:]


def test_channels_fill_the_gaps_when_nothing_is_free_above() -> None:
    layout = assign(strided_network(), 64).layout
    vacated = {s for axis in (2, 3) for s in strides(layout["x"], axis)[:1]}
    assert set(strides(layout["conv1"], 1)) == vacated
    vacated |= {s for axis in (2, 3) for s in strides(layout["conv1"], axis)[:1]}
    assert set(strides(layout["conv2"], 1)) < vacated
    assert layout["conv1"].ciphertexts == layout["conv2"].ciphertexts == 1


def test_channels_go_above_first() -> None:
    layout = assign(strided_network(), 256).layout
    assert strides(layout["conv1"], 1) == [64, 128]
    assert layout["x"].period == 128


def test_elementwise_neighbours_share_a_layout() -> None:
    layout = assign(strided_network(), 128).layout
    assert layout["conv1"] == layout["square1"]
    assert layout["conv2"] == layout["square2"]


@pytest.mark.parametrize(("slots", "ciphertexts"), [(32, 4), (64, 2), (128, 1)])
def test_tensors_over_several_ciphertexts(slots: int, ciphertexts: int) -> None:
    b = Builder()
    b.input("x", 1, 100)
    b.affine("map", {"x": matrix(100, 100)})
    b.poly("square", "map", 0.0, 0.0, 1.0)
    layout = assign(b.output("square"), slots).layout
    assert layout["x"].ciphertexts == layout["square"].ciphertexts == ciphertexts


def test_what_only_a_client_reads_is_complex() -> None:
    found = assign(strided_network(), 128)
    assert found.layout["gemm"].is_complex
    assert found.packing["gemm"] == "direct"
    assert not any(found.layout[name].is_complex for name in ("x", "conv1", "conv2"))


def test_an_output_that_is_also_computed_with_is_real() -> None:
    b = Builder()
    b.input("x", 1, 4)
    b.affine("map", {"x": matrix(4, 4)})
    b.poly("square", "map", 0.0, 0.0, 1.0)
    layout = assign(b.output("map", "square"), 32).layout
    assert not layout["map"].is_complex


def test_without_complex_packing() -> None:
    found = assign(strided_network(), 128, "complex=false;fold_above=0")
    assert not any(layout.is_complex for layout in found.layout.values())
    assert set(found.packing.values()) == {"real"}


def test_packing_of_partial_sums() -> None:
    b = Builder()
    b.input("x", 1, 64)
    b.affine("one", {"x": matrix(32, 64)})
    b.poly("square1", "one", 0.0, 0.0, 1.0)
    b.affine("two", {"square1": matrix(64, 32)})
    b.poly("square2", "two", 0.0, 0.0, 1.0)
    b.affine("mean", {"square2": np.full((1, 64), 1 / 64)})
    graph = b.output("mean")
    packing = assign(graph, 32, "fold_above=0").packing
    assert packing == {"one": "fold", "two": "pair", "mean": "real"}
    assert set(assign(graph, 32, "fold_above=1000").packing.values()) == {"real"}


@pytest.mark.parametrize("options", ["", "complex=false"])
@pytest.mark.parametrize("slots", [16, 32, 128, 1024])
def test_every_layout_holds_its_tensor(slots: int, options: str) -> None:
    random = np.random.default_rng(0)
    net = Network(x=(1, 3, 7, 5))
    conv = net.op("Conv", "x", random.normal(size=(5, 3, 2, 3)), strides=[2, 1], pads=[1, 0, 0, 1])
    square = net.op("Mul", conv, conv)
    pool = net.op("AveragePool", square, kernel_shape=[2, 2], strides=[2, 2])
    square = net.op("Mul", pool, pool)
    graph = net.graph(square, net.op("Gemm", net.op("Flatten", square), matrix(20, 7)))
    for name, layout in assign(graph, slots, options).layout.items():
        layout.verify()
        assert layout.slots == slots
        assert layout.shape == graph[name].shape or layout.size == graph[name].size
        values = random.normal(size=(2, *layout.shape))
        packed = layout.pack(values)
        np.testing.assert_array_equal(layout.unpack(packed), values)
        np.testing.assert_array_equal(np.roll(packed, layout.period, axis=-1), packed)
