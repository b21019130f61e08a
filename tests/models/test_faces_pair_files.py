"""Face pairs from files: InsightFace pickles, which may be harmful, lists and folders."""

from __future__ import annotations

import io
import os
import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from fhecompile.errors import FheCompileError
from models import pickles
from models.faces import pair_files
from models.faces.pair_files import draw_pairs, folder_pairs, load_image, read_bin, read_list

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 5, 4, 3), dtype=np.uint8)


def encode(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "png")
    return file.getvalue()


PNGS = [encode(pixels) for pixels in PIXELS]
SAME = [True, False, True]


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def check_pairs(pairs: pair_files.FacePairs) -> None:
    assert len(pairs) == 3
    assert [pair.same for pair in pairs] == SAME
    for k, pair in enumerate(pairs):
        assert np.array_equal(pair.first, PIXELS[2 * k])
        assert np.array_equal(pair.second, PIXELS[2 * k + 1])


# -- InsightFace .bin ------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("arrays", [False, True])
@pytest.mark.parametrize("container", [list, tuple])
def test_bin(protocol: int, arrays: bool, container: Any, tmp_path: Path) -> None:
    images = [np.frombuffer(x, np.uint8) for x in PNGS] if arrays else PNGS
    content = pickle.dumps((container(images), container(SAME)), protocol)
    check_pairs(read_bin(write(tmp_path / "lfw.bin", content)))


@pytest.mark.parametrize("protocol", [2, 3])
def test_bin_of_an_older_or_newer_numpy(protocol: int, tmp_path: Path) -> None:
    content = pickle.dumps(([np.frombuffer(x, np.uint8) for x in PNGS], SAME), protocol)
    new, old = b"numpy._core.multiarray", b"numpy.core.multiarray"
    assert (new in content) != (old in content)
    other = content.replace(new, old) if new in content else content.replace(old, new)
    check_pairs(read_bin(write(tmp_path / "lfw.bin", other)))


def test_bin_of_python_2(tmp_path: Path) -> None:
    # Its str: opcode BINSTRING (T), four bytes of length; its labels: NEWTRUE, NEWFALSE.
    images = b"".join(b"T" + len(x).to_bytes(4, "little") + x for x in PNGS)
    content = b"\x80\x02(" + images + b"l(\x88\x89\x88l\x86."
    check_pairs(read_bin(write(tmp_path / "lfw.bin", content)))


class Reduced:
    """Pickles to a call."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
@pytest.mark.parametrize(
    ("function", "name"),
    [
        (os.system, f"{os.system.__module__}.system"),
        (eval, "(builtins|__builtin__).eval"),
        (np.load, r"numpy.load"),
        (Path, "pathlib.Path"),
    ],
)
def test_other_globals_are_refused(function: Any, name: str, protocol: int, tmp_path: Path) -> None:
    trap = tmp_path / "trap"
    content = pickle.dumps(([Reduced(function, f"touch {trap}")], [True]), protocol)
    path = write(tmp_path / "lfw.bin", content)
    with pytest.raises(FheCompileError) as caught:
        read_bin(path)
    assert re.fullmatch(
        re.escape(f"{path}: ") + f"the pickle asks for {name}, which no file of face pairs needs "
        r"\[pair-file\]\n  hint: the file may be harmful; take it from its publisher",
        str(caught.value),
    )
    assert not trap.exists()


def test_dotted_names_are_refused(tmp_path: Path) -> None:
    # Protocol 4 looks up `numpy`, `dtype.__init__` attribute by attribute.
    content = b"\x80\x04\x8c\x05numpy\x8c\x0edtype.__init__\x93."
    path = write(tmp_path / "lfw.bin", content)
    with pytest.raises(FheCompileError, match=r"the pickle asks for numpy\.dtype\.__init__, which"):
        read_bin(path)


def test_classes_keep_their_attributes(tmp_path: Path) -> None:
    # BUILD with slot state would call setattr(_codecs.encode, "spoilt", 1).
    build = b"\x80\x02c_codecs\nencode\nN}X\x06\x00\x00\x00spoiltK\x01s\x86b."
    path = write(tmp_path / "lfw.bin", build)
    with pytest.raises(FheCompileError, match="this is no pickle of face pairs"):
        read_bin(path)
    assert not any(hasattr(x, "spoilt") for x in pickles._STAND_INS.values())


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (([np.zeros(3)], [True]), "this is no pickle of face pairs: an array is not of uint8"),
        (([np.array([None])], [True]), "this is no pickle of face pairs: an array is not of uint8"),
        (PNGS, "the pickle is no pair of images and labels"),
        ((PNGS, [True]), "1 pairs cannot have 6 images"),
        (([], []), "0 pairs cannot have 0 images"),
        ((["text", "text"], [True]), "images must be encoded files and labels true or false"),
        ((PNGS[:2], [7]), "images must be encoded files and labels true or false"),
        ((5, 6), "images and labels must be lists"),
    ],
)
def test_bin_errors(content: Any, reason: str, tmp_path: Path) -> None:
    path = write(tmp_path / "lfw.bin", pickle.dumps(content, 3))
    with pytest.raises(FheCompileError) as caught:
        read_bin(path)
    assert str(caught.value) == f"{path}: {reason} [pair-file]"


def test_a_number_cannot_ask_for_memory(tmp_path: Path) -> None:
    # LONG_BINPUT 2^32 - 1 makes pickle's C code reserve 64 GiB.
    path = write(tmp_path / "lfw.bin", b"\x80\x02]r\xff\xff\xff\xff.")
    with pytest.raises(FheCompileError) as caught:
        read_bin(path)
    reason = "this is no pickle of face pairs: it has too many objects [pair-file]"
    assert str(caught.value) == f"{path}: {reason}"


def test_array_with_another_size_than_its_shape(tmp_path: Path) -> None:
    array = np.zeros(3, np.uint8)
    rebuild, arguments, state = array.__reduce__()
    wrong = (*state[:1], (4,), *state[2:])

    class Wrong:
        def __reduce__(self) -> Any:
            return rebuild, arguments, wrong

    path = write(tmp_path / "lfw.bin", pickle.dumps(([Wrong(), array], [True]), 3))
    with pytest.raises(FheCompileError, match="an array has another size than its shape"):
        read_bin(path)


@given(st.integers(0, 10_000), st.integers(0, 255))
def test_damaged_bins_never_crash(place: int, value: int) -> None:
    content = bytearray(BIN)
    content[place % len(BIN)] = value
    for damaged in (bytes(content), BIN[: place % len(BIN)]):
        try:
            pairs = pair_files.parse_bin(io.BytesIO(damaged), "lfw.bin")
        except FheCompileError:
            continue
        assert len(pairs.images) == 2 * len(pairs)


TINY = [np.frombuffer(b"ab", np.uint8), b"cd"]
BIN = pickle.dumps((TINY, [True]), 2)


def test_missing_files(tmp_path: Path) -> None:
    path = tmp_path / "none"
    for read in (read_bin, read_list):
        with pytest.raises(FheCompileError) as caught:
            read(path)
        assert str(caught.value) == f"{path}: there is no such file [pair-file]"


def test_images_that_are_none(tmp_path: Path) -> None:
    pairs = read_bin(write(tmp_path / "a.bin", pickle.dumps(([PNGS[0], b"GIF89a"], [True]))))
    with pytest.raises(FheCompileError) as caught:
        pairs[0]
    assert str(caught.value) == ("a.bin, image 1: this is no image that can be read [face-image]")
    with pytest.raises(FheCompileError) as caught:
        load_image(tmp_path / "b.png", "b")
    assert str(caught.value) == f"{tmp_path / 'b.png'}: there is no such image [face-image]"
    with pytest.raises(FheCompileError, match="this is no image that can be read"):
        load_image(PNGS[0][: len(PNGS[0]) // 2], "half")


def test_grey_images_become_rgb() -> None:
    grey = PIXELS[0, :, :, 0]
    assert np.array_equal(load_image(encode(grey), "grey"), np.stack([grey] * 3, axis=-1))


def test_slices_are_pairs() -> None:
    pairs = pair_files.FacePairs("p", PNGS, np.arange(6).reshape(3, 2), np.array(SAME))
    check_pairs(pairs)
    assert [pair.same for pair in pairs[1:]] == SAME[1:]
    assert np.array_equal(pairs[1:][0].first, PIXELS[2])
    assert np.array_equal(pairs[-1].second, PIXELS[5])


# -- lists and folders -----------------------------------------------------------------------------


def test_list(tmp_path: Path) -> None:
    for k, content in enumerate(PNGS):
        write(tmp_path / f"{k}.png", content)
    lines = "0.png 1.png 1\n\n2.png  3.png 0\n4.png\t5.png 1\n"
    path = write(tmp_path / "pairs.txt", lines.encode())
    check_pairs(read_list(path))
    (tmp_path / "lists").mkdir()
    check_pairs(read_list(path.rename(tmp_path / "lists" / "pairs.txt"), root=tmp_path))


def test_list_decodes_no_image_twice(tmp_path: Path) -> None:
    path = write(tmp_path / "pairs.txt", b"a b 1\nb c 0\na a 1\n")
    pairs = read_list(path)
    assert pairs.images == [tmp_path / name for name in "abc"]
    assert pairs.pairs.tolist() == [[0, 1], [1, 2], [0, 0]]


@pytest.mark.parametrize("line", ["a b", "a b 2", "a b c 1", "a b -1"])
def test_list_errors(line: str, tmp_path: Path) -> None:
    path = write(tmp_path / "pairs.txt", f"a b 1\n{line}\n".encode())
    with pytest.raises(FheCompileError) as caught:
        read_list(path)
    message = f"{path}:2: a line must be `path path label`, label 0 or 1 [pair-file]"
    assert str(caught.value) == message


def test_empty_list(tmp_path: Path) -> None:
    path = write(tmp_path / "pairs.txt", b"\n")
    with pytest.raises(FheCompileError) as caught:
        read_list(path)
    assert str(caught.value) == f"{path}: the list is empty [pair-file]"


def test_folder(tmp_path: Path) -> None:
    for person, images in (("b", 2), ("a", 3), ("empty", 0), ("c", 1)):
        (tmp_path / person).mkdir()
        for k in range(images):
            write(tmp_path / person / f"{k}.PNG", PNGS[k])
    write(tmp_path / "a" / "notes.txt", b"")
    write(tmp_path / "loose.png", PNGS[0])
    people = pair_files.read_people(tmp_path)
    assert {name: len(files) for name, files in people.items()} == {"a": 3, "b": 2, "c": 1}
    assert list(people) == ["a", "b", "c"]

    pairs = folder_pairs(tmp_path, 20, seed=0)
    assert pairs.same.tolist() == [True, False] * 10
    for k, (first, second) in enumerate(pairs.pairs):
        one, other = pairs.images[first], pairs.images[second]
        assert isinstance(one, Path)
        assert isinstance(other, Path)
        assert (one.parent == other.parent) == pairs.same[k]
        assert one != other
    assert np.array_equal(pairs.pairs, folder_pairs(tmp_path, 20, seed=0).pairs)
    assert not np.array_equal(pairs.pairs, folder_pairs(tmp_path, 20, seed=1).pairs)


def test_folder_errors(tmp_path: Path) -> None:
    message = (
        f"{tmp_path}: there are images of 0 people, at least 2 are needed [face-folder]\n"
        "  hint: give each person a folder with their images"
    )
    with pytest.raises(FheCompileError) as caught:
        pair_files.read_people(tmp_path)
    assert str(caught.value) == message
    with pytest.raises(FheCompileError) as caught:
        draw_pairs([[0], [1]], 2, seed=0)
    assert str(caught.value) == "no person has two images to make a pair of [face-folder]"
