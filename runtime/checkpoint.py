"""Checkpoints on disk: what an evaluation goes on from after it was killed. They hold no secret.

    batch-B-NUMBER.checkpoint   a snapshot (`runtime.snapshots`) of batch B, a bundle

It names the plan, the key and the inputs it belongs to, and is written whole or not at all. Of each
batch the two newest stay, so that a damaged file costs what lies between them: the newest that is
whole counts, and one of another run is refused before anything is computed. A folder is for one
evaluation at a time, and is empty again when that has ended well.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import warnings
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec

from fhecompile.errors import FheCompileError
from fhecompile.plan import Plan
from fhecompile.plan.files import make_folder
from fhecompile.plan.schema import Struct
from runtime.backends.base import operation_nodes
from runtime.bundle import Bundle, open_bundle, write_bundle
from runtime.keys import ServerContext
from runtime.serialization import read_ciphertext, to_bytes
from runtime.snapshots import Snapshot, is_whole

OPTION = "--checkpoint"
STATE = "state.json"
KEPT = 2  # files of a batch
_NAME = re.compile(r"batch-(\d+)-(\d+)\.checkpoint")
_TEMPORARY = ".batch-*"  # of a process that was killed while it wrote
# What of a run two files can differ in, by the code of the error that says so.
_OF_ANOTHER = {
    "wrong-plan": "of another plan",
    "wrong-parameters": "of another plan",
    "wrong-key-set": "of another key",
    "bundle-version": "of another version of fhecompile",
}


class CheckpointWarning(UserWarning):
    """A checkpoint cannot be read or written; the run goes on without it."""


class State(Struct, frozen=True):
    """Of which batch of which inputs a checkpoint is, and the operations done: [start, end)."""

    batch: int
    inputs: str
    done: list[tuple[int, int]]


def digest_inputs(inputs: Bundle) -> str:
    """SHA-256 that tells encrypted inputs from others."""
    entries = sorted((name, info.sha256) for name, info in inputs.manifest.entries.items())
    content = msgspec.json.encode((inputs.manifest.samples, entries))
    return hashlib.sha256(content).hexdigest()


def refuse(path: Path, whose: str) -> FheCompileError:
    """The error of a folder that is in use for another run."""
    return FheCompileError(
        "other-checkpoint",
        f"the checkpoints there are {whose}",
        node=str(path),
        hint=f"choose another folder with {OPTION}, or remove this one",
    )


@contextlib.contextmanager
def locked_folder(path: Path) -> Iterator[None]:
    """A folder that no other process uses meanwhile; made, for its owner only, if there is none."""
    if not path.exists():
        make_folder(path, OPTION)
        path.chmod(0o700)
    make_folder(path, OPTION)  # raises where it is a file
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    with contextlib.ExitStack() as stack:
        stack.callback(os.close, descriptor)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise FheCompileError(
                "folder-in-use",
                "another process keeps its checkpoints there",
                node=str(path),
                hint=f"wait for it, stop it, or choose another folder with {OPTION}",
            ) from error
        yield


class CheckpointFolder:
    """The checkpoints of one evaluation; made by `open_checkpoints`.

    Args:
        path: the folder.
        plan: the plan.
        context: the evaluation keys.
        inputs: the digest of the encrypted inputs.
    """

    def __init__(self, path: Path, plan: Plan, context: ServerContext, inputs: str) -> None:
        self.path, self.plan, self.context, self.inputs = path, plan, context, inputs
        self.nodes = operation_nodes(plan)
        self._warned = False
        self._numbers: dict[int, int] = {}  # the highest of each batch, of whatever file
        self._whole: dict[int, list[Path]] = {}  # by batch, the newest last
        self._done: dict[int, frozenset[int]] = {}
        self._remove(self.path.glob(_TEMPORARY))
        for batch, files in self._files().items():
            self._numbers[batch] = max(files)
            self._find_newest(batch, [files[number] for number in sorted(files, reverse=True)])

    def share(self, weights: Sequence[float], batches: int) -> float:
        """The share that is done of the work on so many batches, given an operation's weight."""
        done = sum(weights[n] for b, of in self._done.items() if b < batches for n in of)
        return done / (batches * sum(weights) or 1.0)

    def load(self, image: int) -> Snapshot | None:
        """The state a batch goes on from; None: there is none."""
        files = self._whole.get(image)
        if not files:
            return None
        with self._open(files[-1]) as bundle:
            return self._snapshot(bundle)

    def save(self, image: int, snapshot: Snapshot) -> None:
        """Writes a checkpoint of a batch; a full disk is told once, and the last one stays."""
        number = self._numbers.get(image, 0) + 1
        path = self.path / f"batch-{image}-{number}.checkpoint"
        state = State(image, self.inputs, _ranges(snapshot.done))
        try:
            with write_bundle(
                path,
                "checkpoint",
                self.plan.program.parameters,
                self.context.key_tag,
                plan=self.plan.digest,
                option=OPTION,
            ) as writer:
                writer.add(STATE, msgspec.json.encode(state))
                for operation, value in sorted(snapshot.values.items()):
                    writer.add(f"value-{operation}", to_bytes(value))
                for (tensor, part), value in sorted(snapshot.outputs.items()):
                    writer.add(f"output-{tensor}-{part}", to_bytes(value))
            self._sync()
        except (FheCompileError, OSError) as error:
            self._warn_unwritten(error)
            return
        self._numbers[image] = number
        kept = [*self._whole.get(image, []), path][-KEPT:]
        self._whole[image] = kept
        self._remove(p for p in self._files()[image].values() if p not in kept)

    def clear(self) -> None:
        """Removes all checkpoints; the evaluation has ended well."""
        self._remove(path for files in self._files().values() for path in files.values())

    def _files(self) -> dict[int, dict[int, Path]]:
        """All files of checkpoints, by batch and number."""
        found: dict[int, dict[int, Path]] = {}
        for path in self.path.iterdir():
            if match := _NAME.fullmatch(path.name):
                found.setdefault(int(match[1]), {})[int(match[2])] = path
        return found

    def _find_newest(self, batch: int, files: Sequence[Path]) -> None:
        """Of the files of a batch, the newest first, the first one that is whole."""
        for path in files:
            try:
                with self._open(path) as bundle:
                    self._done[batch] = self._snapshot(bundle).done
            except FheCompileError as error:
                if error.code not in ("not-a-bundle", "bundle-damaged", "wrong-ciphertext"):
                    raise
                warnings.warn(
                    f"{path}: this checkpoint is damaged and left out", CheckpointWarning, 2
                )
                continue
            self._whole[batch] = [path]
            return

    def _open(self, path: Path) -> Bundle:
        plan, key = self.plan, self.context.key_tag
        try:
            return open_bundle(
                path, "checkpoint", plan.program.parameters, plan=plan.digest, key=key
            )
        except FheCompileError as error:
            if error.code in _OF_ANOTHER:
                raise refuse(self.path, _OF_ANOTHER[error.code]) from error
            raise

    def _snapshot(self, bundle: Bundle) -> Snapshot:
        """A file's content, which is of this run and fits together."""
        try:
            state = msgspec.json.decode(bundle.read(STATE), type=State)
        except (KeyError, msgspec.DecodeError) as error:
            raise _damaged(bundle.path) from error
        if state.inputs != self.inputs:
            raise refuse(self.path, "of other inputs")
        values: dict[int, Any] = {}
        outputs: dict[tuple[int, int], Any] = {}
        for name in bundle.manifest.entries:
            kind, *numbers = name.split("-")
            if kind == "value":
                values[int(numbers[0])] = self._read(bundle, name, int(numbers[0]))
            elif kind == "output":
                tensor, part = map(int, numbers)
                outputs[tensor, part] = self._read(bundle, name, self._output(tensor, part))
        done = frozenset(n for start, end in state.done for n in range(start, end))
        snapshot = Snapshot(done, values, outputs)
        if not is_whole(self.nodes, snapshot):
            raise _damaged(bundle.path)
        return snapshot

    def _read(self, bundle: Bundle, name: str, operation: int) -> Any:
        place, level = f"{bundle.path}: {name}", self.plan.types[operation].level
        context = self.context
        return read_ciphertext(bundle.read(name), place, context.context, context.key_tag, level)

    def _output(self, tensor: int, part: int) -> int:
        wanted = {"tensor": tensor, "part": part}
        return next(n.number for n in self.nodes if n.op == "output" and n.attributes == wanted)

    def _warn_unwritten(self, error: FheCompileError | OSError) -> None:
        if self._warned:
            return
        self._warned = True
        reason = error.reason if isinstance(error, FheCompileError) else error.strerror
        warnings.warn(
            f"{self.path}: {reason}: the run goes on without a new checkpoint",
            CheckpointWarning,
            3,
        )

    def _remove(self, paths: Iterable[Path]) -> None:
        for path in list(paths):
            with contextlib.suppress(OSError):
                path.unlink()

    def _sync(self) -> None:
        """Has the folder's entries written, so that an older file goes after the newer is there."""
        descriptor = os.open(self.path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextlib.contextmanager
def open_checkpoints(
    path: Path, plan: Plan, context: ServerContext, inputs: Bundle
) -> Iterator[CheckpointFolder]:
    """The checkpoints of an evaluation of encrypted inputs, in a folder that is then in use.

    Raises:
        FheCompileError: the folder is in use, cannot be made, or has checkpoints of another run.
    """
    with locked_folder(path):
        yield CheckpointFolder(path, plan, context, digest_inputs(inputs))


def _ranges(numbers: Iterable[int]) -> list[tuple[int, int]]:
    """Sorted numbers as ranges [start, end)."""
    ordered = sorted(numbers)
    if not ordered:
        return []
    gaps = [(a, b) for a, b in pairwise(ordered) if b > a + 1]
    starts = [ordered[0], *(b for _, b in gaps)]
    return list(zip(starts, [*(a + 1 for a, _ in gaps), ordered[-1] + 1], strict=True))


def _damaged(path: Path) -> FheCompileError:
    return FheCompileError(
        "bundle-damaged", "the file is damaged: its parts do not fit together", node=str(path)
    )
