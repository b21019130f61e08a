"""Checkpoints of a refreshed network: kills, damage, a full disk, and what is of another run."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from fhecompile.compile import compile
from fhecompile.errors import FheCompileError
from fhecompile.plan import Plan
from runtime.__main__ import main
from runtime.backends.openfhe import OpenfheBackend
from runtime.bundle import Bundle, find_kind, open_bundle
from runtime.checkpoint import (
    CheckpointFolder,
    CheckpointWarning,
    State,
    digest_inputs,
    locked_folder,
)
from runtime.key_files import make_keys
from runtime.keys import ServerContext
from runtime.library import make_context
from runtime.roles import decrypt_file, encrypt_file, evaluate_file
from runtime.session import InferenceSession, run
from runtime.trace import Execution
from tests.runtime.conftest import Call
from tests.runtime.test_refreshes import deep
from tests.support import REFRESHING

pytest.importorskip("openfhe", reason="OpenFHE is not installed")

ROOT = Path(__file__).resolve().parents[2]
LAYERS = 3  # a refresh in each
X = np.random.default_rng(0).uniform(-1, 1, (64, 1, 4)).astype(np.float32)
HINT = "\n  hint: choose another folder with --checkpoint, or remove this one"


@dataclass(frozen=True)
class Made:
    """A plan and encrypted inputs, and the checkpoints that an interrupted evaluation left."""

    folder: Path
    plan: Plan
    expected: np.ndarray

    def inputs(self) -> Bundle:
        parameters, digest = self.plan.program.parameters, self.plan.digest
        return open_bundle(self.folder / "x.fhe", "inputs", parameters, plan=digest)

    @property
    def context(self) -> ServerContext:
        with self.inputs() as inputs:
            tag = inputs.manifest.key
        return ServerContext(make_context(self.plan.parameters), tag, self.plan.parameters)

    @property
    def digest(self) -> str:
        with self.inputs() as inputs:
            return digest_inputs(inputs)

    def copy(self, target: Path) -> Path:
        return Path(shutil.copytree(self.folder / "checkpoints", target / "checkpoints"))

    def evaluate(self, checkpoint: Path, output: Path, **more: Any) -> list[Execution]:
        """On one thread, for the order of the operations."""
        executions: list[Execution] = []
        evaluate_file(
            *(self.plan, self.folder / "keys/evaluation.keys", self.folder / "x.fhe", output),
            **{"threads": 1, "checkpoint": checkpoint, "executions": executions, **more},
        )
        return executions


def interrupt_refresh(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Ends a run in that refresh, counted from 1."""
    refresh, begun = OpenfheBackend.refresh, []

    def stop(self: OpenfheBackend, *rest: Any) -> Any:
        begun.append(rest)
        if len(begun) == number:
            raise KeyboardInterrupt
        return refresh(self, *rest)

    monkeypatch.setattr(OpenfheBackend, "refresh", stop)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("checkpoint")
    plan = compile(
        deep(LAYERS),
        calibration={"x": X},
        passes=REFRESHING,
        ring_dimension=2048,
        insecure_toy=True,
        precision_bits=5.0,
    )
    assert [info.op for info in plan.program.operations].count("refresh") == LAYERS
    plan.save(folder / "deep.fheplan")
    np.savez(folder / "x.npz", x=X[0])
    np.savez(folder / "others.npz", x=X[1])
    make_keys([plan], folder / "keys")
    encrypt_file(plan, folder / "keys/public.key", {"x": X[0]}, folder / "x.fhe")
    (expected,) = run(plan, X[0], "clear").values()
    result = Made(folder, plan, expected)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        interrupt_refresh(patch, LAYERS)
        result.evaluate(folder / "checkpoints", folder / "none.fhe")
    return result


def state_of(path: Path) -> State:
    with zipfile.ZipFile(path) as archive:
        return msgspec.json.decode(archive.read("state.json"), type=State)


def count_done(path: Path) -> int:
    return sum(end - start for start, end in state_of(path).done)


def refusal(call: Any, *arguments: Any, **more: Any) -> str:
    with pytest.raises(FheCompileError) as caught:
        call(*arguments, **more)
    return str(caught.value)


def executed(executions: list[Execution]) -> list[str]:
    names = [entry.op for execution in executions for entry in execution.trace]
    return [name for name in names if name not in ("checkpoint", "encode")]


# ---------------------------------------------------------------------------- the server's


def test_the_two_newest_stay_and_hold_ciphertexts_only(made: Made) -> None:
    folder = made.folder / "checkpoints"
    assert sorted(path.name for path in folder.iterdir()) == [
        "batch-0-1.checkpoint",
        "batch-0-2.checkpoint",
    ]
    assert {find_kind(path) for path in folder.iterdir()} == {"checkpoint"}
    assert folder.stat().st_mode & 0o777 == 0o700
    before, after = (count_done(folder / f"batch-0-{n}.checkpoint") for n in (1, 2))
    assert 0 < before < after < len(made.plan.program.operations)


def test_an_evaluation_goes_on(made: Made, tmp_path: Path) -> None:
    folder, begun, shares = made.copy(tmp_path), [], []
    executions = made.evaluate(
        *(folder, tmp_path / "y.fhe"),
        begin=lambda *said: begun.append(said),
        progress=shares.append,
    )
    done = count_done(made.folder / "checkpoints/batch-0-2.checkpoint")
    assert len(executed(executions)) == len(made.plan.program.operations) - done
    assert executed(executions).count("refresh") == 1
    ((share, seconds),) = begun
    assert 0.4 < share < 0.9 and seconds > 0
    assert shares[0] == pytest.approx(share) and shares[-1] == 1.0 and shares == sorted(shares)
    assert list(folder.iterdir()) == []
    found = decrypt_file(made.plan, made.folder / "keys/secret.key", tmp_path / "y.fhe")
    assert np.abs(found[f"relu{LAYERS - 1}"] - made.expected).max() < 1e-2


@pytest.mark.parametrize("kind", ["truncated", "flipped"])
def test_damage_falls_back_to_the_one_before(made: Made, tmp_path: Path, kind: str) -> None:
    folder = made.copy(tmp_path)
    before, newest = (folder / f"batch-0-{n}.checkpoint" for n in (1, 2))

    def damage(path: Path) -> None:
        data = bytearray(path.read_bytes())
        if kind == "flipped":
            data[len(data) // 2] ^= 1
        path.write_bytes(data[: len(data) // 2] if kind == "truncated" else data)

    def opened() -> CheckpointFolder:
        return CheckpointFolder(folder, made.plan, made.context, made.digest)

    weights = [1.0] * len(made.plan.program.operations)
    damage(newest)
    with pytest.warns(CheckpointWarning) as caught:
        kept = opened()
    (warning,) = caught
    assert str(warning.message) == f"{newest}: this checkpoint is damaged and left out"
    assert kept.share(weights, 1) == pytest.approx(count_done(before) / len(weights))
    snapshot = kept.load(0)
    assert snapshot is not None
    kept.save(0, snapshot)  # takes the damaged one's place
    names = sorted(path.name for path in folder.iterdir())
    assert names == ["batch-0-1.checkpoint", "batch-0-3.checkpoint"]
    for path in folder.iterdir():
        damage(path)
    with pytest.warns(CheckpointWarning) as caught:
        kept = opened()
    assert len(caught) == 2 and kept.load(0) is None and kept.share(weights, 1) == 0.0


def test_what_is_of_another_run_is_refused(made: Made, tmp_path: Path) -> None:
    folder = made.copy(tmp_path)
    before = {path: path.read_bytes() for path in folder.iterdir()}
    place, context = f"{folder}: the checkpoints there are", made.context
    program = msgspec.structs.replace(made.plan.program, model_name="another")
    other = Plan(program, made.plan.arrays)
    text = refusal(CheckpointFolder, folder, other, context, made.digest)
    assert text == f"{place} of another plan [other-checkpoint]{HINT}"
    key = ServerContext(context.context, "another", context.parameters)
    text = refusal(CheckpointFolder, folder, made.plan, key, made.digest)
    assert text == f"{place} of another key [other-checkpoint]{HINT}"
    text = refusal(CheckpointFolder, folder, made.plan, context, "another")
    assert text == f"{place} of other inputs [other-checkpoint]{HINT}"
    assert {path: path.read_bytes() for path in folder.iterdir()} == before


def test_a_folder_is_for_one_process_at_a_time(tmp_path: Path) -> None:
    with locked_folder(tmp_path):
        text = refusal(locked_folder(tmp_path).__enter__)
    assert text == (
        f"{tmp_path}: another process keeps its checkpoints there [folder-in-use]\n"
        "  hint: wait for it, stop it, or choose another folder with --checkpoint"
    )
    with locked_folder(tmp_path):
        pass


def test_a_full_disk_is_told_once(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fsync, folder = os.fsync, tmp_path / "checkpoints"
    left: list[list[str]] = []

    def full(descriptor: int) -> None:
        if "batch-" in (name := Path(os.readlink(f"/proc/self/fd/{descriptor}")).name):
            left.append(sorted(p.name for p in folder.iterdir() if p.name[0] != "."))
            if "-1.checkpoint" not in name:
                raise OSError(28, "No space left on device")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.warns(CheckpointWarning) as caught:
        made.evaluate(folder, tmp_path / "y.fhe")
    assert [str(w.message) for w in caught] == [
        f"{folder}: cannot write there (No space left on device): the run goes on without a new "
        "checkpoint"
    ]
    assert left == [[]] + [["batch-0-1.checkpoint"]] * LAYERS  # the last one stays
    assert list(folder.iterdir()) == []
    found = decrypt_file(made.plan, made.folder / "keys/secret.key", tmp_path / "y.fhe")
    assert np.abs(found[f"relu{LAYERS - 1}"] - made.expected).max() < 1e-2


def test_the_evaluating_role(
    made: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, trace = made.copy(tmp_path), tmp_path / "trace.json"
    command = ["evaluate", str(made.folder / "deep.fheplan"), "--insecure-toy", "--threads", "1"]
    command += ["--key", str(made.folder / "keys/evaluation.keys")]
    command += ["--input", str(made.folder / "x.fhe"), "--output", str(tmp_path / "y.fhe")]
    command += ["--checkpoint", str(folder), "--trace", str(trace)]
    assert main(command) == 0
    assert capsys.readouterr().out.startswith("resuming at ")
    names = [e["name"] for e in json.loads(trace.read_text())["traceEvents"] if e["ph"] == "X"]
    assert names.count("refresh") == 1 and names.count("output") == 1
    assert main([*command, "--trace", str(tmp_path / "none" / "trace")]) == 2
    assert "hint: choose another place with --trace" in capsys.readouterr().err


# ---------------------------------------------------------------------------- both roles


def test_a_killed_process_goes_on(made: Made, tmp_path: Path, call: Call) -> None:
    folder, output, trace = (tmp_path / name for name in ("kept", "y.npz", "trace.json"))
    command = [made.folder / "deep.fheplan", "--input", made.folder / "x.npz", "--insecure-toy"]
    command += ["--threads", "1", "--checkpoint", folder]
    process = subprocess.Popen(
        [sys.executable, "-m", "runtime.run", *map(str, command)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    evaluation = folder / "evaluation"
    while not list(evaluation.glob("batch-*")) and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    out, _ = process.communicate()
    assert (process.returncode, out) == (-signal.SIGKILL, b"")
    newest = max(evaluation.glob("batch-*"))
    done, total = count_done(newest), len(made.plan.program.operations)
    assert 0 < done < total
    keys = folder / "keys"
    assert (keys / "secret.key").stat().st_mode & 0o777 == 0o600
    assert {path.stat().st_mode & 0o777 for path in (folder, keys)} == {0o700}

    others = [made.folder / "others.npz" if k == 2 else word for k, word in enumerate(command)]
    assert call(*others).err.endswith(
        f"error: {folder}: the checkpoints there are of other inputs [other-checkpoint]{HINT}\n"
    )
    program = msgspec.structs.replace(made.plan.program, model_name="another")
    Plan(program, made.plan.arrays).save(tmp_path / "other.fheplan")
    assert call(tmp_path / "other.fheplan", *command[1:]).err.endswith(
        f"error: {folder}: the checkpoints there are of another plan [other-checkpoint]{HINT}\n"
    )

    again = call(*command, "--output", output, "--trace", trace)
    assert again.code == 0
    first, *_ = again.out.splitlines()
    assert first.startswith("resuming at ") and first.endswith(" %")
    assert 0 < int(first.split()[2]) < 100
    events = [e for e in json.loads(trace.read_text())["traceEvents"] if e["ph"] == "X"]
    names = [e["name"] for e in events if e["name"] not in ("checkpoint", "encode")]
    assert len(names) == total - done
    assert names.count("refresh") < LAYERS
    assert np.abs(np.load(output)[f"relu{LAYERS - 1}"] - made.expected).max() < 1e-2
    # Its ciphertexts are gone; the keys serve the next call.
    left = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    names = {"keys/secret.key", "keys/public.key", "keys/evaluation.keys"}
    assert left == {"session.json", *names}


def test_several_samples_are_each_gone_on_with(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options: dict[str, Any] = {"insecure_toy": True, "threads": 1, "checkpoint": tmp_path / "kept"}
    with monkeypatch.context() as patch:
        interrupt_refresh(patch, LAYERS + 2)  # in the second sample
        session = InferenceSession(made.plan, in_flight=1, **options)
        with session, pytest.raises(KeyboardInterrupt):
            session.run(None, {"x": X[:2]})
    begun: list[float] = []
    with InferenceSession(
        made.plan, begin=lambda share, _: begun.append(share), **options
    ) as session:
        (found,) = session.run(None, {"x": X[:2]})  # together now
        names = executed(session.timings.executions)
        (again,) = session.run(None, {"x": X[2:3]})  # another call, from its start
    assert names.count("refresh") == LAYERS - 1 and names.count("output") == 1
    assert begun[0] == pytest.approx(0.66, abs=0.1) and begun[1] == 0.0
    (expected,) = run(made.plan, X[:3], "clear").values()
    assert np.abs(np.concatenate([found, again]) - expected).max() < 1e-2


@pytest.mark.parametrize("mode", ["clear", "simulate"])
def test_modes_without_ciphertexts(made: Made, tmp_path: Path, mode: str) -> None:
    folder = tmp_path / "kept"
    assert refusal(InferenceSession, made.plan, mode, checkpoint=folder) == (
        f"checkpoints hold ciphertexts, and mode {mode} has none [checkpoint-mode]\n"
        "  hint: leave --checkpoint out, or run with --mode encrypt"
    )
    assert not folder.exists()
