"""The rows of a server's database, as they are read."""

from __future__ import annotations

import json
from dataclasses import dataclass


@dataclass(frozen=True)
class Client:
    """Whoever has a token; of that only the SHA-256 is kept."""

    number: int
    name: str
    token_sha256: str
    created: float


@dataclass(frozen=True)
class Keys:
    """A client's evaluation keys for one set of parameters; `entries` is a JSON list of names."""

    number: int
    client: int
    parameters: str
    tag: str
    entries: str
    bytes: int
    sha256: str
    created: float

    @property
    def names(self) -> frozenset[str]:
        """Names of the keys."""
        return frozenset(json.loads(self.entries))


@dataclass(frozen=True)
class Job:
    """A job.

    Times are seconds since 1970, `evaluating` that of the first report of progress, less the time
    predicted for the share it reports; `predicted` is seconds, `progress` a share; `sha256` is of
    the upload. `templates` is a JSON list of names:
    those to store, or to compare with, where none stands for all.
    """

    number: int
    id: str
    client: int
    keys: int | None
    plan: str
    state: str
    progress: float
    predicted: float
    created: float
    started: float | None
    evaluating: float | None
    ended: float | None
    attempts: int
    code: str
    reason: str
    hint: str
    sha256: str
    kind: str
    templates: str
    output_bytes: int | None
    output_sha256: str | None

    @property
    def names(self) -> list[str]:
        """Names of the templates."""
        return [str(name) for name in json.loads(self.templates)]


@dataclass(frozen=True)
class Template:
    """A stored template of a client's keys and a plan; `place` is counted over all ciphertexts."""

    number: int
    keys: int
    plan: str
    name: str
    place: int
    bytes: int
    sha256: str
    created: float
