"""SIGKILL at random moments: nothing that is finished is lost or changed, nothing is ever wrong."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fhecompile.errors import FheCompileError
from runtime.key_files import make_keys
from tests.service import ROOT, ServerProcess, serving
from tests.support import convolution_plan, relative_error, run_slots

pytest.importorskip("openfhe", reason="OpenFHE is not installed")
pytest.importorskip("uvicorn", reason="uvicorn is not installed")
client_module = pytest.importorskip("runtime.service.client")

PLAN = convolution_plan()
KILLS = 10
JOBS = 12
IMAGES = np.random.default_rng(7).uniform(-1, 1, (JOBS, 1, 1, 2, 8, 8))
EXPECTED = run_slots(PLAN, {"x": IMAGES.reshape(JOBS, 1, 2, 8, 8)})["y"].reshape(JOBS, 1, 5)

# Submits the same image again and again; says when it is about to begin.
CLIENT = """
import sys, numpy
from runtime.service.client import ServiceClient
url, token, plan, keys, image = sys.argv[1:]
with ServiceClient(url, token, plan, keys, insecure_toy=True) as client:
    print("ready", flush=True)
    client.upload_keys()
    while True:
        client.wait(client.submit({"x": numpy.load(image)}))
"""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ServerProcess]:
    make_keys([PLAN], tmp_path / "alice")
    with serving(tmp_path / "server", PLAN) as server:
        yield server


def connect(server: ServerProcess, token: str) -> Any:
    return client_module.ServiceClient(
        server.url, token, PLAN, server.folder.parent / "alice", insecure_toy=True
    )


def finished(server: ServerProcess) -> dict[str, tuple[Any, bytes]]:
    """Rows and outputs of all jobs that have ended, by id."""
    query = "SELECT jobs.*, outputs.sha256 FROM jobs LEFT JOIN outputs USING (number)"
    with closing(sqlite3.connect(server.folder / "service.sqlite3", timeout=30)) as database:
        database.row_factory = sqlite3.Row
        rows = [row for row in database.execute(query) if row["state"] in ("done", "failed")]
    found = {}
    for row in rows:
        path = server.folder / "outputs" / str(row["number"])
        found[row["id"]] = (tuple(row), path.read_bytes() if row["state"] == "done" else b"")
    return found


def running(server: ServerProcess) -> int:
    with closing(sqlite3.connect(server.folder / "service.sqlite3", timeout=30)) as database:
        query = "SELECT COUNT(*) FROM jobs WHERE state = 'running'"
        count: int = database.execute(query).fetchone()[0]
        return count


def test_the_server_is_killed(server: ServerProcess) -> None:
    random = np.random.default_rng(1)
    token = server.add_client("alice")
    submitted: dict[str, int] = {}
    errors: list[BaseException] = []

    def submit_all() -> None:
        try:
            with connect(server, token) as client:
                client.upload_keys()
                for number, image in enumerate(IMAGES):
                    submitted[client.submit({"x": image})] = number
                    time.sleep(0.5)
        except BaseException as error:
            errors.append(error)

    stream = threading.Thread(target=submit_all)
    stream.start()
    interrupted = 0
    known: dict[str, tuple[Any, bytes]] = {}
    for kill in range(KILLS):
        if kill % 2:  # when it may still be starting, or idle
            time.sleep(random.uniform(0.0, 1.5))
        else:  # in or after a job
            last = time.monotonic() + 30
            while not running(server) and time.monotonic() < last:
                time.sleep(0.01)
            time.sleep(random.uniform(0.0, 1.0))
        if kill == KILLS // 2:  # so that there is something to lose
            last = time.monotonic() + 60
            while not finished(server) and time.monotonic() < last:
                time.sleep(0.01)
        server.kill()
        interrupted += running(server)
        now = finished(server)
        assert {job: now.get(job) for job in known} == known
        known = now
        server.start(wait=False)
    server.wait_ready()
    stream.join(60)
    assert not stream.is_alive() and not errors
    assert len(submitted) == JOBS
    assert interrupted  # the moments were of some use
    now = finished(server)
    assert known and {job: now.get(job) for job in known} == known
    done = 0
    with connect(server, token) as client:
        assert sorted(client.pending()) == sorted(submitted)
        listed = server.ask("GET", "/v1/jobs", token)[1]["jobs"]
        assert sorted(job["id"] for job in listed) == sorted(submitted)  # none twice
        for job, number in submitted.items():
            try:
                client.wait(job)
            except FheCompileError as error:
                assert error.code == "job-interrupted"
                continue
            found = client.result(job)["y"]
            assert relative_error(found, EXPECTED[number]) < 1e-2
            done += 1
    assert done >= JOBS - KILLS // 3  # it takes three kills to fail a job


def test_the_client_is_killed(server: ServerProcess, tmp_path: Path) -> None:
    random = np.random.default_rng(2)
    token, plan = server.add_client("alice"), str(server.plans[0])
    np.save(tmp_path / "x.npy", IMAGES[0])
    command = [sys.executable, "-c", CLIENT, server.url, token, plan, str(tmp_path / "alice")]
    for _ in range(KILLS):
        process = subprocess.Popen(
            [*command, str(tmp_path / "x.npy")],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        time.sleep(random.uniform(0.0, 0.8))
        process.kill()
        process.wait()
        process.stdout.close()
    with connect(server, token) as client:
        client.upload_keys()
        pending = client.pending()
        listed = server.ask("GET", "/v1/jobs", token)[1]["jobs"]
        assert sorted(job["id"] for job in listed) == sorted(pending)
        assert len(pending) >= 3
        for job in pending:
            client.wait(job)
            assert relative_error(client.result(job)["y"], EXPECTED[0]) < 1e-2
            client.discard(job)
        assert client.pending() == []
    assert not list((tmp_path / "alice").glob("job-*"))
    assert not list(Path(server.folder, "incoming").iterdir())


def test_a_submission_cut_off_is_completed(server: ServerProcess) -> None:
    """Before the upload, and after it but before the answer: each becomes one job."""
    token = server.add_client("alice")
    with connect(server, token) as client:
        client.upload_keys()
        sent = client._connection.send

        def lose_answer(method: str, *arguments: Any) -> Any:
            answer = sent(method, *arguments)
            if method == "POST":
                raise KeyboardInterrupt
            return answer

        def lose_request(method: str, *arguments: Any) -> Any:
            if method == "POST":
                raise KeyboardInterrupt
            return sent(method, *arguments)

        for count, lose in enumerate((lose_answer, lose_request), 1):
            client._connection.send = lose
            with pytest.raises(KeyboardInterrupt):
                client.submit({"x": IMAGES[0]})
            client._connection.send = sent
            pending = client.pending()
            assert len(pending) == count
            listed = server.ask("GET", "/v1/jobs", token)[1]["jobs"]
            assert [job["id"] for job in listed] == pending
        for job in pending:
            client.discard(job)
