"""What the process of a job is asked to do, and what is kept of the files it leaves.

    evaluate   inputs                        -> outputs
    enrol      inputs, names                 -> a template per name
    identify   inputs, templates of a list   -> encrypted scores, kept as outputs

The process knows files only. It works in a folder of its own, which is removed whatever happens
(checkpoints of an evaluation that refreshes are in another one, which is there until the job ends);
what is kept is checked, and moved in the transaction that ends the job. Templates get their places
here: nothing else stores any, as jobs run one after another, so that what is free now stays free.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from fhecompile.errors import FheCompileError
from runtime.bundle import Kind, open_bundle
from runtime.gallery.templates import Entry, TemplateFiles, write_list
from runtime.service.folder import ServiceFolder
from runtime.service.plans import OfferedPlan
from runtime.service.rows import Job, Keys
from runtime.service.store import Store
from runtime.service.templates import MadeTemplate


class Task:
    """A job under way; a context manager, whose end removes its folder.

    Args:
        store: the server's rows.
        folder: the server's files.
        offered: the job's plan.
        job: the job.
        keys: the client's evaluation keys.
    """

    def __init__(
        self, store: Store, folder: ServiceFolder, offered: OfferedPlan, job: Job, keys: Keys
    ) -> None:
        self.store, self.folder, self.offered = store, folder, offered
        self.job, self.keys = job, keys
        self.work = folder.temporary()
        self._entries: list[Entry] = []

    def __enter__(self) -> Task:
        self.work.mkdir(mode=0o700)
        return self

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self.work, ignore_errors=True)

    def command(self, max_memory: int | None = None) -> list[str]:
        """The command line; raises when there is nothing to compare with any more."""
        job = self.job
        command = [sys.executable, "-m", "runtime", job.kind, str(self.offered.path)]
        command += ["--key", str(self.folder.file("keys", self.keys.number))]
        command += ["--input", str(self.folder.file("inputs", job.number))]
        command += ["--progress", "json", "--end-with", str(os.getpid())]
        command += ["--insecure-toy"] * self.offered.plan.parameters.insecure
        if job.kind == "evaluate" and self.offered.plan.parameters.bootstrap is not None:
            command += ["--checkpoint", str(self.folder.checkpoints(job.number))]
        if job.kind != "evaluate":
            self._entries = self._to_store() if job.kind == "enrol" else self._to_compare()
            write_list(self.work / "list", self._entries)
            command += ["--list", str(self.work / "list")]
        elif max_memory is not None:
            command += ["--max-memory", str(max_memory)]
        return command if job.kind == "enrol" else [*command, "--output", str(self._output)]

    def finish(self) -> None:
        """Checks and keeps what the process has left; the job is done, if it is still there."""
        plan = self.offered.plan
        if self.job.kind == "enrol":
            files = TemplateFiles(plan, self.keys.tag)
            made = []
            for entry in self._entries:
                files.check(entry)
                made.append(MadeTemplate(entry, entry.path.stat().st_size, _hash(entry.path)))
            self.store.finish_enrolment(self.job, made)
            return
        parameters, output = plan.program.parameters, self._output
        kind: Kind = "outputs" if self.job.kind == "evaluate" else "scores"
        with open_bundle(output, kind, parameters, plan=plan.digest, key=self.keys.tag) as bundle:
            bundle.check()
        self.store.finish_job(self.job, output, output.stat().st_size, _hash(output))

    def conceal(self, said: str) -> str:
        """What the process said, with names for the server's paths, which say nothing to a client.

        A path may be the beginning of another one.
        """
        names = {entry.path: f"template {entry.name}" for entry in self._entries}
        names |= {
            self.folder.file("inputs", self.job.number): "inputs",
            self.folder.file("keys", self.keys.number): "keys",
            self.folder.checkpoints(self.job.number): "checkpoints",
            self.offered.path: "plan",
            self.work: "job",
        }
        for path in sorted(names, key=lambda path: -len(str(path))):
            said = said.replace(str(path), names[path])
        return said

    @property
    def _output(self) -> Path:
        return self.work / "outputs"

    def _to_store(self) -> list[Entry]:
        names, templates = self.job.names, self.store.templates
        places = templates.free_places(self.keys.number, self.job.plan, len(names))
        return [
            Entry(name, place, self.work / f"template-{number}")
            for number, (name, place) in enumerate(zip(names, places, strict=True))
        ]

    def _to_compare(self) -> list[Entry]:
        stored = self.store.templates.find_all(self.keys.number, self.job.plan)
        self._check_there(self.job.names, [t.name for t in stored])
        return [
            Entry(t.name, t.place, self.folder.file("templates", t.number))
            for t in stored
            if not self.job.names or t.name in self.job.names
        ]

    def _check_there(self, wanted: Sequence[str], there: Sequence[str]) -> None:
        """They were when the job was queued."""
        gone = sorted(set(wanted).difference(there))
        if gone or not there:
            raise FheCompileError(
                "no-such-template",
                f"the template {gone[0]} was removed" if gone else "all templates were removed",
                hint="compare with others, or enrol again",
            )


def _hash(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()
