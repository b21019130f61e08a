"""What the page shows and does: jobs of a service on photos, their scores, and the decision.

    enrol      a photo and a name      -> a template at the service
    verify     a photo and a name      -> the cosine with that template
    identify   a photo                 -> the cosines with all templates

Two faces are one person when their cosine is at least the threshold. The service knows a job's kind
and names, and the folder of keys which jobs are the client's (`runtime.service.submissions`), so
nothing is kept here: a client that was started again shows the same jobs.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from fhecompile.errors import EXIT_ENVIRONMENT, FheCompileError
from runtime.face_alignment import SIDE, TEMPLATE
from runtime.gallery.templates import check_name
from runtime.page.photo import LARGEST_BYTES, Points, check_face_plan, photo_feeds
from runtime.service.client import JobStatus, ServiceClient
from runtime.service.refusal import RefusedError

SHOWN = 10  # scores, the highest


class FaceJobs:
    """A client's jobs on photos.

    Args:
        client: of a plan that takes faces and gives templates.
        threshold: cosine from which on two faces are one person; None: scores are not judged.
    """

    def __init__(self, client: ServiceClient, threshold: float | None = None) -> None:
        self._client, self._threshold = client, threshold
        self._side = check_face_plan(client.plan)
        self._ended: dict[str, dict[str, Any]] = {}  # jobs that do not change any more, as shown
        # One photo is decoded and encrypted at a time: each may take hundreds of megabytes.
        self._one_photo = threading.Lock()

    def describe(self) -> dict[str, Any]:
        """What the page is to know before it does anything; `template` is in parts of the side."""
        return {
            "model": self._client.plan.program.model_name,
            "server": self._client.url,
            "side": self._side,
            "aligned_side": SIDE,
            "template": ((TEMPLATE + 0.5) / SIDE).tolist(),
            "threshold": self._threshold,
            "largest_bytes": LARGEST_BYTES,
        }

    def submit(self, kind: str, name: str, photo: bytes, points: Points | None) -> str:
        """Encrypts a photo and has it enrolled or compared; the job's id.

        Args:
            kind: enrol, verify or identify.
            name: whom to enrol or to compare with; not used by identify.
            photo: the file's bytes.
            points: see `runtime.page.photo.photo_feeds`.
        """
        if kind not in ("enrol", "verify", "identify"):
            raise RefusedError(
                400, "unknown-kind", f"there are no jobs of kind {kind!r}", "reload the page"
            )
        if kind != "identify" and not name:
            raise FheCompileError(
                "no-name", "a name is needed", hint="say who it is, or with whom to compare"
            )
        if kind != "identify":
            check_name(name)
        with self._one_photo:
            feeds = photo_feeds(self._client.plan, photo, points)
            if kind == "enrol":
                return self._client.submit_enrol([name], feeds)
            return self._client.submit_identify(feeds, [name] if kind == "verify" else [])

    def list_jobs(self) -> list[dict[str, Any]]:
        """All jobs, oldest first.

        Each has id, kind, title, state, progress (a share), eta (seconds), error (code, reason and
        hint, or None), scores (the highest: name, score, match), compared (their number), decision.
        """
        jobs = self._client.pending()
        for gone in self._ended.keys() - set(jobs):
            self._ended.pop(gone, None)
        return [self._ended.get(job) or self._describe_job(job) for job in jobs]

    def discard(self, job: str) -> None:
        """Takes a job off the list; one that is under way is ended."""
        if job not in self._client.pending():
            raise RefusedError(404, "no-such-job", "there is no such job", "reload the page")
        self._client.discard(job)

    def list_templates(self) -> list[dict[str, Any]]:
        """Who is enrolled: name, created (seconds since 1970), bytes."""
        return [asdict(template) for template in self._client.templates()]

    def remove_template(self, name: str) -> None:
        """Deletes a template; the others stay as they are."""
        check_name(name)
        self._client.remove_template(name)

    def _describe_job(self, job: str) -> dict[str, Any]:
        scores: dict[str, float] = {}
        try:
            status = self._client.status(job)
            if status.state == "done" and status.kind == "identify":
                scores = self._client.scores(job)
        except FheCompileError as error:
            if error.exit_code == EXIT_ENVIRONMENT:
                raise
            # Removed by another program, or with scores that cannot be read.
            said = (error.code, error.reason, error.hint)
            status = JobStatus(job, "", (), "failed", 0.0, 0.0, *said)
        error_shown = {"code": status.code, "reason": status.reason, "hint": status.hint}
        shown = {
            "id": job,
            **_title(status),
            "state": status.state,
            "progress": status.progress,
            "eta": status.eta,
            "error": error_shown if status.state == "failed" else None,
            **self._judge(status, scores),
        }
        if status.state == "done":
            self._ended[job] = shown
        return shown

    def _judge(self, status: JobStatus, scores: Mapping[str, float]) -> dict[str, Any]:
        """The highest scores, how many there are, and what they say."""
        least, decision = self._threshold, ""
        shown = [
            {"name": name, "score": score, "match": None if least is None else score >= least}
            for name, score in [*scores.items()][:SHOWN]
        ]
        if shown and least is not None:
            name, same = shown[0]["name"], shown[0]["match"]
            if len(status.names) == 1:
                decision = f"{'The same person as' if same else 'Not the same person as'} {name}"
            else:
                decision = f"Recognised: {name}" if same else "Not recognised"
        return {"scores": shown, "compared": len(scores), "decision": decision}


def _title(status: JobStatus) -> dict[str, str]:
    """What a job is: kind as the page has it, and a line for people."""
    names = ", ".join(status.names)
    if status.kind == "enrol":
        return {"kind": "enrol", "title": f"Enrol {names}"}
    if status.kind == "identify" and len(status.names) == 1:
        return {"kind": "verify", "title": f"Verify {names}"}
    if status.kind == "identify":
        return {"kind": "identify", "title": "Identify"}
    return {"kind": status.kind, "title": "Another program's job" if status.kind else "A lost job"}
