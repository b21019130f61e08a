"""What a session with `checkpoint=DIR` keeps, so that another one can go on with its call.

    session.json     the plan it is for, and the inputs of the call under way
    keys/            secret.key, public.key, evaluation.keys (`runtime.key_files`)
    inputs.fhe       the encrypted inputs of the call under way
    evaluation/      its checkpoints (`runtime.checkpoint`)

The folder is the client's and holds a secret key: only its owner can read it. What the server's
part writes is in evaluation/ and holds none. When a call has ended well, keys and session.json stay
for the next one of the same plan.
"""

from __future__ import annotations

import contextlib
import hashlib
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from fhecompile.plan import Plan
from fhecompile.plan.files import write_atomically
from fhecompile.plan.schema import Struct
from runtime.bundle import Bundle
from runtime.checkpoint import (
    OPTION,
    CheckpointFolder,
    locked_folder,
    open_checkpoints,
    refuse,
)
from runtime.ciphertext_files import open_ciphertexts, write_ciphertexts
from runtime.client import Client
from runtime.key_files import (
    EVALUATION,
    SECRET,
    load_evaluation_keys,
    load_secret,
    make_keys,
    open_staged_keys,
)
from runtime.keys import ServerContext

FORMAT, VERSION = "fhecompile-session", 1


class Record(Struct, frozen=True):
    """`session.json`; `inputs` is the digest of the call under way, empty when there is none."""

    format: str
    version: int
    plan: str
    inputs: str


class SessionFolder:
    """The folder of one session; in use until it is closed.

    Args:
        path: the folder.
        plan: the plan.

    Raises:
        FheCompileError: the folder is in use, cannot be made, or is of another plan.
    """

    def __init__(self, path: Path, plan: Plan) -> None:
        self.path, self.plan = path, plan
        self.inputs = path / "inputs.fhe"
        self._record = path / "session.json"
        with contextlib.ExitStack() as stack:
            stack.enter_context(locked_folder(path))
            record = self._read()
            if record is None:
                self._write("")
            elif record.plan != plan.digest:
                raise refuse(path, "of another plan")
            self._lock = stack.pop_all()

    def close(self) -> None:
        """Lets other processes use the folder."""
        self._lock.close()

    def load_keys(self, plan: Plan, key_bytes: int | None = None) -> tuple[Client, ServerContext]:
        """The keys of an earlier session, or new ones; `key_bytes` as for `Client.create`."""
        keys = self.path / "keys"
        if not (keys / EVALUATION).exists():
            for half in self.path.glob(".keys.*"):  # of a process that was killed meanwhile
                shutil.rmtree(half, ignore_errors=True)
            make_keys([plan], keys)
        client = Client(plan, load_secret(plan, keys / SECRET))
        if key_bytes is None:
            return client, load_evaluation_keys(plan, keys / EVALUATION)
        return client, open_staged_keys(plan, keys / EVALUATION, key_bytes)

    @contextlib.contextmanager
    def open_run(
        self, client: Client, context: ServerContext, tensors: Sequence[NDArray[np.float64]]
    ) -> Iterator[tuple[Bundle, CheckpointFolder]]:
        """The encrypted inputs of a call and its checkpoints, which go when the block ends well.

        Args:
            client, context: the keys.
            tensors: the inputs in the plan's order, each (batches, batch, *shape).
        """
        digest = _digest(tensors)
        record = self._read()
        under_way = "" if record is None else record.inputs
        if under_way not in ("", digest):
            raise refuse(self.path, "of other inputs")
        if not under_way:
            batches = (client.encrypt(dict(enumerate(x))) for x in zip(*tensors, strict=True))
            samples = len(tensors[0]) * self.plan.program.batch if tensors else 1
            tag = context.key_tag
            write_ciphertexts(self.inputs, "inputs", self.plan, tag, batches, samples)
            self._write(digest)
        inputs = open_ciphertexts(self.inputs, "inputs", self.plan, context.key_tag)
        folder = self.path / "evaluation"
        with inputs, open_checkpoints(folder, self.plan, context, inputs) as checkpoints:
            yield inputs, checkpoints
            checkpoints.clear()
        # The record goes first: without it the other two are written again.
        self._write("")
        self.inputs.unlink(missing_ok=True)

    def _read(self) -> Record | None:
        try:
            text = self._record.read_bytes()
        except FileNotFoundError:
            return None
        try:
            record = msgspec.json.decode(text, type=Record)
        except msgspec.DecodeError as error:
            raise refuse(self.path, "not to be told whose, as session.json is damaged") from error
        if (record.format, record.version) != (FORMAT, VERSION):
            raise refuse(self.path, "of another version of fhecompile")
        return record

    def _write(self, inputs: str) -> None:
        record = Record(FORMAT, VERSION, self.plan.digest, inputs)
        write_atomically(self._record, msgspec.json.encode(record), OPTION)


def _digest(tensors: Sequence[NDArray[np.float64]]) -> str:
    """SHA-256 that tells inputs from others."""
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(f"{tensor.dtype}{tensor.shape}".encode())
        digest.update(np.ascontiguousarray(tensor).tobytes())
    return digest.hexdigest()
