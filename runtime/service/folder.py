"""The server's files, and what makes each of them whole or absent.

plans/DIGEST      copies of the plans on offer
incoming/RANDOM   uploads under way and folders of running jobs, emptied at start
keys/NUMBER       evaluation keys
inputs/NUMBER     encrypted inputs of jobs that are not done
outputs/NUMBER    encrypted outputs
templates/NUMBER  stored templates (`runtime.gallery.templates`)
checkpoints/NUMBER/   checkpoints of a job (`runtime.checkpoint`), there as long as its inputs

A file comes to its place by a rename from incoming, just before the commit of the row
that names it (`runtime.service.store`), and leaves just after the commit that drops it. Killed in
between, a file without a row is left, which the next start removes. A second server on the same
folder is refused.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import shutil
from collections.abc import Collection
from pathlib import Path
from typing import Literal

from fhecompile.errors import FheCompileError
from fhecompile.plan.files import make_folder
from runtime.bundle import find_kind

Kept = Literal["keys", "inputs", "outputs", "templates"]
KEPT: tuple[Kept, ...] = ("keys", "inputs", "outputs", "templates")


class ServiceFolder:
    """One server's folder; made where there is none, readable by its owner only."""

    def __init__(self, path: Path) -> None:
        # Absolute, as processes started later read files here.
        self.path = Path(os.path.abspath(path))
        if not self.path.exists():
            make_folder(self.path, "--folder")
            self.path.chmod(0o700)
        for name in ("plans", "incoming", "checkpoints", *KEPT):
            make_folder(self.path / name, "--folder")
        self.database = self.path / "service.sqlite3"

    def lock(self) -> int:
        """Keeps other servers out until the returned descriptor is closed or the process ends."""
        descriptor = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(descriptor)
            raise FheCompileError(
                "folder-in-use",
                "another server runs on this folder",
                node=str(self.path),
                hint="stop it, or choose another place with --folder",
            ) from error
        return descriptor

    def refuse_secrets(self) -> None:
        """Raises when a secret key is in the folder, which may be its only copy."""
        for parent, _, names in os.walk(self.path):
            for path in (Path(parent, name) for name in names):
                if path.is_file() and find_kind(path) == "secret-key":
                    raise FheCompileError(
                        "secret-on-server",
                        "there is a secret key in the server's folder",
                        node=str(path),
                        hint="move it to the client it belongs to; if others could read it here, "
                        "make new keys",
                    )

    def temporary(self) -> Path:
        """A new name for a file or folder under way."""
        return self.path / "incoming" / secrets.token_hex(8)

    def file(self, kind: Kept, number: int) -> Path:
        """The file of a row."""
        return self.path / kind / str(number)

    def checkpoints(self, number: int) -> Path:
        """The folder of a job's checkpoints."""
        return self.path / "checkpoints" / str(number)

    def keep(self, temporary: Path, kind: Kept, number: int) -> None:
        """Gives a file under way its place; the row is to be committed next."""
        target = self.file(kind, number)
        os.replace(temporary, target)
        descriptor = os.open(target.parent, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def drop(self, kind: Kept, number: int) -> None:
        """Removes the file of a row that is gone."""
        self.file(kind, number).unlink(missing_ok=True)
        if kind == "inputs":
            shutil.rmtree(self.checkpoints(number), ignore_errors=True)

    def clean(self, rows: dict[Kept, Collection[int]]) -> None:
        """Removes what was under way, and files without a row."""
        for path in (self.path / "incoming").iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()
        jobs = {str(number) for number in rows["inputs"]}
        for path in (self.path / "checkpoints").iterdir():
            if path.name not in jobs:
                shutil.rmtree(path, ignore_errors=True)
        for kind in KEPT:
            wanted = {str(number) for number in rows[kind]}
            for path in (self.path / kind).iterdir():
                if path.name not in wanted:
                    with contextlib.suppress(IsADirectoryError):
                        path.unlink()
