"""What holds of the layouts of a whole network, whichever the search finds cheapest."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from fhecompile.ckks.layout import Layout
from fhecompile.ckks.noise import PEAK_TO_RMS
from fhecompile.ckks.slot_mask import mask_factor
from fhecompile.ir.placement import input_layouts
from fhecompile.ir.program import Program
from fhecompile.ir.scales import ScalePlan, mask_scales
from fhecompile.ir.tensor import TensorGraph
from passes.assign_layouts import AssignLayouts, Layouts, _Search, _State
from passes.select_parameters import ScaleChoice
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


def program_of(graph: TensorGraph, last: str, slots: int, options: str = "") -> Program:
    passes = {"assign_layouts": options, "select_parameters": FIXED_SCALES}
    return run_passes(graph, last, passes, ring_dimension=2 * slots, insecure_toy=True)


def assign(graph: TensorGraph, slots: int, options: str = "") -> Layouts:
    return program_of(graph, "assign_layouts", slots, options).facts[Layouts]


def places(layout: Layout, axis: int) -> list[tuple[str, int]]:
    """Where the bits of an axis are, finest first."""
    digits = sorted((d for d in layout.digits if d.axis == axis), key=lambda d: d.divisor)
    return [(d.place, d.stride << bit) for d in digits for bit in range((d.radix - 1).bit_length())]


@pytest.mark.parametrize("options", ["", "spill=false", "beam=1", "complex=false;beam=8"])
@pytest.mark.parametrize("slots", [64, 128, 1024])
def test_rows_and_columns_stay_where_they_are(slots: int, options: str) -> None:
    """A stride of 2 drops the finest bit; those in slots do not move, those in the number of the
    ciphertext may come into slots that have become free."""
    layout = assign(strided_network(), slots, options).layout
    for before, after in (("x", "conv1"), ("conv1", "conv2")):
        for axis in (2, 3):
            kept = places(layout[before], axis)[1:]
            found = places(layout[after], axis)
            assert len(found) == len(kept)
            for (place, stride), now in zip(kept, found, strict=True):
                assert place == "ciphertext" or now == (place, stride)


def test_no_more_ciphertexts_than_needed() -> None:
    layout = assign(strided_network(), 64).layout
    assert layout["conv1"].ciphertexts == layout["conv2"].ciphertexts == 1


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
    found = assign(strided_network(), 128, "complex=false")
    assert not any(layout.is_complex for layout in found.layout.values())
    assert set(found.packing.values()) == {"real"}


def test_packings_suit_their_layouts() -> None:
    for slots in (32, 64, 512):
        found = assign(residual_network(), slots)
        for name, packing in found.packing.items():
            layout = found.layout[name]
            assert (packing == "direct") == layout.is_complex
            assert packing != "pair" or layout.ciphertexts % 2 == 0


# ---------------------------------------------------------------------------- spills and masks


def residual_network() -> TensorGraph:
    """A stride leaves every second slot empty before a block whose input is added to its output."""
    random = np.random.default_rng(2)
    net = Network(x=(1, 2, 7, 8))
    x = net.op("Conv", "x", random.normal(size=(2, 2, 2, 2)) / 3, strides=[1, 2], name="first")
    z = net.op("Mul", x, x, name="square1")
    z = net.op("Conv", z, random.normal(size=(2, 2, 3, 3)) / 4, pads=[1] * 4)
    x = net.op("Add", z, x, name="block")
    x = net.op("Mul", x, x, name="square2")
    net.op("Conv", x, random.normal(size=(3, 2, 3, 1)) / 3, strides=[2, 1], name="last")
    return net.graph("last")


def masked_network() -> TensorGraph:
    """Behind a stride, two convolutions of many products: a value between them is worth a mask."""
    random = np.random.default_rng(2)
    net = Network(x=(1, 1, 8, 8))
    x = net.op("Conv", "x", random.normal(size=(2, 1, 2, 2)) / 2, strides=[2, 2], name="first")
    x = net.op("Mul", x, x, name="square1")
    x = net.op("Conv", x, random.normal(size=(2, 2, 5, 5)) / 12, pads=[2] * 4, name="second")
    x = net.op("Mul", x, x, name="square2")
    net.op("Conv", x, random.normal(size=(2, 2, 5, 5)) / 12, pads=[2] * 4, name="last")
    return net.graph("last")


@pytest.mark.parametrize("slots", [32, 128, 512])
@pytest.mark.parametrize("network", [strided_network, residual_network, masked_network])
def test_no_spills_if_turned_off(network: Callable[[], TensorGraph], slots: int) -> None:
    graph = network()
    found = assign(graph, slots, "spill=false")
    assert not any(layout.spill for layout in found.layout.values())
    assert found.mask_bits(graph) == {}


@pytest.mark.parametrize("slots", [16, 128, 512])
def test_what_a_client_reads_is_never_spilled(slots: int) -> None:
    random = np.random.default_rng(0)
    net = Network(x=(1, 2, 6, 8))
    conv = net.op("Conv", "x", random.normal(size=(2, 2, 2, 2)), strides=[1, 2])
    square = net.op("Mul", conv, conv)
    more = net.op("Conv", square, random.normal(size=(2, 2, 3, 3)), pads=[1] * 4)
    graph = net.graph(square, net.op("Mul", more, more))
    layout = assign(graph, slots).layout
    for node in (*graph.inputs(), *graph.outputs()):
        assert layout[node.name].spill == 0


def test_what_is_summed_up_is_never_spilled() -> None:
    """Sums over all slots would count what stands in the holes."""
    b = Builder()
    b.input("x", 1, 40)
    b.affine("map", {"x": matrix(20, 40)})
    b.poly("square", "map", 0.0, 0.0, 1.0)
    b.affine("mean", {"square": np.full((1, 20), 1 / 20)})
    graph = b.output("mean")
    search = _Search(AssignLayouts(), program_of(graph, "assign_levels", 128))
    state = _State(layout={"x": search._candidates(graph["x"], _State())[0]})
    assert not any(layout.spill for layout in search._candidates(graph["map"], state))


@pytest.mark.parametrize("slots", [256, 512])
def test_masks_change_scales_and_the_predicted_error(slots: int) -> None:
    before = program_of(masked_network(), "assign_levels", slots)
    result = AssignLayouts().run(before)
    after, layouts = result.program, result.program.facts[Layouts]
    masks = layouts.mask_bits(after.graph)
    assert set(masks) == {"last"}
    assert layouts.layout["square2"].spill == 1 and layouts.copies["last"] == (1,)
    assert any("last: " in remark and " copy 1 " in remark for remark in result.remarks)
    assert masks["last"] == (math.log2(mask_factor(layouts.mask_order)),)
    expected = mask_scales(before.graph, before.facts[ScalePlan], masks)
    assert after.facts[ScalePlan].scale == expected.scale
    assert after.facts[ScalePlan].constants == expected.constants
    assert (
        after.facts[ScaleChoice].predicted_error > 1.5 * before.facts[ScaleChoice].predicted_error
    )


def test_without_masks_scales_stay() -> None:
    before = program_of(masked_network(), "assign_levels", 256)
    after = AssignLayouts(spill=False).run(before).program
    assert after.facts[ScalePlan] is before.facts[ScalePlan]
    assert after.facts[ScaleChoice] is before.facts[ScaleChoice]


def test_no_masks_where_the_precision_does_not_allow_them() -> None:
    """Nearly the error that is predicted without masks is asked for."""
    before = program_of(masked_network(), "assign_levels", 256)
    choice = before.facts[ScaleChoice]
    bits = math.log2(choice.output_range / (PEAK_TO_RMS * choice.predicted_error))
    for precision, masked in ((bits - 6, True), (bits - 0.5, False)):
        allowed = choice.output_range * 2.0**-precision
        given = before.having(replace(choice, allowed_error=allowed))
        options = replace(before.options, precision_bits=precision)
        found = AssignLayouts().run(replace(given, options=options)).program
        assert bool(found.facts[Layouts].mask_bits(found.graph)) == masked
        assert PEAK_TO_RMS * found.facts[ScaleChoice].predicted_error <= allowed


# ---------------------------------------------------------------------------- the search


def test_values_that_share_a_layout_may_differ_in_shape() -> None:
    """Its axes are those of the first of them: here an image behind which everything is flat."""
    net = Network(x=(1, 1, 2, 3))
    x = net.op("Flatten", "x")
    square = net.batch_norm(net.op("Mul", x, x), np.linspace(0.5, 1.0, 6), np.zeros(6))
    graph = net.graph(net.op("Add", square, net.batch_norm(x, np.ones(6) / 3, np.ones(6))))
    program = program_of(graph, "assign_layouts", 32)
    found = program.facts[Layouts].layout
    assert {node.shape for node in program.graph} == {(1, 1, 2, 3), (1, 6)}
    assert {layout.shape for layout in found.values()} == {(1, 1, 2, 3)}


@pytest.mark.parametrize("slots", [32, 256])
@pytest.mark.parametrize("network", [residual_network, masked_network])
def test_the_widest_search_is_the_cheapest(network: Callable[[], TensorGraph], slots: int) -> None:
    """With a beam that drops nothing, more choices never cost more."""
    program = program_of(network(), "assign_levels", slots)

    def seconds(options: AssignLayouts) -> float:
        found = _Search(options, program).run().seconds
        assert math.isfinite(found)
        return found

    everything = 10**6
    best = seconds(AssignLayouts(beam=everything))
    assert best <= seconds(AssignLayouts(spill=False, beam=everything))
    assert best <= seconds(AssignLayouts(complex=False, beam=everything))
    assert best <= seconds(AssignLayouts(beam=1))
    assert seconds(AssignLayouts()) <= 1.2 * best


def test_layouts_are_repeatable() -> None:
    first, again = (assign(residual_network(), 256) for _ in range(2))
    assert first.layout == again.layout
    assert (first.packing, first.copies) == (again.packing, again.copies)


@pytest.mark.parametrize("options", ["", "complex=false", "spill=false"])
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


def test_every_input_is_placed_for_what_reads_it() -> None:
    """Two inputs with the same layers behind them get the layout that each gets alone."""
    random = np.random.default_rng(0)
    weights = random.normal(size=(4, 2, 3, 3)), random.normal(size=(8, 4, 3, 3))

    def layers(net: Network, x: str) -> str:
        for w in weights:
            x = net.op("Conv", x, w, strides=[2, 2], pads=[1] * 4)
            x = net.op("Mul", x, x)
        return str(net.op("GlobalAveragePool", x))

    alone = Network(x=(1, 2, 16, 16))
    expected = assign(alone.graph(layers(alone, "x")), 256)
    both = Network(x=(1, 2, 16, 16), y=(1, 2, 16, 16))
    graph = both.graph(layers(both, "x"), layers(both, "y"))
    found = assign(graph, 256)
    assert found.layout["x"] == found.layout["y"] == expected.layout["x"]
    plain = input_layouts(graph, graph.inputs()[0], 256)[0]
    assert expected.layout["x"] != plain  # or the first choice would do
