"""Photos for the page: within limits, upright, aligned, and scaled as the loaders do."""

from __future__ import annotations

import io
import re
import struct
import zlib
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from fhecompile.errors import FheCompileError
from fhecompile.plan import Plan
from runtime.face_alignment import TEMPLATE, align, prepare
from runtime.page import photo
from tests.page import PEOPLE, SIDE, encoded, face_plan, snapshot_of

PLAN = face_plan()
FACE = PEOPLE["alice"][0]
PICTURE = np.random.default_rng(1).integers(0, 256, (5, 7, 3), dtype=np.uint8)
UNREADABLE = (
    "this is no photo that can be read [photo]\n"
    "  hint: choose a JPEG, PNG or WebP file that other programs can open"
)
SMALLER = "  hint: make it smaller, or cut out the face"


def refusal(text: str) -> Any:
    return pytest.raises(FheCompileError, match=f"^{re.escape(text)}$")


# -- the tensor ------------------------------------------------------------------------------------


def test_an_aligned_photo() -> None:
    feeds = photo.photo_feeds(PLAN, encoded(FACE), None)
    assert list(feeds) == ["x"]
    assert feeds["x"].shape == (1, 3, SIDE, SIDE)
    np.testing.assert_array_equal(feeds["x"][0], prepare(FACE, SIDE))
    flat = np.full((20, 20, 3), (0, 255, 51), np.uint8)
    colours = photo.photo_feeds(PLAN, encoded(flat), None)["x"][0]
    for channel, value in enumerate((-1.0, 1.0, -0.6)):  # (p - 127.5) / 127.5
        np.testing.assert_allclose(colours[channel], value, rtol=0, atol=1e-6)


def test_points_bring_the_face_to_its_place() -> None:
    taken, points = snapshot_of(FACE)
    found = photo.photo_feeds(PLAN, encoded(taken), points.tolist())["x"][0]
    np.testing.assert_array_equal(found, prepare(align(taken, points), SIDE))
    # It is the face that was put into the photo: two interpolations and their roundings away.
    assert np.abs(found - prepare(FACE, SIDE)).max() < 0.04
    assert np.abs(found - prepare(np.rot90(FACE), SIDE)).max() > 0.3


# What is stored for each orientation, by what it says of the stored rows and columns.
STORED = {
    1: lambda x: x,
    2: lambda x: x[:, ::-1],
    3: lambda x: x[::-1, ::-1],
    4: lambda x: x[::-1],
    5: lambda x: x.swapaxes(0, 1),
    6: lambda x: np.rot90(x),
    7: lambda x: x[::-1, ::-1].swapaxes(0, 1),
    8: lambda x: np.rot90(x, -1),
}


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize(("kind", "options"), [("PNG", {}), ("WEBP", {"lossless": True})])
def test_photos_are_upright(orientation: int, kind: str, options: dict[str, Any]) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = np.ascontiguousarray(STORED[orientation](PICTURE))
    data = encoded(stored, kind, exif=exif.tobytes(), **options)
    np.testing.assert_array_equal(photo.read_photo(data), PICTURE)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "RGBA", "P"])
def test_any_colours_become_rgb(mode: str) -> None:
    image, file = Image.fromarray(FACE).convert(mode), io.BytesIO()
    image.save(file, "PNG")
    np.testing.assert_array_equal(photo.read_photo(file.getvalue()), image.convert("RGB"))


# -- what is refused -------------------------------------------------------------------------------


def bomb(width: int, height: int) -> bytes:
    """A PNG file of a few bytes that says it has this many pixels."""

    def chunk(name: bytes, data: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(name + data))
        return struct.pack(">I", len(data)) + name + data + check

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"0" * 9))


@pytest.mark.parametrize("size", [(8001, 8000), (60_000, 60_000)])
def test_too_many_pixels(size: tuple[int, int]) -> None:
    with refusal(f"the photo has more than 64 million pixels [photo-large]\n{SMALLER}"):
        photo.read_photo(bomb(*size))


def test_too_many_bytes() -> None:
    with refusal(f"the photo's file is larger than 32 MiB [photo-large]\n{SMALLER}"):
        photo.read_photo(bytes((32 << 20) + 1))
    with refusal(UNREADABLE):
        photo.read_photo(bytes(32 << 20))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        encoded(FACE, "GIF"),
        encoded(FACE, "TIFF"),
        encoded(FACE, "JPEG")[:2000],
        encoded(FACE)[:2000],
        bomb(100, 100),
    ],
    ids=["empty", "svg", "gif", "tiff", "half a jpeg", "half a png", "png without its pixels"],
)
def test_what_is_no_photo(data: bytes) -> None:
    with refusal(UNREADABLE):
        photo.read_photo(data)


@given(st.binary(max_size=40), st.integers(0, 2**16), st.sampled_from(["JPEG", "PNG", "WEBP"]))
def test_damaged_photos_never_crash(noise: bytes, place: int, kind: str) -> None:
    whole = encoded(PICTURE, kind)
    place %= len(whole)
    try:
        photo.read_photo(whole[:place] + noise + whole[place + len(noise) :])
    except FheCompileError as error:
        assert error.code in ("photo", "photo-large")


def test_a_photo_that_is_not_square() -> None:
    with refusal(
        "an aligned photo is square, this one has 7 x 5 pixels [photo-not-aligned]\n"
        "  hint: set the five points, or cut the face out as ArcFace's 112 x 112 images"
    ):
        photo.photo_feeds(PLAN, encoded(PICTURE), None)


IN_PHOTO = "five points in the photo are needed [landmarks]\n  hint: set each on the face"
IN_ORDER = (
    "the points are not in the order of a face [landmarks]\n"
    "  hint: left and right are as you see them in the photo; the mouth is below the eyes"
)


@pytest.mark.parametrize(
    ("points", "text"),
    [
        (TEMPLATE[:4], IN_PHOTO),
        (TEMPLATE + np.array([60.0, 0.0]), IN_PHOTO),
        (TEMPLATE - [0.0, 52.1], IN_PHOTO),
        (np.where(np.arange(10).reshape(5, 2) == 7, np.nan, TEMPLATE), IN_PHOTO),
        (TEMPLATE[[1, 0, 2, 4, 3]], IN_ORDER),
        (TEMPLATE[[0, 1, 2, 4, 3]], IN_ORDER),
        (TEMPLATE[[3, 4, 2, 0, 1]], IN_ORDER),
        (np.full((5, 2), 50.0), IN_ORDER),
    ],
    ids=[
        *("four", "beyond the right", "beyond the top", "no number"),
        *("mirrored", "mouth mirrored", "upside down", "one point"),
    ],
)
def test_points_that_are_no_face(points: Any, text: str) -> None:
    with refusal(text):
        photo.photo_feeds(PLAN, encoded(FACE), [tuple(p) for p in points])


@given(st.floats(0.1, 10.0), st.floats(-3.2, 3.2), st.booleans())
def test_faces_may_be_turned_but_not_mirrored(scale: float, angle: float, mirror: bool) -> None:
    turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    points = (TEMPLATE - 56.0) @ turn.T
    points[:, 0] *= -1 if mirror else 1
    points += 2000.0
    if mirror:
        with refusal(IN_ORDER):
            photo.check_points(points.tolist(), 4000, 4000)
    else:
        photo.check_points(points.tolist(), 4000, 4000)


def changed(**fields: Any) -> Plan:
    return Plan(msgspec.structs.replace(PLAN.program, **fields), PLAN.arrays)


@pytest.mark.parametrize(
    ("shapes", "found"),
    [
        ([(1, 1, 8, 8)], "1 x 1 x 8 x 8"),
        ([(1, 3, 8, 6)], "1 x 3 x 8 x 6"),
        ([(2, 3, 8, 8)], "2 x 3 x 8 x 8"),
        ([(1, 192)], "1 x 192"),
        ([(1, 3, 8, 8), (1, 4)], "1 x 3 x 8 x 8, 1 x 4"),
    ],
)
def test_plans_that_take_no_face(shapes: list[tuple[int, ...]], found: str) -> None:
    (given,) = PLAN.program.inputs
    inputs = tuple(msgspec.structs.replace(given, shape=shape) for shape in shapes)
    with refusal(
        f"the plan takes {found}, the page has one square colour image to give [not-a-face-plan]\n"
        "  hint: compile a network that takes one input of 1 x 3 x S x S"
    ):
        photo.check_face_plan(changed(inputs=inputs))
    assert photo.check_face_plan(PLAN) == SIDE


def test_plans_that_give_no_template() -> None:
    outputs = tuple(msgspec.structs.replace(info, name="y") for info in PLAN.program.outputs)
    with refusal(
        "this plan does not give templates [no-template]\n"
        "  hint: compile the model with --match gallery"
    ):
        photo.check_face_plan(changed(outputs=outputs))
