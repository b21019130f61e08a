"""Jobs as processes: how they fail, and how they end with the server."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import psutil
import pytest

from fhecompile.errors import FheCompileError
from runtime.__main__ import _parser
from runtime.bundle import MANIFEST
from runtime.key_files import make_keys
from runtime.roles import encrypt_file
from tests.service import ROOT, ServerProcess, serving, snapshot
from tests.support import convolution_plan, relative_error, run_slots

pytest.importorskip("openfhe", reason="OpenFHE is not installed")
pytest.importorskip("uvicorn", reason="uvicorn is not installed")
client_module = pytest.importorskip("runtime.service.client")
jobs_module = pytest.importorskip("runtime.service.jobs")
tasks_module = pytest.importorskip("runtime.service.tasks")

PLAN = convolution_plan()
IMAGES = np.random.default_rng(6).uniform(-1, 1, (1, 1, 2, 8, 8))
EXPECTED = run_slots(PLAN, {"x": IMAGES})["y"]
PATIENCE = 30.0
CRASHED = (
    "[evaluation-crashed]\n  hint: it may need more memory than the server has: ask its operator"
)


@dataclass
class Made:
    """A server and its client, who has uploaded her keys."""

    keys: Path
    server: ServerProcess
    token: str
    alice: Any


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Made]:
    folder = tmp_path_factory.mktemp("jobs")
    make_keys([PLAN], folder / "alice")
    with serving(folder / "server", PLAN) as server:
        token = server.add_client("alice")
        with client_module.ServiceClient(
            server.url, token, PLAN, folder / "alice", insecure_toy=True
        ) as alice:
            alice.upload_keys()
            yield Made(folder / "alice", server, token, alice)


def eventually(condition: Callable[[], Any]) -> Any:
    """What the condition says when it is true at last."""
    last = time.monotonic() + PATIENCE
    while not (found := condition()):
        assert time.monotonic() < last, "it never became true"
        time.sleep(0.005)
    return found


def evaluations(made: Made) -> list[psutil.Process]:
    """Evaluating processes of a server, whether it is alive or not."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        command = process.info["cmdline"] or []
        if "evaluate" in command and any(str(made.server.folder) in word for word in command):
            found.append(process)
    return found


def submit(made: Made) -> str:
    job: str = made.alice.submit({"x": IMAGES})
    return job


def assert_done(made: Made, job: str) -> None:
    made.alice.wait(job)
    assert relative_error(made.alice.result(job)["y"], EXPECTED[:, 0]) < 1e-2


def test_a_ciphertext_that_openfhe_cannot_read(made: Made, tmp_path: Path) -> None:
    """Its checksums are right: only the job's process finds out, and only the job fails."""
    encrypt_file(PLAN, made.keys / "public.key", {"x": IMAGES}, tmp_path / "x")
    with zipfile.ZipFile(tmp_path / "x") as archive:
        manifest = msgspec.json.decode(archive.read(MANIFEST))
    forged = b"\xff" * 1000
    (name,) = manifest["entries"]
    manifest["entries"][name] = {
        "size": len(forged),
        "sha256": hashlib.sha256(forged).hexdigest(),
    }
    with zipfile.ZipFile(tmp_path / "x", "w") as archive:
        archive.writestr(name, forged)
        archive.writestr(MANIFEST, msgspec.json.encode(manifest))
    status, body = made.server.ask(
        "POST", f"/v1/jobs?plan={PLAN.digest}", made.token, (tmp_path / "x").read_bytes()
    )
    assert status == 201
    job = body["id"]
    with pytest.raises(FheCompileError) as caught:
        made.alice.wait(job)
    assert str(caught.value) == (
        f"job {job}: inputs: batch-0/tensor-0/part-0: OpenFHE cannot read it [wrong-ciphertext]\n"
        "  hint: make it again with the same version of OpenFHE"
    )
    assert made.server.ask("GET", f"/v1/jobs/{job}/outputs", made.token) == (
        409,
        {
            "code": "no-outputs",
            "reason": "the job is failed: it has no outputs",
            "hint": "ask for its state until that is done",
        },
    )
    assert list(Path(made.server.folder, "inputs").iterdir()) == []
    assert_done(made, submit(made))


def test_a_process_that_is_killed_fails_its_job_only(made: Made) -> None:
    first, second = submit(made), submit(made)
    (process,) = eventually(lambda: evaluations(made))
    process.kill()
    with pytest.raises(FheCompileError) as caught:
        made.alice.wait(first)
    assert str(caught.value) == (
        f"job {first}: the evaluation ended by signal SIGKILL [evaluation-crashed]\n"
        "  hint: it may need more memory than the server has: ask its operator"
    )
    assert_done(made, second)


def test_a_discarded_job_is_ended(made: Made) -> None:
    job = submit(made)
    (process,) = eventually(lambda: evaluations(made))
    made.alice.discard(job)
    process.wait(PATIENCE)
    eventually(lambda: not list(Path(made.server.folder, "incoming").iterdir()))
    rows, files = snapshot(made.server.folder)
    assert not any(f"'{job}'" in row for row in rows)
    outputs = [row for row in rows if row.startswith('INSERT INTO "outputs"')]
    assert len([name for name in files if name.startswith("outputs/")]) == len(outputs)
    assert not [name for name in files if name.startswith("inputs/")]
    assert_done(made, submit(made))


def test_keys_of_a_waiting_job_stay(made: Made) -> None:
    job = submit(made)
    assert made.server.ask("DELETE", f"/v1/keys/{PLAN.digest}", made.token) == (
        409,
        {
            "code": "keys-in-use",
            "reason": "jobs that are queued or running need these keys",
            "hint": "wait for the jobs, or delete them",
        },
    )
    assert_done(made, job)


def test_processes_end_with_the_server(made: Made) -> None:
    job = submit(made)
    (process,) = eventually(lambda: evaluations(made))
    made.server.kill()
    psutil.wait_procs([process], timeout=PATIENCE)
    assert not evaluations(made)
    made.server.start()
    assert_done(made, job)


def test_a_server_that_is_asked_to_end_queues_its_job_again(made: Made) -> None:
    job = submit(made)
    eventually(lambda: evaluations(made))
    made.server.stop()
    eventually(lambda: not evaluations(made))
    rows, _ = snapshot(made.server.folder)
    (row,) = [row for row in rows if f"'{job}'" in row]
    assert "'queued'" in row
    made.server.start()
    assert_done(made, job)
    assert made.server.ask("GET", f"/v1/jobs/{job}", made.token)[1]["attempts"] == 1


def test_a_job_that_ends_the_server_three_times(made: Made) -> None:
    job = submit(made)
    for _ in range(3):
        eventually(lambda: evaluations(made))
        made.server.kill()
        eventually(lambda: not evaluations(made))
        made.server.start()
    with pytest.raises(FheCompileError) as caught:
        made.alice.wait(job)
    assert str(caught.value) == (
        f"job {job}: the server ended 3 times while this job ran [job-interrupted]\n"
        "  hint: it may need more memory than the server has: ask its operator"
    )
    assert_done(made, submit(made))


def test_leftovers_are_removed_and_nothing_else(made: Made) -> None:
    job = submit(made)
    made.alice.wait(job)
    made.server.kill()
    before = snapshot(made.server.folder)
    for name in ("incoming/0123", "keys/999", "inputs/999", "outputs/999", "outputs/text"):
        (made.server.folder / name).write_bytes(os.urandom(5000))
    shutil.copy(made.keys / "evaluation.keys", made.server.folder / "incoming" / "4567")
    with open(made.server.folder / "incoming" / "4567", "r+b") as file:
        file.truncate(10_000)
    made.server.start()
    assert snapshot(made.server.folder) == before
    assert_done(made, job)


def test_a_job_gets_the_limit_of_the_server(tmp_path: Path) -> None:
    """One that evaluates and does nothing else; the command line takes it."""
    store = SimpleNamespace(templates=SimpleNamespace(free_places=lambda *_: [0]))
    folder = SimpleNamespace(temporary=lambda: tmp_path / "work", file=lambda *_: tmp_path / "x")
    offered: Any = SimpleNamespace(path=tmp_path / "plan", plan=PLAN)
    keys: Any = SimpleNamespace(number=1, tag="tag")

    def command(kind: str, limit: int | None) -> list[str]:
        job: Any = SimpleNamespace(kind=kind, number=1, names=["a"], plan=PLAN.digest)
        task = tasks_module.Task(store, folder, offered, job, keys)
        with task:
            words: list[str] = task.command(limit)
            return words

    limited = command("evaluate", 7 << 30)
    assert _parser().parse_args(limited[3:]).max_memory == 7 << 30
    assert _parser().parse_args(command("evaluate", None)[3:]).max_memory is None
    assert "--max-memory" not in command("enrol", 7 << 30)


def test_a_process_whose_parent_has_gone_does_nothing() -> None:
    code = "from runtime.parent import end_with_parent\nend_with_parent({})\nprint('alive')"
    for parent, expected in ((os.getpid(), "alive\n"), (1, "")):
        done = subprocess.run(
            [sys.executable, "-c", code.format(parent)], capture_output=True, text=True, cwd=ROOT
        )
        assert done.stdout == expected
        assert done.returncode == (0 if expected else 128 + signal.SIGKILL)


@pytest.mark.parametrize(
    ("code", "said", "expected"),
    [
        (
            2,
            "warning: w\nerror: x: bad [code]\n  hint: mend it\n",
            "x: bad [code]\n  hint: mend it",
        ),
        (2, "error: first [a]\nerror: last [b]\n", "last [b]"),
        (
            70,
            "internal error: KeyError: 1\n  report",
            "internal error: KeyError: 1 [internal-error]",
        ),
        (3, "error: no memory [not-enough-memory]", "no memory [not-enough-memory]"),
        (-11, "nothing of use", f"the evaluation ended by signal SIGSEGV {CRASHED}"),
        (9, "", f"the evaluation ended by exit code 9 {CRASHED}"),
    ],
)
def test_what_a_process_said_last(code: int, said: str, expected: str) -> None:
    assert str(jobs_module.explain(code, said)) == expected
