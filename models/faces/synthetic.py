"""Seeded face-like images of people who do not exist.

An identity is a vector z of `LATENTS` independent standard normal numbers and a smooth random
texture. Each entry of z, limited to |z| <= 2, moves one quantity of a drawing: outline of the head,
distance, size and height of eyes, brows, nose and mouth, and the colours of skin, hair, iris and
lips. The drawing is a stack of layers in face coordinates (x, y), the head about |x|, |y| <= 1:

    colour <- (1 - mask) * colour + mask * layer,      mask = sigmoid(4 d / pixel),
    d = (1 - r) / |grad r|,      r^2 = (x / a)^2 + ((y - tilt x - bend x^2) / b)^2,

with d, to first order, the distance to the edge. What differs between two images of one identity:

    pose          (x, y) = A (u, v) + t + yaw * (1 - u^2), A a rotation, scaling and shear
    expression    opening of eyes and mouth, curve of the mouth, height of the brows
    light         a gradient in a random direction, a gain, a colour cast, a gamma
    background    a smooth random field, shared with nobody
    noise         normal, per pixel

The identity's texture is interpolated between random values on a `TEXTURE_CELLS`^2 grid that moves
with the head. Light and background move pixels further than the identity does, so the cosine of raw
pixels tells little.

Random streams are numpy's SeedSequence of (seed, identity) and (seed, identity, image): an image
does not depend on which others are drawn, and two seeds have no identity in common (a probability
of zero, as the vectors are continuous). Equal arguments give equal bytes with one version of numpy.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.faces.pair_files import FacePairs, draw_pairs

FloatArray = NDArray[np.float64]
Images = NDArray[np.uint8]

LATENTS = 32
TEXTURE_CELLS = 6
BACKGROUND_CELLS = 4
TEXTURE_STRENGTH = 0.10
NOISE = 0.025


class Identity(NamedTuple):
    """What is the same in all images of a person."""

    latent: FloatArray
    """`LATENTS` numbers in [-2, 2]."""
    texture: FloatArray
    """`TEXTURE_CELLS` x `TEXTURE_CELLS` x 3, standard normal."""


class View(NamedTuple):
    """What differs between images of a person."""

    affine: FloatArray
    """2 x 2."""
    shift: FloatArray
    yaw: float
    expression: FloatArray
    """Opening of the eyes, of the mouth, curve of the mouth, height of the brows: in [-1, 1]."""
    light: FloatArray
    """Gradient along u and v, gain, gamma, and a gain for each of red, green and blue."""
    background: FloatArray
    """`BACKGROUND_CELLS` x `BACKGROUND_CELLS` x 3 in [0, 1]."""
    noise_seed: int


def draw_identity(seed: int, identity: int) -> Identity:
    """Return the person number `identity` of the population `seed`; both at least 0."""
    random = np.random.default_rng(np.random.SeedSequence((seed, identity)))
    latent = np.clip(random.standard_normal(LATENTS), -2.0, 2.0)
    return Identity(latent, random.standard_normal((TEXTURE_CELLS, TEXTURE_CELLS, 3)))


def draw_view(seed: int, identity: int, image: int) -> View:
    """Return the pose, expression, light and background of image number `image` of a person."""
    random = np.random.default_rng(np.random.SeedSequence((seed, identity, image + 1)))
    angle = np.deg2rad(random.uniform(-8.0, 8.0))
    scale = np.exp(random.uniform(-0.06, 0.06))
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    shear = np.array([[1.0, random.uniform(-0.05, 0.05)], [0.0, 1.0]])
    light = np.concatenate(
        [
            random.uniform(-0.35, 0.35, 2),
            [random.uniform(0.65, 1.2), np.exp(random.uniform(-0.25, 0.25))],
            random.uniform(0.88, 1.12, 3),
        ]
    )
    return View(
        affine=scale * rotation @ shear,
        shift=random.uniform(-0.06, 0.06, 2),
        yaw=float(random.uniform(-0.08, 0.08)),
        expression=random.uniform(-1.0, 1.0, 4),
        light=light,
        background=random.uniform(0.0, 1.0, (BACKGROUND_CELLS, BACKGROUND_CELLS, 3)),
        noise_seed=int(random.integers(2**63)),
    )


def sample_field(grid: FloatArray, x: FloatArray, y: FloatArray) -> FloatArray:
    """Interpolate `grid` (n x n x channels, over [-1, 1]^2, held outside) at the points x, y.

    Bilinear with the weights 3 t^2 - 2 t^3, so that no edges show at the grid's lines.
    """
    cells = grid.shape[0] - 1
    corners = []
    for position in (y, x):
        scaled = np.clip((position + 1.0) * (cells / 2.0), 0.0, cells)
        first = np.minimum(scaled.astype(np.int64), cells - 1)
        t = scaled - first
        corners.append((first, (t * t * (3.0 - 2.0 * t))[..., None]))
    (row, down), (column, right) = corners
    top = grid[row, column] * (1 - right) + grid[row, column + 1] * right
    bottom = grid[row + 1, column] * (1 - right) + grid[row + 1, column + 1] * right
    result: FloatArray = top * (1 - down) + bottom * down
    return result


def _sigmoid(x: FloatArray) -> FloatArray:
    return 0.5 + 0.5 * np.tanh(0.5 * x)


class _Canvas:
    """The colours drawn so far, size x size x 3, at the face coordinates x, y."""

    def __init__(self, x: FloatArray, y: FloatArray, colour: FloatArray, size: int) -> None:
        self.x, self.y, self.colour, self.size = x, y, colour, size

    def ellipse(
        self,
        centre: tuple[float, float],
        radii: tuple[float, float],
        colour: FloatArray,
        *,
        bend: float = 0.0,
        tilt: float = 0.0,
        opacity: float = 1.0,
    ) -> None:
        """Draw an ellipse whose axis follows y = tilt * x + bend * x^2 around its centre."""
        x, y = self.x - centre[0], self.y - centre[1]
        a, b = x / radii[0], (y - tilt * x - bend * x * x) / radii[1]
        radius = np.hypot(a, b)
        along_x = a / radii[0] - b / radii[1] * (tilt + 2.0 * bend * x)
        # At the centre the gradient is 0 / 0; any large distance will do.
        slope = np.maximum(np.hypot(along_x, b / radii[1]) / (radius + 1e-9), 1e-3)
        pixel = 2.0 / self.size
        mask = opacity * _sigmoid(4.0 / pixel * (1.0 - radius) / slope)[..., None]
        self.colour = self.colour + mask * (colour - self.colour)


def render(identity: Identity, view: View, size: int) -> Images:
    """Draw one image, `size` x `size` x 3."""
    z, (eyes, mouth, smile, brows) = identity.latent, view.expression
    ticks = (2.0 * np.arange(size) + 1.0) / size - 1.0
    v, u = np.meshgrid(ticks, ticks, indexing="ij")
    x = view.affine[0, 0] * u + view.affine[0, 1] * v + view.shift[0] + view.yaw * (1.0 - u * u)
    y = view.affine[1, 0] * u + view.affine[1, 1] * v + view.shift[1]
    canvas = _Canvas(x, y, sample_field(view.background, u, v), size)

    skin = np.array([0.72, 0.55, 0.45]) * (1 + 0.12 * z[0]) + 0.03 * z[1:4]
    hair = np.array([0.28, 0.2, 0.15]) * (1 + 0.35 * z[4]) + 0.05 * z[5:8]
    lips = skin * np.array([0.9, 0.6, 0.62]) + 0.04 * z[8:11]
    iris = np.array([0.25, 0.28, 0.28]) + 0.09 * z[11:14]
    width, height = 0.68 + 0.05 * z[14], 0.88 + 0.04 * z[15]
    eye_x, eye_y = 0.29 + 0.03 * z[16], -0.14 + 0.04 * z[17]
    eye_width = 0.13 + 0.015 * z[18]
    eye_height = (0.07 + 0.012 * z[19]) * (1 + 0.25 * eyes)
    brow_y = eye_y - 0.17 - 0.025 * z[20] - 0.02 * brows
    brow_height, brow_tilt = 0.035 + 0.009 * z[21], 0.12 * z[22]
    nose_y, nose_width = 0.17 + 0.035 * z[23], 0.11 + 0.02 * z[24]
    mouth_y, mouth_width = 0.45 + 0.035 * z[25], 0.24 + 0.035 * z[26]
    lip_height = 0.055 + 0.012 * z[27]
    hairline, hair_sides = -0.62 + 0.06 * z[28], 1.1 + 0.07 * z[29]
    jaw = 0.45 + 0.08 * z[30]

    canvas.ellipse((0.0, -0.12), (width * hair_sides, height), hair)
    texture = sample_field(identity.texture, x, y)
    face = skin * (1.0 + TEXTURE_STRENGTH * texture)
    canvas.ellipse((0.0, 0.05), (width, height * 0.85), face)
    canvas.ellipse((0.0, 0.62), (width * (0.4 + jaw), 0.34), face)
    canvas.ellipse((0.0, hairline - 0.4), (width * 1.05, 0.42), hair, bend=0.25 + 0.1 * z[31])
    for side in (-1.0, 1.0):
        centre = (side * eye_x, eye_y)
        canvas.ellipse(centre, (eye_width * 1.3, 0.11), skin * 0.82, opacity=0.6)
        canvas.ellipse(centre, (eye_width, eye_height), np.array([0.9, 0.9, 0.88]))
        canvas.ellipse(centre, (0.06, min(0.06, eye_height)), iris)
        canvas.ellipse(
            (side * eye_x, brow_y), (eye_width * 1.25, brow_height), hair * 0.8,
            tilt=side * brow_tilt, bend=0.6,
        )  # fmt: skip
    canvas.ellipse((0.0, nose_y - 0.15), (nose_width * 0.45, 0.2), skin * 1.12, opacity=0.6)
    canvas.ellipse((0.0, nose_y), (nose_width, 0.045), skin * 0.7, bend=-0.8)
    opening = lip_height * (1.0 + 0.4 * mouth)
    canvas.ellipse((0.0, mouth_y), (mouth_width, opening), lips, bend=-0.6 * smile)
    canvas.ellipse(
        (0.0, mouth_y), (mouth_width * 0.85, 0.35 * opening), lips * 0.4, bend=-0.6 * smile
    )

    gradient_u, gradient_v, gain, gamma = view.light[:4]
    lit = canvas.colour * (gain * (1.0 + gradient_u * u + gradient_v * v))[..., None]
    lit = np.clip(lit * view.light[4:], 0.0, 1.0) ** gamma
    noise = np.random.default_rng(view.noise_seed).standard_normal(lit.shape)
    pixels = np.rint(255.0 * np.clip(lit + NOISE * noise, 0.0, 1.0))
    result: Images = pixels.astype(np.uint8)
    return result


def draw_images(seed: int, identity: int, images: range, size: int) -> Images:
    """Return images number `images` of a person, n x `size` x `size` x 3."""
    person = draw_identity(seed, identity)
    return np.stack([render(person, draw_view(seed, identity, k), size) for k in images])


def draw_people(seed: int, people: int, images: int, size: int) -> Images:
    """Return `images` images of each of the first people, people * images x `size` x `size` x 3."""
    return np.concatenate([draw_images(seed, p, range(images), size) for p in range(people)])


def synthetic_pairs(seed: int, people: int, images: int, size: int, count: int) -> FacePairs:
    """Return `count` pairs, alternately same and different, of the first `people` people."""
    pixels = draw_people(seed, people, images, size)
    numbers = np.arange(len(pixels)).reshape(people, images).tolist()
    pairs, same = draw_pairs(numbers, count, seed)
    return FacePairs(f"synthetic people of seed {seed}", list(pixels), pairs, same)
