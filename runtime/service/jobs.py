"""The worker: takes the oldest queued job and has it evaluated by a process of its own.

OpenFHE reads a client's bytes and uses all cores and most memory: a job that ends its process ends
nothing else, and is failed with what the process said last. The process ends with this one
(`runtime.parent`), so that after a restart no job is evaluated twice at the same time.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from typing import IO

from fhecompile.errors import FheCompileError
from runtime.service.folder import ServiceFolder
from runtime.service.plans import OfferedPlan
from runtime.service.rows import Job
from runtime.service.store import Store
from runtime.service.tasks import Task
from runtime.tuning import GUARD

log = logging.getLogger(__name__)

POLL_SECONDS = 1.0  # a job may have been queued by nobody who wakes the worker
SECONDS_BETWEEN = 0.25  # changes of the progress that is stored
ERROR = re.compile(r"(?P<reason>.*) \[(?P<code>[a-z0-9-]+)\]")
HINT = "  hint: "


class Worker:
    """Runs jobs one after another on a thread until it is stopped.

    Args:
        store: the server's rows.
        folder: the server's files.
        plans: what is on offer, by digest; jobs of other plans wait.
        max_memory: most bytes that a process may hold that evaluates and nothing else; None: what
            is free.
    """

    def __init__(
        self,
        store: Store,
        folder: ServiceFolder,
        plans: Mapping[str, OfferedPlan],
        max_memory: int | None = None,
    ) -> None:
        self.store, self.folder, self.plans = store, folder, plans
        self.max_memory = max_memory
        self._stopping, self._queued = threading.Event(), threading.Event()
        self._lock = threading.Lock()  # of the two below
        self._process: subprocess.Popen[str] | None = None
        self._number = 0  # of the job under way
        # The thread is the parent of the processes, and they end with it.
        self._thread = threading.Thread(target=self._work, name="jobs", daemon=True)

    def start(self) -> None:
        """Begins to run jobs."""
        self._thread.start()

    def wake(self) -> None:
        """Says that a job is queued."""
        self._queued.set()

    def cancel(self, job: Job) -> None:
        """Ends the process of a job whose row is gone."""
        with self._lock:
            if self._process is not None and self._number == job.number:
                self._process.kill()

    def stop(self) -> None:
        """Ends the process under way, whose job is queued again, and the thread."""
        self._stopping.set()
        self._queued.set()
        with self._lock:
            if self._process is not None:
                self._process.kill()
        if self._thread.is_alive():
            self._thread.join()

    def _work(self) -> None:
        while not self._stopping.is_set():
            self._queued.clear()
            try:
                job = self.store.take_job(self.plans.keys())
                if job is not None:
                    self._run(job)
                    continue
            except Exception:
                log.exception("the worker goes on after an error")
                time.sleep(POLL_SECONDS)
            self._queued.wait(POLL_SECONDS)

    def _run(self, job: Job) -> None:
        keys = self.store.keys_of(job)
        if keys is None:  # the client was removed, and its jobs with it
            return
        log.info("job %s: attempt %d", job.id, job.attempts)
        try:
            with Task(self.store, self.folder, self.plans[job.plan], job, keys) as task:
                self._run_task(job, task)
        except Exception as error:
            self.store.fail_job(
                job, "internal-error", f"the server failed: {type(error).__name__}: {error}"
            )
            raise

    def _run_task(self, job: Job, task: Task) -> None:
        try:
            code, said = self._evaluate(job, task.command(self.max_memory))
            if self._stopping.is_set() and code:
                self.store.requeue_job(job)
            elif code:
                self._fail(job, explain(code, task.conceal(said)))
            else:
                task.finish()
                log.info("job %s: done", job.id)
        except FheCompileError as error:  # its place is a file of the server's, and is left out
            self._fail(job, error)

    def _fail(self, job: Job, error: FheCompileError) -> None:
        self.store.fail_job(job, error.code, error.reason, error.hint)
        log.info("job %s: %s", job.id, error.render())

    def _evaluate(self, job: Job, command: Sequence[str]) -> tuple[int, str]:
        """Runs a job's process; its exit code and what it said on stderr."""
        with tempfile.TemporaryFile("w+", errors="replace") as said:
            with self._lock:
                if self._stopping.is_set():
                    return -signal.SIGKILL, ""
                self._number = job.number
                self._process = process = subprocess.Popen(
                    command,
                    env={name: value for name, value in os.environ.items() if name != GUARD},
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=said,
                    text=True,
                )
            with process:
                try:
                    assert process.stdout is not None
                    self._follow(job, process.stdout)
                    code = process.wait()
                finally:
                    with self._lock:
                        self._process = None
                    process.kill()
            said.seek(0)
            return code, said.read()

    def _follow(self, job: Job, stdout: IO[str]) -> None:
        stored = 0.0
        for line in stdout:
            with contextlib.suppress(ValueError, KeyError, TypeError):
                share = float(json.loads(line)["progress"])
                if time.monotonic() - stored >= SECONDS_BETWEEN:
                    self.store.set_progress(job, share)
                    stored = time.monotonic()


def explain(code: int, said: str) -> FheCompileError:
    """Why a process failed, from its exit code and its last `error:` on stderr."""
    lines = said.splitlines()
    for number in reversed(range(len(lines))):
        kind, colon, text = lines[number].partition("error: ")
        if not colon or kind not in ("", "internal "):
            continue
        match = ERROR.fullmatch(text)
        if match is None:
            return FheCompileError("internal-error", lines[number])
        after = lines[number + 1] if number + 1 < len(lines) else ""
        hint = after[len(HINT) :] if after.startswith(HINT) else ""
        return FheCompileError(match["code"], match["reason"], hint=hint)
    end = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
    return FheCompileError(
        "evaluation-crashed",
        f"the evaluation ended by {end}",
        hint="it may need more memory than the server has: ask its operator",
    )
