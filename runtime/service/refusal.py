"""What the service refuses: an error of the user's with the HTTP status it is answered with."""

from __future__ import annotations

from typing import Any

from fhecompile.errors import FheCompileError
from runtime.service.rows import Job

# Of errors that the roles raise. Bytes that are no bundle are 400, a bundle that does not fit 422.
STATUS = {
    "not-a-bundle": 400,
    "bundle-damaged": 400,
    "bundle-version": 400,
}
UNPROCESSABLE = 422


class RefusedError(FheCompileError):
    """A request that is not done; nothing has changed.

    Args:
        status: the HTTP status.
        code, reason, hint: see `FheCompileError`.
        more: further values of the answer's body.
    """

    def __init__(self, status: int, code: str, reason: str, hint: str = "", **more: str) -> None:
        super().__init__(code, reason, hint=hint)
        self.status, self.more = status, more


def status_of(error: FheCompileError) -> int:
    """The HTTP status of an error."""
    return (
        error.status if isinstance(error, RefusedError) else STATUS.get(error.code, UNPROCESSABLE)
    )


def body_of(error: FheCompileError) -> dict[str, Any]:
    """The answer's body; the place is left out, as it names a file of the server's."""
    more = error.more if isinstance(error, RefusedError) else {}
    return {"code": error.code, "reason": error.reason, "hint": error.hint, **more}


def keys_exist() -> RefusedError:
    """Other keys of the client serve these parameters."""
    return RefusedError(
        409,
        "keys-exist",
        "there are other keys of yours for these parameters",
        "delete them first with DELETE; results under way need the secret key of the old ones",
    )


def no_keys() -> RefusedError:
    """A job needs keys first."""
    return RefusedError(
        409,
        "no-keys",
        "there are no evaluation keys of yours for this plan",
        "upload evaluation.keys with PUT first",
    )


def no_template(name: str) -> RefusedError:
    """A template that is not there, or another client's."""
    return RefusedError(
        404,
        "no-such-template",
        f"you have no template {name} here",
        "the names are in /v1/templates; those of queued jobs are not there yet",
    )


def replay(job: Job) -> RefusedError:
    """These very bytes are a job already."""
    return RefusedError(
        409,
        "job-exists",
        f"these very ciphertexts are job {job.id} already",
        "ask for that job, or encrypt the inputs again",
        job=job.id,
    )
