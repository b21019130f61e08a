"""From a request's body to a file that may be kept.

A body is written to a file under way while it is hashed and counted; then the file is opened as the
bundle it is to be, and the checksum of every entry compared. Keys and ciphertexts are not made of
it here: OpenFHE's reader is only for the process of a job (`runtime.service.jobs`).
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

from fastapi import Request
from fastapi.concurrency import run_in_threadpool

from runtime.bundle import Manifest, open_bundle
from runtime.ciphertext_files import count_batches, open_ciphertexts
from runtime.service.folder import ServiceFolder
from runtime.service.plans import OfferedPlan
from runtime.service.refusal import RefusedError
from runtime.service.rows import Keys


@dataclass(frozen=True)
class Upload:
    """A body on disk."""

    path: Path
    size: int
    sha256: str


@contextlib.asynccontextmanager
async def receive(request: Request, folder: ServiceFolder, limit: int) -> AsyncIterator[Upload]:
    """A request's body as a file, which is removed at the end of the block unless it was moved.

    Args:
        request: the request.
        folder: the server's files.
        limit: its bytes at most; of a larger one nothing is kept.
    """
    announced = request.headers.get("content-length", "")
    if announced.isdigit() and int(announced) > limit:
        raise _too_large(limit)
    path = folder.temporary()
    try:
        size, digest = 0, hashlib.sha256()
        with path.open("xb") as file:
            async for chunk in request.stream():
                size += len(chunk)
                if size > limit:
                    raise _too_large(limit)
                digest.update(chunk)
                file.write(chunk)
            file.flush()
            await run_in_threadpool(os.fsync, file.fileno())
        yield Upload(path, size, digest.hexdigest())
    finally:
        path.unlink(missing_ok=True)


def check_keys(upload: Upload, offered: OfferedPlan) -> Manifest:
    """Raises when an upload is no file of the evaluation keys a plan needs."""
    with open_bundle(upload.path, "evaluation-keys", offered.plan.program.parameters) as bundle:
        manifest = bundle.manifest
        check_complete(offered, frozenset(manifest.entries), 422)
        bundle.check()
        return manifest


def check_complete(offered: OfferedPlan, names: frozenset[str], status: int) -> None:
    """Raises when keys of these names are not all that a plan needs."""
    missing = sorted(offered.keys - names)
    if missing:
        raise RefusedError(
            status,
            "evaluation-key-missing",
            f"{len(missing)} evaluation keys are missing: {', '.join(missing[:5])}"
            + (", ..." if len(missing) > 5 else ""),
            "make keys for all the plans you use with one: python -m runtime keygen",
        )


def check_inputs(upload: Upload, offered: OfferedPlan, keys: Keys) -> int:
    """Raises when an upload is no file of a plan's inputs under these keys; returns its batches."""
    with open_ciphertexts(upload.path, "inputs", offered.plan, keys.tag) as bundle:
        bundle.check()
        return count_batches(bundle, offered.plan)


def _too_large(limit: int) -> RefusedError:
    return RefusedError(
        413,
        "too-large",
        f"this is larger than the {limit} bytes that such a file can have",
        "upload what `python -m runtime` has written for this plan, of inputs at most 64 batches",
    )
