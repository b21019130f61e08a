"""OpenFHE's maps of evaluation keys, which all sessions of a process share.

They are by the tag of a key pair and have no lock; a key can be added, and all tags be cleared.
So whatever changes them does it alone (`changing_keys`), and operations look keys up in between
(`using_keys`). To take single keys out, everything is cleared and what stays is inserted again;
these are pointers, no key is copied.

The first automorphism keys inserted for a tag become its map, to which later ones are added. Made
of a handle that is kept, that would hold all of them for as long; so the first one is a map of
nobody else, with no key at an index that is no automorphism.
"""

from __future__ import annotations

import contextlib
import struct
import threading
from collections.abc import Iterable, Iterator
from typing import Any

from runtime.library import load_openfhe

NO_AUTOMORPHISM = 2**32 - 2  # Galois elements are odd, those of refreshes below 2 N


class _SharedLock:
    """Many users or one who changes; who waits to change goes before new users."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._users = 0
        self._waiting = 0
        self._changing = False

    @contextlib.contextmanager
    def shared(self) -> Iterator[None]:
        with self._condition:
            while self._changing or self._waiting:
                self._condition.wait()
            self._users += 1
        try:
            yield
        finally:
            with self._condition:
                self._users -= 1
                self._condition.notify_all()

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        with self._condition:
            self._waiting += 1
            try:
                while self._changing or self._users:
                    self._condition.wait()
                self._changing = True
            finally:
                self._waiting -= 1
        try:
            yield
        finally:
            with self._condition:
                self._changing = False
                self._condition.notify_all()


_LOCK = _SharedLock()  # the maps are of the process, so it is as well
using_keys, changing_keys = _LOCK.shared, _LOCK.alone


def held_indices(context: Any, key_tag: str) -> set[int]:
    """Galois elements of the automorphism keys that OpenFHE holds under a tag."""
    held: set[int] = set()
    with contextlib.suppress(RuntimeError):  # there is none at all
        held.update(context.GetExistingEvalAutomorphismKeyIndices(key_tag))
    return held - {NO_AUTOMORPHISM}


def clear_automorphism_keys(context: Any, key_tag: str) -> None:
    """Drops the automorphism keys of a tag; those of others stay. Only while `changing_keys`."""
    others = dict(context.GetAllEvalAutomorphismKeys())
    context.ClearEvalAutomorphismKeys()
    for tag, keys in others.items():
        if tag != key_tag:
            context.InsertEvalAutomorphismKey(keys, tag)


def clear_relinearisation_key(context: Any, key_tag: str) -> None:
    """The same for the relinearisation key."""
    others = dict(context.GetAllEvalMultKeys())
    load_openfhe().ClearEvalMultKeys()
    for tag, vector in others.items():
        if tag != key_tag:
            context.InsertEvalMultKey(vector, tag)


def insert_automorphism_keys(context: Any, key_tag: str, handles: Iterable[Any]) -> None:
    """Adds keys that their owner can drop again one by one. Only while `changing_keys`."""
    o = load_openfhe()
    empty = o.Serialize(o.EvalKeyMap(), o.BINARY)  # ends in its number of keys, 0
    entry = struct.pack("<QII", 1, NO_AUTOMORPHISM, 0)
    carrier = o.DeserializeEvalKeyMapString(empty[: -struct.calcsize("<Q")] + entry, o.BINARY)
    context.InsertEvalAutomorphismKey(carrier, key_tag)
    for handle in handles:
        context.InsertEvalAutomorphismKey(handle, key_tag)
