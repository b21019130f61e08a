"""CIFAR-10 from its files: a made-up set of its format, and what is no such set."""

from __future__ import annotations

import io
import os
import pickle
import re
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fhecompile.errors import FheCompileError
from models.images import cifar

NAMES = (*cifar.TRAINING_FILES, cifar.TEST_FILE)
PLANES = np.random.default_rng(0).integers(0, 256, (len(NAMES), 3, 3072), dtype=np.uint8)
LABELS = np.random.default_rng(1).integers(0, 10, (len(NAMES), 3)).tolist()


def batch(number: int, protocol: int = 2, fortran: bool = False) -> bytes:
    data = np.asfortranarray(PLANES[number]) if fortran else PLANES[number]
    return pickle.dumps(
        {b"data": data, b"labels": LABELS[number], b"batch_label": b"one", b"filenames": [b"a"]},
        protocol,
    )


def write_folder(folder: Path, **others: bytes) -> Path:
    folder.mkdir()
    for number, name in enumerate(NAMES):
        (folder / name).write_bytes(others.get(name, batch(number)))
    return folder


def write_archive(path: Path, prefix: str = "cifar-10-batches-py/") -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for number, name in reversed(list(enumerate(NAMES))):
            info = tarfile.TarInfo(prefix + name)
            info.size = len(batch(number))
            archive.addfile(info, io.BytesIO(batch(number)))
    return path


def check(found: cifar.Cifar) -> None:
    assert found.training.images.shape == (15, 32, 32, 3)
    assert found.test.images.shape == (3, 32, 32, 3)
    images = np.concatenate([found.training.images, found.test.images]).reshape(6, 3, 1024, 3)
    assert images.dtype == np.uint8
    for colour in range(3):
        plane = PLANES[..., 1024 * colour : 1024 * (colour + 1)]
        assert np.array_equal(images[..., colour], plane)
    assert [*found.training.labels, *found.test.labels] == [x for part in LABELS for x in part]


def refusal(path: Path) -> str:
    with pytest.raises(FheCompileError) as caught:
        cifar.read_cifar(path)
    assert caught.value.exit_code == 2
    return str(caught.value)


def test_folder_and_the_folder_around_it(tmp_path: Path) -> None:
    check(cifar.read_cifar(write_folder(tmp_path / "cifar-10-batches-py")))
    check(cifar.read_cifar(tmp_path))


@pytest.mark.parametrize("prefix", ["cifar-10-batches-py/", "./cifar-10-batches-py/"])
def test_archive(prefix: str, tmp_path: Path) -> None:
    check(cifar.read_cifar(write_archive(tmp_path / "cifar-10-python.tar.gz", prefix)))
    assert len(list(tmp_path.iterdir())) == 1  # nothing is unpacked


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("fortran", [False, True])
def test_arrays_of_both_orders(protocol: int, fortran: bool) -> None:
    found = cifar.parse_batch(batch(0, protocol, fortran), "a")
    expected = cifar.parse_batch(batch(0), "a")
    assert np.array_equal(found.images, expected.images)
    assert np.array_equal(expected.images[1, 2, 7], PLANES[0, 1, 2 * 32 + 7 :: 1024])


def test_batch_of_python_2() -> None:
    # Its keys and the bytes of arrays are str: opcodes SHORT_BINSTRING (U) and BINSTRING (T).
    rows = PLANES[0]
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
        b"(K\x01K\x03M\x00\x0c\x86cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R"
        b"(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89"
        b"T" + rows.nbytes.to_bytes(4, "little") + rows.tobytes() + b"tb"
    )
    labels = b"](" + b"".join(b"K" + bytes([x]) for x in LABELS[0]) + b"e"
    found = cifar.parse_batch(b"\x80\x02}(U\x04data" + array + b"U\x06labels" + labels + b"u.", "a")
    expected = cifar.parse_batch(batch(0), "a")
    assert np.array_equal(found.images, expected.images)
    assert np.array_equal(found.labels, expected.labels)


def test_paths_that_are_no_set(tmp_path: Path) -> None:
    none = tmp_path / "none"
    assert refusal(none) == f"{none}: there is no such file or folder [cifar-data]"
    text = tmp_path / "text"
    text.write_text("no archive")
    assert refusal(text) == f"{text}: this is no archive that can be read [cifar-data]"
    archive = write_archive(tmp_path / "a.tar.gz")
    archive.write_bytes(archive.read_bytes()[:3000])
    assert refusal(archive) == f"{archive}: this is no archive that can be read [cifar-data]"
    other = write_archive(tmp_path / "b.tar.gz", "cifar-100-python/")
    hint = (
        "  hint: give the folder cifar-10-batches-py or cifar-10-python.tar.gz, the version for "
        "Python of https://www.cs.toronto.edu/~kriz/cifar.html"
    )
    assert refusal(other) == f"{other}: there is no data_batch_1 [cifar-data]\n{hint}"
    folder = write_folder(tmp_path / "folder")
    (folder / "test_batch").unlink()
    assert refusal(folder) == f"{folder}: there is no test_batch [cifar-data]\n{hint}"


def test_a_file_of_too_many_bytes(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "folder")
    with (folder / "data_batch_3").open("wb") as file:
        file.truncate(2**28 + 1)
    expected = f"{folder}:data_batch_3: 268435457 bytes are too many for this file [cifar-data]"
    assert refusal(folder) == expected


class Call:
    """Pickles to a call of os.system."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> Any:
        return os.system, (self.command,)


def test_a_pickle_that_runs_something(tmp_path: Path) -> None:
    trap = tmp_path / "trap"
    content = pickle.dumps({b"data": Call(f"touch {trap}")})
    folder = write_folder(tmp_path / "folder", data_batch_2=content)
    assert refusal(folder) == (
        f"{folder}:data_batch_2: the pickle asks for {os.system.__module__}.system, which no file "
        "of CIFAR-10 needs [cifar-data]\n"
        "  hint: the file may be harmful; take it from its publisher"
    )
    assert not trap.exists()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ([1], "the pickle is no dictionary"),
        ({b"data": PLANES[0]}, "there are no `data` and `labels`"),
        ({b"data": b"", b"labels": []}, "there are no `data` and `labels`"),
        ({b"data": PLANES[0, :, :9], b"labels": [1]}, "data must be n x 3072, not 3 x 9"),
        ({b"data": PLANES[0, 0], b"labels": [1]}, "data must be n x 3072, not 3072"),
        ({b"data": PLANES[0], b"labels": [1, 2]}, "3 images cannot have 2 labels"),
        ({b"data": PLANES[0, :0], b"labels": []}, "0 images cannot have 0 labels"),
        ({b"data": PLANES[0], b"labels": [1, 2, 10]}, "labels must be 0 to 9"),
        ({b"data": PLANES[0], b"labels": [1, 2, True]}, "labels must be 0 to 9"),
        (
            {b"data": PLANES[0].astype(np.float32), b"labels": [1, 2, 3]},
            "this is no pickle of CIFAR-10: an array is not of uint8",
        ),
    ],
)
def test_batches_that_are_none(content: Any, reason: str) -> None:
    with pytest.raises(FheCompileError, match=rf"^{re.escape(f'a: {reason} [cifar-data]')}$"):
        cifar.parse_batch(pickle.dumps(content), "a")


BATCH = pickle.dumps({b"data": PLANES[0, :1], b"labels": [7]}, 2)


@given(st.integers(0, 400), st.booleans(), st.integers(0, 255))
def test_damaged_batches_never_crash(place: int, from_end: bool, value: int) -> None:
    place = len(BATCH) - 1 - place if from_end else place
    content = bytearray(BATCH)
    content[place] = value
    for damaged in (bytes(content), BATCH[:place]):
        try:
            found = cifar.parse_batch(damaged, "a")
        except FheCompileError:
            continue
        assert found.images.shape == (1, 32, 32, 3)
        assert 0 <= found.labels[0] < 10
