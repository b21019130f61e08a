"""A network whose refreshes have two numbers of slots, run with most keys in memory, and killed."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest

from fhecompile.ckks.bootstrap import LEAST_SLOTS
from fhecompile.ckks.layout import Layout
from fhecompile.compile import compile
from fhecompile.plan import Plan
from runtime.key_stages import READ_KEYS, KeyNeeds
from runtime.key_store import StagedContext
from runtime.session import InferenceSession, run
from tests.support import REFRESHING, Network

pytest.importorskip("openfhe", reason="OpenFHE is not installed")

ROOT = Path(__file__).resolve().parents[2]
WIDTH = 1024  # all slots of the ring
X = np.random.default_rng(0).uniform(-1, 1, (64, 1, WIDTH)).astype(np.float32)
SPARED = 3  # keys that the limit leaves no place for


def narrowing() -> bytes:
    """ReLU of many values, then of 4 of them, twice."""
    net, random = Network(x=(1, WIDTH)), np.random.default_rng(0)
    value = net.op("Relu", "x", name="wide")
    value = net.op("MatMul", value, random.normal(size=(WIDTH, 4)) / WIDTH**0.5, name="narrow")
    for k in range(2):
        value = net.op("Relu", value, name=f"relu{k}")
        value = net.op("MatMul", value, np.linalg.qr(random.normal(size=(4, 4)))[0], name=f"map{k}")
    return net.model(value)


def own_slots(refreshed: Iterable[Layout], _: object) -> dict[int, int]:
    """What pays in a network with many more refreshes."""
    return {layout.period: max(LEAST_SLOTS, layout.period) for layout in refreshed}


@pytest.fixture
def plan(monkeypatch: pytest.MonkeyPatch) -> Plan:
    monkeypatch.setattr("passes.build_slots.choose_slots", own_slots)
    made = compile(
        narrowing(),
        calibration={"x": X},
        passes=REFRESHING,
        ring_dimension=2 * WIDTH,
        insecure_toy=True,
        precision_bits=5.0,
    )
    slots = [i.attributes["slots"] for i in made.program.operations if i.op == "refresh"]
    assert slots == [WIDTH, LEAST_SLOTS, LEAST_SLOTS]
    assert made.program.keys.refreshes == (LEAST_SLOTS, WIDTH)
    return made


def test_killed_with_keys_on_disk(plan: Plan, tmp_path: Path) -> None:
    size = plan.parameters.key_bytes
    assert KeyNeeds.of(plan).least < (plan.program.keys.count - SPARED - READ_KEYS) * size
    limit = plan.program.prediction.peak_bytes - SPARED * size
    plan.save(tmp_path / "net.fheplan")
    np.save(tmp_path / "x.npy", X[0])
    folder = tmp_path / "kept"
    command = [tmp_path / "net.fheplan", "--input", tmp_path / "x.npy", "--insecure-toy"]
    command += ["--threads", "1", "--checkpoint", folder, "--max-memory", limit]
    process = subprocess.Popen(
        [sys.executable, "-m", "runtime.run", *map(str, command)],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    while not list(folder.glob("evaluation/batch-*")) and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL

    begun: list[float] = []
    with InferenceSession(
        plan,
        insecure_toy=True,
        threads=1,
        checkpoint=folder,
        max_memory=limit,
        begin=lambda share, _: begun.append(share),
    ) as session:
        assert isinstance(session._server.context, StagedContext)
        (found,) = session.run(None, {"x": X[0]})
    assert 0.0 < begun[0] < 1.0
    (expected,) = run(plan, X[0], "clear").values()
    assert np.abs(found - expected).max() < 1e-2
