"""The SQLite database of a server: its tables, and changes that are done whole or not at all.

The journal is written ahead and synced at every commit: what is committed survives SIGKILL and the
loss of power, what is not leaves no trace.
"""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from fhecompile.errors import FheCompileError

Change = Callable[..., sqlite3.Cursor]
WAIT_SECONDS = 30.0  # for another process that writes
# Each brings a database from the version before it to its own; the version is their number.
SCHEMAS = (
    """
    CREATE TABLE clients (
        number INTEGER PRIMARY KEY AUTOINCREMENT,
        name TEXT NOT NULL UNIQUE,
        token_sha256 TEXT NOT NULL UNIQUE,
        created REAL NOT NULL
    );
    CREATE TABLE keys (
        number INTEGER PRIMARY KEY AUTOINCREMENT,
        client INTEGER NOT NULL REFERENCES clients ON DELETE CASCADE,
        parameters TEXT NOT NULL,
        tag TEXT NOT NULL UNIQUE,
        entries TEXT NOT NULL,
        bytes INTEGER NOT NULL,
        sha256 TEXT NOT NULL,
        created REAL NOT NULL,
        UNIQUE (client, parameters)
    );
    CREATE TABLE jobs (
        number INTEGER PRIMARY KEY AUTOINCREMENT,
        id TEXT NOT NULL UNIQUE,
        client INTEGER NOT NULL REFERENCES clients ON DELETE CASCADE,
        keys INTEGER REFERENCES keys ON DELETE SET NULL,
        plan TEXT NOT NULL,
        state TEXT NOT NULL CHECK (state IN ('queued', 'running', 'done', 'failed')),
        progress REAL NOT NULL DEFAULT 0.0,
        predicted REAL NOT NULL,
        created REAL NOT NULL,
        started REAL,
        evaluating REAL,
        ended REAL,
        attempts INTEGER NOT NULL DEFAULT 0,
        code TEXT NOT NULL DEFAULT '',
        reason TEXT NOT NULL DEFAULT '',
        hint TEXT NOT NULL DEFAULT '',
        sha256 TEXT NOT NULL,
        UNIQUE (client, sha256)
    );
    CREATE TABLE outputs (
        number INTEGER PRIMARY KEY REFERENCES jobs ON DELETE CASCADE,
        bytes INTEGER NOT NULL,
        sha256 TEXT NOT NULL
    );
    """,
    """
    ALTER TABLE jobs ADD COLUMN kind TEXT NOT NULL DEFAULT 'evaluate'
        CHECK (kind IN ('evaluate', 'enrol', 'identify'));
    ALTER TABLE jobs ADD COLUMN templates TEXT NOT NULL DEFAULT '[]';
    CREATE TABLE templates (
        number INTEGER PRIMARY KEY AUTOINCREMENT,
        keys INTEGER NOT NULL REFERENCES keys ON DELETE CASCADE,
        plan TEXT NOT NULL,
        name TEXT NOT NULL,
        place INTEGER NOT NULL,
        bytes INTEGER NOT NULL,
        sha256 TEXT NOT NULL,
        created REAL NOT NULL,
        UNIQUE (keys, plan, name),
        UNIQUE (keys, plan, place)
    );
    """,
)


class Database:
    """A connection for all threads of a process; other processes may have theirs."""

    def __init__(self, path: Path) -> None:
        self._lock = threading.RLock()
        self._connection = sqlite3.connect(
            path, timeout=WAIT_SECONDS, isolation_level=None, check_same_thread=False
        )
        self._connection.row_factory = sqlite3.Row
        path.chmod(0o600)
        for setting in ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON"):
            self._connection.execute(f"PRAGMA {setting}")
        try:
            self._upgrade(path)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Closes the connection."""
        with self._lock:
            self._connection.close()

    def select(self, query: str, *values: object) -> list[sqlite3.Row]:
        """All rows of a query."""
        with self._lock:
            return self._connection.execute(query, values).fetchall()

    @contextlib.contextmanager
    def change(self) -> Iterator[Change]:
        """A transaction: a function that executes one statement with its values."""
        with self._lock:
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield lambda statement, *values: self._connection.execute(statement, values)
                self._connection.execute("COMMIT")
            except BaseException:
                self._connection.execute("ROLLBACK")
                raise

    def _upgrade(self, path: Path) -> None:
        with self.change() as change:
            version = change("PRAGMA user_version").fetchone()[0]
            if version > len(SCHEMAS):
                raise FheCompileError(
                    "database-version",
                    f"the database has version {version}, this version reads {len(SCHEMAS)}",
                    node=str(path),
                    hint="run the version of fhecompile that wrote it, or a newer one",
                )
            for schema in SCHEMAS[version:]:
                for statement in schema.split(";"):
                    change(statement)
            change(f"PRAGMA user_version = {len(SCHEMAS)}")
