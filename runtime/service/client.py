"""The client's side of the service for Python users: encrypts, submits, waits, decrypts.

    client = ServiceClient("https://host:8080", token, plan, "keys")
    client.upload_keys()
    outputs = client.run({"image": x})

With a plan that gives templates (`fhecompile --match gallery`), the server keeps them:

    client.enrol("alice", {"image": x})
    cosines = client.identify({"image": y})  # by name
    cosine = client.verify("alice", {"image": y})

Inputs are encrypted and outputs decrypted here; `secret.key` stays in its folder. A connection that
fails is tried again for a while: reading changes nothing, and what is uploaded twice the server has
once (`runtime.service.submissions`).
"""

from __future__ import annotations

import hashlib
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray

from fhecompile.errors import FheCompileError
from fhecompile.plan import Plan
from runtime.client import check_secure
from runtime.gallery.programs import check_template_plan
from runtime.gallery.roles import read_scores
from runtime.inputs import RangeReport
from runtime.key_files import EVALUATION, PUBLIC, SECRET
from runtime.roles import decrypt_file, encrypt_file
from runtime.service.connection import FIRST_PAUSE, LONGEST_PAUSE, Connection, Query, read_chunks
from runtime.service.refusal import RefusedError
from runtime.service.submissions import Submission, Submissions

Progress = Callable[[float], None]
Result = TypeVar("Result")


@dataclass(frozen=True)
class Template:
    """A stored template; `created` is in seconds since 1970, `bytes` what its file takes."""

    name: str
    created: float
    bytes: int


@dataclass(frozen=True)
class JobStatus:
    """A job as the server describes it; `eta` is seconds from now, `code` and `reason` of an error.

    `kind` is evaluate, enrol or identify, `names` those of templates to store or to compare with;
    `state` is queued, running, done or failed; `progress` the share that is done.
    """

    id: str
    kind: str
    names: tuple[str, ...]
    state: str
    progress: float
    eta: float
    code: str = ""
    reason: str = ""
    hint: str = ""


class ServiceClient:
    """One client of one plan on a server; a context manager.

    Args:
        url: the server's address, e.g. "https://host:8080".
        token: what `python -m runtime add-client` printed.
        plan: the plan, or its file: the very one that the server offers.
        keys_folder: what `python -m runtime keygen` made for it; submitted jobs are listed here.
        patience: seconds for which a server that cannot be reached is tried again.
        certificates: file of the authorities to trust instead of the system's.
        insecure_toy: accept a plan that is not secure.
    """

    def __init__(
        self,
        url: str,
        token: str,
        plan: Plan | str | Path,
        keys_folder: str | Path,
        *,
        patience: float = 60.0,
        certificates: str | Path | None = None,
        insecure_toy: bool = False,
    ) -> None:
        self.plan = plan if isinstance(plan, Plan) else Plan.load(plan)
        check_secure(self.plan, insecure_toy)
        self.url, self.folder = url.rstrip("/"), Path(keys_folder)
        self.outside = RangeReport()  # what left its calibrated range, in any call
        self._submissions = Submissions(self.folder)
        self._connection = Connection(self.url, token, patience, certificates)

    def __enter__(self) -> ServiceClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connections."""
        self._connection.close()

    def upload_keys(self) -> None:
        """Uploads evaluation.keys, unless the server has them already."""
        path, digest = self.folder / EVALUATION, _hash(self.folder / EVALUATION)
        held = self._connection.ask("GET", "/v1/keys").json()["keys"]
        if not any(k["sha256"] == digest and self.plan.digest in k["plans"] for k in held):
            self._connection.ask("PUT", f"/v1/keys/{self.plan.digest}", upload=path)

    def submit(self, feeds: Mapping[str, Any], *, ignore_range: bool = False) -> str:
        """Encrypts inputs and has them queued; the job's id.

        Args:
            feeds: arrays by input name, see `runtime.inputs.check_inputs`.
            ignore_range: warn of inputs far outside the calibrated range instead of refusing them.
        """
        return self._submit("evaluate", feeds, (), ignore_range)

    def submit_enrol(
        self, names: Sequence[str], feeds: Mapping[str, Any], *, ignore_range: bool = False
    ) -> str:
        """Encrypts images whose templates are to be stored under these names; the job's id.

        Args:
            names: one per image, not taken yet; a string is one name.
            feeds, ignore_range: see `submit`.
        """
        return self._submit("enrol", feeds, names, ignore_range)

    def submit_identify(
        self, feeds: Mapping[str, Any], names: Sequence[str] = (), *, ignore_range: bool = False
    ) -> str:
        """Encrypts one image that is to be compared with stored templates; the job's id.

        Args:
            feeds, ignore_range: see `submit`.
            names: the templates to compare with, a string is one; none: all.
        """
        return self._submit("identify", feeds, names, ignore_range)

    def pending(self) -> list[str]:
        """Ids of all jobs that were submitted from this folder for this plan and not discarded.

        What was cut off between its listing and the server's answer is uploaded again first.
        """
        with self._submissions.locked():
            self._submissions.clean()
            mine = [s for s in self._submissions.read() if self._is_mine(s)]
            return [s.job or self._upload(s) for s in mine]

    def status(self, job: str) -> JobStatus:
        """How far a job is."""
        found = self._connection.ask("GET", f"/v1/jobs/{job}").json()
        error, names = found["error"] or {}, tuple(found["names"])
        return JobStatus(
            *(job, found["kind"], names, found["state"], found["progress"], found["eta"]), **error
        )

    def wait(self, job: str, progress: Progress | None = None) -> None:
        """Returns when a job is done; raises its error when it has failed.

        Args:
            job: its id.
            progress: called with the share that is done.
        """
        pause = FIRST_PAUSE
        while True:
            status = self.status(job)
            if progress is not None:
                progress(status.progress)
            if status.state == "done":
                return
            if status.state == "failed":
                raise FheCompileError(
                    status.code, status.reason, node=f"job {job}", hint=status.hint
                )
            time.sleep(min(pause, max(FIRST_PAUSE, status.eta)))
            pause = min(2 * pause, LONGEST_PAUSE)

    def result(self, job: str) -> dict[str, NDArray[np.float32]]:
        """Downloads and decrypts the outputs of a job that is done: arrays by output name."""
        return self._read(job, decrypt_file)

    def scores(self, job: str) -> dict[str, float]:
        """Downloads and decrypts what `submit_identify` asked for: cosines, the highest first."""
        return self._read(job, read_scores)

    def templates(self) -> list[Template]:
        """What is stored of this plan, by name."""
        query = {"plan": self.plan.digest}
        found = self._connection.ask("GET", "/v1/templates", query=query).json()
        return [Template(**template) for template in found["templates"]]

    def remove_template(self, name: str) -> None:
        """Removes a stored template; the others stay as they are."""
        path, query = f"/v1/templates/{quote(name, safe='')}", {"plan": self.plan.digest}
        self._connection.ask("DELETE", path, query=query)

    def discard(self, job: str) -> None:
        """Removes a job here and on the server; one that is under way is ended."""
        try:
            self._connection.ask("DELETE", f"/v1/jobs/{job}")
        except RefusedError as error:
            if error.code != "no-such-job":  # removed by a call whose answer was lost
                raise
        with self._submissions.locked():
            for submission in self._submissions.read():
                if submission.job == job and self._is_mine(submission):
                    self._submissions.drop(submission)

    def run(
        self, feeds: Mapping[str, Any], progress: Progress | None = None
    ) -> dict[str, NDArray[np.float32]]:
        """Outputs by name for inputs by name: submits, waits, decrypts and discards the job."""
        return self._complete(self.submit(feeds), self.result, progress)

    def enrol(self, name: str, feeds: Mapping[str, Any], progress: Progress | None = None) -> None:
        """Stores the template of one image: submits, waits and discards the job."""
        self._complete(self.submit_enrol([name], feeds), lambda _: None, progress)

    def identify(
        self, feeds: Mapping[str, Any], names: Sequence[str] = (), progress: Progress | None = None
    ) -> dict[str, float]:
        """Cosines of one image with these templates, or with all, the highest first."""
        return self._complete(self.submit_identify(feeds, names), self.scores, progress)

    def verify(
        self, name: str, feeds: Mapping[str, Any], progress: Progress | None = None
    ) -> float:
        """The cosine of one image with one template."""
        return self.identify(feeds, [name], progress)[name]

    def _submit(
        self, kind: str, feeds: Mapping[str, Any], names: Sequence[str], ignore_range: bool
    ) -> str:
        if kind != "evaluate":
            check_template_plan(self.plan)
        file, public = self._submissions.new_file(), self.folder / PUBLIC
        with self._submissions.locked():
            try:
                encrypt_file(
                    self.plan, public, feeds, file, ignore_range=ignore_range, report=self.outside
                )
                given = (names,) if isinstance(names, str) else tuple(names)
                submission = Submission(
                    *(self.url, self.plan.digest, _hash(file), file.name, kind, given)
                )
                self._submissions.add(submission)
            except BaseException:
                file.unlink(missing_ok=True)
                raise
            return self._upload(submission)

    def _read(self, job: str, read: Callable[[Plan, Path, Path, RangeReport], Result]) -> Result:
        """What a reader makes of a job's outputs with the secret key."""
        with tempfile.NamedTemporaryFile(prefix="fhecompile-outputs-") as file:
            path = Path(file.name)
            self._connection.ask("GET", f"/v1/jobs/{job}/outputs", download=path)
            return read(self.plan, self.folder / SECRET, path, self.outside)

    def _complete(
        self, job: str, read: Callable[[str], Result], progress: Progress | None
    ) -> Result:
        self.wait(job, progress)
        result = read(job)
        self.discard(job)
        return result

    def _is_mine(self, submission: Submission) -> bool:
        return (submission.url, submission.plan) == (self.url, self.plan.digest)

    def _upload(self, submission: Submission) -> str:
        path, query = self.folder / submission.file, _query(submission)
        try:
            job = str(
                self._connection.ask("POST", "/v1/jobs", upload=path, query=query).json()["id"]
            )
        except RefusedError as error:
            if "job" not in error.more:
                if error.status < 500:  # it would be refused again
                    self._submissions.drop(submission)
                raise
            job = error.more["job"]  # an earlier call uploaded it
        self._submissions.name_job(submission, job)
        return job


def _query(submission: Submission) -> Query:
    query: dict[str, str | Sequence[str]] = {"plan": submission.plan}
    if submission.kind != "evaluate":
        query |= {"kind": submission.kind, "name": submission.names}
    return query


def _hash(path: Path) -> str:
    digest = hashlib.sha256()
    try:
        for chunk in read_chunks(path):
            digest.update(chunk)
    except OSError as error:
        raise FheCompileError(
            "no-such-file",
            f"cannot read it ({error.strerror or error})",
            node=str(path),
            hint="make keys with: python -m runtime keygen",
        ) from error
    return digest.hexdigest()
