"""From a photograph and five landmarks to the tensor a face network takes.

Umeyama, "Least-squares estimation of transformation parameters between two point patterns", PAMI
1991: of all similarities y = c R x + t (R a rotation, c > 0) the one that minimises
sum |y_i - (c R x_i + t)|^2 is, with means mu, centred points and the variance of x,

    Sigma = mean (y - mu_y)(x - mu_x)^T = U D V^T,    S = diag(1, det(U) det(V)),
    R = U S V^T,    c = tr(D S) / mean |x - mu_x|^2,    t = mu_y - c R mu_x.

S keeps R from being a reflection. Points are in pixels, (x, y), the centre of the first pixel at
(0, 0), as in InsightFace; PIL puts its corner there, half a pixel away.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from fhecompile.errors import FheCompileError

FloatArray = NDArray[np.float64]
Pixels = NDArray[np.uint8]

SIDE = 112
TEMPLATE = np.array(
    [
        [38.2946, 51.6963],
        [73.5318, 51.5014],
        [56.0252, 71.7366],
        [41.5493, 92.3655],
        [70.7299, 92.2041],
    ]
)
"""Eyes, nose and corners of the mouth in ArcFace's 112 x 112 images, the image's left first."""


def estimate_similarity(points: ArrayLike, targets: ArrayLike) -> FloatArray:
    """Return the 2 x 3 matrix [c R, t] that takes `points` closest to `targets`, both n x 2.

    FheCompileError `landmarks` if the shapes differ, a number is not finite or `points` coincide.
    """
    x, y = np.asarray(points, dtype=np.float64), np.asarray(targets, dtype=np.float64)
    if x.ndim != 2 or x.shape[1] != 2 or x.shape != y.shape:
        raise FheCompileError(
            "landmarks", f"landmarks of shape {x.shape} do not fit the {y.shape} of the template"
        )
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise FheCompileError("landmarks", "there are landmarks that are not finite")
    mean_x, mean_y = x.mean(axis=0), y.mean(axis=0)
    variance = np.square(x - mean_x).sum(axis=1).mean()
    if variance <= 1e-12 * (1.0 + np.square(mean_x).sum()):
        raise FheCompileError("landmarks", "all landmarks are at one point")
    u, d, vt = np.linalg.svd((y - mean_y).T @ (x - mean_x) / len(x))
    sign = np.array([1.0, np.sign(np.linalg.det(u) * np.linalg.det(vt))])
    linear = (d * sign).sum() / variance * (u * sign) @ vt
    return np.column_stack([linear, mean_y - linear @ mean_x])


def warp(image: Pixels, matrix: FloatArray, side: int = SIDE) -> Pixels:
    """Return `side` x `side` x 3 pixels: pixel p of `image` at `matrix` p; bilinear, outside black.

    Args:
        image: height x width x 3.
        matrix: 2 x 3, as from `estimate_similarity`.
        side: of the result.
    """
    inverse = np.linalg.inv(np.vstack([matrix, [0.0, 0.0, 1.0]]))[:2]
    # PIL counts from a pixel's corner: x_in + 1/2 = A (x_out + 1/2) + (t + 1/2 - A (1/2, 1/2)).
    inverse[:, 2] += 0.5 - inverse[:, :2].sum(axis=1) / 2
    warped = Image.fromarray(image).transform(
        (side, side),
        Image.Transform.AFFINE,
        tuple(inverse.ravel()),
        resample=Image.Resampling.BILINEAR,
    )
    return np.asarray(warped)


def align(image: Pixels, landmarks: ArrayLike) -> Pixels:
    """Return the face in `image` (height x width x 3) at ArcFace's place in 112 x 112 x 3 pixels.

    `landmarks` is 5 x 2 pixels in the order of `TEMPLATE`. An image that is k >= 2 times too large
    is first reduced to means of k x k pixels: `warp` alone would take one of several and skip
    the others.
    """
    points = np.asarray(landmarks, dtype=np.float64)
    matrix = estimate_similarity(points, TEMPLATE)
    times = int(1 / np.hypot(matrix[0, 0], matrix[1, 0]))
    if times >= 2:
        image = np.asarray(Image.fromarray(image).reduce(times))
        matrix = estimate_similarity((points + 0.5) / times - 0.5, TEMPLATE)
    return warp(image, matrix)


def resize(image: Pixels, size: int) -> Pixels:
    """Return `image` (height x width x 3) as `size` x `size` x 3.

    PIL's bilinear filter: it widens with the reduction, so that nothing is skipped.
    """
    if image.shape[:2] == (size, size):
        return image
    return np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling.BILINEAR))


def normalise_pixels(images: Pixels) -> NDArray[np.float32]:
    """Return (p - 127.5) / 127.5 with the colours before rows: n x h x w x 3 to n x 3 x h x w."""
    scaled = (images.astype(np.float32) - np.float32(127.5)) / np.float32(127.5)
    return np.ascontiguousarray(np.moveaxis(scaled, -1, -3))


def prepare(image: Pixels, size: int) -> NDArray[np.float32]:
    """Return an aligned image (height x width x 3) as 3 x `size` x `size` in [-1, 1]."""
    return normalise_pixels(resize(image, size))
