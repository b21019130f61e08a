"""A client's connection to the service: requests that are tried again, files up and down.

What the server refuses is raised as it was said; a server that cannot be reached, or that fails, is
asked again for a while: whatever is asked twice is done once. A removal that is made twice is
refused the second time.
"""

from __future__ import annotations

import ssl
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from fhecompile.errors import EXIT_ENVIRONMENT, FheCompileError
from runtime.service.commands import server_library
from runtime.service.refusal import RefusedError

CHUNK_BYTES = 1 << 20
CONNECT_SECONDS = 10.0
ANSWER_SECONDS = 300.0  # the server checks gigabytes of keys before it answers
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 5.0  # seconds; each is twice the one before

Query = Mapping[str, str | Sequence[str]]


class Connection:
    """Requests of one client to one server.

    Args:
        url: the server's address.
        token: the client's.
        patience: seconds for which a server that cannot be reached is tried again.
        certificates: file of the authorities to trust instead of the system's.
    """

    def __init__(
        self, url: str, token: str, patience: float, certificates: str | Path | None
    ) -> None:
        self._httpx = server_library("httpx")
        self.url, self.patience = url.rstrip("/"), patience
        self._http = self._httpx.Client(
            base_url=self.url,
            headers={"Authorization": f"Bearer {token}"},
            timeout=self._httpx.Timeout(ANSWER_SECONDS, connect=CONNECT_SECONDS),
            verify=ssl.create_default_context(cafile=certificates),
        )

    def close(self) -> None:
        """Closes the connections."""
        self._http.close()

    def ask(
        self,
        method: str,
        path: str,
        *,
        upload: Path | None = None,
        download: Path | None = None,
        query: Query | None = None,
    ) -> Any:
        """The server's answer; what it refuses is raised.

        Args:
            method, path: of the request.
            upload: the file to send.
            download: the file that takes the answer's body.
            query: values by name; several for a sequence.
        """
        last, pause = time.monotonic() + self.patience, FIRST_PAUSE
        while True:
            failure: FheCompileError
            try:
                answer = self.send(method, path, upload, download, query)
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

    def send(
        self,
        method: str,
        path: str,
        upload: Path | None,
        download: Path | None,
        query: Query | None,
    ) -> Any:
        """The server's answer to one request, whatever it is."""
        more: dict[str, Any] = {}
        if upload is not None:
            length = str(upload.stat().st_size)
            more = {"content": read_chunks(upload), "headers": {"Content-Length": length}}
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


def read_chunks(path: Path) -> Iterator[bytes]:
    """A file's bytes, a mebibyte at a time."""
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            yield chunk
