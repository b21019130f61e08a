"""CIFAR-10 as published for Python: <https://www.cs.toronto.edu/~kriz/cifar.html>.

Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009. The files data_batch_1 to
data_batch_5 and test_batch are pickles of a dictionary, of which is used

    b"data"      n x 3072 uint8: 32 x 32 pixels of red row by row, then of green, then of blue
    b"labels"    n class numbers, 0 .. 9

with n = 10,000. They are read with `models.pickles`, from a folder or from cifar-10-python.tar.gz,
of which nothing is unpacked to disk.
"""

from __future__ import annotations

import io
import tarfile
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fhecompile.errors import FheCompileError
from models.images.dataset import CLASSES, SIDE, LabelledImages
from models.pickles import PickledArray, load_pickle

TRAINING_FILES = tuple(f"data_batch_{k}" for k in range(1, 6))
TEST_FILE = "test_batch"
FOLDER = "cifar-10-batches-py"
LARGEST_FILE = 1 << 28
"""Bytes; the published files have 31 million."""
CODE = "cifar-data"


class Cifar(NamedTuple):
    """The two parts of the set; 50,000 and 10,000 images as published."""

    training: LabelledImages
    test: LabelledImages


def read_cifar(path: Path) -> Cifar:
    """Read the set from its folder, the folder around that, or its .tar.gz.

    FheCompileError `cifar-data` if there is no such path, a file is missing or damaged, or a pickle
    asks for anything but data.
    """
    files = _read_folder(path) if path.is_dir() else _read_archive(path)
    for name in (*TRAINING_FILES, TEST_FILE):
        if name not in files:
            raise FheCompileError(
                CODE,
                f"there is no {name}",
                node=str(path),
                hint="give the folder cifar-10-batches-py or cifar-10-python.tar.gz, the version "
                "for Python of https://www.cs.toronto.edu/~kriz/cifar.html",
            )
    parts = {name: parse_batch(content, f"{path}:{name}") for name, content in files.items()}
    training = [parts[name] for name in TRAINING_FILES]
    return Cifar(
        LabelledImages(
            np.concatenate([part.images for part in training]),
            np.concatenate([part.labels for part in training]),
        ),
        parts[TEST_FILE],
    )


def _read_folder(path: Path) -> dict[str, bytes]:
    """Return the bytes of the set's files in a folder, by name."""
    folder = path / FOLDER if (path / FOLDER).is_dir() else path
    found = {}
    for name in (*TRAINING_FILES, TEST_FILE):
        file = folder / name
        if file.is_file():
            _check_size(file.stat().st_size, f"{path}:{name}")
            found[name] = file.read_bytes()
    return found


def _read_archive(path: Path) -> dict[str, bytes]:
    """Return the bytes of the set's files in an archive, by name."""
    found = {}
    try:
        with tarfile.open(path) as archive:
            for member in archive:
                folder, _, name = member.name.removeprefix("./").rpartition("/")
                if member.isfile() and folder == FOLDER and name in (*TRAINING_FILES, TEST_FILE):
                    _check_size(member.size, f"{path}:{name}")
                    content = archive.extractfile(member)
                    found[name] = content.read() if content else b""
    except FileNotFoundError:
        raise FheCompileError(CODE, "there is no such file or folder", node=str(path)) from None
    except (tarfile.TarError, zlib.error, EOFError, OSError) as error:
        raise FheCompileError(
            CODE, "this is no archive that can be read", node=str(path)
        ) from error
    return found


def _check_size(size: int, place: str) -> None:
    if size > LARGEST_FILE:
        raise FheCompileError(CODE, f"{size} bytes are too many for this file", node=place)


def parse_batch(content: bytes, place: str) -> LabelledImages:
    """Return the images of one file; errors as of `read_cifar`, which name `place`."""

    def refuse(reason: str) -> FheCompileError:
        return FheCompileError(CODE, reason, node=place)

    try:
        batch = load_pickle(io.BytesIO(content), CODE, "CIFAR-10")
    except FheCompileError as error:
        raise FheCompileError(error.code, error.reason, node=place, hint=error.hint) from error
    if not isinstance(batch, dict):
        raise refuse("the pickle is no dictionary")
    pixels, labels = (batch.get(key, batch.get(key.decode())) for key in (b"data", b"labels"))
    if not isinstance(pixels, PickledArray) or not isinstance(labels, list):
        raise refuse("there are no `data` and `labels`")
    flat = pixels.array
    if flat.ndim != 2 or flat.shape[1] != 3 * SIDE**2:
        raise refuse(f"data must be n x {3 * SIDE**2}, not {' x '.join(map(str, flat.shape))}")
    if not all(type(label) is int and 0 <= label < CLASSES for label in labels):
        raise refuse(f"labels must be 0 to {CLASSES - 1}")
    if len(labels) != len(flat) or not labels:
        raise refuse(f"{len(flat)} images cannot have {len(labels)} labels")
    images = flat.reshape(-1, 3, SIDE, SIDE).transpose(0, 2, 3, 1)
    return LabelledImages(np.ascontiguousarray(images), np.array(labels, dtype=np.int64))
