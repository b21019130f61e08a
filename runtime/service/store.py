"""The server's rows: clients, their evaluation keys, jobs, outputs and templates, in SQLite.

Every change is one transaction. What has a file gets its row's number first, then the file is
renamed into its place, then the transaction is committed; see `runtime.service.folder`.

    queued --take--> running --finish--> done
      ^                 |------fail----> failed
      +---requeue-------+

A job that was running when the server ended is queued again at the next start, MOST_ATTEMPTS times
at most: one that ends the server is not to end it for ever.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import secrets
import sqlite3
import time
from collections.abc import Collection, Sequence
from pathlib import Path

from fhecompile.errors import FheCompileError
from runtime.service.database import Change, Database
from runtime.service.folder import Kept, ServiceFolder
from runtime.service.refusal import RefusedError, keys_exist, no_keys, replay
from runtime.service.rows import Client, Job, Keys
from runtime.service.templates import MadeTemplate, TemplateRows

MOST_ATTEMPTS = 3
_JOBS = """
    SELECT jobs.*, outputs.bytes AS output_bytes, outputs.sha256 AS output_sha256
    FROM jobs LEFT JOIN outputs USING (number)
"""


class Store:
    """The rows of one folder, and the files they name.

    May be used from any thread; other processes may have the same folder open.
    """

    def __init__(self, folder: ServiceFolder) -> None:
        self.folder = folder
        self._database = Database(folder.database)
        self._change, self._all = self._database.change, self._database.select
        self.templates = TemplateRows(folder, self._database)

    def close(self) -> None:
        """Closes the database."""
        self._database.close()

    def recover(self) -> None:
        """What a start does: clears what the last end left half done. Needs the folder's lock."""
        with self._change() as change:
            change(
                "UPDATE jobs SET state = 'failed', code = 'job-interrupted', reason = ?, hint = ?,"
                " ended = ? WHERE state = 'running' AND attempts >= ?",
                f"the server ended {MOST_ATTEMPTS} times while this job ran",
                "it may need more memory than the server has: ask its operator",
                time.time(),
                MOST_ATTEMPTS,
            )
            change("UPDATE jobs SET state = 'queued', progress = 0.0 WHERE state = 'running'")
        queries: dict[Kept, str] = {
            "keys": "SELECT number FROM keys",
            "inputs": "SELECT number FROM jobs WHERE state = 'queued'",
            "outputs": "SELECT number FROM outputs",
            "templates": "SELECT number FROM templates",
        }
        self.folder.clean({kind: [n for (n,) in self._all(q)] for kind, q in queries.items()})

    # -- clients -----------------------------------------------------------------------------------

    def add_client(self, name: str) -> str:
        """Adds a client and returns its token, which is kept nowhere."""
        token = secrets.token_urlsafe(32)
        try:
            with self._change() as change:
                change(
                    "INSERT INTO clients (name, token_sha256, created) VALUES (?, ?, ?)",
                    *(name, _hash(token), time.time()),
                )
        except sqlite3.IntegrityError as error:
            raise FheCompileError(
                "client-exists", "there is a client of this name", node=name, hint="choose another"
            ) from error
        return token

    def remove_client(self, name: str) -> None:
        """Removes a client with its keys, templates and jobs."""
        with self._change() as change:
            found = change("SELECT number FROM clients WHERE name = ?", name).fetchone()
            if found is None:
                raise FheCompileError(
                    "no-such-client", "there is no client of this name", node=name
                )
            number = found["number"]
            keys = change("SELECT number FROM keys WHERE client = ?", number).fetchall()
            jobs = change("SELECT number FROM jobs WHERE client = ?", number).fetchall()
            query = (
                "SELECT templates.number FROM templates JOIN keys ON templates.keys = keys.number"
            )
            templates = change(f"{query} WHERE client = ?", number).fetchall()
            change("DELETE FROM clients WHERE number = ?", number)
        for row in keys:
            self.folder.drop("keys", row[0])
        for row in templates:
            self.folder.drop("templates", row[0])
        for row in jobs:
            self._drop_job(row[0])

    def find_client(self, token: str) -> Client | None:
        """The client with this token. Takes as long for every token."""
        wanted, found = _hash(token), None
        for row in self._all("SELECT * FROM clients"):
            if hmac.compare_digest(row["token_sha256"], wanted):
                found = Client(**row)
        return found

    # -- evaluation keys ---------------------------------------------------------------------------

    def find_keys(self, client: int, parameters: str) -> Keys | None:
        """A client's keys for these parameters."""
        query = "SELECT * FROM keys WHERE client = ? AND parameters = ?"
        rows = self._all(query, client, parameters)
        return Keys(**rows[0]) if rows else None

    def list_keys(self, client: int) -> list[Keys]:
        """All keys of a client."""
        query = "SELECT * FROM keys WHERE client = ? ORDER BY number"
        return [Keys(**row) for row in self._all(query, client)]

    def add_keys(
        self,
        client: int,
        parameters: str,
        file: Path,
        *,
        tag: str,
        entries: Sequence[str],
        size: int,
        sha256: str,
    ) -> Keys:
        """Takes over a file of keys; see `Keys`."""
        columns = "client, parameters, tag, entries, bytes, sha256, created"
        values = (client, parameters, tag, json.dumps(list(entries)), size, sha256, time.time())
        try:
            with self._change() as change:
                query = f"INSERT INTO keys ({columns}) VALUES (?, ?, ?, ?, ?, ?, ?)"
                number = change(query, *values).lastrowid or 0
                self.folder.keep(file, "keys", number)
        except sqlite3.IntegrityError as error:
            raise self._why_not_keys(client, parameters) from error
        return Keys(number, *values)

    def remove_keys(self, keys: Keys) -> None:
        """Removes keys that no waiting job and no template needs."""
        with self._change() as change:
            query = "SELECT id FROM jobs WHERE keys = ? AND state IN ('queued', 'running')"
            if change(query, keys.number).fetchone():
                raise RefusedError(
                    409,
                    "keys-in-use",
                    "jobs that are queued or running need these keys",
                    "wait for the jobs, or delete them",
                )
            if change("SELECT 1 FROM templates WHERE keys = ?", keys.number).fetchone():
                raise RefusedError(
                    409,
                    "keys-in-use",
                    "stored templates need these keys",
                    "remove the templates, which other keys cannot be used with",
                )
            change("DELETE FROM keys WHERE number = ?", keys.number)
        self.folder.drop("keys", keys.number)

    def _why_not_keys(self, client: int, parameters: str) -> RefusedError:
        if self.find_keys(client, parameters) is not None:
            return keys_exist()
        return RefusedError(
            422,
            "wrong-key-set",
            "these keys are another client's",
            "make keys of your own with: python -m runtime keygen",
        )

    # -- jobs --------------------------------------------------------------------------------------

    def find_job(self, client: int, name: str) -> Job | None:
        """A client's job by its id."""
        rows = self._all(f"{_JOBS} WHERE client = ? AND id = ?", client, name)
        return Job(**rows[0]) if rows else None

    def find_replay(self, client: int, sha256: str) -> Job | None:
        """A client's job that these bytes were uploaded for."""
        rows = self._all(f"{_JOBS} WHERE client = ? AND jobs.sha256 = ?", client, sha256)
        return Job(**rows[0]) if rows else None

    def list_jobs(self, client: int) -> list[Job]:
        """All jobs of a client, oldest first."""
        return [
            Job(**row) for row in self._all(f"{_JOBS} WHERE client = ? ORDER BY number", client)
        ]

    def seconds_ahead(self, job: Job) -> float:
        """Predicted seconds of all that runs before a queued job."""
        query = (
            "SELECT TOTAL(predicted * (1 - progress)) FROM jobs WHERE number < ?"
            " AND state IN ('queued', 'running')"
        )
        return float(self._all(query, job.number)[0][0])

    def add_job(
        self,
        client: int,
        keys: Keys,
        plan: str,
        file: Path,
        *,
        predicted: float,
        sha256: str,
        kind: str = "evaluate",
        names: Sequence[str] = (),
    ) -> Job:
        """Takes over a file of encrypted inputs as a queued job; see `Job`.

        The names of an enrolment are reserved with the job.
        """
        name = secrets.token_hex(16)
        columns = "id, client, keys, plan, state, predicted, created, sha256, kind, templates"
        start = (name, client, keys.number, plan, "queued", predicted, time.time(), sha256)
        values = (*start, kind, json.dumps(list(names)))
        try:
            with self._change() as change:
                query = f"INSERT INTO jobs ({columns}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
                number = change(query, *values).lastrowid or 0
                # After the row: the same upload again is a replay, not a name that is taken.
                if kind == "enrol":
                    self.templates.check_enrolment(change, number, keys.number, plan, names)
                # Before the commit: after it the worker may take the job, or its client be removed.
                row = change(f"{_JOBS} WHERE jobs.number = ?", number).fetchone()
                self.folder.keep(file, "inputs", number)
                return Job(**row)
        except sqlite3.IntegrityError as error:
            earlier = self.find_replay(client, sha256)
            raise (replay(earlier) if earlier else no_keys()) from error

    def remove_job(self, job: Job) -> None:
        """Removes a job and its files, whatever its state."""
        with self._change() as change:
            change("DELETE FROM jobs WHERE number = ?", job.number)
        self._drop_job(job.number)

    def _drop_job(self, number: int) -> None:
        self.folder.drop("inputs", number)
        self.folder.drop("outputs", number)

    # -- what the worker does ----------------------------------------------------------------------

    def take_job(self, plans: Collection[str]) -> Job | None:
        """The oldest queued job of one of these plans, now running."""
        with self._change() as change:
            query = f"{_JOBS} WHERE state = 'queued' ORDER BY number"
            row = next((row for row in change(query) if row["plan"] in plans), None)
            if row is None:
                return None
            change(
                "UPDATE jobs SET state = 'running', attempts = attempts + 1, started = ?,"
                " evaluating = NULL, progress = 0.0 WHERE number = ?",
                *(time.time(), row["number"]),
            )
            row = change(f"{_JOBS} WHERE jobs.number = ?", row["number"]).fetchone()
            return Job(**row)

    def keys_of(self, job: Job) -> Keys | None:
        """The keys a job is evaluated with."""
        rows = self._all("SELECT * FROM keys WHERE number = ?", job.keys)
        return Keys(**rows[0]) if rows else None

    def set_progress(self, job: Job, share: float) -> None:
        """Stores how far a running job is."""
        with self._change() as change:
            change(
                "UPDATE jobs SET progress = ?, evaluating = COALESCE(evaluating, ?)"
                " WHERE number = ? AND state = 'running'",
                # A share that a checkpoint holds took its time before.
                *(share, time.time() - share * job.predicted, job.number),
            )

    def finish_job(self, job: Job, file: Path, size: int, sha256: str) -> None:
        """Takes over a file of encrypted outputs; the job is done, if it is still there."""
        with self._change() as change:
            if not _end(change, job):
                return
            change("INSERT INTO outputs VALUES (?, ?, ?)", job.number, size, sha256)
            self.folder.keep(file, "outputs", job.number)
        self.folder.drop("inputs", job.number)

    def finish_enrolment(self, job: Job, made: Sequence[MadeTemplate]) -> None:
        """Takes over files of templates; the job is done, if it is still there."""
        with self._change() as change:
            if not _end(change, job):
                return
            self.templates.insert(change, job, made)
        self.folder.drop("inputs", job.number)

    def fail_job(self, job: Job, code: str, reason: str, hint: str = "") -> None:
        """The job has failed for good."""
        with self._change() as change:
            change(
                "UPDATE jobs SET state = 'failed', code = ?, reason = ?, hint = ?, ended = ?"
                " WHERE number = ? AND state = 'running'",
                *(code, reason, hint, time.time(), job.number),
            )
        self.folder.drop("inputs", job.number)

    def requeue_job(self, job: Job) -> None:
        """The server ends in good order: the job is queued as if it had not been taken."""
        with self._change() as change:
            change(
                "UPDATE jobs SET state = 'queued', attempts = attempts - 1, progress = 0.0"
                " WHERE number = ? AND state = 'running'",
                job.number,
            )


def _end(change: Change, job: Job) -> bool:
    """Marks a running job as done; says whether it was there."""
    query = (
        "UPDATE jobs SET state = 'done', progress = 1.0, ended = ?"
        " WHERE number = ? AND state = 'running'"
    )
    return change(query, time.time(), job.number).rowcount > 0


def _hash(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()
