"""Opening the files that samples and labels are given in."""

from __future__ import annotations

import contextlib
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from fhecompile.errors import FheCompileError
from fhecompile.plan.files import split_array_name


@contextlib.contextmanager
def open_arrays(source: str | Path, kind: str, code: str) -> Iterator[Any]:
    """What numpy loads of an .npz or .npy file, open while the block runs; no pickled objects.

    Args:
        source: path of the file, or `file.npz:array`, of which the array's name is left out.
        kind: what the file is to hold, for the hints: "labels".
        code: of the error where it is no such file.

    Raises:
        FheCompileError: `no-such-file`, or the code given; also of arrays read in the block.
    """
    path, _ = split_array_name(source)
    try:
        # numpy leaves a file it cannot read open, so it is opened here.
        with path.open("rb") as stream:
            yield np.load(stream, allow_pickle=False)
    except FileNotFoundError:
        raise FheCompileError(
            "no-such-file",
            "there is no such file",
            node=str(path),
            hint=f"give an .npz or .npy file of {kind}",
        ) from None
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise FheCompileError(
            code,
            "this is not a numeric .npz or .npy file",
            node=str(source),
            hint=f"save the {kind} with numpy.savez or numpy.save",
        ) from error
