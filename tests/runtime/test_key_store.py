"""Runs with evaluation keys on disk: what OpenFHE finds when, results, and what goes wrong."""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from fhecompile.compile import compile
from fhecompile.errors import FheCompileError
from fhecompile.plan import Plan
from models.zoo.catalogue import shipped_path
from passes import REFRESHED_PIPELINE
from runtime import key_files, machine
from runtime.__main__ import main
from runtime.backends.base import OperationNode
from runtime.client import Client, encrypt_inputs
from runtime.key_files import load_public, make_keys, open_staged_keys
from runtime.key_maps import held_indices
from runtime.key_stages import REFRESH, KeyNeeds, list_keys
from runtime.key_store import StagedContext
from runtime.keys import automorphism_indices, generate_keys
from runtime.machine import MemoryShares
from runtime.roles import decrypt_file, encrypt_file, evaluate_file
from runtime.server import Server
from runtime.session import InferenceSession
from tests.support import convolution_plan, relative_error, run_slots

pytest.importorskip("openfhe", reason="OpenFHE is not installed")

PLAN = convolution_plan()
NEEDS = KeyNeeds.of(PLAN)
SIZE = PLAN.parameters.key_bytes
IMAGES = np.random.default_rng(6).uniform(-1, 1, (2, 1, 2, 8, 8))
EXPECTED = run_slots(PLAN, {"x": IMAGES})["y"]
MODEL = shipped_path("digits_relu_mlp")
DATA = MODEL.parent / "digits_calibration.npz"


@pytest.fixture(scope="module")
def refreshed() -> Plan:
    return compile(
        MODEL,
        calibration=DATA,
        passes=REFRESHED_PIPELINE,
        ring_dimension=2048,
        insecure_toy=True,
        precision_bits=5.0,
    )


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stages") / "keys"
    make_keys([PLAN], folder)
    return folder


def indices_of(plan: Plan, names: Sequence[str]) -> set[int]:
    """Galois elements of the keys of these names."""
    order = 2 * plan.parameters.ring_dimension
    found = automorphism_indices(plan.parameters, plan.program.keys)
    switching = {order - 2, order - 4} if REFRESH in names else set()
    return {found[name] for name in names if name != REFRESH} | switching


def watch(server: Server) -> list[tuple[int, set[int]]]:
    """Notes the operation, and what OpenFHE holds, whenever one is executed."""
    context, backend = server.context, server.backend
    seen: list[tuple[int, set[int]]] = []
    execute = backend.execute

    def note(node: OperationNode, operands: Any) -> Any:
        before = held_indices(context.context, context.key_tag)
        value = execute(node, operands)
        assert held_indices(context.context, context.key_tag) == before
        seen.append((node.number, before))
        return value

    backend.execute = note  # type: ignore[method-assign]
    return seen


def staged_of(server: Server) -> StagedContext:
    assert isinstance(server.context, StagedContext)
    return server.context


@pytest.mark.parametrize(
    ("held", "stages", "threads", "in_flight"),
    [(2, None, 1, 1), (4, None, 2, 2), (9, None, 2, 2), (None, 1, 2, 2)],
)
def test_a_leveled_network(
    held: int | None, stages: int | None, threads: int, in_flight: int
) -> None:
    held_bytes = NEEDS.all if held is None else held * SIZE
    client, context = Client.create(PLAN, threads, held_bytes)
    server = Server(PLAN, context, threads, MemoryShares(0, 0, in_flight, held_bytes))
    division = staged_of(server).store.stages
    seen = watch(server)
    assert division.count == (stages or division.count)
    assert held is None or division.count >= 2 * NEEDS.all // held_bytes > 2
    try:
        images = [client.encrypt({0: x}) for x in IMAGES[:in_flight]]
        for _ in range(2):  # a second run begins where the first one ended
            outputs, execution = server.evaluate_images(images)
            for image, expected in zip(outputs, EXPECTED, strict=False):
                assert relative_error(client.decrypt(image)[0][0], expected) < 1e-2
            assert sum(entry.op == "keys" for entry in execution.trace) == division.count
            held_now = staged_of(server).store.held
            assert (len(held_now) + 1) * SIZE <= held_bytes
        for number, indices in seen:
            assert indices == indices_of(PLAN, division.keys[division.numbers[number]])
        # One image after the other within a stage, and no stage before the last one is over.
        passed = [division.numbers[number] for number, _ in seen]
        assert passed == sorted(passed[: len(passed) // 2]) * 2
    finally:
        server.close()
    assert held_indices(context.context, context.key_tag) == set()


@pytest.mark.parametrize(("spared", "stages"), [(0, 1), (1, 2)])
def test_a_refreshed_network(refreshed: Plan, spared: int, stages: int) -> None:
    """Against the same without stages."""
    needs, size = KeyNeeds.of(refreshed), refreshed.parameters.key_bytes
    (info,) = refreshed.program.inputs
    with np.load(DATA) as file:
        x = file[info.name][5:7].astype(np.float64).reshape(2, 1, *info.shape)
    clear = run_slots(refreshed, {info.name: x})
    (expected,) = clear.values()
    held_bytes = needs.all - spared * size
    assert held_bytes >= needs.least
    client, context = Client.create(refreshed, 1, held_bytes)
    server = Server(refreshed, context, 2, MemoryShares(0, 0, 2, held_bytes))
    seen = watch(server)
    try:
        division = staged_of(server).store.stages
        assert division.count == stages
        outputs, _ = server.evaluate_images([client.encrypt({0: image}) for image in x])
    finally:
        server.close()
    for image, exact in zip(outputs, expected[:, 0], strict=True):
        assert np.abs(client.decrypt(image)[0][0] - exact).max() <= 1e-4
    for number, indices in seen:
        assert indices == indices_of(refreshed, division.keys[division.numbers[number]])


def test_a_handle_holds_its_own_key_only(keys: Path) -> None:
    """OpenFHE would add the others to the map that is inserted first."""
    openfhe = pytest.importorskip("openfhe")
    context = open_staged_keys(PLAN, keys / "evaluation.keys", 7 * SIZE)
    try:
        for stage in range(3):
            context.enter_stage(stage)
        assert len(context.store.held) > 1
        for name, handle in context.store.held.items():
            size = context.store.bundle.manifest.entries[name].size
            assert abs(len(openfhe.Serialize(handle, openfhe.BINARY)) - size) < 100 < SIZE
    finally:
        context.release()


def test_an_entry_is_one_key(tmp_path: Path) -> None:
    """Also where several are made at the same time, and OpenFHE has none yet of the tag."""
    make_keys([PLAN], tmp_path / "keys", threads=3)
    context = open_staged_keys(PLAN, tmp_path / "keys/evaluation.keys", 4 * SIZE)
    entries = context.store.bundle.manifest.entries
    context.release()
    sizes = [info.size for name, info in entries.items() if name.startswith("rotation")]
    assert len(sizes) > 5
    assert max(sizes) - min(sizes) < 100 < SIZE < min(sizes)


def test_keys_of_others_stay(keys: Path) -> None:
    secret, other = generate_keys(PLAN.parameters, PLAN.program.keys)
    before = held_indices(other.context, other.key_tag)
    assert len(before) > 5
    context = open_staged_keys(PLAN, keys / "evaluation.keys", 4 * SIZE)
    try:
        for stage in range(4):
            context.enter_stage(stage)
            assert held_indices(other.context, other.key_tag) == before
        assert other.missing_keys(PLAN.program.keys) == []
    finally:
        context.release()
        assert other.missing_keys(PLAN.program.keys) == []
        other.release()
    assert secret.secret_key is not None


def test_two_sessions_at_the_same_time() -> None:
    """Each changes OpenFHE's maps while the other one runs."""
    held = 4 * SIZE
    parties = []
    for _ in range(2):
        client, context = Client.create(PLAN, 1, held)
        parties.append((client, Server(PLAN, context, 1, MemoryShares(0, 0, 1, held))))
    found: dict[int, Any] = {}

    def run(number: int) -> None:
        client, server = parties[number]
        outputs, _ = server.evaluate(client.encrypt({0: IMAGES[number]}))
        found[number] = client.decrypt(outputs)[0][0]

    workers = [threading.Thread(target=run, args=(number,)) for number in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    for _, server in parties:
        server.close()
    for number in range(2):
        assert relative_error(found[number], EXPECTED[number]) < 1e-2


# ---------------------------------------------------------------------------- what goes wrong


def damaged(keys: Path, folder: Path, name: str) -> Path:
    """The keys with a byte of an entry changed."""
    path = folder / "damaged.keys"
    shutil.copy(keys / "evaluation.keys", path)
    with zipfile.ZipFile(path) as archive:
        info = archive.getinfo(name)
    with path.open("r+b") as file:
        file.seek(info.header_offset + 2000)
        byte = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte[0] ^ 1]))
    return path


@pytest.mark.parametrize("stage", [0, -1])
def test_a_damaged_key_stops_the_run(keys: Path, tmp_path: Path, stage: int) -> None:
    """Whether it is needed at once or read ahead; and the next run says so again."""
    name = NEEDS.divide(4 * SIZE).keys[stage][0]
    path = damaged(keys, tmp_path, name)
    inputs = encrypt_inputs(PLAN, load_public(PLAN, keys / "public.key"), {0: IMAGES[0]})
    server = Server(
        PLAN, open_staged_keys(PLAN, path, 4 * SIZE), 2, MemoryShares(0, 0, 1, 4 * SIZE)
    )
    try:
        for _ in range(2):
            with pytest.raises(FheCompileError) as caught:
                server.evaluate(inputs)
            assert str(caught.value) == (
                f"{path}: the file is damaged: entry {name} cannot be read [bundle-damaged]\n"
                "  hint: copy it again, or make it again"
            )
    finally:
        server.close()


def test_keys_that_are_not_in_the_file(keys: Path, tmp_path: Path) -> None:
    fewer = msgspec.structs.replace(PLAN.program.keys, rotations=(1,), relinearisation=False)
    make_keys([Plan(msgspec.structs.replace(PLAN.program, keys=fewer), {})], tmp_path / "keys")
    context = open_staged_keys(PLAN, tmp_path / "keys/evaluation.keys", 4 * SIZE)
    try:
        with pytest.raises(FheCompileError) as caught:
            Server(PLAN, context, 1, MemoryShares(0, 0, 1, 4 * SIZE))
    finally:
        context.release()
    missing = [name for name in list_keys(PLAN.program.keys) if name != "rotation by 1"]
    missing.remove("conjugation")
    assert str(caught.value) == (
        f"{len(missing)} evaluation keys are missing: {', '.join(missing[:5])}, ... "
        "[evaluation-key-missing]\n  hint: generate the keys for this very plan"
    )


def test_closing_ends_the_thread_and_frees_the_keys(keys: Path) -> None:
    context = open_staged_keys(PLAN, keys / "evaluation.keys", 4 * SIZE)
    context.enter_stage(0)
    assert [t for t in threading.enumerate() if t.name == "keys"]
    context.release()
    context.release()  # a second time
    assert not [t for t in threading.enumerate() if t.name == "keys"]
    assert context.store.held == {}
    with pytest.raises(RuntimeError, match=r"^the keys are closed$"):
        context.enter_stage(1)


# ---------------------------------------------------------------------------- within a limit


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
        assert staged_of(session._server).store.stages.count > 4
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
