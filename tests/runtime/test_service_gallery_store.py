"""Rows and files of templates: there when their job is done, whenever the server was killed."""

from __future__ import annotations

import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from runtime.gallery.templates import Entry
from runtime.service.database import SCHEMAS, Database
from runtime.service.folder import ServiceFolder
from runtime.service.rows import Job, Keys
from runtime.service.store import Store
from runtime.service.templates import MadeTemplate
from tests.runtime.test_service_store import add_keys, file, names, refusal
from tests.service import ROOT, snapshot

# Finishes the running enrolment, and is killed at the COUNT-th call of a method of the folder.
KILLED = """
import os, signal, sys
from pathlib import Path
from runtime.service.folder import ServiceFolder
from runtime.service.store import Store
from tests.runtime.test_service_gallery_store import make
path, method, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
store = Store(ServiceFolder(Path(path)))
(job,) = store.list_jobs(1)
act, calls = getattr(ServiceFolder, method), []

def kill(*arguments):
    act(*arguments)
    calls.append(arguments)
    if len(calls) == count:
        os.kill(os.getpid(), signal.SIGKILL)

setattr(ServiceFolder, method, kill)
store.finish_enrolment(job, make(store, *job.names))
"""


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store(ServiceFolder(tmp_path / "server"))
    store.add_client("alice")
    store.add_client("bob")
    yield store
    store.close()


def make(store: Store, *wanted: str, first: int = 0) -> list[MadeTemplate]:
    """Files under way for templates of these names at places from `first` on."""
    return [
        MadeTemplate(Entry(name, place, file(store, name.encode())), len(name), "t")
        for place, name in enumerate(wanted, first)
    ]


def add_enrolment(store: Store, keys: Keys, *wanted: str, sha256: str = "1") -> Job:
    return store.add_job(
        *(keys.client, keys, "plan", file(store)),
        predicted=1.0,
        sha256=sha256,
        kind="enrol",
        names=wanted,
    )


def enrol(store: Store, keys: Keys, *wanted: str, first: int = 0) -> None:
    add_enrolment(store, keys, *wanted, sha256=wanted[0])
    job = store.take_job(["plan"])
    assert job is not None and job.names == list(wanted)
    store.finish_enrolment(job, make(store, *wanted, first=first))


def stored(store: Store, keys: int = 1, plan: str = "plan") -> dict[str, tuple[int, str]]:
    """(place, what its file holds) by name."""
    return {
        t.name: (t.place, store.folder.file("templates", t.number).read_text())
        for t in store.templates.find_all(keys, plan)
    }


def test_templates_come_with_the_end_of_their_job(store: Store) -> None:
    keys = add_keys(store)
    job = add_enrolment(store, keys, "b", "a")
    assert store.take_job(["plan"]) is not None
    assert stored(store) == {}
    store.finish_enrolment(job, make(store, "b", "a"))
    assert stored(store) == {"a": (1, "a"), "b": (0, "b")}
    assert [j.state for j in store.list_jobs(1)] == ["done"]
    assert names(store, "inputs") == names(store, "incoming") == []
    store.finish_enrolment(job, make(store, "c"))  # it only ends once
    assert len(stored(store)) == 2 and names(store, "templates") == ["1", "2"]
    store.remove_job(job)
    assert len(stored(store)) == 2


def test_places_and_names_are_free_again(store: Store) -> None:
    keys = add_keys(store)
    enrol(store, keys, "a", "b", "c")
    assert store.templates.free_places(keys.number, "plan", 2) == [3, 4]
    store.templates.remove(keys.number, "plan", "b")
    assert store.templates.free_places(keys.number, "plan", 3) == [1, 3, 4]
    assert store.templates.free_places(keys.number, "other", 1) == [0]
    assert names(store, "templates") == ["1", "3"]
    assert refusal(store.templates.remove, keys.number, "plan", "b") == (404, "no-such-template")
    assert refusal(store.templates.remove, keys.number, "other", "a") == (404, "no-such-template")
    enrol(store, keys, "b", first=1)
    assert stored(store)["b"] == (1, "b")
    assert names(store, "templates") == ["1", "3", "4"]  # no name of a file is used again


def test_names_are_reserved_by_jobs(store: Store) -> None:
    keys = add_keys(store)
    enrol(store, keys, "a")
    assert refusal(add_enrolment, store, keys, "x", "a") == (409, "template-exists")
    job = add_enrolment(store, keys, "b", "c")
    before = snapshot(store.folder.path)
    left = file(store)
    refused = (409, "template-reserved")
    request = {"predicted": 1.0, "kind": "enrol"}
    for wanted, sha256, expected in (
        (["c"], "2", refused),
        (["b", "c"], "1", (409, "job-exists")),  # the same upload again is that job
    ):
        arguments = (1, keys, "plan", left)
        more = {**request, "sha256": sha256, "names": wanted}
        assert refusal(store.add_job, *arguments, **more) == expected
    left.unlink()
    assert snapshot(store.folder.path) == before
    assert store.take_job(["plan"]) is not None
    assert refusal(add_enrolment, store, keys, "c", sha256="3") == refused
    store.fail_job(job, "c", "r")
    again = add_enrolment(store, keys, "c", sha256="4")
    store.remove_job(again)
    add_enrolment(store, keys, "c", sha256="5")
    assert refusal(store.templates.check_comparison, keys.number, "plan", ["c"]) == (
        404,
        "no-such-template",
    )
    assert store.templates.check_comparison(keys.number, "plan", []) == [0]
    bobs = add_keys(store, 2, "u")
    add_enrolment(store, bobs, "a", "c")  # names are each client's own


def test_two_templates_never_share_a_place(store: Store) -> None:
    keys = add_keys(store)
    enrol(store, keys, "a")
    add_enrolment(store, keys, "b", sha256="2")
    job = store.take_job(["plan"])
    assert job is not None
    before = snapshot(store.folder.path)[0]
    with pytest.raises(sqlite3.IntegrityError):
        store.finish_enrolment(job, make(store, "b", first=0))
    assert snapshot(store.folder.path)[0] == before


def test_keys_and_clients(store: Store) -> None:
    keys = add_keys(store)
    enrol(store, keys, "a", "b")
    bobs = add_keys(store, 2, "u")
    enrol(store, bobs, "a")
    assert refusal(store.remove_keys, keys) == (409, "keys-in-use")
    store.remove_client("alice")
    assert stored(store, keys.number) == {} and stored(store, bobs.number) == {"a": (0, "a")}
    assert names(store, "templates") == ["3"]
    store.templates.remove(bobs.number, "plan", "a")
    store.remove_keys(bobs)
    assert names(store, "templates") == names(store, "keys") == []


@pytest.mark.parametrize(
    ("method", "count", "done"), [("keep", 1, False), ("keep", 2, False), ("drop", 1, True)]
)
def test_killed_while_it_ends(store: Store, method: str, count: int, done: bool) -> None:
    """After the first rename, after the last before the commit, and after the commit."""
    keys = add_keys(store)
    enrol(store, keys, "old")
    store.remove_job(store.list_jobs(1)[0])
    add_enrolment(store, keys, "a", "b")
    assert store.take_job(["plan"]) is not None
    # Places from 0 on would clash with the old template's.
    code = KILLED.replace("*job.names", "*job.names, first=1")
    command = [sys.executable, "-c", code, str(store.folder.path), method, str(count)]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    (store.folder.path / "incoming" / "job").mkdir()
    (store.folder.path / "incoming" / "job" / "half").write_bytes(b"half")
    store.recover()
    expected = {"old": (0, "old")} | ({"a": (1, "a"), "b": (2, "b")} if done else {})
    assert stored(store) == expected
    assert [job.state for job in store.list_jobs(1)] == ["done" if done else "queued"]
    assert names(store, "incoming") == []
    assert len(names(store, "templates")) == len(expected)
    if not done:  # it is run again
        job = store.take_job(["plan"])
        assert job is not None and job.attempts == 2
        store.finish_enrolment(job, make(store, "a", "b", first=1))
        assert stored(store) == {"old": (0, "old"), "a": (1, "a"), "b": (2, "b")}
        assert len(names(store, "templates")) == 3


def test_a_database_without_templates_is_brought_up(tmp_path: Path) -> None:
    folder = ServiceFolder(tmp_path / "server")
    with closing(sqlite3.connect(folder.database)) as database:
        database.executescript(SCHEMAS[0])
        database.executescript(
            """
            INSERT INTO clients VALUES (1, 'alice', 'hash', 0.0);
            INSERT INTO keys VALUES (1, 1, 'p', 't', '[]', 4, 'k', 0.0);
            INSERT INTO jobs (id, client, keys, plan, state, predicted, created, sha256)
                VALUES ('j', 1, 1, 'plan', 'queued', 1.0, 0.0, 's');
            PRAGMA user_version = 1;
            """
        )
    folder.file("inputs", 1).write_bytes(b"x")
    with closing(Store(folder)) as store:
        store.recover()
        (job,) = store.list_jobs(1)
        assert (job.id, job.kind, job.names, job.state) == ("j", "evaluate", [], "queued")
        enrolled = store.find_keys(1, "p")
        assert enrolled is not None
        taken = store.take_job(["plan"])
        assert taken is not None
        store.finish_job(taken, file(store), 4, "y")
        enrol(store, enrolled, "a")
        assert stored(store) == {"a": (0, "a")}
    Database(folder.database).close()
