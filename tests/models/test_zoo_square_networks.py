"""The networks with squares: the shapes of the papers, values near 1, and plans that agree."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper

import runtime
from fhecompile.compile import compile
from models.zoo.__main__ import main
from models.zoo.large_digits import enlarge_digits
from models.zoo.samples import load_samples
from models.zoo.square_networks import SQUARE_NETWORKS, build_square_network

# Weights and biases of the layers as the papers give them, and a batch norm's four per channel.
PARAMETERS = {
    "mlp_square": (784 + 1) * 128 + (128 + 1) * 128 + (128 + 1) * 10 + 2 * 4 * 128,
    "lola": (4 + 1) * 5 + (980 + 1) * 100 + (100 + 1) * 10,
    "lenet_square": 26 * 32 + (25 * 32 + 1) * 64 + (3136 + 1) * 512 + (512 + 1) * 10,
    "tenseal_cnn": (49 + 1) * 4 + (256 + 1) * 64 + (64 + 1) * 10,
}


def calibration() -> NDArray[np.float32]:
    return load_samples("large_digits").calibration


@functools.cache
def build(name: str) -> onnx.ModelProto:
    return build_square_network(name, calibration())


@pytest.mark.parametrize("name", SQUARE_NETWORKS)
def test_parameters(name: str) -> None:
    tensors = build(name).graph.initializer
    assert sum(numpy_helper.to_array(t).size for t in tensors) == PARAMETERS[name]


@pytest.mark.parametrize("name", SQUARE_NETWORKS)
def test_no_value_is_far_from_one(name: str) -> None:
    model = onnx.shape_inference.infer_shapes(build(name))
    model.graph.output.extend(model.graph.value_info)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    names = [output.name for output in session.get_outputs()]
    assert len(names) == len(model.graph.node)
    peaks = dict.fromkeys(names, 0.0)
    for image in calibration():
        for value, found in zip(names, session.run(None, {"image": image[None]}), strict=True):
            peaks[value] = max(peaks[value], float(np.abs(found).max()))
    for value, peak in peaks.items():
        if value.startswith(("conv", "logits")):  # the weights are divided by its largest output
            assert peak == pytest.approx(1, rel=1e-5)
        assert 0.5 < peak < 1 + 1e-5


@pytest.mark.parametrize(
    ("name", "depth"), [("mlp_square", 5), ("lola", 5), ("tenseal_cnn", 5), ("lenet_square", 7)]
)
def test_plan_agrees_with_onnx_runtime(name: str, depth: int, tmp_path: Path) -> None:
    model, samples = tmp_path / f"{name}.onnx", tmp_path / "samples.npz"
    assert main(["export", name, "--out", str(model)]) == 0
    assert onnx.load(model) == build(name)
    assert main(["data", name, "--out", str(samples)]) == 0
    plan = compile(model, calibration=samples, precision_bits=12)
    assert plan.program.prediction.multiplicative_depth == depth
    with np.load(samples) as data:
        x, label = data["test"][:20], data["label"]
    assert label.shape == (360,)
    session = onnxruntime.InferenceSession(model)
    expected = np.concatenate([session.run(None, {"image": image[None]})[0] for image in x])
    assert expected.std(axis=0).min() > 0.02  # depends on the image
    found = runtime.run(plan, {"image": x}, "simulate")["logits"]
    np.testing.assert_allclose(found, expected, rtol=0, atol=2.0**-12)


def test_the_seed_gives_the_weights() -> None:
    images = calibration()
    assert build_square_network("lola", images) == build("lola")
    assert build_square_network("lola", images, seed=1) != build("lola")


def test_large_digits_are_the_digits() -> None:
    with np.load(Path(__file__).parents[2] / "models/digits_test.npz") as data:
        small = data["image"]
    large = enlarge_digits(small, seed=3)
    assert (large.dtype.name, large.shape) == ("float32", (360, 1, 28, 28))
    assert large.min() == -1
    assert large.max() == 1
    assert np.array_equal(large, enlarge_digits(small, seed=3))
    assert not np.array_equal(large, enlarge_digits(small, seed=4))
    # The middle of a place is within two pixels, so that shrinking gives the digit back.
    for image, field in zip(small[:, 0], large[:, 0], strict=True):
        patches = [
            field[r : r + 22, c : c + 22][::3, ::3] for r in range(1, 6) for c in range(1, 6)
        ]
        assert min(np.abs(p - image).mean() for p in patches) < 0.08
