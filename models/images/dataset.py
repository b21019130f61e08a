"""Labelled images, and what a network is given of them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

SIDE = 32
CLASSES = 10


class LabelledImages(NamedTuple):
    """Images with their classes."""

    images: NDArray[np.uint8]
    """n x 32 x 32 x 3, RGB."""
    labels: NDArray[np.int64]
    """n class numbers, 0 .. 9."""


def prepare(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return pixel / 127.5 - 1 as n x 3 x 32 x 32: what the networks take, in [-1, 1]."""
    scaled = images.transpose(0, 3, 1, 2) / np.float32(127.5) - np.float32(1)
    result: NDArray[np.float32] = np.ascontiguousarray(scaled, dtype=np.float32)
    return result
