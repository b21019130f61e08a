"""A server process for tests of the service, and what its folder holds."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

from fhecompile.plan import Plan

ROOT = Path(__file__).resolve().parents[1]
READY_SECONDS = 60.0


def run_module(*arguments: str) -> subprocess.CompletedProcess[str]:
    """`python -m runtime` with these arguments."""
    return subprocess.run(
        [sys.executable, "-m", "runtime", *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )


def free_port() -> int:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@dataclass
class ServerProcess:
    """`python -m runtime serve` on a folder, always at the same port."""

    folder: Path
    plans: tuple[Path, ...]
    port: int = field(default_factory=free_port)
    options: tuple[str, ...] = ()
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def add_client(self, name: str) -> str:
        done = run_module("add-client", "--folder", str(self.folder), name)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def start(self, wait: bool = True) -> None:
        command = [sys.executable, "-m", "runtime", "serve", "--insecure-toy", "--quiet"]
        command += ["--folder", str(self.folder), "--port", str(self.port), *self.options]
        for path in self.plans:
            command += ["--plan", str(path)]
        with open(f"{self.folder}.log", "ab") as log:
            self.process = subprocess.Popen(
                command,
                cwd=self.folder.parent,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
                stdout=log,
                stderr=log,
            )
        if wait:
            self.wait_ready()

    def wait_ready(self) -> None:
        last = time.monotonic() + READY_SECONDS
        while time.monotonic() < last:
            assert self.process is not None and self.process.poll() is None, self.log()
            try:
                if self.options:  # TLS: whoever connects will wait
                    socket.create_connection(("127.0.0.1", self.port), 1).close()
                else:
                    self.ask("GET", "/", None)
                return
            except OSError:
                time.sleep(0.02)
        raise AssertionError("the server does not answer")

    def kill(self) -> None:
        """SIGKILL, as the machine's power would end it."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def stop(self) -> int:
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(30)

    def log(self) -> str:
        return Path(f"{self.folder}.log").read_text()

    def ask(
        self,
        method: str,
        path: str,
        token: str | None,
        body: bytes | Iterator[bytes] | None = None,
        headers: Mapping[str, str] = {},
    ) -> tuple[int, Any]:
        """Status and JSON body of a request; an iterator is sent in chunks."""
        sent = dict(headers) | ({} if token is None else {"Authorization": f"Bearer {token}"})
        with closing(HTTPConnection("127.0.0.1", self.port, timeout=60)) as connection:
            connection.request(method, path, body, sent)
            answer = connection.getresponse()
            data = answer.read()
        return answer.status, json.loads(data) if data else None


@contextmanager
def serving(folder: Path, *plans: Plan) -> Iterator[ServerProcess]:
    """A running server on a new folder."""
    folder.mkdir()
    paths = []
    for plan in plans:
        paths.append(folder.parent / f"{plan.digest[:8]}.fheplan")
        plan.save(paths[-1])
    server = ServerProcess(folder, tuple(paths))
    try:
        server.start()
        yield server
    finally:
        server.kill()


def snapshot(folder: Path) -> tuple[list[str], dict[str, str]]:
    """The rows of a server's database, and SHA-256 by name of its other files."""
    with closing(sqlite3.connect(folder / "service.sqlite3", timeout=30)) as database:
        rows = list(database.iterdump())
    files = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not path.name.startswith("service.sqlite3"):
            files[str(path.relative_to(folder))] = hashlib.sha256(path.read_bytes()).hexdigest()
    return rows, files
