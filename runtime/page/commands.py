"""The page's command line: `python -m runtime page`."""

from __future__ import annotations

import argparse
import contextlib
import logging
import math
import secrets
from collections.abc import Callable
from pathlib import Path

from fhecompile.errors import FheCompileError
from fhecompile.plan import Plan
from runtime.command import complain
from runtime.service.commands import listen, server_library
from runtime.service.refusal import RefusedError

PATIENCE = 10.0  # seconds for which a service that cannot be reached keeps the page waiting
GRACE_SECONDS = 10

AddCommand = Callable[[str, Callable[[argparse.Namespace], None], str], argparse.ArgumentParser]
LoadPlan = Callable[[argparse.Namespace, Path], Plan]


def add_page(add: AddCommand, load: LoadPlan) -> None:
    """Adds the command to a command line.

    Args:
        add: makes a parser from name, function and help.
        load: reads a plan as the options allow.
    """
    parser = add("page", lambda options: _serve_page(options, load), "serves a page for faces")
    option = parser.add_argument
    option("plan", type=Path, metavar="PLAN", help="the plan, compiled with --match gallery")
    option("--server", required=True, metavar="URL", help="the service, e.g. https://host:8080")
    option("--token-file", required=True, type=Path, metavar="FILE", help="what add-client printed")
    option("--keys", required=True, type=Path, metavar="DIR", help="the folder that keygen made")
    option("--certificates", type=Path, metavar="FILE", help="authorities to trust for --server")
    option(
        "--threshold",
        type=_cosine,
        metavar="T",
        help="cosine from which on two faces are one person; default: scores without a decision",
    )
    option("--host", default="127.0.0.1", help="address to listen on; default: 127.0.0.1")
    option("--port", default=0, type=int, help="default: any that is free")


def _serve_page(options: argparse.Namespace, load: LoadPlan) -> None:
    for library in ("fastapi", "httpx", "PIL", "uvicorn"):
        server_library(library, "the page", "page")
    import uvicorn

    from runtime.page.app import create_app
    from runtime.page.faces import FaceJobs
    from runtime.page.guard import is_loopback
    from runtime.page.photo import check_face_plan
    from runtime.service.client import ServiceClient

    plan = load(options, options.plan)
    check_face_plan(plan)
    if not is_loopback(options.host):
        complain("warning: photos pass the network for all to read; listen on 127.0.0.1 instead")
    # Of this process's log lines only those of a bug, and only when they are asked for.
    level = logging.ERROR if options.verbose else logging.CRITICAL
    logging.basicConfig(level=level, format="%(levelname)s: %(message)s")
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(listen(options.host, options.port))
        client = stack.enter_context(
            ServiceClient(
                options.server,
                _read_token(options.token_file),
                plan,
                options.keys,
                patience=PATIENCE,
                certificates=options.certificates,
                insecure_toy=options.insecure_toy,
            )
        )
        if not options.quiet:
            complain("uploading the evaluation keys, unless the service has them")
        try:
            client.upload_keys()
        except RefusedError as error:
            if error.status == 401:
                raise _no_token(options.token_file, "the service does not know this token") from (
                    error
                )
            raise
        token = secrets.token_urlsafe(32)
        app = create_app(FaceJobs(client, options.threshold), token, {options.host})
        config = uvicorn.Config(
            app,
            access_log=False,
            log_config=None,
            log_level=level,
            server_header=False,
            timeout_graceful_shutdown=GRACE_SECONDS,
        )
        place = f"[{options.host}]" if ":" in options.host else options.host
        print(f"open http://{place}:{listener.getsockname()[1]}/#token={token}", flush=True)
        uvicorn.Server(config).run(sockets=[listener])


def _read_token(path: Path) -> str:
    try:
        token = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = (isinstance(error, OSError) and error.strerror) or "it is no text"
        raise _no_token(path, f"cannot read the token ({reason})") from error
    if not token.isascii() or not token.isprintable() or " " in token or not token:
        raise _no_token(path, "there is no token in it")
    return token


def _no_token(path: Path, reason: str) -> FheCompileError:
    return FheCompileError(
        "token-file",
        reason,
        node=str(path),
        hint="put there what `python -m runtime add-client` printed",
    )


def _cosine(text: str) -> float:
    number = float(text)
    if not (math.isfinite(number) and -1 <= number <= 1):
        raise argparse.ArgumentTypeError("is to be a cosine, between -1 and 1")
    return number
