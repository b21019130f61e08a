"""Who may ask the page's server: the page itself, opened by whoever started the server.

Any web site can make a browser send requests to 127.0.0.1, and any program on the machine can send
them itself. So every request is checked, before anything is done with it:

    Host           a name of this machine: a foreign name may have been rebound to 127.0.0.1
    Origin         that host, where a browser sends one
    Sec-Fetch-Site the page itself, for everything below /api
    Authorization  the session's token, for everything below /api

The token is in the fragment of the address that is printed at the start: browsers send it to
nobody, and the page keeps it in the storage of its tab. Against a cookie, which every server on the
same host would be sent, whatever its port.
"""

from __future__ import annotations

import hmac
import ipaddress
from collections.abc import Collection
from typing import Any
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse

from runtime.service.refusal import RefusedError, body_of

HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self' blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


class Guard:
    """ASGI middleware: refuses what is not the page's own, and adds `HEADERS` to every answer.

    Args:
        app: what answers the rest.
        token: the session's.
        hosts: names that the server may be called by, besides those of the loopback interface.
    """

    def __init__(self, app: Any, token: str, hosts: Collection[str] = ()) -> None:
        self._app, self._token = app, token
        self._hosts = {"localhost", *hosts}

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_guarded(message: Any) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        try:
            self._check(Headers(scope=scope), scope["path"].startswith("/api/"))
        except RefusedError as error:
            await JSONResponse(body_of(error), error.status)(scope, receive, send_guarded)
        else:
            await self._app(scope, receive, send_guarded)

    def _check(self, headers: Headers, acts: bool) -> None:
        host = headers.get("host", "")
        if not self._is_known(host):
            raise RefusedError(
                403,
                "other-host",
                "this server does not answer to that name",
                "open the address that was printed when it was started",
            )
        if headers.get("origin", f"http://{host}") != f"http://{host}" or (
            acts and headers.get("sec-fetch-site", "same-origin") != "same-origin"
        ):
            raise RefusedError(
                403, "other-origin", "another web site may not use this page's server"
            )
        kind, _, token = headers.get("authorization", "").partition(" ")
        known = hmac.compare_digest(token.encode(), self._token.encode())
        if acts and not (known and kind.lower() == "bearer"):
            raise RefusedError(
                401,
                "not-authenticated",
                "this tab does not belong to the session that is running now",
                "open the address that was printed when it was started",
            )

    def _is_known(self, host: str) -> bool:
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:
            return False
        return name in self._hosts or is_loopback(name)


def is_loopback(host: str) -> bool:
    """Whether an address is of this machine and no other can reach it."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
