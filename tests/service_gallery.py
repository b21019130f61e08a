"""A server with two clients of a plan that gives templates, and what their galleries hold."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from numpy.typing import NDArray

from fhecompile.errors import FheCompileError
from fhecompile.plan import Plan
from runtime.key_files import make_keys
from runtime.roles import encrypt_file
from runtime.service.client import ServiceClient
from tests.service import ServerProcess, serving, snapshot
from tests.support import convolution_plan
from tests.templates import COSINES, FACES, PLAN

ERROR = 1e-4  # of a score; those of two of the faces that are compared here differ by more
OTHER = convolution_plan(512)
JOBS, TEMPLATES = f"/v1/jobs?plan={PLAN.digest}", f"/v1/templates?plan={PLAN.digest}"
ENROL, IDENTIFY = f"{JOBS}&kind=enrol", f"{JOBS}&kind=identify"
ALL = {"a": 0, "b": 1, "c": 2}  # the face that each name of Alice's is of


def feeds(*faces: int) -> dict[str, NDArray[np.float64]]:
    return {"x": FACES[list(faces), None]}


@dataclass(frozen=True)
class Made:
    """A server with two clients, and their keys; "other" has keys for the other plan."""

    folder: Path
    server: ServerProcess
    tokens: dict[str, str]
    alice: Any
    bob: Any

    def encrypted(self, name: str, *faces: int, plan: Plan = PLAN) -> bytes:
        path, x = self.folder / "x.fhe", feeds(*faces)
        if plan is OTHER:
            x = {"x": np.zeros((1, 1, 2, 8, 8))}
        encrypt_file(plan, self.folder / name / "public.key", x, path)
        return path.read_bytes()

    def refused(
        self, method: str, path: str, body: bytes | None = None, client: str = "alice"
    ) -> tuple[int, Any]:
        """The answer to a request that changes nothing."""
        before = snapshot(self.server.folder)
        answer = self.server.ask(method, path, self.tokens[client], body)
        assert snapshot(self.server.folder) == before
        return answer

    def names(self, client: str = "alice") -> list[str]:
        status, body = self.server.ask("GET", TEMPLATES, self.tokens[client])
        assert status == 200
        return [template["name"] for template in body["templates"]]


@contextmanager
def two_galleries(folder: Path) -> Iterator[Made]:
    """Alice has enrolled the faces 0, 1 and 2 as a, b and c."""
    for name, plan in (("alice", PLAN), ("bob", PLAN), ("other", OTHER)):
        make_keys([plan], folder / name)
    with serving(folder / "server", PLAN, OTHER) as server:
        tokens = {name: server.add_client(name) for name in ("alice", "bob")}
        alice, bob = (
            ServiceClient(server.url, tokens[name], PLAN, folder / name, insecure_toy=True)
            for name in ("alice", "bob")
        )
        with alice, bob:
            alice.upload_keys()
            bob.upload_keys()
            alice.enrol("a", {"x": FACES[0]})
            job = alice.submit_enrol(["b", "c"], feeds(1, 2))
            alice.wait(job)
            alice.discard(job)
            yield Made(folder, server, tokens, alice, bob)


def assert_scores(found: dict[str, float], probe: int, expected: dict[str, int]) -> None:
    assert sorted(found) == sorted(expected)
    assert list(found.values()) == sorted(found.values(), reverse=True)
    for name, face in expected.items():
        assert abs(found[name] - COSINES[probe, face]) < ERROR


def refusal(call: Any, *arguments: Any) -> str:
    with pytest.raises(FheCompileError) as caught:
        call(*arguments)
    return str(caught.value)


def template_rows(made: Made) -> list[tuple[str, int, int]]:
    """(name, place, number) of all templates, by name."""
    database = sqlite3.connect(made.server.folder / "service.sqlite3", timeout=30)
    with closing(database):
        return list(database.execute("SELECT name, place, number FROM templates ORDER BY name"))


def template_file(made: Made, name: str) -> Path:
    (number,) = [number for found, _, number in template_rows(made) if found == name]
    return Path(made.server.folder, "templates", str(number))


def stored_files(made: Made) -> dict[str, tuple[int, bytes]]:
    """(place, file) by name; there are no other files."""
    folder, rows = Path(made.server.folder, "templates"), template_rows(made)
    assert sorted(p.name for p in folder.iterdir()) == sorted(str(number) for *_, number in rows)
    return {name: (place, (folder / str(number)).read_bytes()) for name, place, number in rows}


def no_template(name: str) -> tuple[int, Any]:
    body = {
        "code": "no-such-template",
        "reason": f"you have no template {name} here",
        "hint": "the names are in /v1/templates; those of queued jobs are not there yet",
    }
    return 404, body


def post(made: Made, path: str, data: bytes) -> str:
    status, job = made.server.ask("POST", path, made.tokens["alice"], data)
    assert (status, job["state"]) == (201, "queued")
    name: str = job["id"]
    return name


def wait(made: Made, jobs: Sequence[str]) -> None:
    for job in jobs:
        made.alice.wait(job)
        made.alice.discard(job)


def jobs(made: Made) -> list[tuple[str, dict[str, Any]]]:
    """(client, job) of all jobs."""
    asked = [(c, made.server.ask("GET", "/v1/jobs", token)) for c, token in made.tokens.items()]
    return [(client, job) for client, (_, body) in asked for job in body["jobs"]]


def clear(made: Made) -> None:
    """Leaves no jobs, and of templates those that Alice has from the start."""
    for client, job in jobs(made):  # before templates, which they store
        status, _ = made.server.ask("DELETE", f"/v1/jobs/{job['id']}", made.tokens[client])
        assert status == 204
    for client, kept in ((made.alice, ALL), (made.bob, {})):
        for template in client.templates():
            if template.name not in kept:
                client.remove_template(template.name)
    wait_idle(made)


def wait_idle(made: Made) -> None:
    """Until the files of jobs that have ended are gone, which the worker removes after it says so.

    All jobs must have ended.
    """
    last = time.monotonic() + 60.0
    folders = [Path(made.server.folder, name) for name in ("incoming", "inputs")]
    while any(any(folder.iterdir()) for folder in folders):
        assert time.monotonic() < last, "the worker does not become idle"
        time.sleep(0.005)


@contextmanager
def stopped_job(made: Made, submit: Callable[[], str]) -> Iterator[str]:
    """A job whose process is stopped, so that the worker waits for it; it is killed in the end.

    Args:
        made: a server without jobs.
        submit: queues the job; again where it has ended before it could be stopped.
    """
    job = submit()
    while (process := _stopped_process(made)) is None:
        clear(made)
        job = submit()
    try:
        yield job
    finally:
        with suppress(psutil.NoSuchProcess):
            process.kill()


def _stopped_process(made: Made) -> psutil.Process | None:
    """The process of the one job, stopped; None if it was too fast."""
    assert made.server.process is not None
    server = psutil.Process(made.server.process.pid)
    while any(job["state"] in ("queued", "running") for _, job in jobs(made)):
        for process in server.children():
            with suppress(psutil.NoSuchProcess):
                if "serve" not in process.cmdline():  # until then it is a copy of the server
                    process.suspend()
                    while process.status() not in (psutil.STATUS_STOPPED, psutil.STATUS_ZOMBIE):
                        time.sleep(0.001)
                    return process if process.status() == psutil.STATUS_STOPPED else None
        time.sleep(0.005)
    return None
