"""Pickles of data, read without running what they say.

A pickle is a program. `load_pickle` lets it build bytes, strings, lists, tuples, dictionaries,
numbers and arrays of bytes and nothing else. It never reaches numpy: what a pickled array names is
replaced by classes of this module, which check what they are given and copy it. So also pickles
from Python 2 and from any version of numpy are read.
"""

from __future__ import annotations

import math
import pickle
import pickletools
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from fhecompile.errors import FheCompileError

LARGEST_PICKLE = 10**7
"""Objects in a pickle; LFW's pairs, with 12,000 images, have 12,003 if they are bytes."""


class _PickledBytes:
    """Python 3 pickles bytes as `_codecs.encode(text, "latin1")` in protocol 2."""

    def __new__(cls, text: object = "", codec: object = "latin1") -> Any:
        if not isinstance(text, str) or codec != "latin1":
            raise pickle.UnpicklingError("bytes are not encoded as latin1")
        return text.encode("latin1")

    # Without this, a pickle could set attributes of the class.
    def __setstate__(self, state: object) -> None:
        raise pickle.UnpicklingError("bytes have no state")


class _PickledType:
    """`numpy.dtype`, which must be uint8."""

    def __init__(self, name: object, *_: object) -> None:
        if name not in ("u1", "uint8", b"u1"):
            raise pickle.UnpicklingError("an array is not of uint8")

    def __setstate__(self, state: object) -> None:
        """Byte order and alignment mean nothing for single bytes."""


class PickledArray:
    """`numpy.ndarray` of uint8, by `_reconstruct` and its state or by `_frombuffer` (protocol 5).

    `data` are its bytes, in the order of `array`'s memory.
    """

    def __init__(
        self, data: object = b"", kind: object = None, shape: object = (0,), order: object = "C"
    ) -> None:
        self.data, self._shape, self._order = b"", (0,), "C"
        if isinstance(data, (bytes, bytearray)):
            self._set(bytes(data), kind, shape, order)

    def __setstate__(self, state: Any) -> None:
        _version, shape, kind, fortran, data = state
        # Python 2's numpy writes whether the order is Fortran's as 0 or 1.
        self._set(data, kind, shape, "F" if fortran else "C")

    def _set(self, data: object, kind: object, shape: object, order: object) -> None:
        if not isinstance(kind, _PickledType) or not isinstance(data, bytes):
            raise pickle.UnpicklingError("an array is not of uint8")
        if not isinstance(shape, tuple) or not all(type(x) is int and x >= 0 for x in shape):
            raise pickle.UnpicklingError("an array has no shape")
        if math.prod(shape) != len(data) or order not in ("C", "F"):
            raise pickle.UnpicklingError("an array has another size than its shape")
        self.data, self._shape, self._order = data, shape, str(order)

    @property
    def array(self) -> NDArray[np.uint8]:
        """The array, which cannot be written to."""
        flat: NDArray[np.uint8] = np.frombuffer(self.data, np.uint8)
        return flat.reshape(self._shape, order="F" if self._order == "F" else "C")


_STAND_INS: dict[tuple[str, str], type] = {
    ("_codecs", "encode"): _PickledBytes,
    ("builtins", "bytes"): _PickledBytes,
    ("__builtin__", "bytes"): _PickledBytes,
    ("numpy", "dtype"): _PickledType,
    ("numpy", "ndarray"): PickledArray,
    **{(f"numpy.{core}.multiarray", "_reconstruct"): PickledArray for core in ("core", "_core")},
    **{(f"numpy.{core}.numeric", "_frombuffer"): PickledArray for core in ("core", "_core")},
}


def load_pickle(file: BinaryIO, code: str, content: str) -> Any:
    """Read what an open file, which must be seekable, holds; arrays are `PickledArray`.

    Strings of Python 2 are bytes. FheCompileError `code` if the pickle asks for anything else (the
    message names what) or is damaged; `content` says what the file should hold, for the message.
    """

    class Unpickler(pickle.Unpickler):
        def find_class(self, module: str, name: str) -> Any:
            try:
                return _STAND_INS[module, name]
            except KeyError:
                raise FheCompileError(
                    code,
                    f"the pickle asks for {module}.{name}, which no file of {content} needs",
                    hint="the file may be harmful; take it from its publisher",
                ) from None

    try:
        for opcode, argument, _ in pickletools.genops(file):
            # The unpickler makes room for as many objects as the largest number says.
            if opcode.name == "LONG_BINPUT" and (argument or 0) > LARGEST_PICKLE:
                raise ValueError("it has too many objects")
        file.seek(0)
        return Unpickler(file, encoding="bytes").load()
    except FheCompileError:
        raise
    except Exception as error:  # a damaged pickle raises nearly anything
        raise FheCompileError(code, f"this is no pickle of {content}: {error}") from error
