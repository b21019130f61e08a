"""Labels as arrays and files, and the exact texts of what they may not be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fhecompile.errors import FheCompileError
from fhecompile.frontend.labels import LabelSource, load_labels

LABELS = np.array([2, 0, 1, 2], np.uint8)


def text_of(source: LabelSource, samples: int = 4, classes: int = 3) -> str:
    with pytest.raises(FheCompileError) as caught:
        load_labels(source, samples, classes)
    assert caught.value.exit_code == 2
    return str(caught.value)


@pytest.mark.parametrize("shape", [(4,), (4, 1)])
def test_forms(tmp_path: Path, shape: tuple[int, ...]) -> None:
    npy, npz = tmp_path / "y.npy", tmp_path / "data.npz"
    np.save(npy, LABELS.reshape(shape))
    np.savez(npz, x=np.zeros(3), y=LABELS.reshape(shape))
    for source in (LABELS.reshape(shape), npy, str(npy), f"{npz}:y"):
        found = load_labels(source, 4, 3)
        assert found.dtype == np.int64 and found.tolist() == [2, 0, 1, 2]


@pytest.mark.parametrize("dtype", [np.float32, np.bool_, "<U1"])
def test_types(dtype: Any) -> None:
    array = LABELS.astype(dtype)
    assert text_of(array) == (
        f"labels: the labels have type {array.dtype}, not integers [labels-mismatch]\n"
        "  hint: save the number of each sample's class, e.g. with labels.astype(numpy.int64)"
    )


@pytest.mark.parametrize("array", [LABELS[:3], LABELS[None], np.zeros((4, 3), int), np.array(1)])
def test_numbers_of_labels(array: Any) -> None:
    assert text_of(array) == (
        f"labels: the labels have shape {array.shape}, expected (4,): one per sample "
        "[labels-mismatch]\n"
        "  hint: labels belong to the samples of --test, or of --calibrate where there are none"
    )


@pytest.mark.parametrize(("array", "shown"), [(LABELS, "0 to 2"), ([0, -1, 1, 0], "-1 to 1")])
def test_classes(array: Any, shown: str) -> None:
    assert text_of(np.array(array), classes=2) == (
        f"labels: the labels are from {shown}, but the network has classes 0 to 1 "
        "[labels-mismatch]\n  hint: number the classes like the network's output"
    )


def test_files(tmp_path: Path) -> None:
    npz, text, none = tmp_path / "data.npz", tmp_path / "y.txt", tmp_path / "none.npy"
    np.savez(npz, x=np.zeros(3), y=LABELS)
    text.write_text("2 0 1 2")
    hint = f"\n  hint: write {npz}:NAME; the arrays are: x, y"
    assert text_of(f"{npz}:z") == f"{npz}: there is no array z [labels-mismatch]{hint}"
    assert text_of(npz) == (
        f"{npz}: which array holds the labels is not said [labels-mismatch]{hint}"
    )
    assert text_of(text) == (
        f"{text}: this is not a numeric .npz or .npy file [labels-mismatch]\n"
        "  hint: save the labels with numpy.savez or numpy.save"
    )
    assert text_of(none) == (
        f"{none}: there is no such file [no-such-file]\n  hint: give an .npz or .npy file of labels"
    )
