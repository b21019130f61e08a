"""Reads and writes the plan's container: the safetensors file layout.

Eight bytes with the header's length, a JSON header (array names, types, shapes and positions; the
program as one JSON text under `__metadata__`), then the aligned data. Nothing in the file is
executed or opened; every byte is covered by one SHA-256, so that damage is found before use.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load as load_safetensors

from fhecompile.errors import FheCompileError

MAGIC = "fheplan"
_DTYPES = {"<f8": "F64", "<f4": "F32", "<i8": "I64", "<i4": "I32"}
Arrays = Mapping[str, NDArray[np.generic]]


def digest(program: bytes, arrays: Arrays) -> str:
    """SHA-256 over the program's text and every array's name, type, shape and bytes."""
    h = hashlib.sha256()
    h.update(len(program).to_bytes(8, "little"))
    h.update(program)
    for name in sorted(arrays):
        array = arrays[name]
        h.update(f"\n{name} {array.dtype.str} {array.shape}\n".encode())
        h.update(array.tobytes())
    return h.hexdigest()


def encode_container(version: int, program: bytes, arrays: Arrays) -> bytes:
    """The bytes of a plan file; equal plans give equal bytes."""
    metadata = {
        "format": MAGIC,
        "version": str(version),
        "sha256": digest(program, arrays),
        "program": program.decode(),
    }
    header: dict[str, Any] = {"__metadata__": metadata}
    blocks, position = [], 0
    for name in sorted(arrays, key=lambda name: (-arrays[name].itemsize, name)):  # keeps alignment
        array = arrays[name]
        block = array.tobytes()
        header[name] = {
            "dtype": _DTYPES[array.dtype.str],
            "shape": array.shape,
            "data_offsets": [position, position + len(block)],
        }
        position += len(block)
        blocks.append(block)
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return b"".join([len(text).to_bytes(8, "little"), text, *blocks])


def read_container(path: Path, version: int) -> tuple[bytes, dict[str, NDArray[np.generic]]]:
    """(program, arrays) of a plan file; FheCompileError when it cannot be used."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise FheCompileError(
            "no-such-file", f"cannot read the plan ({error.strerror})", node=str(path)
        ) from error
    if len(data) > 8 and data[8:9] != b"{":
        raise _not_a_plan(path)
    try:
        metadata = _metadata(data)
    except ValueError as error:
        raise _damaged(path, str(error)) from error
    if metadata.get("format") != MAGIC:
        raise _not_a_plan(path)
    if metadata.get("version") != str(version):
        raise FheCompileError(
            "plan-version",
            f"the plan has format version {metadata.get('version')}, this version reads {version}",
            node=str(path),
            hint="compile the model again with this version of fhecompile",
        )
    try:
        arrays = load_safetensors(data)
        program = metadata["program"].encode()
        expected = metadata["sha256"]
    except (SafetensorError, KeyError, ValueError, TypeError, AttributeError) as error:
        raise _damaged(path, "its header does not match its size") from error
    if digest(program, arrays) != expected:
        raise _damaged(path, "its checksum does not match its content")
    return program, arrays


def _metadata(data: bytes) -> dict[str, str]:
    """The string map under `__metadata__`; ValueError when there is no readable header."""
    import msgspec

    if len(data) < 8:
        raise ValueError("it is shorter than its header")
    length = int.from_bytes(data[:8], "little")
    if length > len(data) - 8:
        raise ValueError("it is shorter than its header")
    try:
        header = msgspec.json.decode(data[8 : 8 + length])
        metadata = header.get("__metadata__", {})
        return {str(key): str(value) for key, value in metadata.items()}
    except (msgspec.DecodeError, AttributeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError("its header is not readable") from error


def _not_a_plan(path: Path) -> FheCompileError:
    return FheCompileError(
        "not-a-plan",
        "this is not a plan file",
        node=str(path),
        hint="make one with: fhecompile model.onnx",
    )


def _damaged(path: Path, reason: str) -> FheCompileError:
    return FheCompileError(
        "plan-damaged",
        f"the plan file is damaged: {reason}",
        node=str(path),
        hint="copy it again, or compile the model again",
    )
