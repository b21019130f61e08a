"""Sumsets of independent parts are the offsets found by visiting every non-zero."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from fhecompile.ckks.diagonals import DiagonalMap
from fhecompile.ckks.layout import Digit, Layout, next_power_of_two
from fhecompile.ckks.linear_map import LinearMap, LinearTerm, dense
from fhecompile.ckks.offsets import IndexParts
from fhecompile.ir.tensor import Affine, Shape, TensorGraph
from tests.support import Network

DiagonalMaps = Callable[..., st.SearchStrategy[DiagonalMap]]
Rows = set[tuple[int, int, int]]

SLOTS = 64


def found_offsets(m: LinearMap, source: Layout, target: Layout) -> Rows:
    """As `IndexParts` finds them, modulo K."""
    rows = IndexParts.of(m, target.shape, source.shape).offsets(source, target)
    rows[:, 2] %= DiagonalMap(m, source, target, "real").modulus
    return set(map(tuple, rows.tolist()))


def exact_offsets(m: LinearMap, source: Layout, target: Layout) -> Rows:
    """By visiting every point of every term; weights that are zero count."""
    ones = [LinearTerm(np.ones_like(t.values), t.out_index, t.in_index) for t in m.terms]
    whole = LinearMap(tuple(ones), m.out_size, m.in_size)
    packing: Any = "direct" if target.is_complex else "real"
    return set(map(tuple, DiagonalMap(whole, source, target, packing).raw_offsets.tolist()))


@dataclass(frozen=True)
class Mapped:
    """A linear map between tensors of two shapes."""

    linear_map: LinearMap
    out_shape: Shape
    in_shape: Shape


def only_map(graph: TensorGraph) -> Mapped:
    (node,) = (n for n in graph if isinstance(n, Affine))
    return Mapped(node.maps[0], node.shape, graph[node.inputs[0]].shape)


@st.composite
def draw_convolution(draw: st.DrawFn) -> Mapped:
    """Any kernel, stride, padding, dilation and number of groups on an image of any sides."""
    pick = lambda low, high: draw(st.integers(low, high))  # noqa: E731
    groups = pick(1, 2)
    channels, filters = groups * pick(1, 2), groups * pick(1, 3)
    sides, dilations = [pick(2, 7), pick(2, 7)], [pick(1, 2), pick(1, 2)]
    pads = [pick(0, 2) for _ in range(4)]
    kernel = [
        pick(1, min(3, (n + pads[a] + pads[a + 2] - 1) // dilations[a] + 1))
        for a, n in enumerate(sides)
    ]
    random = np.random.default_rng(pick(0, 99))
    net = Network(x=(1, channels, *sides))
    weights = random.normal(size=(filters, channels // groups, *kernel))
    geometry = {"strides": [pick(1, 3), pick(1, 3)], "pads": pads, "dilations": dilations}
    return only_map(net.graph(net.op("Conv", "x", weights, group=groups, **geometry)))


@st.composite
def draw_gemm(draw: st.DrawFn) -> Mapped:
    shape = draw(st.lists(st.integers(1, 5), min_size=1, max_size=3))
    net = Network(x=(1, *shape))
    weights = np.random.default_rng(0).normal(size=(int(np.prod(shape)), draw(st.integers(1, 20))))
    return only_map(net.graph(net.op("Gemm", net.op("Flatten", "x"), weights)))


@st.composite
def draw_layout(draw: st.DrawFn, shape: Shape, is_complex: bool = False) -> Layout:
    """Bits of all axes in any order and with gaps; any of them may number ciphertexts: a lowest
    bit that does is a polyphase."""
    bits = [(axis, 1 << bit) for axis, n in enumerate(shape) for bit in range((n - 1).bit_length())]
    digits, slot, ciphertext = [], 1, 1
    apart = draw(st.sets(st.integers(0, max(0, len(bits) - 1)), max_size=3))
    for number, (axis, divisor) in enumerate(draw(st.permutations(bits))):
        if is_complex and number == 0:
            digits.append(Digit(axis, divisor, 2, "complex", 1))
            continue
        gap = draw(st.sampled_from([1, 1, 1, 2]))
        if number in apart or slot * gap >= SLOTS:
            digits.append(Digit(axis, divisor, 2, "ciphertext", ciphertext))
            ciphertext *= 2
        else:
            slot *= gap
            digits.append(Digit(axis, divisor, 2, "slot", slot))
            slot *= 2
    smallest = next_power_of_two(slot)
    powers = [p for p in (1 << k for k in range(SLOTS.bit_length())) if smallest <= p <= SLOTS]
    return Layout(shape, SLOTS, draw(st.sampled_from(powers)), tuple(digits))


@given(mapped=draw_convolution() | draw_gemm(), data=st.data())
def test_maps_of_networks(mapped: Mapped, data: st.DataObject) -> None:
    source = data.draw(draw_layout(mapped.in_shape))
    target = data.draw(draw_layout(mapped.out_shape, data.draw(st.booleans())))
    source.verify()
    target.verify()
    m = mapped.linear_map
    assert found_offsets(m, source, target) == exact_offsets(m, source, target)


@given(data=st.data())
def test_maps_that_are_not_separable(diagonal_maps: DiagonalMaps, data: st.DataObject) -> None:
    """Scattered points stay one part; zero weights only add offsets."""
    dm = data.draw(diagonal_maps())
    source, target = dm.source, dm.target
    kept_terms = [t for t in dm.linear_map.terms if np.any((t.out_index >= 0) & (t.in_index >= 0))]
    m = LinearMap(tuple(kept_terms), target.size, source.size)
    found = found_offsets(m, source, target)
    assert found == exact_offsets(m, source, target)
    kept = DiagonalMap(m, source, target, "direct" if target.is_complex else "real")
    assert found >= set(map(tuple, kept.raw_offsets.tolist()))


@given(first=draw_layout((2, 5)), second=draw_layout((2, 5)))
def test_layouts_do_not_disturb_each_other(first: Layout, second: Layout) -> None:
    """What is known of one pair of layouts is not taken for another, nor changed by its reader."""
    m = dense(np.ones((10, 10)))
    parts = IndexParts.of(m, (2, 5), (2, 5))
    for source, target in ((first, first), (first, second), (second, first)):
        expected = IndexParts.of(m, (2, 5), (2, 5)).offsets(source, target)
        parts.offsets(source, target)[:] = -1
        np.testing.assert_array_equal(parts.offsets(source, target), expected)


def parts_of(mapped: Mapped) -> list[list[tuple[list[int], list[int]]]]:
    """Per term the output and input axes of every part."""
    parts = IndexParts.of(mapped.linear_map, mapped.out_shape, mapped.in_shape)
    return [[(sorted(p.output), sorted(p.input)) for p in term] for term in parts.terms]


@pytest.mark.parametrize("padding", [0, 1])
def test_parts_of_a_convolution(padding: int) -> None:
    """Rows, columns, filters and channels are apart, with padding as well."""
    net = Network(x=(1, 3, 6, 7))
    conv = net.op("Conv", "x", np.ones((4, 3, 3, 2)), strides=[2, 1], pads=[padding] * 4)
    ((*parts,),) = parts_of(only_map(net.graph(conv)))
    assert sorted(parts) == [([], [1]), ([1], []), ([2], [2]), ([3], [3])]


def test_parts_of_a_shuffle() -> None:
    """A permutation ties all axes together."""
    order: NDArray[np.int32] = np.array([[5, 0, 3], [1, 4, 2]], np.int32)
    out = np.arange(6, dtype=np.int32).reshape(2, 3)
    m = LinearMap((LinearTerm(np.ones((1, 1)), out, order),), 6, 6)
    assert parts_of(Mapped(m, (2, 3), (2, 3))) == [[([0, 1], [0, 1])]]


def test_a_map_without_terms_has_no_offsets() -> None:
    layout = Layout((4,), SLOTS, 4, (Digit(0, 1, 4, "slot", 1),))
    found = IndexParts.of(LinearMap((), 4, 4), (4,), (4,)).offsets(layout, layout)
    assert found.shape == (0, 3)
