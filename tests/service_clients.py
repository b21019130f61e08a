"""A server with three plans and two clients, and requests that it is to refuse."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from fhecompile.plan import Plan
from runtime.key_files import make_keys
from runtime.roles import encrypt_file
from runtime.service.client import ServiceClient
from tests.service import ServerProcess, serving, snapshot
from tests.support import convolution_plan

PLAN = convolution_plan()
# Of the same parameters, with another rotation: keys for PLAN do not serve it.
MORE = Plan(
    msgspec.structs.replace(
        PLAN.program,
        model_name="more",
        keys=msgspec.structs.replace(
            PLAN.program.keys, rotations=(*PLAN.program.keys.rotations, 101)
        ),
    ),
    PLAN.arrays,
)
OTHER = convolution_plan(512)
IMAGES = np.random.default_rng(5).uniform(-1, 1, (2, 1, 2, 8, 8))


@dataclass(frozen=True)
class Made:
    """A server, two clients' folders of keys, and their tokens."""

    folder: Path
    server: ServerProcess
    tokens: dict[str, str]

    def client(self, name: str) -> Any:
        return ServiceClient(
            self.server.url, self.tokens[name], PLAN, self.folder / name, insecure_toy=True
        )

    def encrypted(self, name: str, plan: Plan = PLAN) -> bytes:
        path = self.folder / "x.fhe"
        encrypt_file(plan, self.folder / name / "public.key", {"x": IMAGES}, path)
        return path.read_bytes()

    def keys(self, name: str) -> bytes:
        return (self.folder / name / "evaluation.keys").read_bytes()


@contextmanager
def two_clients(folder: Path) -> Iterator[Made]:
    """Alice has uploaded her keys, Bob has not."""
    for name, plan in (("alice", PLAN), ("bob", PLAN), ("other", OTHER)):
        make_keys([plan], folder / name)
    with serving(folder / "server", PLAN, MORE, OTHER) as server:
        made = Made(folder, server, {name: server.add_client(name) for name in ("alice", "bob")})
        with made.client("alice") as alice:
            alice.upload_keys()
        yield made


def refused(made: Made, *request: Any, **more: Any) -> tuple[int, Any]:
    """The answer to a request that changes nothing."""
    before = snapshot(made.server.folder)
    answer = made.server.ask(*request, **more)
    assert snapshot(made.server.folder) == before
    return answer
