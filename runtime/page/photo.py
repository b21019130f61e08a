"""A photo's bytes to the tensor that a face network takes, in memory and within limits.

The face is brought to ArcFace's place in 112 x 112 pixels by five points, resized to the plan's
input, S x S, and scaled to (p - 127.5) / 127.5, colours before rows, all by the one implementation
that networks are trained and judged with (`runtime.face_alignment`). Points are in pixels of the
photo as people see it, that is, after the camera's orientation (EXIF) is applied; the centre of the
first pixel is at (0, 0).
"""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from fhecompile.errors import FheCompileError
from fhecompile.plan import Plan
from runtime.face_alignment import SIDE, align, prepare
from runtime.gallery.programs import check_template_plan

LARGEST_BYTES = 32 << 20
LARGEST_PIXELS = 64_000_000
FORMATS = ("JPEG", "PNG", "WEBP")  # few decoders, so few that a harmful file can reach

Pixels = NDArray[np.uint8]
Points = Sequence[tuple[float, float]]


def check_face_plan(plan: Plan) -> int:
    """The side S of the images a plan takes; it is to take one of 3 x S x S and give templates."""
    inputs = plan.program.inputs
    shape = inputs[0].shape
    if len(inputs) > 1 or len(shape) != 4 or shape[:2] != (1, 3) or shape[2] != shape[3]:
        found = ", ".join(" x ".join(map(str, info.shape)) for info in inputs)
        raise FheCompileError(
            "not-a-face-plan",
            f"the plan takes {found}, the page has one square colour image to give",
            hint="compile a network that takes one input of 1 x 3 x S x S",
        )
    check_template_plan(plan)
    return shape[2]


def read_photo(data: bytes) -> Pixels:
    """Pixels (height, width, 3) of an encoded photo, RGB, upright.

    FheCompileError `photo-large` for more than `LARGEST_BYTES` or `LARGEST_PIXELS`, `photo` for
    what is no JPEG, PNG or WebP image or is damaged.
    """
    check_length(len(data))
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            width, height = image.size  # from the header: nothing is decoded yet
            if width * height <= LARGEST_PIXELS:
                return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    except Image.DecompressionBombError:
        pass
    except Exception as error:  # a damaged image raises nearly anything
        raise FheCompileError(
            "photo",
            "this is no photo that can be read",
            hint="choose a JPEG, PNG or WebP file that other programs can open",
        ) from error
    raise FheCompileError(
        "photo-large",
        f"the photo has more than {LARGEST_PIXELS // 10**6} million pixels",
        hint="make it smaller, or cut out the face",
    )


def check_length(length: int) -> None:
    """Raises when a photo's file is too large."""
    if length > LARGEST_BYTES:
        raise FheCompileError(
            "photo-large",
            f"the photo's file is larger than {LARGEST_BYTES >> 20} MiB",
            hint="make it smaller, or cut out the face",
        )


def photo_feeds(plan: Plan, data: bytes, points: Points | None) -> dict[str, NDArray[np.float32]]:
    """The plan's input by name, (1, 3, S, S), from an encoded photo.

    Args:
        plan: one that `check_face_plan` accepts.
        data: the file's bytes.
        points: (x, y) of the eyes, the nose and the corners of the mouth, the photo's left first;
            None: the photo is aligned already, a square with the face in ArcFace's place.
    """
    photo = read_photo(data)
    height, width = photo.shape[:2]
    if points is not None:
        check_points(points, width, height)
        photo = align(photo, points)
    elif height != width:
        raise FheCompileError(
            "photo-not-aligned",
            f"an aligned photo is square, this one has {width} x {height} pixels",
            hint=f"set the five points, or cut the face out as ArcFace's {SIDE} x {SIDE} images",
        )
    return {plan.program.inputs[0].name: prepare(photo, check_face_plan(plan))[None]}


def check_points(points: Points, width: int, height: int) -> None:
    """Raises when points cannot be those of a face in a photo of this size."""
    p = np.asarray(points, dtype=np.float64)
    if p.shape != (5, 2) or not ((p >= -0.5) & (p <= [width - 0.5, height - 0.5])).all():
        raise FheCompileError(
            "landmarks", "five points in the photo are needed", hint="set each on the face"
        )
    across, down = p[1] - p[0], (p[3] + p[4] - p[0] - p[1]) / 2
    if across[0] * down[1] <= across[1] * down[0] or np.dot(across, p[4] - p[3]) <= 0:
        raise FheCompileError(
            "landmarks",
            "the points are not in the order of a face",
            hint="left and right are as you see them in the photo; the mouth is below the eyes",
        )
