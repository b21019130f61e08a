"""The service's command lines: `python -m runtime serve`, `add-client` and `remove-client`."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import ipaddress
import logging
import os
import socket
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fhecompile.errors import EXIT_ENVIRONMENT, FheCompileError
from fhecompile.plan import Plan
from runtime.client import check_secure
from runtime.command import add_memory_option, complain

if TYPE_CHECKING:
    from runtime.service.store import Store

GRACE_SECONDS = 10  # for requests under way when the server is asked to end
AddCommand = Callable[[str, Callable[[argparse.Namespace], None], str], argparse.ArgumentParser]


def add_commands(add: AddCommand) -> None:
    """Adds the commands to a command line; `add` makes a parser from name, function and help."""
    server = add("serve", _serve, "serves plans over HTTP")
    _folder(server)
    option = server.add_argument
    option("--plan", required=True, action="append", type=Path, metavar="PLAN", help="a plan file")
    option("--host", default="127.0.0.1", help="address to listen on; default: 127.0.0.1")
    option("--port", default=8080, type=int, help="default: 8080; 0: any that is free")
    add_memory_option(server)
    option("--tls-certificate", type=Path, metavar="FILE", help="serve HTTPS with this certificate")
    option("--tls-key", type=Path, metavar="FILE", help="the certificate's key")
    for name, call, text in (
        ("add-client", _add_client, "adds a client and prints its token, once"),
        ("remove-client", _remove_client, "removes a client with its keys and jobs"),
    ):
        parser = add(name, call, text)
        _folder(parser)
        parser.add_argument("name", metavar="NAME", help="the client's name")


def server_library(name: str, user: str = "the service", extra: str = "server") -> Any:
    """A module of the service's libraries; FheCompileError where they are not installed.

    Args:
        name: the module.
        user: what needs it.
        extra: of our package, that installs it.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        if (error.name or "").partition(".")[0] == "runtime":
            raise
        raise FheCompileError(
            "server-missing",
            f"{user} needs {error.name}, which is not installed",
            hint=f"pip install fhecompile[{extra}]",
            exit_code=EXIT_ENVIRONMENT,
        ) from error


def _folder(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--folder", required=True, type=Path, metavar="DIR", help="the server's files"
    )


def _serve(options: argparse.Namespace) -> None:
    uvicorn = server_library("uvicorn")
    create_app = server_library("runtime.service.app").create_app
    _check_certificate(options.tls_certificate, options.tls_key)
    plans = []
    for path in options.plan:
        plans.append(Plan.load(path))
        check_secure(plans[-1], options.insecure_toy)
        if plans[-1].parameters.insecure:
            complain(f"warning: {path} is INSECURE: its ring is a toy, for tests only")
    if options.tls_certificate is None and not _is_local(options.host):
        complain("warning: without --tls-certificate, tokens pass the network for all to read")
    level = logging.WARNING if options.quiet else logging.INFO
    logging.basicConfig(level=level, format="%(levelname)s: %(message)s")
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(listen(options.host, options.port))
        app = create_app(options.folder, plans, options.max_memory)
        stack.callback(app.state.service.close)
        config = uvicorn.Config(
            app,
            ssl_certfile=options.tls_certificate,
            ssl_keyfile=options.tls_key,
            log_level=level,
            timeout_graceful_shutdown=GRACE_SECONDS,
        )
        if not options.quiet:
            print(f"listening on {options.host}, port {listener.getsockname()[1]}", flush=True)
        uvicorn.Server(config).run(sockets=[listener])


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens; FheCompileError where it cannot."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=1024)
    except (OSError, OverflowError) as error:
        number = getattr(error, "errno", None) or 0
        reason = os.strerror(number) if number > 0 else str(error)
        raise FheCompileError(
            "cannot-listen",
            f"cannot listen there ({reason})",
            node=f"{host}, port {port}",
            hint="choose another place with --host and --port",
        ) from error


def _check_certificate(certificate: Path | None, key: Path | None) -> None:
    if certificate is None and key is None:
        return
    if certificate is None or key is None:
        raise FheCompileError(
            "tls-incomplete", "--tls-certificate and --tls-key need each other", hint="give both"
        )
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key)
    except OSError as error:  # ssl.SSLError is one
        raise FheCompileError(
            "tls-unusable",
            f"the certificate and its key cannot be used ({error.strerror or error})",
            node=str(certificate),
            hint="both are to be PEM files, and belong to each other",
        ) from error


def _is_local(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _add_client(options: argparse.Namespace) -> None:
    with _store(options.folder) as store:
        print(store.add_client(options.name))


def _remove_client(options: argparse.Namespace) -> None:
    with _store(options.folder) as store:
        store.remove_client(options.name)


def _store(path: Path) -> contextlib.closing[Store]:
    # Not at the top: the other roles need no SQLite.
    from runtime.service.folder import ServiceFolder
    from runtime.service.store import Store

    return contextlib.closing(Store(ServiceFolder(path)))
