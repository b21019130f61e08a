"""Operators taken column by column, against ONNX Runtime where it has them."""

from __future__ import annotations

import itertools

import numpy as np
import onnx
import pytest
from onnx import helper
from onnx.reference import ReferenceEvaluator

from fhecompile.errors import FheCompileError
from fhecompile.frontend import import_model

RANDOM = np.random.default_rng(6)
TOLERANCE = 1e-5


def evaluator(blob, samples):
    session = ReferenceEvaluator(onnx.load_model_from_string(blob))
    ((name, values),) = samples.items()
    return {"y": np.stack([session.run(None, {name: x})[0] for x in values])}


def node(op, operands, **attributes):
    return helper.make_node(op, operands.split(), ["y"], **attributes)


@pytest.mark.parametrize(
    ("mode", "padding"),
    [
        *itertools.product(["bilinear", "nearest", "bicubic"], ["zeros", "reflection"]),
        ("bilinear", "border"),
        ("nearest", "border"),
    ],
)
def test_grid_sample(agrees, mode, padding):
    grid = {"g": RANDOM.uniform(-1.2, 1.2, (1, 2, 3, 2))}
    old = node("GridSample", "x g", mode=mode, padding_mode=padding, align_corners=1)
    agrees(old, {"x": (1, 2, 4, 3)}, grid, opset=16, tolerance=TOLERANCE)
    mode = mode.removeprefix("bi")
    new = node("GridSample", "x g", mode=mode, padding_mode=padding)
    agrees(new, {"x": (1, 2, 4, 3)}, grid, opset=20, tolerance=TOLERANCE)


def test_grid_sample_by_default(agrees):
    grid = {"g": RANDOM.uniform(-1.2, 1.2, (1, 2, 3, 2))}
    for opset in (16, 20):
        agrees(node("GridSample", "x g"), {"x": (1, 2, 4, 3)}, grid, opset=opset)


def test_rotary_embedding(agrees):
    angles = RANDOM.normal(size=(1, 3, 2))
    constants = {"c": np.cos(angles), "s": np.sin(angles)}
    rotated = node("RotaryEmbedding", "x c s")
    agrees(rotated, {"x": (1, 2, 3, 4)}, constants, opset=23, reference=evaluator)


def test_short_fourier_transform(agrees):
    constants = {"n": np.array(4), "w": RANDOM.uniform(size=8)}
    agrees(node("STFT", "x n w"), {"x": (1, 16, 1)}, constants, opset=17)


@pytest.mark.parametrize("inverse", [0, 1])
def test_fourier_transform(agrees, inverse):
    transform = node("DFT", "x", axis=1, inverse=inverse)
    agrees(transform, {"x": (1, 6, 2)}, opset=17, tolerance=TOLERANCE)
    graph = agrees(node("DFT", "x", axis=1), {"x": (1, 6, 1)}, opset=17, tolerance=TOLERANCE)
    # The sines of k pi are not stored.
    assert graph["y"].maps[0].multiply_accumulates() == 6 * 6 + 24 - 8


def test_columns_to_image(agrees):
    constants = {"s": np.array([4, 5]), "b": np.array([2, 3])}
    agrees(node("Col2Im", "x s b"), {"x": (1, 6, 9)}, constants, opset=18)


def test_unpooling(agrees):
    constants = {"i": np.array([[[[0, 3], [10, 15]]]])}
    agrees(
        node("MaxUnpool", "x i", kernel_shape=[2, 2], strides=[2, 2]),
        {"x": (1, 1, 2, 2)}, constants, opset=11, tolerance=TOLERANCE,
    )  # fmt: skip


def test_a_grid_from_an_encrypted_matrix(agrees):
    constants = {"s": np.array([1, 1, 2, 3])}
    grid = node("AffineGrid", "x s", align_corners=1)
    agrees(grid, {"x": (1, 2, 3)}, constants, opset=20, tolerance=TOLERANCE, reference=evaluator)


@pytest.mark.parametrize("encrypted", ["x", "w"])
def test_deformed_convolution(agrees, encrypted):
    values = {
        "x": RANDOM.normal(size=(1, 1, 3, 3)),
        "w": RANDOM.normal(size=(1, 1, 2, 2)),
        "o": RANDOM.uniform(-0.5, 0.5, (1, 8, 2, 2)),
    }
    shape = values.pop(encrypted).shape
    deformed = node("DeformConv", "x w o", kernel_shape=[2, 2])
    agrees(deformed, {encrypted: shape}, values, opset=19, tolerance=TOLERANCE, reference=evaluator)


@pytest.mark.parametrize(
    ("bad", "shape", "reason"),
    [
        (node("GridSample", "x x"), (1, 1, 2, 2), "several encrypted operands"),
        (node("GridSample", "g x"), (1, 2, 2, 2), "not linear in what is encrypted"),
        (node("DFT", "x", axis=1), (1, 725, 1), "its matrix has more than 1048576 entries"),
        (
            node("GridSample", "x c", mode="bicubic", padding_mode="border"), (1, 1, 2, 2),
            "cubic interpolation with padding by the border",
        ),
    ],
)  # fmt: skip
def test_refusals(build, bad, shape, reason):
    constants = {
        "c": RANDOM.normal(size=(1, 2, 2, 2)),
        "g": RANDOM.normal(size=(1, 1, 3, 3)),
    }
    with pytest.raises(FheCompileError) as error:
        import_model(build(bad, {"x": shape}, constants, opset=17))
    assert error.value.reason == (f"1 node cannot be compiled:\n  1 x {bad.op_type}: {reason} (y)")
