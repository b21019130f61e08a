"""OpenFHE's objects as bytes, and back with every check that OpenFHE leaves out.

Bytes that OpenFHE cannot read, or that are an object of another context or another key, are
refused; `runtime.bundle` has checked before that they are the bytes that were written.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from fhecompile.errors import FheCompileError
from runtime.key_maps import changing_keys
from runtime.library import load_openfhe


def to_bytes(thing: Any) -> bytes:
    """A key, a map of automorphism keys or a ciphertext in OpenFHE's binary form."""
    o = load_openfhe()
    data: bytes = o.Serialize(thing, o.BINARY)
    return data


def relinearisation_to_bytes(key_tag: str) -> bytes:
    """The relinearisation key that the process holds for a tag."""
    o = load_openfhe()
    data: bytes = o.SerializeEvalMultKeyString(o.BINARY, key_tag)
    return data


def read_ciphertext(data: bytes, name: str, context: Any, key_tag: str, level: int) -> Any:
    """A ciphertext of this context and key at this level.

    Args:
        data: its bytes.
        name: what to call it in an error.
        context, key_tag, level: what it is to be.
    """
    read = load_openfhe().DeserializeCiphertextString
    ciphertext = _read(read, data, name, context, key_tag)
    found, elements = ciphertext.GetLevel(), ciphertext.NumberCiphertextElements()
    if (found, elements) != (level, 2):
        raise FheCompileError(
            "wrong-ciphertext",
            f"it is a ciphertext of {elements} polynomials at level {found}, expected 2 at level "
            f"{level}",
            node=name,
            hint="encrypt with the very plan that is evaluated",
        )
    return ciphertext


def read_public_key(data: bytes, name: str, context: Any, key_tag: str) -> Any:
    """See `read_ciphertext`."""
    return _read(load_openfhe().DeserializePublicKeyString, data, name, context, key_tag)


def read_secret_key(data: bytes, name: str, context: Any, key_tag: str) -> Any:
    """See `read_ciphertext`."""
    return _read(load_openfhe().DeserializePrivateKeyString, data, name, context, key_tag)


def read_automorphism_keys(data: bytes, name: str) -> Any:
    """A map of automorphism keys; `name` is what to call it in an error."""
    o = load_openfhe()
    with _reading(name):
        keys = o.DeserializeEvalKeyMapString(data, o.BINARY)
        if keys is None:  # see `_read`
            raise ValueError("no keys")
    return keys


def insert_automorphism_key(data: bytes, name: str, context: Any, key_tag: str) -> None:
    """Puts an automorphism key where OpenFHE looks for those of a tag."""
    keys = read_automorphism_keys(data, name)
    with _reading(name), changing_keys():
        context.InsertEvalAutomorphismKey(keys, key_tag)


def insert_relinearisation_key(data: bytes, name: str, context: Any, key_tag: str) -> None:
    """Puts a relinearisation key where OpenFHE looks for that of its tag, which is to be this."""
    o = load_openfhe()
    with _reading(name), changing_keys():
        before = set(context.GetAllEvalMultKeys())
        o.DeserializeEvalMultKeyString(data, o.BINARY)
        after = set(context.GetAllEvalMultKeys())
    if key_tag not in after or not after - before <= {key_tag}:
        raise _foreign(name)


@contextlib.contextmanager
def _reading(name: str) -> Iterator[None]:
    try:
        yield
    except (RuntimeError, ValueError, MemoryError) as error:  # a length of nonsense is a bad_alloc
        raise FheCompileError(
            "wrong-ciphertext",
            "OpenFHE cannot read it",
            node=name,
            hint="make it again with the same version of OpenFHE",
        ) from error


def _read(
    read: Callable[[bytes, Any], Any], data: bytes, name: str, context: Any, key_tag: str
) -> Any:
    """What OpenFHE makes of bytes, if it is of this context and key."""
    with _reading(name):
        thing = read(data, load_openfhe().BINARY)
    # OpenFHE reads zeros as a null pointer, which Python sees as None.
    if thing is None or thing.GetCryptoContext() != context or thing.GetKeyTag() != key_tag:
        raise _foreign(name)
    return thing


def _foreign(name: str) -> FheCompileError:
    return FheCompileError(
        "wrong-key-set",
        "it was made with another key than its file says",
        node=name,
        hint="use the keys of one run of: python -m runtime keygen",
    )
