"""What is behind the routes: one folder's files and rows, the plans on offer, and the worker."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fhecompile.plan import Plan
from runtime.gallery.programs import check_template_plan
from runtime.gallery.templates import check_name, check_names, check_probe
from runtime.service.folder import ServiceFolder
from runtime.service.jobs import Worker
from runtime.service.plans import OfferedPlan, offer_plans
from runtime.service.refusal import (
    RefusedError,
    keys_exist,
    no_keys,
    no_template,
    replay,
)
from runtime.service.rows import Client, Job, Keys, Template
from runtime.service.store import Store
from runtime.service.uploads import Upload, check_complete, check_inputs, check_keys

KINDS = ("evaluate", "enrol", "identify")
SHARE_TO_JUDGE = 0.02  # of a job, before its own pace says how long it will take


class Service:
    """A server on a folder, which it keeps locked until `close`.

    Args:
        path: the folder; made where there is none.
        plans: the plans to offer.
        max_memory: see `runtime.service.jobs.Worker`.
    """

    def __init__(self, path: Path, plans: Sequence[Plan], max_memory: int | None = None) -> None:
        self.folder = ServiceFolder(path)
        self._locked = self.folder.lock()
        try:
            self.folder.refuse_secrets()
            self.plans = offer_plans(self.folder, plans)
            self.store = Store(self.folder)
            self.store.recover()
            self.worker = Worker(self.store, self.folder, self.plans, max_memory)
            self._closed = False
        except BaseException:
            os.close(self._locked)
            raise

    def close(self) -> None:
        """Stops the worker, whose job under way is queued again; may be called twice."""
        if self._closed:
            return
        self._closed = True
        self.worker.stop()
        self.store.close()
        os.close(self._locked)

    def find_plan(self, digest: str) -> OfferedPlan:
        """A plan on offer."""
        offered = self.plans.get(digest)
        if offered is None:
            raise RefusedError(
                404, "no-such-plan", "there is no such plan here", "the plans are in /v1/plans"
            )
        return offered

    def find_job(self, client: Client, name: str) -> Job:
        """A client's job."""
        job = self.store.find_job(client.number, name)
        if job is None:
            raise RefusedError(
                404, "no-such-job", "you have no such job", "your jobs are in /v1/jobs"
            )
        return job

    def find_keys(self, client: Client, digest: str) -> Keys:
        """A client's keys that serve a plan."""
        keys = self.store.find_keys(client.number, self.find_plan(digest).parameters)
        if keys is None:
            raise RefusedError(
                404, "no-such-keys", "you have no keys for this plan here", "yours are in /v1/keys"
            )
        return keys

    def add_keys(self, client: Client, offered: OfferedPlan, upload: Upload) -> tuple[Keys, bool]:
        """Keeps uploaded keys; the keys, and whether they are new."""
        held = self.store.find_keys(client.number, offered.parameters)
        if held is not None:
            if held.sha256 != upload.sha256:
                raise keys_exist()
            return held, False
        manifest = check_keys(upload, offered)
        try:
            keys = self.store.add_keys(
                client.number,
                offered.parameters,
                upload.path,
                tag=manifest.key,
                entries=sorted(manifest.entries),
                size=upload.size,
                sha256=upload.sha256,
            )
        except RefusedError:
            held = self.store.find_keys(client.number, offered.parameters)
            if held is None or held.sha256 != upload.sha256:
                raise
            return held, False  # uploaded twice at the same time
        return keys, True

    def job_keys(self, client: Client, offered: OfferedPlan) -> Keys:
        """The keys a new job of a plan would be evaluated with."""
        keys = self.store.find_keys(client.number, offered.parameters)
        if keys is None:
            raise no_keys()
        check_complete(offered, keys.names, 409)
        return keys

    def check_kind(self, offered: OfferedPlan, kind: str, names: Sequence[str]) -> None:
        """Raises when there are no such jobs of a plan, whatever their inputs."""
        if kind not in KINDS:
            raise RefusedError(
                422,
                "unknown-kind",
                f"there are no jobs of kind {kind!r}",
                f"the kinds are {', '.join(KINDS)}",
            )
        if kind != "evaluate":
            check_template_plan(offered.plan)
        elif names:
            raise RefusedError(
                422, "unexpected-name", "an evaluation takes no names", "choose another kind"
            )
        for name in names:
            check_name(name)

    def add_job(
        self,
        client: Client,
        offered: OfferedPlan,
        keys: Keys,
        upload: Upload,
        kind: str = "evaluate",
        names: Sequence[str] = (),
    ) -> Job:
        """Queues uploaded inputs as a job; `check_kind` has passed."""
        earlier = self.store.find_replay(client.number, upload.sha256)
        if earlier is not None:
            raise replay(earlier)
        batches, places = check_inputs(upload, offered, keys), []
        if kind == "enrol":
            check_names(names, batches, "images")
        if kind == "identify":
            check_probe(batches, "images")
            names = [*dict.fromkeys(names)]
            places = self.store.templates.check_comparison(keys.number, offered.plan.digest, names)
        job = self.store.add_job(
            client.number,
            keys,
            offered.plan.digest,
            upload.path,
            predicted=offered.predict(batches, kind, places),
            sha256=upload.sha256,
            kind=kind,
            names=names,
        )
        self.worker.wake()
        return job

    def remove_job(self, client: Client, name: str) -> None:
        """Removes a job; one under way is ended."""
        job = self.find_job(client, name)
        self.store.remove_job(job)
        self.worker.cancel(job)

    def list_templates(self, client: Client, offered: OfferedPlan) -> list[Template]:
        """A client's templates of a plan."""
        check_template_plan(offered.plan)
        keys = self.store.find_keys(client.number, offered.parameters)
        return self.store.templates.find_all(keys.number, offered.plan.digest) if keys else []

    def remove_template(self, client: Client, offered: OfferedPlan, name: str) -> None:
        """Removes a client's template of a plan."""
        check_template_plan(offered.plan)
        keys = self.store.find_keys(client.number, offered.parameters)
        if keys is None:
            raise no_template(name)
        self.store.templates.remove(keys.number, offered.plan.digest, name)

    def describe_keys(self, keys: Keys) -> dict[str, Any]:
        """Keys as plain values; `plans` are those on offer that they serve."""
        return {
            "plans": sorted(
                digest
                for digest, offered in self.plans.items()
                if offered.parameters == keys.parameters and offered.keys <= keys.names
            ),
            "bytes": keys.bytes,
            "sha256": keys.sha256,
            "created": keys.created,
        }

    def describe_job(self, job: Job) -> dict[str, Any]:
        """A job as plain values: times in seconds since 1970, `eta` in seconds from now."""
        error = {"code": job.code, "reason": job.reason, "hint": job.hint}
        outputs = {"bytes": job.output_bytes, "sha256": job.output_sha256}
        return {
            "id": job.id,
            "plan": job.plan,
            "kind": job.kind,
            "names": job.names,
            "state": job.state,
            "progress": job.progress,
            "eta": self._seconds_left(job),
            "predicted_seconds": job.predicted,
            "created": job.created,
            "started": job.started,
            "ended": job.ended,
            "attempts": job.attempts,
            "sha256": job.sha256,
            "error": error if job.state == "failed" else None,
            "outputs": outputs if job.output_bytes is not None else None,
        }

    def _seconds_left(self, job: Job) -> float:
        if job.state not in ("queued", "running"):
            return 0.0
        if job.evaluating is not None and job.progress >= SHARE_TO_JUDGE:
            elapsed = max(0.0, time.time() - job.evaluating)
            return elapsed * (1 - job.progress) / job.progress
        return job.predicted + self.store.seconds_ahead(job)
