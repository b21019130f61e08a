"""Face verification pairs and folders of people, from files.

`read_bin` reads InsightFace's `.bin` files (LFW, AgeDB-30, CALFW, CPLFW, CFP-FP): a pickle of

    ([image, image, ...], [same, same, ...])

where pair k is images 2 k and 2 k + 1 and an image is an encoded file, as bytes or as a numpy array
of uint8, read by `models.pickles`.

`read_list` reads text with a line `path path label` per pair, 1 for the same person and 0 for
different ones. `read_people` reads a folder with a folder of images for each person, and
`folder_pairs` draws pairs from it.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple, overload

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fhecompile.errors import FheCompileError
from models.pickles import PickledArray, load_pickle

Pixels = NDArray[np.uint8]
Source = bytes | Path | np.ndarray
"""An encoded image, a file with one, or pixels."""

IMAGE_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".ppm", ".webp")


class FacePair(NamedTuple):
    """Two images, height x width x 3, RGB, and whether they show one person."""

    first: Pixels
    second: Pixels
    same: bool


class FacePairs(Sequence[FacePair]):
    """Pairs of images, decoded when they are asked for.

    Args:
        name: for messages.
        images: where each image comes from.
        pairs: n x 2 places in `images`; an image may be in many pairs.
        same: n labels.
    """

    def __init__(
        self, name: str, images: Sequence[Source], pairs: NDArray[np.int64], same: NDArray[np.bool_]
    ) -> None:
        self.name, self.images, self.pairs, self.same = name, images, pairs, same

    def __len__(self) -> int:
        return len(self.same)

    def image(self, number: int) -> Pixels:
        """Decode one image."""
        return load_image(self.images[number], f"{self.name}, image {number}")

    @overload
    def __getitem__(self, index: int) -> FacePair: ...
    @overload
    def __getitem__(self, index: slice) -> FacePairs: ...
    def __getitem__(self, index: int | slice) -> FacePair | FacePairs:
        if isinstance(index, slice):
            return FacePairs(self.name, self.images, self.pairs[index], self.same[index])
        first, second = self.pairs[index]
        return FacePair(self.image(first), self.image(second), bool(self.same[index]))


def load_image(source: Source, name: str) -> Pixels:
    """Return pixels, height x width x 3, RGB; FheCompileError `face-image` if there are none."""
    if isinstance(source, np.ndarray):
        return source
    place = str(source) if isinstance(source, Path) else name
    try:
        with Image.open(source if isinstance(source, Path) else io.BytesIO(source)) as image:
            return np.asarray(image.convert("RGB"))
    except FileNotFoundError:
        raise FheCompileError("face-image", "there is no such image", node=place) from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise FheCompileError("face-image", "this is no image that can be read", node=place) from (
            error
        )


# -- InsightFace .bin ------------------------------------------------------------------------------


def read_bin(path: Path) -> FacePairs:
    """Read an InsightFace verification file.

    FheCompileError `pair-file` if it asks for anything but images and labels (the message names
    what), is damaged or holds another number of images than twice that of labels.
    """
    try:
        with path.open("rb") as file:
            return parse_bin(file, path.name)
    except FileNotFoundError:
        raise FheCompileError("pair-file", "there is no such file", node=str(path)) from None
    except FheCompileError as error:
        raise FheCompileError(error.code, error.reason, node=str(path), hint=error.hint) from error


def parse_bin(file: BinaryIO, name: str) -> FacePairs:
    """Read an InsightFace verification file that is open; errors as of `read_bin`."""
    content = load_pickle(file, "pair-file", "face pairs")
    if not (isinstance(content, (tuple, list)) and len(content) == 2):
        raise FheCompileError("pair-file", "the pickle is no pair of images and labels")
    encoded, same = content
    if not (isinstance(encoded, (tuple, list)) and isinstance(same, (tuple, list))):
        raise FheCompileError("pair-file", "images and labels must be lists")
    images = [x.data if isinstance(x, PickledArray) else x for x in encoded]
    labels_known = all(isinstance(x, int) and x in (0, 1) for x in same)
    if not labels_known or not all(isinstance(x, bytes) for x in images):
        raise FheCompileError("pair-file", "images must be encoded files and labels true or false")
    if len(images) != 2 * len(same) or not images:
        raise FheCompileError("pair-file", f"{len(same)} pairs cannot have {len(images)} images")
    pairs = np.arange(len(images), dtype=np.int64).reshape(-1, 2)
    return FacePairs(name, images, pairs, np.array(same, dtype=np.bool_))


# -- lists and folders -----------------------------------------------------------------------------


def read_list(path: Path, root: Path | None = None) -> FacePairs:
    """Read lines `path path label`; paths count from `root`, by default the list's folder.

    FheCompileError `pair-file` names the first line that is none.
    """
    base = path.parent if root is None else root
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        raise FheCompileError("pair-file", "there is no such file", node=str(path)) from None
    numbers: dict[str, int] = {}
    pairs, same = [], []
    for count, line in enumerate(lines, start=1):
        words = line.split()
        if not words:
            continue
        if len(words) != 3 or words[2] not in ("0", "1"):
            raise FheCompileError(
                "pair-file",
                "a line must be `path path label`, label 0 or 1",
                node=f"{path}:{count}",
            )
        pairs.append([numbers.setdefault(word, len(numbers)) for word in words[:2]])
        same.append(words[2] == "1")
    if not pairs:
        raise FheCompileError("pair-file", "the list is empty", node=str(path))
    images = [base / name for name in numbers]
    return FacePairs(path.name, images, np.array(pairs), np.array(same))


def read_people(folder: Path) -> dict[str, list[Path]]:
    """Return the image files of each folder in `folder`, by its name, both sorted.

    Folders without images are left out. FheCompileError `face-folder` for fewer than two people.
    """
    people: dict[str, list[Path]] = {}
    for person in sorted(folder.iterdir()) if folder.is_dir() else ():
        if person.is_dir():
            files = sorted(x for x in person.iterdir() if x.suffix.lower() in IMAGE_SUFFIXES)
            if files:
                people[person.name] = files
    if len(people) < 2:
        raise FheCompileError(
            "face-folder",
            f"there are images of {len(people)} people, at least 2 are needed",
            node=str(folder),
            hint="give each person a folder with their images",
        )
    return people


def draw_pairs(
    people: Sequence[Sequence[int]], count: int, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Return `count` pairs of image numbers and labels: same, different, same, ...

    `people` gives the images of each person. Same pairs go through the people with two or more
    images in order, again and again; in a different pair the first image is of that person too.
    FheCompileError `face-folder` if nobody has two.
    """
    several = [person for person, images in enumerate(people) if len(images) > 1]
    if not several or len(people) < 2:
        raise FheCompileError("face-folder", "no person has two images to make a pair of")
    random = np.random.default_rng(seed)
    pairs = np.empty((count, 2), dtype=np.int64)
    for k in range(count):
        person = several[k // 2 % len(several)]
        if k % 2 == 0:
            pairs[k] = random.choice(people[person], 2, replace=False)
        else:
            other = (person + 1 + random.integers(len(people) - 1)) % len(people)
            pairs[k] = random.choice(people[person]), random.choice(people[int(other)])
    return pairs, np.arange(count) % 2 == 0


def folder_pairs(folder: Path, count: int, seed: int) -> FacePairs:
    """Draw `count` pairs from a folder of people; half of them, rounded up, of the same person."""
    people = read_people(folder)
    images: list[Path] = [path for files in people.values() for path in files]
    ends = np.cumsum([len(files) for files in people.values()])
    numbers = [list(x) for x in np.split(np.arange(len(images)), ends[:-1])]
    pairs, same = draw_pairs(numbers, count, seed)
    return FacePairs(folder.name, images, pairs, same)
