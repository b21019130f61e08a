"""Layouts a value may take: all of them hold it, and the choices that matter are among them."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fhecompile.ckks.layout import Digit, Layout, next_power_of_two
from fhecompile.errors import InternalError
from fhecompile.frontend import import_model
from fhecompile.ir.placement import free_bits, input_layouts, result_layouts
from fhecompile.ir.relations import relations
from fhecompile.ir.tensor import Affine, TensorGraph
from tests.graphs import Builder, matrix, run_passes
from tests.networks import RandomNetwork
from tests.support import Network


def inputs_of(graph: TensorGraph, slots: int) -> list[Layout]:
    return input_layouts(graph, graph.inputs()[0], slots)


def first_affine(graph: TensorGraph) -> Affine:
    return next(node for node in graph if isinstance(node, Affine))


def results_of(graph: TensorGraph, node: Affine, source: Layout, parts: int = 1) -> list[Layout]:
    followed = relations(node.maps[0], node.shape, graph[node.inputs[0]].shape)
    return result_layouts(node, followed, source, parts)


def check(layouts: Iterable[Layout], shape: tuple[int, ...], slots: int) -> None:
    """Every element has a place of its own, none is twice in the list."""
    layouts = list(layouts)
    assert layouts and len({str(layout) for layout in layouts}) == len(layouts)
    for layout in layouts:
        layout.verify()
        assert (layout.shape, layout.slots, layout.spill) == (shape, slots, 0)
        values = np.arange(1.0, layout.size + 1).reshape(shape)
        np.testing.assert_array_equal(layout.unpack(layout.pack(values)), values)


def convolution(
    *shape: int, strides: tuple[int, int] = (1, 1), filters: int = 1, kernel: int = 3
) -> TensorGraph:
    """A convolution that pads, so that a stride of 1 keeps rows and columns."""
    net = Network(x=(1, *shape))
    weights = np.ones((filters, shape[0], kernel, kernel))
    pads = [kernel // 2] * 4
    return net.graph(net.op("Conv", "x", weights, strides=list(strides), pads=pads, name="conv"))


def places(layout: Layout, axis: int) -> list[tuple[str, int]]:
    """Where the bits of an axis are, finest first."""
    found = []
    for d in sorted((d for d in layout.digits if d.axis == axis), key=lambda d: d.divisor):
        found += [(d.place, d.stride << bit) for bit in range((d.radix - 1).bit_length())]
    return found


# ---------------------------------------------------------------------------- any network


@st.composite
def chains(draw: st.DrawFn) -> TensorGraph:
    """Convolutions and fully connected layers behind one another."""
    network = RandomNetwork(draw, channels=4, side=9)
    for _ in range(network.pick(1, 3)):
        network.convolve()
        network.value = network.polynomial(network.value, 0)
    if draw(st.booleans()):
        network.connect()
    return import_model(network.model()).graph


@given(graph=chains(), slots=st.sampled_from([16, 64, 512]), data=st.data())
def test_every_layout_holds_every_element(
    graph: TensorGraph, slots: int, data: st.DataObject
) -> None:
    chosen: dict[str, Layout] = {}
    for node in graph:
        if not node.inputs:
            found = inputs_of(graph, slots)
            check(found, node.shape, slots)
        elif isinstance(node, Affine):
            parts = data.draw(st.sampled_from([1, 2])) if node.size > 1 else 1
            source = chosen[node.inputs[0]]
            found = results_of(graph, node, source, parts)
            check(found, node.shape, slots)
            counts = [layout.ciphertexts for layout in found]
            assert max(counts) < 2 * min(counts)
            found = [layout for layout in found if not layout.is_complex] or found
        else:
            found = [chosen[node.inputs[0]]]
            if found[0].shape != node.shape:
                return
        chosen[node.name] = data.draw(st.sampled_from(found))
        if chosen[node.name].is_complex:
            return


# ---------------------------------------------------------------------------- inputs


def test_the_plainest_input_comes_first() -> None:
    first, *_ = inputs_of(convolution(1, 8, 8), 128)
    assert places(first, 3) == [("slot", 1), ("slot", 2), ("slot", 4)]
    assert places(first, 2) == [("slot", 8), ("slot", 16), ("slot", 32)]
    assert (first.ciphertexts, first.period) == (1, 64)


@pytest.mark.parametrize("axis", [2, 3])
def test_parity_of_rows_or_columns_may_number_ciphertexts(axis: int) -> None:
    found = [
        layout
        for layout in inputs_of(convolution(1, 8, 8), 128)
        if places(layout, axis)[0] == ("ciphertext", 1)
    ]
    assert found
    for layout in found:
        assert layout.ciphertexts == 2
        ciphertext = layout.positions[0].reshape(8, 8)
        expected = np.moveaxis(np.tile(np.arange(8) % 2, (8, 1)), 1, axis - 2)
        np.testing.assert_array_equal(ciphertext, expected)


@pytest.mark.parametrize("side", [2, 7])
def test_no_parity_of_odd_or_short_axes(side: int) -> None:
    found = inputs_of(convolution(1, side, side, kernel=1), 128)
    assert {layout.ciphertexts for layout in found} == {1}


@pytest.mark.parametrize(("slots", "ciphertexts"), [(32, 4), (64, 2), (128, 1), (256, 1)])
def test_an_input_nothing_follows_takes_all_slots(slots: int, ciphertexts: int) -> None:
    b = Builder()
    b.input("x", 1, 100)
    b.affine("map", {"x": matrix(10, 100)})
    (layout,) = inputs_of(b.output("map"), slots)
    assert layout.ciphertexts == ciphertexts
    assert layout.period == min(slots, 128)


# ---------------------------------------------------------------------------- results


def test_a_stride_leaves_a_gap() -> None:
    graph = convolution(1, 8, 8, strides=(2, 2))
    first, *_ = inputs_of(graph, 128)
    (layout, *_) = results_of(graph, first_affine(graph), first)
    assert places(layout, 3) == [("slot", 2), ("slot", 4)]
    assert places(layout, 2) == [("slot", 16), ("slot", 32)]
    assert free_bits(layout) == [1, 8]


def test_a_stride_of_two_on_parities_leaves_no_gap() -> None:
    """The even columns are a ciphertext of their own, and what is made from them is dense."""
    graph = convolution(1, 8, 8, strides=(1, 2))
    polyphase = [x for x in inputs_of(graph, 128) if places(x, 3)[0][0] == "ciphertext"]
    assert polyphase
    for source in polyphase:
        layout = results_of(graph, first_affine(graph), source)[0]
        assert layout.ciphertexts == 1
        assert free_bits(layout) == []
        assert places(layout, 3) == places(source, 3)[1:]


@pytest.mark.parametrize(("filters", "ciphertexts"), [(2, 1), (8, 1), (16, 2), (20, 3)])
def test_fewest_ciphertexts(filters: int, ciphertexts: int) -> None:
    """16 positions are left of 64, so that 8 filters fit a ciphertext of 128 slots."""
    graph = convolution(1, 8, 8, strides=(2, 2), filters=filters)
    for source in inputs_of(graph, 128):
        found = results_of(graph, first_affine(graph), source)
        assert {layout.ciphertexts for layout in found} == {ciphertexts}


def test_which_bits_stay_free_is_a_choice() -> None:
    """Two filters may fill either gap of the strides, or the slots above."""
    graph = convolution(1, 8, 8, strides=(2, 2), filters=2)
    found = results_of(graph, first_affine(graph), inputs_of(graph, 128)[0])
    assert [places(layout, 1) for layout in found] == [
        [("slot", 64)],
        [("slot", 8)],
        [("slot", 1)],
    ]
    assert [(layout.period, free_bits(layout)) for layout in found] == [
        (128, [1, 8]),
        (64, [1]),
        (64, [8]),
    ]


@pytest.mark.parametrize(("size", "parts"), [(1, 1), (20, 1), (20, 2), (100, 1), (100, 2)])
def test_features(size: int, parts: int) -> None:
    """A dense map follows nothing; its result takes the fewest ciphertexts."""
    b = Builder()
    b.input("x", 1, 40)
    b.affine("map", {"x": matrix(size, 40)})
    graph = b.output("map")
    for source in inputs_of(graph, 32):
        for layout in results_of(graph, first_affine(graph), source, parts):
            assert layout.ciphertexts == math.ceil(next_power_of_two(size) / 32 / parts)
            assert layout.is_complex == (parts == 2)


def test_branches_apart_merge_again() -> None:
    """Patches that the input keeps in ciphertexts of their own come together where strides have
    left slots."""
    random = np.random.default_rng(0)
    net = Network(x=(1, 2, 8, 8))
    features = []
    for top, left in ((0, 0), (0, 4), (4, 0), (4, 4)):
        starts, ends = np.array([top, left]), np.array([top + 4, left + 4])
        patch = net.op("Slice", "x", starts, ends, np.array([2, 3]))
        patch = net.op("Conv", patch, random.normal(size=(4, 2, 3, 3)), pads=[1] * 4)
        patch = net.op("Mul", patch, patch)
        patch = net.op("Conv", patch, random.normal(size=(4, 4, 2, 2)), strides=[2, 2])
        features.append(net.op("Flatten", net.op("Mul", patch, patch)))
    joined = net.op("Concat", *features, axis=1)
    model = net.graph(net.op("Gemm", joined, random.normal(size=(64, 3))))
    graph = run_passes(model, "pack_branches", ring_dimension=128, insecure_toy=True).graph
    first, second, *_ = (node for node in graph if isinstance(node, Affine))
    assert first.shape[0] == second.shape[0] == 4
    merged = 0
    for source in inputs_of(graph, 64):
        for layout in results_of(graph, first, source):
            apart = {d.stride for d in layout.digits if d.axis == 0 and d.place == "ciphertext"}
            for after in results_of(graph, second, layout):
                assert after.ciphertexts == 1
                assert all(place == "slot" for place, _ in places(after, 0))
                merged += bool(apart)
    assert merged


# ---------------------------------------------------------------------------- spills


@given(bits=st.permutations(range(5)), count=st.integers(0, 5), period=st.integers(0, 1))
def test_spills_only_on_free_bits(bits: list[int], count: int, period: int) -> None:
    """Free are the bits below the period that no digit has; others hold elements."""
    digits = tuple(Digit(k, 1, 2, "slot", 1 << bit) for k, bit in enumerate(bits[:count]))
    top = max(bits[:count], default=-1) + 1 + period
    layout = Layout((2,) * count, 64, 1 << top, digits)
    free = free_bits(layout)
    assert free == [1 << b for b in range(top) if b not in bits[:count]]
    for bit in (1 << b for b in range(top)):
        spilled = replace(layout, spill=bit)
        if bit in free:
            spilled.verify()
        else:
            with pytest.raises(InternalError, match="has elements in the positions of its spill"):
                spilled.verify()
