"""What a client has submitted, in a file beside its keys: no submission is lost when it is killed.

jobs.json    {"submissions": [{"url", "plan", "sha256", "file", "kind", "names", "job"}, ...]}
jobs.lock    held while it is changed, and while something is uploaded

Encrypted inputs are first written to a file, then listed, then uploaded, then listed with their
job, then the file is removed. Killed at any moment after the listing, the same request is made
again: the server either takes them, or answers with the job that they are already.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import secrets
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from fhecompile.errors import FheCompileError
from fhecompile.plan.files import write_atomically

LIST, LOCK, PREFIX = "jobs.json", "jobs.lock", "job-"


@dataclass(frozen=True)
class Submission:
    """Encrypted inputs for a plan of a server; `job` is empty until the server has said it.

    `kind` is that of the job, `names` are the templates it is to store or to compare with.
    """

    url: str
    plan: str
    sha256: str
    file: str
    kind: str = "evaluate"
    names: tuple[str, ...] = ()
    job: str = ""


class Submissions:
    """The list in one folder; one process or thread at a time changes it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keeps other processes and threads out."""
        descriptor = os.open(self.folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def new_file(self) -> Path:
        """A name for encrypted inputs."""
        return self.folder / f"{PREFIX}{secrets.token_hex(8)}.fhe"

    def read(self) -> list[Submission]:
        """All submissions, oldest first."""
        path = self.folder / LIST
        try:
            listed = [Submission(**s) for s in json.loads(path.read_bytes())["submissions"]]
            return [replace(s, names=tuple(s.names)) for s in listed]
        except FileNotFoundError:
            return []
        except (ValueError, KeyError, TypeError) as error:
            raise FheCompileError(
                "jobs-unreadable",
                "this is no list of submitted jobs",
                node=str(path),
                hint="remove it; the jobs are still on the server",
            ) from error

    def add(self, submission: Submission) -> None:
        """Lists a submission. This and what follows need the lock."""
        self._write([*self.read(), submission])

    def name_job(self, submission: Submission, job: str) -> None:
        """Lists the job that a submission has become; its file has served."""
        named = replace(submission, job=job)
        self._write([named if s == submission else s for s in self.read()])
        (self.folder / submission.file).unlink(missing_ok=True)

    def drop(self, submission: Submission) -> None:
        """Takes a submission off the list."""
        self._write([s for s in self.read() if s != submission])
        (self.folder / submission.file).unlink(missing_ok=True)

    def clean(self) -> None:
        """Removes files that were not listed any more."""
        listed = {s.file for s in self.read()}
        for path in self.folder.glob(f"{PREFIX}*.fhe"):
            if path.name not in listed:
                path.unlink(missing_ok=True)

    def _write(self, submissions: list[Submission]) -> None:
        content = {"submissions": [asdict(s) for s in submissions]}
        data = (json.dumps(content, indent=2) + "\n").encode()
        write_atomically(self.folder / LIST, data, "keys_folder")
