"""A small plan that takes faces, photos of people who do not exist, and the page's server."""

from __future__ import annotations

import functools
import io
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fhecompile.compile import compile
from fhecompile.plan import Plan
from models.faces.synthetic import draw_images
from runtime.face_alignment import TEMPLATE, prepare, warp
from runtime.key_files import make_keys
from tests.service import ServerProcess, serving
from tests.support import Network

SIDE = 8
THRESHOLD = 0.975
PEOPLE = {name: draw_images(4, k, range(2), 112) for k, name in enumerate(("alice", "bob"))}
"""Two aligned images of each, 112 x 112 x 3."""

CALIBRATION = np.stack(
    [prepare(face, SIDE) for k in range(12) for face in draw_images(4, k, range(2), 112)]
)
MATRIX = np.random.default_rng(11).normal(size=(8, 3 * SIDE * SIDE)) / 12
# Lengths that vary little: their inverse root is to be a polynomial of low degree.
SHIFT = 1.0 - MATRIX @ CALIBRATION.mean(axis=0).ravel()


@functools.cache
def face_plan() -> Plan:
    """3 x 8 x 8 faces to templates of 8 numbers, on a toy ring."""
    net = Network(x=(1, 3, SIDE, SIDE))
    net.op("Gemm", net.op("Flatten", "x"), MATRIX, SHIFT, transB=1, name="y")
    return compile(
        net.model("y"),  # type: ignore[arg-type]
        calibration=CALIBRATION,
        match="gallery",
        precision_bits=10,
        ring_dimension=512,
        insecure_toy=True,
    )


def cosine(first: NDArray[np.float32], second: NDArray[np.float32]) -> float:
    """What the network makes of two tensors of 3 x 8 x 8."""
    y, z = (MATRIX @ x.ravel().astype(np.float64) + SHIFT for x in (first, second))
    return float(y @ z / np.linalg.norm(y) / np.linalg.norm(z))


def encoded(image: NDArray[np.uint8], kind: str = "PNG", **options: object) -> bytes:
    """The file of an image."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, kind, **options)
    return file.getvalue()


def snapshot_of(face: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    """A photo of 300 x 240 with an aligned face turned and enlarged in it, and its five points."""
    angle, scale, shift = 0.3, 1.4, np.array([90.0, 30.0])
    linear = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    photo = warp(face, np.column_stack([linear, shift]), 300)[:240]
    return photo, TEMPLATE @ linear.T + shift


class Page:
    """The page's server in this process, with a client of its own, as a new process would have.

    Args:
        url: the service.
        folder: holds the client's token and keys.
        threshold: of the decisions.
    """

    def __init__(self, url: str, folder: Path, threshold: float | None = THRESHOLD) -> None:
        from starlette.testclient import TestClient

        from runtime.page.app import create_app
        from runtime.page.faces import FaceJobs
        from runtime.service.client import ServiceClient

        token = (folder / "token").read_text().strip()
        self.client = ServiceClient(
            url, token, face_plan(), folder / "keys", patience=0.2, insecure_toy=True
        )
        app = create_app(FaceJobs(self.client, threshold), "T")
        self._http = TestClient(
            app, base_url="http://127.0.0.1:8000", headers={"Authorization": "Bearer T"}
        )

    def ask(self, method: str, path: str, body: bytes = b"", **headers: str) -> tuple[int, Any]:
        """Status and JSON body of a request."""
        answer = self._http.request(method, path, content=body, headers=headers)
        return answer.status_code, answer.json() if answer.content else None

    def submit(self, kind: str, photo: bytes, **query: str) -> tuple[int, Any]:
        return self.ask("POST", f"/api/jobs?{urlencode({'kind': kind, **query})}", photo)

    def jobs(self) -> list[dict[str, Any]]:
        status, content = self.ask("GET", "/api/jobs")
        assert status == 200, content
        found: list[dict[str, Any]] = content["jobs"]
        return found

    def names(self) -> list[str]:
        status, content = self.ask("GET", "/api/templates")
        assert status == 200, content
        return [template["name"] for template in content["templates"]]

    def ended(self, kind: str, photo: bytes, **query: str) -> dict[str, Any]:
        """A job as the page is told of it when it is done or has failed."""
        status, content = self.submit(kind, photo, **query)
        assert status == 201, content
        return self.wait(content["id"])

    def wait(self, job: str) -> dict[str, Any]:
        last = time.monotonic() + 60
        while time.monotonic() < last:
            (found,) = (x for x in self.jobs() if x["id"] == job)
            if found["state"] in ("done", "failed"):
                return found
            time.sleep(0.05)
        raise AssertionError("the job does not end")


@contextmanager
def face_service(folder: Path) -> Iterator[ServerProcess]:
    """A service with one client, whose token and keys are in the folder."""
    plan = face_plan()
    make_keys([plan], folder / "keys")
    with serving(folder / "server", plan) as server:
        (folder / "token").write_text(server.add_client("alice") + "\n")
        yield server
