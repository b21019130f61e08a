"""SIGKILL at random moments while templates are stored: each is there iff its job is done."""

from __future__ import annotations

import json
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
from tests.runtime.test_service_kill import running
from tests.service import ROOT, ServerProcess, serving
from tests.templates import COSINES, FACES, PLAN

pytest.importorskip("openfhe", reason="OpenFHE is not installed")
pytest.importorskip("uvicorn", reason="uvicorn is not installed")
client_module = pytest.importorskip("runtime.service.client")

ERROR = 1e-4
KILLS = 10
PROBE = 33  # whose cosines with the first ten faces differ by more than the error
# Faces to enrol, one job each.
BATCHES = ([0], [1, 2], [3], [4], [5, 6, 7], [8], [9])

# Enrols one face after another from the first that has no name; says what has been acknowledged.
CLIENT = """
import sys, numpy
from runtime.service.client import ServiceClient
url, token, plan, keys, faces, first = sys.argv[1:]
x = numpy.load(faces)
with ServiceClient(url, token, plan, keys, insecure_toy=True) as client:
    print("ready", flush=True)
    for number in range(int(first), len(x)):
        client.enrol(f"face-{number}", {"x": x[number]})
        print(number, flush=True)
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


def name(face: int) -> str:
    return f"face-{face}"


def rows(server: ServerProcess, query: str) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(server.folder / "service.sqlite3", timeout=30)) as database:
        return list(database.execute(query))


def templates(server: ServerProcess) -> dict[str, tuple[int, bytes]]:
    """(place, file) of each template by name."""
    found = rows(server, "SELECT name, place, number FROM templates")
    folder = server.folder / "templates"
    return {name: (place, (folder / str(number)).read_bytes()) for name, place, number in found}


def enrolled(server: ServerProcess) -> list[str]:
    """Names of all enrolments that are done."""
    query = "SELECT templates FROM jobs WHERE state = 'done' AND kind = 'enrol'"
    return sorted(name for (text,) in rows(server, query) for name in json.loads(text))


def assert_scores(found: dict[str, float], faces: list[int]) -> None:
    assert sorted(found) == sorted(map(name, faces))
    for face in faces:
        assert abs(found[name(face)] - COSINES[PROBE, face]) < ERROR


def test_the_server_is_killed(server: ServerProcess) -> None:
    random = np.random.default_rng(3)
    token = server.add_client("alice")
    submitted: dict[str, list[int]] = {}
    errors: list[BaseException] = []

    def submit_all() -> None:
        try:
            with connect(server, token) as client:
                client.upload_keys()
                for faces in BATCHES:
                    names, x = [name(face) for face in faces], FACES[faces, None]
                    submitted[client.submit_enrol(names, {"x": x})] = faces
                    time.sleep(0.5)
        except BaseException as error:
            errors.append(error)

    stream = threading.Thread(target=submit_all)
    stream.start()
    interrupted = 0
    known: dict[str, tuple[int, bytes]] = {}
    for kill in range(KILLS):
        if kill % 2:  # when it may still be starting, or idle
            time.sleep(random.uniform(0.0, 1.0))
        else:  # in or after a job
            last = time.monotonic() + 30
            while not running(server) and time.monotonic() < last:
                time.sleep(0.01)
            time.sleep(random.uniform(0.0, 1.5))
        if kill == KILLS // 2:  # so that there is something to lose
            last = time.monotonic() + 60
            while not enrolled(server) and time.monotonic() < last:
                time.sleep(0.01)
        server.kill()
        interrupted += running(server)
        now = templates(server)
        assert {name: now.get(name) for name in known} == known
        assert sorted(now) == enrolled(server)
        known = now
        server.start(wait=False)
    server.wait_ready()
    stream.join(60)
    assert not stream.is_alive() and not errors
    assert len(submitted) == len(BATCHES)
    assert interrupted and known  # the moments were of some use
    there: list[int] = []
    done = 0
    with connect(server, token) as client:
        assert sorted(client.pending()) == sorted(submitted)
        for job, faces in submitted.items():
            try:
                client.wait(job)
                there += faces
                done += 1
            except FheCompileError as error:
                assert error.code == "job-interrupted"
            client.discard(job)
        now = templates(server)
        assert sorted(now) == sorted(map(name, there))
        assert {name: now.get(name) for name in known} == known
        # It takes three kills to fail a job.
        assert done >= len(BATCHES) - KILLS // 3
        assert sorted(place for place, _ in now.values()) == list(range(len(there)))
        assert len(list(Path(server.folder, "templates").iterdir())) == len(there)
        assert_scores(client.identify({"x": FACES[PROBE]}), there)


def test_the_client_is_killed(server: ServerProcess, tmp_path: Path) -> None:
    random = np.random.default_rng(4)
    token, plan = server.add_client("alice"), str(server.plans[0])
    np.save(tmp_path / "x.npy", FACES)
    command = [sys.executable, "-c", CLIENT, server.url, token, plan, str(tmp_path / "alice")]
    acknowledged: list[int] = []
    first, cut = 0, 0
    with connect(server, token) as client:
        client.upload_keys()
        for _ in range(3):
            process = subprocess.Popen(
                [*command, str(tmp_path / "x.npy"), str(first)],
                env={**os.environ, "PYTHONPATH": str(ROOT)},
                stdout=subprocess.PIPE,
                text=True,
            )
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            time.sleep(random.uniform(0.0, 3.0))
            process.kill()
            numbers = [int(line) for line in process.stdout]
            process.wait()
            process.stdout.close()
            pending = client.pending()
            jobs = {job["id"]: job for job in server.ask("GET", "/v1/jobs", token)[1]["jobs"]}
            assert len(pending) <= 1 and jobs.keys() <= set(pending)
            for job in pending:
                if job in jobs:  # else the client was killed as it discarded it
                    client.wait(job)
                    cut += 1
                client.discard(job)
            acknowledged += numbers
            first = first + len(numbers)
            # Killed before the listing nothing was asked for; in or after `discard` it is stored.
            there = [template.name for template in client.templates()]
            first += name(first) in there
            assert {n for job in jobs.values() for n in job["names"]} <= set(there)
            assert sorted(there) == sorted(map(name, range(first)))
        assert set(acknowledged) <= set(range(first))
        assert cut and first >= 2
        assert client.pending() == []
        assert_scores(client.identify({"x": FACES[PROBE]}), list(range(first)))
    assert not list((tmp_path / "alice").glob("job-*"))
    assert not list(Path(server.folder, "incoming").iterdir())
