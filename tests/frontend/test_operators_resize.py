"""Resize and Upsample against ONNX Runtime, and ONNX's own evaluator where that differs."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from onnx import helper
from onnx.reference import ReferenceEvaluator

from fhecompile.frontend import import_model
from fhecompile.frontend.reference import run_reference_samples
from fhecompile.ir.evaluate import evaluate

NEAREST = ["round_prefer_floor", "round_prefer_ceil", "floor", "ceil"]
COORDINATES = ["half_pixel", "pytorch_half_pixel", "asymmetric", "align_corners"]
SCALES = [0.25, 0.5, 0.6, 0.75, 1.0, 1.25, 1.5, 2.0, 2.6, 3.0]


def evaluator(blob, samples):
    """ONNX's evaluator in the place of ONNX Runtime."""
    session = ReferenceEvaluator(onnx.load_model_from_string(blob))
    runs = [session.run(None, {"x": x}) for x in samples["x"]]
    return {"y": np.stack([run[0] for run in runs])}


def like_one_of_both(blob, shape):
    """ONNX Runtime and ONNX's evaluator differ from each other in what `test_scales` says."""
    samples = {"x": np.random.default_rng(0).uniform(-2, 2, (1, *shape)).astype(np.float32)}
    found = evaluate(import_model(blob).graph, samples)["y"]
    expected = [run(blob, samples)["y"] for run in (run_reference_samples, evaluator)]
    errors = [np.abs(found - y).max() for y in expected if y.shape == found.shape]
    assert min(errors) <= 1e-5


def resize(**attributes):
    """A Resize by scales; the next one by sizes."""
    return helper.make_node("Resize", ["x", "", "scales"], ["y"], **attributes)


def resize_to(**attributes):
    return helper.make_node("Resize", ["x", "", "", "sizes"], ["y"], **attributes)


MODES = [
    *({"mode": "nearest", "nearest_mode": rounding} for rounding in NEAREST),
    {"mode": "nearest"},
    {"mode": "linear"},
    {"mode": "cubic"},
    {"mode": "cubic", "exclude_outside": 1, "cubic_coeff_a": -0.5},
]
EDGE = st.tuples(st.integers(1, 7), st.integers(1, 9))


@settings(max_examples=60)
@given(
    edges=st.tuples(EDGE, EDGE),
    coordinates=st.sampled_from(COORDINATES),
    mode=st.sampled_from(MODES),
)
def test_sizes(agrees, edges, coordinates, mode):
    node = resize_to(coordinate_transformation_mode=coordinates, **mode)
    shape, sizes = zip(*edges, strict=True)
    agrees(node, {"x": (1, 2, *shape)}, {"sizes": np.array([1, 2, *sizes])}, opset=19)


@settings(max_examples=60)
@given(
    edges=st.lists(st.tuples(st.integers(1, 7), st.sampled_from(SCALES)), min_size=2, max_size=2),
    coordinates=st.sampled_from([*COORDINATES, "half_pixel_symmetric"]),
    mode=st.sampled_from(MODES),
)
def test_scales(build, edges, coordinates, mode):
    """As one of the two has it; they differ from each other where

    a place falls half-way (one is exact, the other single precision), a scale other than 1 leaves
    the length as it is (ONNX Runtime copies), or one element is left (ONNX's evaluator is not as
    ONNX's text).
    """
    shape, scales = zip(*edges, strict=True)
    exact = [n * s for n, s in edges]
    assume(min(exact) >= 1)
    assume(coordinates != "align_corners" or all(e == int(e) for e in exact))
    node = resize(coordinate_transformation_mode=coordinates, **mode)
    constants = {"scales": np.array([1.0, 1.0, *scales])}
    like_one_of_both(build(node, {"x": (1, 2, *shape)}, constants, opset=19), (1, 2, *shape))


@settings(max_examples=40)
@given(
    sizes=st.lists(st.integers(1, 6), min_size=2, max_size=2),
    roi=st.lists(st.integers(-8, 24).map(lambda n: n / 16), min_size=4, max_size=4),
    mode=st.sampled_from(["nearest", "linear"]),
)
def test_crop(build, sizes, roi, mode):
    """ONNX Runtime takes all of an axis whose length stays as it is."""
    node = helper.make_node(
        "Resize", ["x", "roi", "", "sizes"], ["y"], mode=mode, extrapolation_value=2.5,
        coordinate_transformation_mode="tf_crop_and_resize",
    )  # fmt: skip
    constants = {
        "roi": np.array([0.0, 0.0, *roi[:2], 1.0, 1.0, *roi[2:]]),
        "sizes": np.array([1, 2, *sizes]),
    }
    like_one_of_both(build(node, {"x": (1, 2, 4, 5)}, constants, opset=19), (1, 2, 4, 5))


def test_a_row_outside_of_what_is_cropped(agrees):
    node = helper.make_node(
        "Resize", ["x", "roi", "", "sizes"], ["y"], mode="linear", extrapolation_value=2.5,
        coordinate_transformation_mode="tf_crop_and_resize",
    )  # fmt: skip
    constants = {"roi": np.array([0.0, 2.0, 1.0, 3.0]), "sizes": np.array([2, 3])}
    agrees(node, {"x": (2, 3)}, constants, opset=19, reference=evaluator)


@settings(max_examples=40)
@given(
    sizes=st.lists(st.integers(1, 9), min_size=2, max_size=2),
    mode=st.sampled_from(["linear", "cubic"]),
    exclude=st.booleans(),
)
def test_antialias(agrees, sizes, mode, exclude):
    """ONNX Runtime rounds the result like an image library; ONNX's evaluator is the reference."""
    node = resize_to(mode=mode, antialias=1, exclude_outside=exclude)
    constants = {"sizes": np.array([1, 1, *sizes])}
    agrees(node, {"x": (1, 1, 7, 6)}, constants, opset=18, tolerance=1e-5, reference=evaluator)


@pytest.mark.parametrize("policy", ["stretch", "not_larger", "not_smaller"])
@pytest.mark.parametrize("axes", [[2, 3], [3, 2]])
def test_axes_and_aspect_ratio(agrees, policy, axes):
    node = resize_to(mode="linear", axes=axes, keep_aspect_ratio_policy=policy)
    sizes = {"sizes": np.array([7, 8])}
    graph = agrees(node, {"x": (1, 2, 4, 6)}, sizes, opset=19)

    def the_same(_, samples):  # both references fail on negative axes
        return evaluate(graph, samples)

    axes = [a - 4 for a in axes]
    node = resize_to(mode="linear", axes=axes, keep_aspect_ratio_policy=policy)
    agrees(node, {"x": (1, 2, 4, 6)}, sizes, opset=19, tolerance=0, reference=the_same)


@pytest.mark.parametrize("opset", [10, 11, 13, 18])
@pytest.mark.parametrize("mode", ["nearest", "linear"])
def test_every_definition(agrees, opset, mode):
    operands = ["x", "scales"] if opset == 10 else ["x", "roi", "scales"]
    node = helper.make_node("Resize", operands, ["y"], mode=mode)
    constants = {"scales": np.array([1.0, 1.0, 2.0, 1.5]), "roi": np.zeros(0)}
    agrees(node, {"x": (1, 2, 3, 4)}, {n: constants[n] for n in operands[1:]}, opset=opset)


def test_half_pixels_of_tensorflow(agrees):
    mode = "tf_half_pixel_for_nn"
    node = helper.make_node(
        "Resize", ["x", "r", "scales"], ["y"], mode="nearest", coordinate_transformation_mode=mode
    )
    constants = {"scales": np.array([1.0, 1.0, 2.0, 1.5]), "r": np.zeros(0)}
    agrees(node, {"x": (1, 2, 3, 4)}, constants, opset=11)


@pytest.mark.parametrize("mode", ["nearest", "linear"])
def test_upsample(agrees, mode):
    scales = [1.0, 1.0, 2.0, 3.0]
    node = helper.make_node("Upsample", ["x", "s"], ["y"], mode=mode)
    agrees(node, {"x": (1, 2, 3, 4)}, {"s": np.array(scales)}, opset=9)
    node = helper.make_node("Upsample", ["x"], ["y"], mode=mode, scales=scales)
    agrees(node, {"x": (1, 2, 3, 4)}, opset=7)


def test_three_axes(agrees):
    node = resize(mode="linear", coordinate_transformation_mode="align_corners")
    agrees(node, {"x": (1, 2, 3, 4, 2)}, {"scales": np.array([1.0, 1.0, 2.0, 2.0, 3.0])})


def test_an_unchanged_size_makes_no_node(agrees):
    graph = agrees(resize(mode="linear"), {"x": (1, 2, 3, 4)}, {"scales": np.ones(4)})
    assert [n.op for n in graph] == ["input", "output"]


def test_weights_are_stored_once_for_all_channels(agrees):
    node, scales = resize(mode="linear"), {"scales": np.array([1.0, 1.0, 2.0, 2.0])}
    (term,) = agrees(node, {"x": (1, 8, 4, 4)}, scales)["y"].maps[0].terms
    assert term.values.size == 8 * 8 * 2 * 2
    (term,) = agrees(resize(mode="nearest"), {"x": (1, 8, 4, 4)}, scales)["y"].maps[0].terms
    assert term.values.size == 1
