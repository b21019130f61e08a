"""Synthetic images: shapes by hand, reproducible, and not to be told apart by a linear classifier;
the shipped ResNet-20, which tells them apart."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from models import images
from models.images import synthetic
from models.images.dataset import LabelledImages, prepare

MODEL = Path(images.__file__).parent / "resnet20_synthetic.onnx"


@pytest.fixture(scope="module")
def training() -> LabelledImages:
    return synthetic.draw_images(10, 1500)


@pytest.mark.parametrize(
    ("label", "inside", "outside"),
    [
        (0, [(0, 0), (0.75, 0)], [(0.6, 0.6)]),
        (1, [(0.65, 0), (0, -0.8)], [(0, 0), (0.65, 0.65)]),
        (2, [(0, 0), (0.65, 0.65)], [(0.75, 0)]),
        (3, [(0.65, 0.65), (0, -0.8)], [(0, 0), (0.85, 0)]),
        (4, [(0, 0), (0, 0.9), (0.8, -0.45)], [(0, -0.6), (0.6, 0.4)]),
        (5, [(0, 0), (0.85, 0), (0, -0.85)], [(0.4, 0.4)]),
        (6, [(0, 0), (0.85, 0)], [(-0.5, 0)]),
        (7, [(-0.5, 0), (0, 0.8)], [(0.5, 0), (0, 0)]),
        (8, [(0.5, 0), (-0.5, 0.7)], [(0, 0), (0.5, 0.9)]),
        (9, [(0, 0), (0.5, 0.8)], [(0.5, 0), (0, 0.9)]),
    ],
)
def test_shapes(
    label: int, inside: list[tuple[float, float]], outside: list[tuple[float, float]]
) -> None:
    x, y = np.array(inside + outside, dtype=float).T
    found = synthetic.distance(label, x, y)
    assert (found < 0).tolist() == [True] * len(inside) + [False] * len(outside)


def test_shapes_cover_a_disc_of_radius_one() -> None:
    """So that no colour of an image tells how large a part the shape has of it."""
    ticks = np.linspace(-1.5, 1.5, 301)
    x, y = np.meshgrid(ticks, ticks)
    for label in range(10):
        covered = synthetic.distance(label, x, y) < 0
        assert 0.18 < covered.sum() * 0.01**2 / np.pi < 0.7, synthetic.SHAPES[label]
        assert 0.79 < np.hypot(x, y)[covered].max() < 1.2, synthetic.SHAPES[label]


def test_an_image_does_not_depend_on_others(training: LabelledImages) -> None:
    few = synthetic.draw_images(10, 12)
    assert few.images.shape == (12, 32, 32, 3)
    assert few.images.dtype == np.uint8
    assert np.array_equal(few.images, training.images[:12])
    assert few.labels.tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1]
    hashes = {hashlib.sha256(image.tobytes()).digest() for image in training.images}
    assert len(hashes) == len(training.images)
    assert not np.array_equal(synthetic.draw_image(11, 0), few.images[0])


def test_prepare() -> None:
    images = np.zeros((1, 32, 32, 3), np.uint8)
    images[0, 3, 4] = [255, 51, 0]
    x = prepare(images)
    assert (x.shape, x.dtype) == ((1, 3, 32, 32), np.float32)
    np.testing.assert_allclose(x[0, :, 3, 4], [1, -0.6, -1], rtol=0, atol=1e-7)
    assert (np.delete(x.reshape(3, -1), 3 * 32 + 4, axis=1) == -1).all()


def test_a_linear_classifier_tells_little(training: LabelledImages) -> None:
    """Ridge regression on pixels: the best of four penalties on the test images themselves."""
    test = synthetic.draw_images(11, 300)
    x, y = (prepare(data.images).reshape(len(data.images), -1) for data in (training, test))
    gram = x @ x.T
    best = 0.0
    for penalty in (1e2, 1e3, 1e4, 1e5):
        dual = np.linalg.solve(gram + penalty * np.eye(len(x)), np.eye(10)[training.labels])
        best = max(best, float(((y @ x.T @ dual).argmax(axis=1) == test.labels).mean()))
    assert best < 0.3


def test_the_shipped_resnet_knows_unseen_images() -> None:
    """It was trained on images of seed 0; these are of a seed that nothing was chosen by."""
    session = onnxruntime.InferenceSession(str(MODEL))
    (image,), (output,) = session.get_inputs(), session.get_outputs()
    assert (image.name, image.shape) == ("image", [1, 3, 32, 32])
    assert (output.name, output.shape) == ("logits", [1, 10])
    test = synthetic.draw_images(3, 500)
    logits = [session.run(None, {"image": x[None]})[0] for x in prepare(test.images)]
    assert (np.concatenate(logits).argmax(axis=1) == test.labels).mean() >= 0.95


def test_the_shipped_resnet_has_narrow_ranges() -> None:
    """What goes into each ReLU reaches less than 5.5 roots of its mean square."""
    model = onnx.load(MODEL)
    names = [node.input[0] for node in model.graph.node if node.op_type == "Relu"]
    assert len(names) == 19
    for name in names:
        model.graph.output.append(onnx.ValueInfoProto(name=name))
    session = onnxruntime.InferenceSession(model.SerializeToString())
    test = synthetic.draw_images(3, 100)
    values = [session.run(names, {"image": x[None]}) for x in prepare(test.images)]
    for name, found in zip(names, zip(*values, strict=True), strict=True):
        x = np.stack(found).astype(np.float64)
        assert np.abs(x).max() < 5.5 * np.sqrt(np.square(x).mean()), name


def test_the_shipped_resnet_is_small_and_keeps_its_batch_norms() -> None:
    assert MODEL.stat().st_size <= 2e6
    found = [node.op_type for node in onnx.load(MODEL).graph.node]
    assert found.count("BatchNormalization") == 19
    assert found.count("Conv") == 21  # two of them are shortcuts
