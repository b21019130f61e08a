"""What compiler and runtime share of files: writing whole or not at all, naming an array in one."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from fhecompile.errors import FheCompileError


def check_writable(path: Path, option: str = "-o") -> None:
    """Raises when a file cannot be written there; called before the work whose result it takes.

    Args:
        path: the file.
        option: the command-line option that chooses it, for the hint.
    """
    if path.is_dir():
        raise _cannot_write(path, "that is a folder", option)
    if not path.parent.is_dir():
        raise _cannot_write(path, f"there is no folder {path.parent}", option)
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise _cannot_write(path, "no permission", option)


def make_folder(path: Path, option: str = "-o") -> None:
    """Makes a folder, and those it is in, unless it is there; raises when it cannot be made."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _cannot_write(path, error.strerror or str(error), option) from error


def write_atomically(path: Path, data: bytes, option: str = "-o") -> None:
    """Writes a whole file or nothing."""
    with open_atomically(path, option) as file:
        file.write(data)


@contextlib.contextmanager
def open_atomically(path: Path, option: str = "-o", mode: int = 0o666) -> Iterator[BinaryIO]:
    """A file to write under a temporary name, renamed at the end: no half file is ever seen.

    Args:
        path: the file; it stays what it was if the block raises.
        option: the command-line option that chooses it, for the hint.
        mode: permissions of a new file, less those the user's mask takes away.
    """
    target = Path(os.path.realpath(path))
    temporary = target.parent / f".{target.name}.{secrets.token_hex(6)}"
    try:
        if target.exists() and not target.is_file():  # /dev/null is written, not replaced
            with open(target, "wb") as file:
                yield file
            return
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        with open(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except BaseException as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        if isinstance(error, OSError):
            raise _cannot_write(path, error.strerror or str(error), option) from error
        raise


def split_array_name(text: str | Path) -> tuple[Path, str]:
    """`data.npz:images` names one array of a file: (its path, the array's name or "")."""
    path, _, array = str(text).rpartition(":")
    return (Path(path), array) if path and not Path(text).exists() else (Path(text), "")


def _cannot_write(path: Path, reason: str, option: str) -> FheCompileError:
    return FheCompileError(
        "cannot-write",
        f"cannot write there ({reason})",
        node=str(path),
        hint=f"choose another place with {option}",
    )
