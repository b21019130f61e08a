"""The routes. Bodies of errors are {"code", "reason", "hint"}; every route needs a client's token.

GET     /v1/plans              the plans on offer
GET     /v1/plans/PLAN         what it takes and gives, its parameters and the keys it needs
PUT     /v1/keys/PLAN          evaluation.keys: 201, or 200 if they are here already
GET     /v1/keys               the client's keys
DELETE  /v1/keys/PLAN          204
POST    /v1/jobs?plan=PLAN     encrypted inputs: 201 and the queued job
GET     /v1/jobs               the client's jobs
GET     /v1/jobs/ID            state, progress, seconds left, error
GET     /v1/jobs/ID/outputs    encrypted outputs, or scores
DELETE  /v1/jobs/ID            204; a running job is ended
GET     /v1/templates?plan=PLAN         the client's templates: name, created, bytes
DELETE  /v1/templates/NAME?plan=PLAN    204; other templates stay as they are

PLAN is a plan's digest. A job of a plan that gives templates may be of another kind:

POST    /v1/jobs?plan=PLAN&kind=enrol&name=NAME         stores a template of each image under a name
                                                        of its own; name= for each
POST    /v1/jobs?plan=PLAN&kind=identify[&name=NAME]    compares one image with these, or with all
                                                        that are there when it is run

A name is taken from the moment its job is accepted. A comparison fails when a template it needs is
removed first. What is another client's is 404, as if it were not there.
"""

from __future__ import annotations

import contextlib
import errno
import logging
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Depends, FastAPI, Query, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import FileResponse, JSONResponse
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from fhecompile.errors import FheCompileError
from fhecompile.plan import Plan
from runtime.service.refusal import RefusedError, body_of, status_of
from runtime.service.rows import Client
from runtime.service.service import Service
from runtime.service.uploads import receive

log = logging.getLogger(__name__)


def create_app(folder: Path, plans: Sequence[Plan], max_memory: int | None = None) -> FastAPI:
    """The application of a server; `app.state.service.close()` if it is never started.

    Args:
        folder: the server's files; made where there is none.
        plans: the plans to offer; whether they are secure is for the caller to check.
        max_memory: most bytes that a job's process may hold, see `runtime.service.jobs.Worker`.
    """
    service = Service(folder, plans, max_memory)

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        service.worker.start()
        yield
        await run_in_threadpool(service.close)

    app = FastAPI(lifespan=lifespan, openapi_url=None, redirect_slashes=False)
    app.state.service = service
    routes = _Routes(service)
    router = APIRouter(prefix="/v1", dependencies=[Depends(routes.authenticate)])
    for method, path, call in (
        ("GET", "/plans", routes.list_plans),
        ("GET", "/plans/{digest}", routes.show_plan),
        ("PUT", "/keys/{digest}", routes.put_keys),
        ("GET", "/keys", routes.list_keys),
        ("DELETE", "/keys/{digest}", routes.delete_keys),
        ("POST", "/jobs", routes.post_job),
        ("GET", "/jobs", routes.list_jobs),
        ("GET", "/jobs/{name}", routes.show_job),
        ("GET", "/jobs/{name}/outputs", routes.get_outputs),
        ("DELETE", "/jobs/{name}", routes.delete_job),
        ("GET", "/templates", routes.list_templates),
        ("DELETE", "/templates/{name}", routes.delete_template),
    ):
        router.add_api_route(path, call, methods=[method], response_model=None)
    app.include_router(router)
    app.add_exception_handler(FheCompileError, _answer_error)
    app.add_exception_handler(HTTPException, _answer_http)
    app.add_exception_handler(ClientDisconnect, _answer_nobody)
    app.add_exception_handler(OSError, _answer_system)
    app.add_exception_handler(Exception, _answer_bug)
    return app


class _Routes:
    """One method per route; FastAPI runs those that are no `async def` on threads."""

    def __init__(self, service: Service) -> None:
        self.service = service

    def authenticate(self, request: Request) -> None:
        kind, _, token = request.headers.get("authorization", "").partition(" ")
        client = self.service.store.find_client(token.strip())
        if kind.lower() != "bearer" or client is None:
            raise RefusedError(
                401,
                "not-authenticated",
                "this needs the token of a client",
                "send the header: Authorization: Bearer TOKEN",
            )
        request.state.client = client

    def list_plans(self) -> dict[str, Any]:
        plans = self.service.plans.values()
        return {
            "plans": [{"plan": p.plan.digest, "model": p.plan.program.model_name} for p in plans]
        }

    def show_plan(self, digest: str) -> dict[str, Any]:
        return self.service.find_plan(digest).describe()

    async def put_keys(self, request: Request, digest: str) -> Response:
        offered, client = self.service.find_plan(digest), _client(request)
        async with receive(request, self.service.folder, offered.keys_limit) as upload:
            keys, new = await run_in_threadpool(self.service.add_keys, client, offered, upload)
        return JSONResponse(self.service.describe_keys(keys), 201 if new else 200)

    def list_keys(self, request: Request) -> dict[str, Any]:
        keys = self.service.store.list_keys(_client(request).number)
        return {"keys": [self.service.describe_keys(k) for k in keys]}

    def delete_keys(self, request: Request, digest: str) -> Response:
        self.service.store.remove_keys(self.service.find_keys(_client(request), digest))
        return Response(status_code=204)

    async def post_job(
        self,
        request: Request,
        plan: str = "",
        kind: str = "evaluate",
        name: Annotated[Sequence[str], Query()] = (),
    ) -> Response:
        offered, client = self.service.find_plan(plan), _client(request)
        self.service.check_kind(offered, kind, name)
        keys = await run_in_threadpool(self.service.job_keys, client, offered)
        async with receive(request, self.service.folder, offered.inputs_limit) as upload:
            job = await run_in_threadpool(
                self.service.add_job, client, offered, keys, upload, kind, name
            )
        return JSONResponse(self.service.describe_job(job), 201)

    def list_jobs(self, request: Request) -> dict[str, Any]:
        jobs = self.service.store.list_jobs(_client(request).number)
        return {"jobs": [self.service.describe_job(job) for job in jobs]}

    def show_job(self, request: Request, name: str) -> dict[str, Any]:
        return self.service.describe_job(self.service.find_job(_client(request), name))

    def get_outputs(self, request: Request, name: str) -> Response:
        job = self.service.find_job(_client(request), name)
        if job.state != "done":
            raise RefusedError(
                409,
                "no-outputs",
                f"the job is {job.state}: it has no outputs",
                "ask for its state until that is done",
            )
        if job.output_bytes is None:
            raise RefusedError(
                409,
                "no-outputs",
                "the job stored templates: it has no outputs",
                "they are listed in /v1/templates",
            )
        path = self.service.folder.file("outputs", job.number)
        return FileResponse(path, media_type="application/octet-stream")

    def delete_job(self, request: Request, name: str) -> Response:
        self.service.remove_job(_client(request), name)
        return Response(status_code=204)

    def list_templates(self, request: Request, plan: str = "") -> dict[str, Any]:
        templates = self.service.list_templates(_client(request), self.service.find_plan(plan))
        return {
            "templates": [
                {"name": t.name, "created": t.created, "bytes": t.bytes} for t in templates
            ]
        }

    def delete_template(self, request: Request, name: str, plan: str = "") -> Response:
        offered = self.service.find_plan(plan)
        self.service.remove_template(_client(request), offered, name)
        return Response(status_code=204)


def _client(request: Request) -> Client:
    client: Client = request.state.client
    return client


async def _answer_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, FheCompileError)
    status = status_of(error)
    headers = {"WWW-Authenticate": "Bearer"} if status == 401 else None
    return JSONResponse(body_of(error), status, headers)


async def _answer_http(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    body = {"code": "no-such-route", "reason": error.detail, "hint": "the routes are under /v1"}
    return JSONResponse(body, error.status_code, error.headers)


async def _answer_nobody(_: Request, __: Exception) -> Response:
    return Response(status_code=400)  # the client has gone in the middle of its upload


async def _answer_system(_: Request, error: Exception) -> Response:
    log.error("a request failed", exc_info=error)
    full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
    body = {
        "code": "disk-full" if full else "internal-error",
        "reason": "the server's disk is full" if full else "the server failed",
        "hint": "ask its operator",
    }
    return JSONResponse(body, 507 if full else 500)


async def _answer_bug(request: Request, error: Exception) -> Response:
    return await _answer_system(request, error)
