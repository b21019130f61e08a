"""The service's rows and files: each change whole or not at all."""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fhecompile.errors import FheCompileError
from runtime.service.database import Database
from runtime.service.folder import ServiceFolder
from runtime.service.refusal import RefusedError
from runtime.service.rows import Job, Keys
from runtime.service.store import MOST_ATTEMPTS, Store
from runtime.service.tasks import Task
from tests.service import snapshot


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store(ServiceFolder(tmp_path / "server"))
    store.add_client("alice")
    store.add_client("bob")
    yield store
    store.close()


def file(store: Store, data: bytes = b"data") -> Path:
    path = store.folder.temporary()
    path.write_bytes(data)
    return path


def add_keys(store: Store, client: int = 1, tag: str = "t", parameters: str = "p") -> Keys:
    return store.add_keys(
        client, parameters, file(store), tag=tag, entries=["a", "b"], size=4, sha256="k"
    )


def add_job(store: Store, keys: Keys, sha256: str, client: int = 1) -> Job:
    return store.add_job(client, keys, "plan", file(store), predicted=2.0, sha256=sha256)


def names(store: Store, kind: str) -> list[str]:
    return sorted(path.name for path in (store.folder.path / kind).iterdir())


def refusal(call: Any, *arguments: Any, **more: Any) -> tuple[int, str]:
    with pytest.raises(RefusedError) as caught:
        call(*arguments, **more)
    return caught.value.status, caught.value.code


def test_tokens(store: Store) -> None:
    token = store.add_client("carol")
    found = store.find_client(token)
    assert found is not None and found.name == "carol"
    assert len(token) >= 43  # 256 bits
    for wrong in ("", token[:-1], token.swapcase(), found.token_sha256):
        assert store.find_client(wrong) is None
    with pytest.raises(FheCompileError) as caught:
        store.add_client("carol")
    assert str(caught.value) == (
        "carol: there is a client of this name [client-exists]\n  hint: choose another"
    )


def test_one_set_of_keys_per_client_and_parameters(store: Store) -> None:
    keys = add_keys(store)
    assert store.list_keys(1) == [keys]
    assert keys.names == {"a", "b"}
    assert refusal(add_keys, store, tag="u") == (409, "keys-exist")
    assert refusal(add_keys, store, client=2) == (422, "wrong-key-set")  # Alice's tag
    assert names(store, "keys") == [str(keys.number)]
    other = add_keys(store, tag="u", parameters="q")
    assert store.find_keys(1, "q") == other
    store.remove_keys(keys)
    assert store.list_keys(1) == [other]
    assert names(store, "keys") == [str(other.number)]
    assert add_keys(store).number > other.number  # names of files are never used again


def test_the_oldest_job_is_taken_first(store: Store) -> None:
    keys = add_keys(store)
    first, second = add_job(store, keys, "1"), add_job(store, keys, "2")
    assert refusal(add_job, store, keys, "1") == (409, "job-exists")
    assert store.seconds_ahead(second) == 2.0
    assert store.take_job([]) is None
    taken = store.take_job(["plan"])
    assert taken is not None
    assert (taken.id, taken.state, taken.attempts) == (first.id, "running", 1)
    store.set_progress(taken, 0.75)
    assert store.seconds_ahead(second) == 0.5
    store.finish_job(taken, file(store, b"answer"), 6, "y")
    done = store.find_job(1, first.id)
    assert done is not None
    assert (done.state, done.progress, done.output_bytes, done.output_sha256) == ("done", 1, 6, "y")
    assert names(store, "outputs") == [str(first.number)]
    assert names(store, "inputs") == [str(second.number)]
    assert store.find_job(2, first.id) is None


def test_jobs_only_end_once(store: Store) -> None:
    job = add_job(store, add_keys(store), "1")
    taken = store.take_job(["plan"])
    assert taken is not None
    store.fail_job(taken, "c", "r", "h")
    before = snapshot(store.folder.path)[0]
    store.finish_job(taken, file(store), 4, "y")
    store.set_progress(taken, 0.5)
    store.requeue_job(taken)
    store.fail_job(taken, "other", "r", "h")
    assert snapshot(store.folder.path)[0] == before
    assert names(store, "outputs") == []
    store.remove_job(job)
    assert store.list_jobs(1) == []


def test_one_thread_takes_a_job(store: Store) -> None:
    keys = add_keys(store)
    jobs = {add_job(store, keys, str(n)).id for n in range(20)}
    taken: list[str] = []

    def take_all() -> None:
        with closing(Store(store.folder)) as own:
            while job := own.take_job(["plan"]):
                taken.append(job.id)

    threads = [threading.Thread(target=take_all) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(taken) == 20 and set(taken) == jobs


def test_a_failed_rename_changes_nothing(store: Store) -> None:
    keys = add_keys(store)
    before = snapshot(store.folder.path)[0]
    missing = store.folder.temporary()
    with pytest.raises(FileNotFoundError):
        store.add_job(1, keys, "plan", missing, predicted=1.0, sha256="1")
    assert snapshot(store.folder.path)[0] == before


def test_checkpoints_stay_until_their_job_ends(store: Store) -> None:
    keys = add_keys(store)
    jobs = [add_job(store, keys, str(n)) for n in range(2)]
    for number in (*(job.number for job in jobs), 99):
        store.folder.checkpoints(number).mkdir()
        (store.folder.checkpoints(number) / "batch-0-1.checkpoint").write_bytes(b"state")
    taken = store.take_job(["plan"])
    assert taken is not None
    store.recover()  # the server was killed meanwhile
    assert names(store, "checkpoints") == sorted(str(job.number) for job in jobs)
    again = store.take_job(["plan"])
    assert again is not None and again.number == taken.number
    store.requeue_job(again)
    assert len(names(store, "checkpoints")) == 2
    again = store.take_job(["plan"])
    assert again is not None
    store.finish_job(again, file(store), 4, "y")
    assert names(store, "checkpoints") == [str(jobs[1].number)]
    store.remove_job(jobs[1])
    assert names(store, "checkpoints") == []


def test_a_share_that_was_done_before_is_not_the_rate(store: Store) -> None:
    """A job of 2 predicted seconds goes on at 75 %."""
    add_job(store, add_keys(store), "1")
    taken = store.take_job(["plan"])
    assert taken is not None
    before = time.time()
    store.set_progress(taken, 0.75)
    job = store.find_job(1, taken.id)
    assert job is not None and job.evaluating is not None
    assert before - 1.5 <= job.evaluating <= time.time() - 1.5


@pytest.mark.parametrize("refreshes", [False, True])
def test_jobs_that_refresh_have_checkpoints(store: Store, refreshes: bool) -> None:
    keys = add_keys(store)
    job = add_job(store, keys, "1")
    parameters = SimpleNamespace(bootstrap=object() if refreshes else None, insecure=False)
    plan: Any = SimpleNamespace(path=Path("/plans/p"), plan=SimpleNamespace(parameters=parameters))
    with Task(store, store.folder, plan, job, keys) as task:
        command = task.command()
        place = str(store.folder.checkpoints(job.number))
        assert ("--checkpoint" in command) == refreshes
        if refreshes:
            assert command[command.index("--checkpoint") + 1] == place
        assert task.conceal(f"{place}: no") == "checkpoints: no"


def test_recovery(store: Store) -> None:
    keys = add_keys(store)
    jobs = [add_job(store, keys, str(n)) for n in range(3)]
    for attempt in range(1, MOST_ATTEMPTS + 1):
        taken = store.take_job(["plan"])
        assert taken is not None
        assert (taken.id, taken.attempts) == (jobs[0].id, attempt)
        (store.folder.path / "incoming" / "left").write_bytes(b"half")
        (store.folder.path / "outputs" / "77").write_bytes(b"whole, without a row")
        store.recover()
        assert names(store, "incoming") == names(store, "outputs") == []
    failed, *others = store.list_jobs(1)
    assert (failed.state, failed.code) == ("failed", "job-interrupted")
    assert [job.state for job in others] == ["queued", "queued"]
    assert names(store, "inputs") == [str(job.number) for job in others]
    assert names(store, "keys") == [str(keys.number)]


def test_a_removed_client_leaves_nothing(store: Store) -> None:
    add_job(store, add_keys(store), "1")
    bobs = add_job(store, add_keys(store, 2, "u"), "1", 2)
    job = store.take_job(["plan"])
    assert job is not None
    store.finish_job(job, file(store), 4, "y")
    store.remove_client("alice")
    assert store.list_jobs(1) == store.list_keys(1) == []
    assert names(store, "outputs") == []
    assert names(store, "inputs") == [str(bobs.number)]
    with pytest.raises(FheCompileError, match=r"^alice: there is no client of this name \[no-such"):
        store.remove_client("alice")


def test_a_job_cannot_outlive_its_keys(store: Store) -> None:
    keys = add_keys(store)
    job = add_job(store, keys, "1")
    assert refusal(store.remove_keys, keys) == (409, "keys-in-use")
    store.remove_job(job)
    store.remove_keys(keys)
    assert refusal(add_job, store, keys, "1") == (409, "no-keys")  # removed during the upload
    assert names(store, "inputs") == []


def test_a_newer_database_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.sqlite3"
    Database(path).close()
    Database(path).close()
    with closing(sqlite3.connect(path)) as database:
        assert database.execute("PRAGMA user_version").fetchone() == (2,)
        database.execute("PRAGMA user_version = 9")
    with pytest.raises(FheCompileError) as caught:
        Database(path)
    assert str(caught.value) == (
        f"{path}: the database has version 9, this version reads 2 [database-version]\n"
        "  hint: run the version of fhecompile that wrote it, or a newer one"
    )


def test_one_server_per_folder(tmp_path: Path) -> None:
    folder = ServiceFolder(tmp_path / "server")
    held = folder.lock()
    with pytest.raises(FheCompileError) as caught:
        ServiceFolder(tmp_path / "server").lock()
    assert str(caught.value) == (
        f"{tmp_path / 'server'}: another server runs on this folder [folder-in-use]\n"
        "  hint: stop it, or choose another place with --folder"
    )
    os.close(held)
    os.close(folder.lock())
    assert folder.path.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("meanwhile", ["taken", "removed"])
def test_a_new_job_is_queued_whatever_happens_next(
    store: Store, monkeypatch: pytest.MonkeyPatch, meanwhile: str
) -> None:
    """The worker may take it, or its client be removed, before who added it has the answer."""
    keys, change = add_keys(store), store._change

    @contextmanager
    def commit_and_go_on() -> Iterator[Any]:
        with change() as execute:
            yield execute
        monkeypatch.setattr(store, "_change", change)
        if meanwhile == "taken":
            assert store.take_job(["plan"]) is not None
        else:
            store.remove_client("alice")

    monkeypatch.setattr(store, "_change", commit_and_go_on)
    job = add_job(store, keys, "a")
    assert (job.state, job.sha256, job.started) == ("queued", "a", None)
    assert [job.state for job in store.list_jobs(1)] == ["running"] * (meanwhile == "taken")
