"""A job of a network that refreshes goes on from its last refresh after the server was killed."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest

from fhecompile.compile import compile
from runtime.key_files import make_keys
from runtime.session import run
from tests.runtime.test_refreshes import deep
from tests.service import serving
from tests.support import REFRESHING

pytest.importorskip("openfhe", reason="OpenFHE is not installed")
pytest.importorskip("uvicorn", reason="uvicorn is not installed")
client_module = pytest.importorskip("runtime.service.client")

X = np.random.default_rng(0).uniform(-1, 1, (64, 1, 4)).astype(np.float32)
PATIENCE = 60.0


def test_a_killed_server_goes_on_with_its_job(tmp_path: Path) -> None:
    plan = compile(
        deep(3),
        calibration={"x": X},
        passes=REFRESHING,
        ring_dimension=2048,
        insecure_toy=True,
        precision_bits=5.0,
    )
    make_keys([plan], tmp_path / "alice")
    (expected,) = run(plan, X[0], "clear").values()
    with serving(tmp_path / "server", plan) as server:
        checkpoints = server.folder / "checkpoints"
        token = server.add_client("alice")
        with client_module.ServiceClient(
            server.url, token, plan, tmp_path / "alice", insecure_toy=True
        ) as alice:
            alice.upload_keys()
            job = alice.submit({"x": X[0]})
            last = time.monotonic() + PATIENCE
            while not list(checkpoints.glob("*/batch-*")):
                assert time.monotonic() < last, server.log()
                time.sleep(0.01)
            server.kill()
            server.start()
            seen: list[float] = []
            while (status := alice.status(job)).state in ("queued", "running"):
                assert time.monotonic() < last, server.log()
                seen.append(status.progress)
                time.sleep(0.01)
            (found,) = alice.result(job).values()
    assert status.state == "done"
    # The first share that is reported has what the killed process did.
    assert min(share for share in seen if share) > 0.25
    assert np.abs(found - expected).max() < 1e-2
    assert list(checkpoints.iterdir()) == []
