"""The application in this process: what it answers when the server itself fails."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import pytest

from tests.support import convolution_plan

pytest.importorskip("httpx", reason="httpx is not installed")
testclient = pytest.importorskip("fastapi.testclient", reason="FastAPI is not installed")
app_module = pytest.importorskip("runtime.service.app")


@pytest.mark.parametrize(
    ("error", "status", "code", "reason"),
    [
        (OSError(errno.ENOSPC, "no space"), 507, "disk-full", "the server's disk is full"),
        (OSError(errno.EIO, "/srv/secret"), 500, "internal-error", "the server failed"),
        (RuntimeError("/srv/secret"), 500, "internal-error", "the server failed"),
    ],
)
def test_failures_are_answered(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    status: int,
    code: str,
    reason: str,
) -> None:
    def fail(*_: Any) -> None:
        raise error

    app = app_module.create_app(tmp_path / "server", [convolution_plan()])
    token = app.state.service.store.add_client("alice")
    monkeypatch.setattr(app.state.service, "find_plan", fail)
    with testclient.TestClient(app, raise_server_exceptions=False) as client:
        answer = client.get("/v1/plans/1", headers={"Authorization": f"Bearer {token}"})
    assert answer.status_code == status
    assert answer.json() == {"code": code, "reason": reason, "hint": "ask its operator"}


def test_two_applications_on_one_folder(tmp_path: Path) -> None:
    first = app_module.create_app(tmp_path / "server", [], 7 << 30)
    assert first.state.service.worker.max_memory == 7 << 30
    with pytest.raises(app_module.FheCompileError, match="folder-in-use"):
        app_module.create_app(tmp_path / "server", [])
    first.state.service.close()
    app_module.create_app(tmp_path / "server", []).state.service.close()
