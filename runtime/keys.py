"""Keys: who holds what, and how they are made.

Who encrypts holds a `PublicContext`, who decrypts a `SecretContext`, the server a `ServerContext`:
the context and the tag under which OpenFHE keeps evaluation keys in process-wide maps, and never a
secret key.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fhecompile.ckks.parameters import Parameters
from fhecompile.plan.schema import KeysInfo
from runtime.backends.encoder import Vector, encode_vector
from runtime.backends.openmp import allow_inner_threads
from runtime.key_maps import (
    changing_keys,
    clear_automorphism_keys,
    clear_relinearisation_key,
    held_indices,
    insert_automorphism_keys,
    using_keys,
)
from runtime.key_stages import CONJUGATION, REFRESH, RELINEARISATION, list_keys, rotation_name
from runtime.library import load_openfhe, make_context, unreadable, wrapped

Ciphertext = Any
MADE_AT_ONCE = 8  # keys that OpenFHE's threads share; Ctrl-C waits for them
SWITCH_SLOTS = 2  # fewest slots, of which a refresh needs the fewest rotations


@dataclass(frozen=True, eq=False, kw_only=True)
class PublicContext:
    """What whoever encrypts holds."""

    context: Any
    public_key: Any
    parameters: Parameters

    def encrypt(self, vector: Vector, scale: float, level: int = 0) -> Ciphertext:
        """A fresh ciphertext of a slot vector at a level and scale 2^scale."""
        with wrapped("encrypting"):
            plaintext = encode_vector(self.context, self.parameters, vector, scale, level)
            return self.context.Encrypt(self.public_key, plaintext)


@dataclass(frozen=True, eq=False, kw_only=True)
class SecretContext(PublicContext):
    """What only the client holds."""

    secret_key: Any

    def decrypt(
        self, ciphertext: Ciphertext, scale: float, node: str = ""
    ) -> NDArray[np.complex128]:
        """The slot vector of a ciphertext at scale 2^scale; `node` is what it is, for an error."""
        with wrapped("decrypting", node):
            plaintext = self.context.Decrypt(ciphertext, self.secret_key)
            plaintext.SetLength(self.parameters.slots)
            values: NDArray[np.complex128] = np.array(
                plaintext.GetCKKSPackedValueArray(), np.complex128
            )
        values = values[: self.parameters.slots]
        values *= 2.0 ** (self.parameters.prime_bits - scale)
        if not np.isfinite(values).all():
            raise unreadable(node, "what is decrypted holds NaN or infinite values")
        return values


@dataclass(frozen=True, eq=False)
class ServerContext:
    """What a server holds: the context and the tag of the evaluation keys. Never a secret key."""

    context: Any
    key_tag: str
    parameters: Parameters

    @property
    def key_stages(self) -> Sequence[int] | None:
        """The stage of keys of every operation of the one plan that it is for; None: all are held,
        for any plan."""
        return None

    def enter_stage(self, stage: int) -> None:
        """Sees to it that OpenFHE finds the keys of a stage; no operation may run meanwhile."""

    def missing_keys(self, keys: KeysInfo) -> list[str]:
        """Names of the listed evaluation keys that this context does not have."""
        with using_keys():
            held = held_indices(self.context, self.key_tag)
            relinearises = self.key_tag in self.context.GetAllEvalMultKeys()
        indices = automorphism_indices(self.parameters, keys)
        order = 2 * self.parameters.ring_dimension
        there = {name for name, index in indices.items() if index in held}
        there |= {REFRESH} if held.issuperset({order - 2, order - 4}) else set()
        there |= {RELINEARISATION} if relinearises else set()
        return [name for name in list_keys(keys) if name not in there]

    def release(self) -> None:
        """Drops the evaluation keys of this tag from the process; others stay."""
        with changing_keys():
            clear_automorphism_keys(self.context, self.key_tag)
            clear_relinearisation_key(self.context, self.key_tag)


def generate_keys(
    parameters: Parameters, keys: KeysInfo, threads: int = 1
) -> tuple[SecretContext, ServerContext]:
    """A fresh key pair and the evaluation keys a plan lists.

    With more than one of `threads`, OpenFHE makes several keys at the same time.
    """
    secret = generate_key_pair(parameters)
    server = ServerContext(secret.context, secret.secret_key.GetKeyTag(), parameters)
    if keys.refreshes:
        generate_refresh_keys(secret)
    if keys.relinearisation:
        with wrapped("generating keys"), changing_keys():
            secret.context.EvalMultKeyGen(secret.secret_key)
    indices = list(automorphism_indices(parameters, keys).values())
    allow_inner_threads(threads > 1)
    for start in range(0, len(indices), MADE_AT_ONCE):
        # OpenFHE keeps what it makes, in a map without a lock: its own threads share the work.
        with wrapped("generating keys"), changing_keys():
            chunk = indices[start : start + MADE_AT_ONCE]
            secret.context.EvalAutomorphismKeyGen(secret.secret_key, chunk)
    return secret, server


def generate_key_pair(parameters: Parameters) -> SecretContext:
    """A fresh secret and public key."""
    context = make_context(parameters)
    with wrapped("generating keys"):
        pair = context.KeyGen()
    return SecretContext(
        context=context,
        public_key=pair.publicKey,
        secret_key=pair.secretKey,
        parameters=parameters,
    )


def generate_refresh_keys(secret: SecretContext) -> Any:
    """The keys that refreshes switch to a sparse secret and back with, which is drawn here.

    OpenFHE makes them along with all rotations of a refresh, and has no other way to part with them
    than by a file: so a refresh of `SWITCH_SLOTS` slots is asked for, and all but the two are left
    in the file. They are under the key's tag afterwards, with which nothing else was made before.
    """
    o, context, tag = load_openfhe(), secret.context, secret.secret_key.GetKeyTag()
    order = 2 * secret.parameters.ring_dimension
    with (
        wrapped("generating the keys of refreshes"),
        tempfile.TemporaryDirectory(prefix="fhecompile-") as folder,
    ):
        file = str(Path(folder) / "keys")
        context.EvalBootstrapSetup([1, 1], [0, 0], SWITCH_SLOTS, 0, False)
        indices = [order - 2, order - 4]
        with changing_keys():
            context.EvalBootstrapKeyGen(secret.secret_key, SWITCH_SLOTS)
            written = o.SerializeEvalBootstrapKey(file, o.BINARY, context, tag, SWITCH_SLOTS)
            clear_automorphism_keys(context, tag)
            clear_relinearisation_key(context, tag)
            if not written or not o.DeserializeEvalBootstrapKey(file, o.BINARY, tag, indices):
                raise RuntimeError(f"its keys cannot be written to {folder}")
        return context.GetEvalAutomorphismKeyMap(tag)


def generate_automorphism_keys(secret: SecretContext, keys: KeysInfo) -> Iterator[tuple[str, Any]]:
    """(name, evaluation key) of each rotation and the conjugation, one by one.

    The next one is made while the caller is busy with one, which takes about as long if it is
    written to a file: more at a time would gain nothing. OpenFHE keeps each under the key's tag:
    who wants few in memory clears these in between, and inserts a map of nobody else again
    (`runtime.key_maps`).
    """
    with changing_keys():
        insert_automorphism_keys(secret.context, secret.secret_key.GetKeyTag(), ())

    def make(index: int) -> Any:
        with wrapped("generating keys"), changing_keys():
            return secret.context.EvalAutomorphismKeyGen(secret.secret_key, [index])

    ahead: tuple[str, Future[Any]] | None = None
    with ThreadPoolExecutor(1, initializer=allow_inner_threads, initargs=(False,)) as pool:
        for name, index in automorphism_indices(secret.parameters, keys).items():
            following = name, pool.submit(make, index)
            if ahead is not None:
                yield ahead[0], ahead[1].result()
            ahead = following
        if ahead is not None:
            yield ahead[0], ahead[1].result()


def automorphism_indices(parameters: Parameters, keys: KeysInfo) -> dict[str, int]:
    """Galois element of every listed key: 5^r mod 2N rotates by r, 2N - 1 conjugates."""
    order = 2 * parameters.ring_dimension
    indices = {rotation_name(r): pow(5, r, order) for r in keys.rotations}
    if keys.conjugation or keys.refreshes:
        indices[CONJUGATION] = order - 1
    return indices
