"""A seeded set of ten classes of small colour images: one drawn shape each.

The class is the shape, a region {d(x, y) <= 0} of coordinates in which the shape has a radius of
about one. With r and t the polar coordinates of (x, y):

    disc        r - 0.8
    ring        |r - 0.65| - 0.2
    square      max(|x|, |y|) - 0.7
    frame       |max(|x|, |y|) - 0.65| - 0.17
    triangle    max(-y, y / 2 + s |x|) - 0.5                 s = sqrt(3) / 2
    cross       min(max(|x| - 0.9, |y| - 0.25), max(|x| - 0.25, |y| - 0.9))
    flower      r - 0.62 - 0.28 cos 5 t
    crescent    max(r - 0.9, 0.7 - |(x - 0.5, y)|)
    bars        max(||x| - 0.5| - 0.2, |y| - 0.8)
    hourglass   max(|x| - 0.75 |y| - 0.08, |y| - 0.85)

Nothing else tells of the class. Random are the place (a quarter of the width to each side), the
radius (between a quarter and 0.42 of the width), a rotation by up to `TURN`, a stretch of up to
1.2, the colours and the stripes of shape and background, the background's gradient, two thin lines
over everything, the light and normal noise. Only the distance between the two mean colours is
bounded below, by `CONTRAST`. An edge is as wide as a pixel, of which the shape covers
min(1, max(0, 1/2 - d / pixel)).

A linear classifier, which sees only where which colours are, is little better than chance.

Image `number` of the set `seed` is drawn from numpy's SeedSequence of (seed, number) and of class
number mod 10: it does not depend on which others are drawn. Equal arguments give equal bytes with
one version of numpy.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from models.images.dataset import CLASSES, SIDE, LabelledImages

FloatArray = NDArray[np.float64]

SHAPES = (
    "disc", "ring", "square", "frame", "triangle", "cross", "flower", "crescent", "bars",
    "hourglass",
)  # fmt: skip
CONTRAST = 0.6
NOISE = 0.04
STRIPES = 0.08
TURN = 0.4
"""Radians."""
STRETCH = 1.2


def distance(label: int, x: FloatArray, y: FloatArray) -> FloatArray:
    """Return d(x, y) of the shape `label`: negative inside of it, about a distance."""
    r, across, up = np.hypot(x, y), np.abs(x), np.abs(y)
    box = np.maximum(across, up)
    result: FloatArray = (
        lambda: r - 0.8,
        lambda: np.abs(r - 0.65) - 0.2,
        lambda: box - 0.7,
        lambda: np.abs(box - 0.65) - 0.17,
        lambda: np.maximum(-y, y / 2 + np.sqrt(0.75) * across) - 0.5,
        lambda: np.minimum(
            np.maximum(across - 0.9, up - 0.25), np.maximum(across - 0.25, up - 0.9)
        ),
        lambda: r - 0.62 - 0.28 * np.cos(5 * np.arctan2(y, x)),
        lambda: np.maximum(r - 0.9, 0.7 - np.hypot(x - 0.5, y)),
        lambda: np.maximum(np.abs(across - 0.5) - 0.2, up - 0.8),
        lambda: np.maximum(across - 0.75 * up - 0.08, up - 0.85),
    )[label]()
    return result


def _draw_colours(random: np.random.Generator) -> FloatArray:
    """Two colours in [0.1, 0.9]^3, 2 x 3, at least `CONTRAST` apart."""
    while True:
        colours = random.uniform(0.1, 0.9, (2, 3))
        if np.linalg.norm(colours[0] - colours[1]) >= CONTRAST:
            return colours


def _stripe(random: np.random.Generator, u: FloatArray, v: FloatArray) -> FloatArray:
    """A wave in a random direction and colour, SIDE x SIDE x 3, at most `STRIPES`."""
    angle, phase = random.uniform(0, 2 * np.pi, 2)
    frequency = random.uniform(2.0, 12.0)
    wave = np.sin(frequency * (np.cos(angle) * u + np.sin(angle) * v) + phase)
    result: FloatArray = wave[..., None] * random.uniform(-STRIPES, STRIPES, 3)
    return result


def draw_image(seed: int, number: int) -> NDArray[np.uint8]:
    """Return image `number` of the set `seed`, SIDE x SIDE x 3; both at least 0."""
    random = np.random.default_rng(np.random.SeedSequence((seed, number)))
    ticks = (2.0 * np.arange(SIDE) + 1.0) / SIDE - 1.0
    v, u = np.meshgrid(ticks, ticks, indexing="ij")

    angle, radius = random.uniform(-TURN, TURN), random.uniform(0.5, 0.84)
    stretch = STRETCH ** random.uniform(-0.5, 0.5)
    left, top = random.uniform(-0.25, 0.25, 2)
    x = (np.cos(angle) * (u - left) + np.sin(angle) * (v - top)) * stretch / radius
    y = (np.cos(angle) * (v - top) - np.sin(angle) * (u - left)) / stretch / radius
    pixel = 2.0 / SIDE / radius
    covered = np.clip(0.5 - distance(number % CLASSES, x, y) / pixel, 0.0, 1.0)[..., None]

    ground, shape = _draw_colours(random)
    slope = random.uniform(-0.2, 0.2, (2, 3))
    background = ground + u[..., None] * slope[0] + v[..., None] * slope[1] + _stripe(random, u, v)
    colour = background + covered * (shape + _stripe(random, u, v) - background)
    for _ in range(2):
        direction, offset = random.uniform(0, np.pi), random.uniform(-0.8, 0.8)
        line = np.abs(np.cos(direction) * u + np.sin(direction) * v - offset) * SIDE / 2
        opacity = np.clip(1.0 - line, 0.0, 1.0)[..., None] * random.uniform(0.3, 0.8)
        colour = colour + opacity * (random.uniform(0.0, 1.0, 3) - colour)
    lit = colour * random.uniform(0.75, 1.2) + NOISE * random.standard_normal(colour.shape)
    pixels: NDArray[np.uint8] = np.rint(255.0 * np.clip(lit, 0.0, 1.0)).astype(np.uint8)
    return pixels


def draw_images(seed: int, count: int) -> LabelledImages:
    """Return images 0 .. count - 1 of the set `seed` with their classes."""
    images = np.stack([draw_image(seed, number) for number in range(count)])
    return LabelledImages(images, np.arange(count, dtype=np.int64) % CLASSES)
