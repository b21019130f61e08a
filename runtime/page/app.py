"""The page's routes. Bodies of errors are {"code", "reason", "hint"}; see `runtime.page.guard`.

GET     /                    the page and its files
GET     /api/session         the model, the server, the side of its images, the threshold
GET     /api/jobs            all jobs, with scores and the decision when they are done
POST    /api/jobs?kind=KIND  a photo: encrypts it and has it enrolled or compared; 201 and the job
            &name=NAME       whom to enrol or to compare with, for enrol and verify
            &points=X,Y,...  five points in pixels; without: the photo is aligned already
DELETE  /api/jobs/ID         204; takes a job off the list, and ends it if it is under way
GET     /api/templates       who is enrolled
DELETE  /api/templates/NAME  204

KIND is enrol, verify or identify.
"""

from __future__ import annotations

import logging
from collections.abc import Collection
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from fhecompile.errors import EXIT_ENVIRONMENT, FheCompileError
from runtime.page.faces import FaceJobs
from runtime.page.guard import Guard
from runtime.page.photo import Points, check_length
from runtime.service.refusal import RefusedError, body_of, status_of

log = logging.getLogger(__name__)

STATIC = Path(__file__).parent / "static"
UNAVAILABLE = 503
STATUS = {"photo-large": 413}


def create_app(faces: FaceJobs, token: str, hosts: Collection[str] = ()) -> Guard:
    """The application of one session, an ASGI callable.

    Args:
        faces: what the page shows and does.
        token: what the page's requests carry.
        hosts: see `Guard`.
    """
    app = FastAPI(openapi_url=None, redirect_slashes=False)
    routes = _Routes(faces)
    for method, path, call in (
        ("GET", "/api/session", faces.describe),
        ("GET", "/api/jobs", routes.list_jobs),
        ("POST", "/api/jobs", routes.post_job),
        ("DELETE", "/api/jobs/{job}", routes.delete_job),
        ("GET", "/api/templates", routes.list_templates),
        ("DELETE", "/api/templates/{name}", routes.delete_template),
    ):
        app.add_api_route(path, call, methods=[method], response_model=None)
    app.mount("/", StaticFiles(directory=STATIC, html=True))
    app.add_exception_handler(FheCompileError, _answer_error)
    app.add_exception_handler(HTTPException, _answer_http)
    app.add_exception_handler(ClientDisconnect, _answer_nobody)
    app.add_exception_handler(Exception, _answer_bug)
    return Guard(app, token, hosts)  # around everything, answers to bugs too


class _Routes:
    """One method per route; FastAPI runs those that are no `async def` on threads."""

    def __init__(self, faces: FaceJobs) -> None:
        self.faces = faces

    def list_jobs(self) -> dict[str, Any]:
        return {"jobs": self.faces.list_jobs()}

    async def post_job(
        self, request: Request, kind: str = "", name: str = "", points: str | None = None
    ) -> Response:
        five = None if points is None else _read_points(points)
        photo = await _receive(request)
        job = await run_in_threadpool(self.faces.submit, kind, name, photo, five)
        return JSONResponse({"id": job}, 201)

    def delete_job(self, job: str) -> Response:
        self.faces.discard(job)
        return Response(status_code=204)

    def list_templates(self) -> dict[str, Any]:
        return {"templates": self.faces.list_templates()}

    def delete_template(self, name: str) -> Response:
        self.faces.remove_template(name)
        return Response(status_code=204)


async def _receive(request: Request) -> bytes:
    """The body, which is refused as soon as it is too long."""
    check_length(int(request.headers.get("content-length", 0)))
    data = bytearray()
    async for chunk in request.stream():
        data += chunk
        check_length(len(data))
    return bytes(data)


def _read_points(text: str) -> Points:
    try:
        numbers = [float(word) for word in text.split(",")]
    except ValueError:
        raise RefusedError(400, "landmarks", "the points are no numbers") from None
    return list(zip(numbers[::2], numbers[1::2], strict=False))


async def _answer_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, FheCompileError)
    status = UNAVAILABLE if error.exit_code == EXIT_ENVIRONMENT else status_of(error)
    if status == 401:  # of this page's server it would mean the token of its own session
        error = RefusedError(
            502,
            "unknown-client",
            "the service does not know this client any more",
            "ask its operator, and start the page again with the right --token-file",
        )
        status = error.status
    return JSONResponse(body_of(error), STATUS.get(error.code, status))


async def _answer_http(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    body = {"code": "no-such-route", "reason": error.detail, "hint": "open the page at /"}
    return JSONResponse(body, error.status_code, error.headers)


async def _answer_nobody(_: Request, __: Exception) -> Response:
    return Response(status_code=400)  # the browser has gone in the middle of its upload


async def _answer_bug(_: Request, error: Exception) -> Response:
    log.error("a request failed", exc_info=error)
    reason = f"the program that serves this page failed ({type(error).__name__})"
    hint = "this is a bug of fhecompile: please report it with what -v prints"
    return JSONResponse({"code": "internal-error", "reason": reason, "hint": hint}, 500)
