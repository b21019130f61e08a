"""Labels of samples: the class of each, to measure accuracy by."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fhecompile.errors import FheCompileError
from fhecompile.frontend.arrays import open_arrays
from fhecompile.plan.files import split_array_name

CODE = "labels-mismatch"
LabelSource = str | Path | NDArray[Any]


def load_labels(source: LabelSource, samples: int, classes: int) -> NDArray[np.int64]:
    """The class of each sample, (samples,).

    Args:
        source: integers of shape (samples,) or (samples, 1); in memory, or as the path of an .npy
            file. `data.npz:labels` takes the array `labels` of an .npz file.
        samples: how many samples there are.
        classes: how many classes there are; labels are 0 to classes - 1.

    Raises:
        FheCompileError: there is no such file or array, or it does not fit the samples.
    """
    if isinstance(source, np.ndarray):
        place, array = "labels", source
    else:
        place, array = str(source), _read(source)
    if array.dtype.kind not in "iu":
        raise _mismatch(
            place,
            f"the labels have type {array.dtype}, not integers",
            "save the number of each sample's class, e.g. with labels.astype(numpy.int64)",
        )
    if array.shape not in ((samples,), (samples, 1)):
        raise _mismatch(
            place,
            f"the labels have shape {array.shape}, expected ({samples},): one per sample",
            "labels belong to the samples of --test, or of --calibrate where there are none",
        )
    low, high = int(array.min()), int(array.max())
    if low < 0 or high >= classes:
        raise _mismatch(
            place,
            f"the labels are from {low} to {high}, but the network has classes 0 to {classes - 1}",
            "number the classes like the network's output",
        )
    return array.reshape(-1).astype(np.int64)


def _read(source: str | Path) -> NDArray[Any]:
    path, name = split_array_name(source)
    with open_arrays(source, "labels", CODE) as loaded:
        if isinstance(loaded, np.ndarray):
            return loaded
        if name in loaded.files:
            return np.asarray(loaded[name])
        raise _mismatch(
            str(path),
            f"there is no array {name}" if name else "which array holds the labels is not said",
            f"write {path}:NAME; the arrays are: {', '.join(loaded.files)}",
        )


def _mismatch(place: str, reason: str, hint: str) -> FheCompileError:
    return FheCompileError(CODE, reason, node=place, hint=hint)
