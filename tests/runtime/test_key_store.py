"""Runs with evaluation keys on disk: what OpenFHE finds when, results, and what goes wrong."""

from __future__ import annotations

import os
import shutil
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
from runtime.backends.base import OperationNode
from runtime.client import Client, encrypt_inputs
from runtime.key_files import load_public, make_keys, open_staged_keys
from runtime.key_maps import held_indices
from runtime.key_stages import REFRESH, KeyNeeds, list_keys
from runtime.key_store import StagedContext
from runtime.keys import automorphism_indices, generate_keys
from runtime.machine import MemoryShares
from runtime.server import Server
from tests.staged import EXPECTED, IMAGES, NEEDS, PLAN, SIZE
from tests.support import REFRESHING, relative_error, run_slots

pytest.importorskip("openfhe", reason="OpenFHE is not installed")

MODEL = shipped_path("digits_relu_mlp")
DATA = MODEL.parent / "digits_calibration.npz"


@pytest.fixture(scope="module")
def refreshed() -> Plan:
    return compile(
        MODEL,
        calibration=DATA,
        passes=REFRESHING,
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
    """Also where the next is made meanwhile, and OpenFHE has none yet of the tag."""
    make_keys([PLAN], tmp_path / "keys")
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
