"""Sessions, roles and files within a memory limit."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from fhecompile.errors import FheCompileError
from fhecompile.plan import Plan
from runtime import key_files, machine
from runtime.__main__ import main
from runtime.key_files import make_keys, open_staged_keys
from runtime.key_store import StagedContext
from runtime.roles import decrypt_file, encrypt_file, evaluate_file
from runtime.session import InferenceSession
from tests.staged import EXPECTED, IMAGES, NEEDS, PLAN, SIZE
from tests.support import relative_error

pytest.importorskip("openfhe", reason="OpenFHE is not installed")


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("limit") / "keys"
    make_keys([PLAN], folder)
    return folder


def limit_of(key_bytes: int) -> int:
    """The limit within which so many bytes of keys are held, without constants ahead."""
    prediction = PLAN.program.prediction.peak_bytes
    return prediction - NEEDS.all + machine.READ_KEYS * SIZE + key_bytes


@pytest.fixture
def small_runtime(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A plan of a toy ring may be run within any limit; the folder of temporary files."""
    monkeypatch.setattr(machine, "MADE_KEYS", 0)
    monkeypatch.setattr(machine, "RUNTIME_BYTES", 0)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_a_session_within_a_limit(small_runtime: Path) -> None:
    limit = limit_of(4 * SIZE)
    with InferenceSession(PLAN, insecure_toy=True, threads=1, max_memory=limit) as session:
        assert list(small_runtime.iterdir()) == []  # the file has no name any more
        context = session._server.context
        assert isinstance(context, StagedContext)
        assert context.store.stages.count > 4
        assert limit - SIZE <= session.predicted_peak_bytes <= limit
        (found,) = session.run(None, {"x": IMAGES[0]})
    assert relative_error(found, EXPECTED[0].astype(np.float32)) < 1e-2


def test_two_images_in_a_session(small_runtime: Path) -> None:
    """Of a plan that takes no more than two keys' worth beside its keys."""
    prediction = msgspec.structs.replace(PLAN.program.prediction, peak_bytes=NEEDS.all + 2 * SIZE)
    plan = Plan(msgspec.structs.replace(PLAN.program, prediction=prediction), PLAN.arrays)
    limit = (2 * 2 + machine.READ_KEYS + 5) * SIZE
    assert limit < plan.program.prediction.peak_bytes
    with InferenceSession(
        plan, insecure_toy=True, threads=2, max_memory=limit, in_flight=2
    ) as session:
        memory = session._server.memory
        assert memory.in_flight == 2
        assert memory.keys is not None
        assert memory.keys + memory.ahead == 5 * SIZE
        (found,) = session.run(None, {"x": IMAGES[:, 0]})
        assert [e.images for e in session.timings.executions] == [2]
    assert relative_error(found, EXPECTED[:, 0].astype(np.float32)) < 1e-2


def test_too_little_memory_falls_to_stages(
    small_runtime: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "available_bytes", lambda: limit_of(4 * SIZE))
    with InferenceSession(PLAN, insecure_toy=True, threads=1) as session:
        assert session._server.memory.keys is not None
        (found,) = session.run(None, {"x": IMAGES[0]})
    assert relative_error(found, EXPECTED[0].astype(np.float32)) < 1e-2


def test_nothing_is_left_when_keys_cannot_be_made(
    small_runtime: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> bytes:
        raise FheCompileError("openfhe-failed", "no bytes")

    monkeypatch.setattr(key_files, "to_bytes", fail)
    with pytest.raises(FheCompileError, match=r"^no bytes"):
        InferenceSession(PLAN, insecure_toy=True, max_memory=limit_of(4 * SIZE))
    assert list(small_runtime.iterdir()) == []


def test_a_disk_without_room(small_runtime: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage("/")._replace(free=1 << 10)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(FheCompileError) as caught:
        InferenceSession(PLAN, insecure_toy=True, max_memory=limit_of(4 * SIZE))
    assert str(caught.value) == (
        f"{small_runtime}: the evaluation keys take {NEEDS.all / 2**30:.1f} GiB, 0.0 GiB are free "
        "[disk-full]\n"
        "  hint: choose another place with TMPDIR, or compile with fewer keys (--max-keys)"
    )
    assert list(small_runtime.iterdir()) == []


def test_the_role_that_evaluates(keys: Path, tmp_path: Path, capsys: Any) -> None:
    """As a command: a limit too low names the least, with which it runs."""
    PLAN.save(tmp_path / "net.fheplan")
    encrypt_file(PLAN, keys / "public.key", {"x": IMAGES}, tmp_path / "x")
    command = ["evaluate", str(tmp_path / "net.fheplan"), "--key", str(keys / "evaluation.keys")]
    command += ["--input", str(tmp_path / "x"), "--output", str(tmp_path / "y"), "--insecure-toy"]
    assert main([*command, "--max-memory", "50M"]) == 3
    least = -(-limit_of(NEEDS.least) >> 20)
    assert capsys.readouterr().err.splitlines()[1:] == [
        f"error: an encrypted run needs at least {least} MiB of memory, even with evaluation keys "
        "on disk; 50 MiB are allowed [not-enough-memory]",
        f"  hint: allow {least}M, or compile with fewer keys (--max-keys)",
    ]
    assert main([*command, "--max-memory", f"{least}M"]) == 0
    found = decrypt_file(PLAN, keys / "secret.key", tmp_path / "y")["y"]
    assert relative_error(found, EXPECTED[:, 0]) < 1e-2


def test_a_file_within_a_limit(keys: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[int] = []

    def note(plan: Plan, path: Path, held_bytes: int) -> StagedContext:
        opened.append(held_bytes)
        return open_staged_keys(plan, path, held_bytes)

    monkeypatch.setattr("runtime.roles.open_staged_keys", note)
    encrypt_file(PLAN, keys / "public.key", {"x": IMAGES}, tmp_path / "x")
    names = keys / "evaluation.keys", tmp_path / "x", tmp_path / "y"
    evaluate_file(PLAN, *names, threads=2, max_memory=limit_of(5 * SIZE))
    assert len(opened) == 1
    assert NEEDS.least <= opened[0] <= 5 * SIZE
    found = decrypt_file(PLAN, keys / "secret.key", tmp_path / "y")["y"]
    assert relative_error(found, EXPECTED[:, 0]) < 1e-2
