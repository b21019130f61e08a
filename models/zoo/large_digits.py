"""Digits of 28 x 28 pixels, made from scikit-learn's of 8 x 8: a stand-in for MNIST.

A digit (values in [-1, 1]) is enlarged to 22 x 22 by cubic splines, put on a dark field at a place
that differs from the middle by up to two pixels, noise of standard deviation `NOISE` is added, and
the result rounded to 128 steps, so that files of them are small:

    y = round(64 clip(place(zoom(x)) + NOISE n, -1, 1)) / 64

Everything comes from the seed, so nothing but the digits has to be kept.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

SIDE = 28
ENLARGED = 22
SHIFT = 2
NOISE = 0.05


def enlarge_digits(images: NDArray[np.float32], seed: int = 0) -> NDArray[np.float32]:
    """Returns n x 1 x 28 x 28 for n x 1 x 8 x 8, in [-1, 1]; the same for the same seed."""
    random = np.random.default_rng(seed)
    large = np.full((len(images), 1, SIDE, SIDE), -1.0)
    factor = ENLARGED / images.shape[-1]
    places = (SIDE - ENLARGED) // 2 + random.integers(-SHIFT, SHIFT + 1, (len(images), 2))
    for image, field, (row, column) in zip(images[:, 0], large[:, 0], places, strict=True):
        zoomed = ndimage.zoom(image.astype(np.float64), factor, order=3)
        field[row : row + ENLARGED, column : column + ENLARGED] = zoomed
    large += NOISE * random.standard_normal(large.shape)
    return (np.rint(64 * np.clip(large, -1.0, 1.0)) / 64).astype(np.float32)
