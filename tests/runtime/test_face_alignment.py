"""Alignment: similarities are recovered exactly, and pixels go where the matrix says."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fhecompile.errors import FheCompileError
from runtime import face_alignment as alignment


def similarity(scale: float, angle: float, shift: tuple[float, float]) -> np.ndarray:
    c, s = scale * np.cos(angle), scale * np.sin(angle)
    return np.array([[c, -s, shift[0]], [s, c, shift[1]]])


def apply(matrix: np.ndarray, points: np.ndarray) -> np.ndarray:
    return points @ matrix[:, :2].T + matrix[:, 2]


scales, angles = st.floats(0.1, 10.0), st.floats(-3.2, 3.2)
shifts = st.tuples(st.floats(-200.0, 200.0), st.floats(-200.0, 200.0))


@given(scales, angles, shifts)
def test_a_similarity_is_recovered(scale: float, angle: float, shift: tuple[float, float]) -> None:
    matrix = similarity(scale, angle, shift)
    found = alignment.estimate_similarity(alignment.TEMPLATE, apply(matrix, alignment.TEMPLATE))
    np.testing.assert_allclose(found, matrix, rtol=0, atol=1e-9)


@given(st.integers(0, 2**32 - 1))
def test_no_similarity_nearby_is_better(seed: int) -> None:
    random = np.random.default_rng(seed)
    points, targets = random.normal(size=(2, 5, 2))
    best = alignment.estimate_similarity(points, targets)
    assert best[0, 0] == pytest.approx(best[1, 1], abs=1e-12)  # a rotation, scaled
    assert best[0, 1] == pytest.approx(-best[1, 0], abs=1e-12)

    def loss(matrix: np.ndarray) -> float:
        return float(np.square(apply(matrix, points) - targets).sum())

    for change in (similarity(1e-3, 0, (0, 0)), similarity(1e-3, np.pi / 2, (0, 0))):
        assert loss(best) <= min(loss(best + change), loss(best - change))
    for axis in (0, 1):
        change = np.zeros((2, 3))
        change[axis, 2] = 1e-3
        assert loss(best) <= min(loss(best + change), loss(best - change))


def test_no_reflection() -> None:
    points = np.array([[0.0, 0.0], [4.0, 0.0], [0.0, 1.0], [4.0, 1.0]])
    mirrored = points * [1.0, -1.0]
    found = alignment.estimate_similarity(points, mirrored)
    # Variances 4 and 1/4: c = (4 - 1/4) / (4 + 1/4), no rotation, means (2, 1/2) to (2, -1/2).
    c = 15 / 17
    np.testing.assert_allclose(
        found, [[c, 0, 2 - 2 * c], [0, c, -0.5 - 0.5 * c]], rtol=0, atol=1e-12
    )


IMAGE = np.random.default_rng(0).integers(0, 256, (9, 7, 3), dtype=np.uint8)


def test_warp_by_whole_pixels_copies_them() -> None:
    found = alignment.warp(IMAGE, similarity(1, 0, (2, 1)), side=12)
    assert found.shape == (12, 12, 3)
    assert np.array_equal(found[1:10, 2:9], IMAGE)
    assert not found[0].any()
    assert not found[:, :2].any()
    assert not found[:, 9:].any()
    # (x, y) to (-y, x), then 8 to the right: a quarter turn clockwise as seen.
    turned = alignment.warp(IMAGE, similarity(1, np.pi / 2, (8, 0)), side=9)
    # PIL cuts 103.9999 to 103.
    assert np.abs(turned[:7].astype(int) - np.rot90(IMAGE, -1)).max() <= 1


def test_warp_is_bilinear_at_pixel_centres() -> None:
    ramp = np.zeros((8, 8, 3), np.uint8)
    ramp[:] = 10 * np.arange(8, dtype=np.uint8)[:, None]
    found = alignment.warp(ramp, similarity(2, 0, (1, 0)), side=12)
    # x_out = 2 x_in + 1: out of 4 lies 1.5 pixels in.
    assert found[4, 3:12, 0].tolist() == [10, 15, 20, 25, 30, 35, 40, 45, 50]


def test_align_puts_landmarks_at_the_template() -> None:
    matrix = similarity(1.7, 0.4, (60, 20))
    landmarks = apply(matrix, alignment.TEMPLATE)
    image = np.zeros((280, 280, 3), np.uint8)
    rows, columns = np.mgrid[:280, :280]
    for x, y in landmarks:
        image[np.hypot(columns - x, rows - y) < 8] = 255
    face = alignment.align(image, landmarks)
    assert face.shape == (112, 112, 3)
    weights = face[:, :, 0].astype(float)
    rows, columns = np.mgrid[:112, :112]
    for x, y in alignment.TEMPLATE:
        near = weights * (np.hypot(columns - x, rows - y) < 8)
        centre = np.array([(near * columns).sum(), (near * rows).sum()]) / near.sum()
        assert np.hypot(*(centre - [x, y])) < 0.1


def test_align_skips_no_pixel() -> None:
    """Light and dark pixels side by side become grey; taking single ones would show stripes."""
    checked = (np.indices((1200, 1200)).sum(axis=0) % 2 * 200).astype(np.uint8)
    image = np.repeat(checked[:, :, None], 3, axis=2)
    for scale in (2.1, 4.3, 9.1):
        landmarks = apply(similarity(scale, 0.1, (150, 60)), alignment.TEMPLATE)
        face = alignment.align(image, landmarks)[8:104, 8:104]
        assert np.abs(face.astype(int) - 100).max() <= 2
    # In the middle of a face 5.7 times as large, what is warped alone has light and dark pixels.
    matrix = similarity(1 / 5.7, 0, (-3, -5))
    assert np.ptp(alignment.warp(image, matrix).astype(int)) > 100


def test_a_large_photo_gives_the_same_face() -> None:
    rows, columns = np.mgrid[:112, :112]
    waves = 128 + 100 * np.sin(rows / 9) * np.cos(columns / 7)
    face = np.repeat(np.round(waves)[:, :, None], 3, axis=2).astype(np.uint8)
    matrix = similarity(6.5, 0.2, (200, 90))
    photo = alignment.warp(face, matrix, side=1100)
    found = alignment.align(photo, apply(matrix, alignment.TEMPLATE))
    assert np.abs(found.astype(int) - face)[2:-2, 2:-2].max() <= 4


@pytest.mark.parametrize("size", [64, 96, 128])
def test_prepare(size: int) -> None:
    flat = np.empty((112, 112, 3), np.uint8)
    flat[:] = (0, 255, 51)
    found = alignment.prepare(flat, size)
    assert found.shape == (3, size, size)
    assert found.dtype == np.float32
    for channel, value in enumerate([-1.0, 1.0, -0.6]):
        np.testing.assert_allclose(found[channel], value, rtol=0, atol=1e-6)


def test_prepare_keeps_rows_rows() -> None:
    found = alignment.normalise_pixels(IMAGE[None])
    assert found.shape == (1, 3, 9, 7)
    assert found[0, 2, 8, 1] == np.float32((int(IMAGE[8, 1, 2]) - 127.5) / 127.5)
    assert np.array_equal(alignment.resize(IMAGE[:7], 7), IMAGE[:7])


def test_resize_averages() -> None:
    checked = np.indices((8, 8)).sum(axis=0) % 2 * 200
    image = np.repeat(checked[:, :, None], 3, axis=2).astype(np.uint8)
    # Every pixel of the result takes in as many light ones as dark ones.
    assert np.abs(alignment.resize(image, 2).astype(int) - 100).max() <= 1


@pytest.mark.parametrize(
    ("points", "targets", "message"),
    [
        (
            np.zeros((4, 2)),
            alignment.TEMPLATE,
            "landmarks of shape (4, 2) do not fit the (5, 2) of the template [landmarks]",
        ),
        (
            np.full((5, 2), np.nan),
            alignment.TEMPLATE,
            "there are landmarks that are not finite [landmarks]",
        ),
        (
            np.full((5, 2), 77.7),
            alignment.TEMPLATE,
            "all landmarks are at one point [landmarks]",
        ),
    ],
)
def test_errors(points: np.ndarray, targets: np.ndarray, message: str) -> None:
    with pytest.raises(FheCompileError, match=f"^{re.escape(message)}$"):
        alignment.estimate_similarity(points, targets)
