"""The client's side of the service for Python users: encrypts, submits, waits, decrypts.

    client = ServiceClient("https://host:8080", token, plan, "keys")
    client.upload_keys()
    outputs = client.run({"image": x})

Inputs are encrypted and outputs decrypted here; `secret.key` stays in its folder. A connection that
fails is tried again for a while: reading changes nothing, and what is uploaded twice the server has
once (`runtime.service.submissions`).
"""

from __future__ import annotations

import hashlib
import ssl
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fhecompile.errors import EXIT_ENVIRONMENT, FheCompileError
from fhecompile.plan import Plan
from runtime.client import check_secure
from runtime.key_files import EVALUATION, PUBLIC, SECRET
from runtime.roles import decrypt_file, encrypt_file
from runtime.service.commands import server_library
from runtime.service.refusal import RefusedError
from runtime.service.submissions import Submission, Submissions

Progress = Callable[[float], None]
CHUNK_BYTES = 1 << 20
CONNECT_SECONDS = 10.0
ANSWER_SECONDS = 300.0  # the server checks gigabytes of keys before it answers
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 5.0  # seconds; each is twice the one before


@dataclass(frozen=True)
class JobStatus:
    """A job as the server describes it; `eta` is seconds from now, `code` and `reason` of an error.

    `state` is queued, running, done or failed; `progress` the share that is evaluated.
    """

    id: str
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
        self._httpx = server_library("httpx")
        self.plan = plan if isinstance(plan, Plan) else Plan.load(plan)
        check_secure(self.plan, insecure_toy)
        self.url, self.folder, self.patience = url.rstrip("/"), Path(keys_folder), patience
        self._submissions = Submissions(self.folder)
        trusted = ssl.create_default_context(cafile=certificates)
        self._http = self._httpx.Client(
            base_url=self.url,
            headers={"Authorization": f"Bearer {token}"},
            timeout=self._httpx.Timeout(ANSWER_SECONDS, connect=CONNECT_SECONDS),
            verify=trusted,
        )

    def __enter__(self) -> ServiceClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connections."""
        self._http.close()

    def upload_keys(self) -> None:
        """Uploads evaluation.keys, unless the server has them already."""
        path, digest = self.folder / EVALUATION, _hash(self.folder / EVALUATION)
        held = self._ask("GET", "/v1/keys").json()["keys"]
        if not any(k["sha256"] == digest and self.plan.digest in k["plans"] for k in held):
            self._ask("PUT", f"/v1/keys/{self.plan.digest}", upload=path)

    def submit(self, feeds: Mapping[str, Any], *, ignore_range: bool = False) -> str:
        """Encrypts inputs and has them queued; the job's id.

        Args:
            feeds: arrays by input name, see `runtime.inputs.check_inputs`.
            ignore_range: warn of inputs far outside the calibrated range instead of refusing them.
        """
        file = self._submissions.new_file()
        with self._submissions.locked():
            try:
                encrypt_file(
                    self.plan, self.folder / PUBLIC, feeds, file, ignore_range=ignore_range
                )
                submission = Submission(self.url, self.plan.digest, _hash(file), file.name)
                self._submissions.add(submission)
            except BaseException:
                file.unlink(missing_ok=True)
                raise
            return self._upload(submission)

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
        found = self._ask("GET", f"/v1/jobs/{job}").json()
        error = found["error"] or {}
        return JobStatus(job, found["state"], found["progress"], found["eta"], **error)

    def wait(self, job: str, progress: Progress | None = None) -> None:
        """Returns when a job is done; raises its error when it has failed.

        Args:
            job: its id.
            progress: called with the share that is evaluated.
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
        with tempfile.NamedTemporaryFile(prefix="fhecompile-outputs-") as file:
            self._ask("GET", f"/v1/jobs/{job}/outputs", download=Path(file.name))
            return decrypt_file(self.plan, self.folder / SECRET, Path(file.name))

    def discard(self, job: str) -> None:
        """Removes a job here and on the server; one that is under way is ended."""
        try:
            self._ask("DELETE", f"/v1/jobs/{job}")
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
        job = self.submit(feeds)
        self.wait(job, progress)
        outputs = self.result(job)
        self.discard(job)
        return outputs

    def _is_mine(self, submission: Submission) -> bool:
        return (submission.url, submission.plan) == (self.url, self.plan.digest)

    def _upload(self, submission: Submission) -> str:
        path, query = self.folder / submission.file, {"plan": self.plan.digest}
        try:
            job = str(self._ask("POST", "/v1/jobs", upload=path, query=query).json()["id"])
        except RefusedError as error:
            if "job" not in error.more:
                if error.status < 500:  # it would be refused again
                    self._submissions.drop(submission)
                raise
            job = error.more["job"]  # an earlier call uploaded it
        self._submissions.name_job(submission, job)
        return job

    def _ask(
        self,
        method: str,
        path: str,
        *,
        upload: Path | None = None,
        download: Path | None = None,
        query: Mapping[str, str] | None = None,
    ) -> Any:
        """The server's answer; what it refuses is raised."""
        last, pause = time.monotonic() + self.patience, FIRST_PAUSE
        while True:
            failure: FheCompileError
            try:
                answer = self._send(method, path, upload, download, query)
                if answer.is_success:
                    return answer
                failure = _refusal(answer)
                if answer.status_code < 500:
                    raise failure
            except self._httpx.TransportError as error:
                failure = FheCompileError(
                    "no-connection",
                    f"cannot reach the server ({error})",
                    node=self.url,
                    hint="check its address; jobs that it has accepted go on without you",
                    exit_code=EXIT_ENVIRONMENT,
                )
            if time.monotonic() + pause > last:
                raise failure
            time.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)

    def _send(
        self,
        method: str,
        path: str,
        upload: Path | None,
        download: Path | None,
        query: Mapping[str, str] | None,
    ) -> Any:
        more: dict[str, Any] = {}
        if upload is not None:
            length = str(upload.stat().st_size)
            more = {"content": _chunks(upload), "headers": {"Content-Length": length}}
        with self._http.stream(method, path, params=query, **more) as answer:
            if download is not None and answer.is_success:
                with download.open("wb") as file:
                    for chunk in answer.iter_bytes(CHUNK_BYTES):
                        file.write(chunk)
            else:
                answer.read()
        return answer


def _refusal(answer: Any) -> RefusedError:
    try:
        return RefusedError(answer.status_code, **answer.json())
    except (ValueError, TypeError):
        return RefusedError(
            answer.status_code,
            "not-the-service",
            f"the answer has status {answer.status_code} and is not from this service",
            "check the address, and what is between you and the server",
        )


def _chunks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            yield chunk


def _hash(path: Path) -> str:
    digest = hashlib.sha256()
    try:
        for chunk in _chunks(path):
            digest.update(chunk)
    except OSError as error:
        raise FheCompileError(
            "no-such-file",
            f"cannot read it ({error.strerror or error})",
            node=str(path),
            hint="make keys with: python -m runtime keygen",
        ) from error
    return digest.hexdigest()
