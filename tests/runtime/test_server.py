"""Client and server: whose keys are whose, and that a server reaches no secret."""

from __future__ import annotations

import dataclasses
import gc
import types
from collections.abc import Iterator
from typing import Any

import msgspec
import numpy as np
import pytest

from fhecompile.compile import compile_model
from fhecompile.errors import FheCompileError
from fhecompile.options import CompileOptions
from runtime.client import Client
from runtime.keys import SecretContext, generate_keys
from runtime.machine import share_memory
from runtime.plaintexts import list_plaintexts
from runtime.server import Server
from runtime.session import InferenceSession
from tests.support import Network, convolution_plan, relative_error, run_slots

pytest.importorskip("openfhe", reason="OpenFHE is not installed")

PLAN = convolution_plan()
IMAGE = np.random.default_rng(6).uniform(-1, 1, (1, 2, 8, 8))
EXPECTED = run_slots(PLAN, {"x": IMAGE[None]})["y"][0]


@pytest.fixture
def parties() -> Iterator[tuple[Client, Server]]:
    client, context = Client.create(PLAN)
    server = Server(PLAN, context, threads=1)
    yield client, server
    server.close()


def error_of(client: Client, server: Server) -> float:
    outputs, _ = server.evaluate(client.encrypt({0: IMAGE}))
    return relative_error(client.decrypt(outputs)[0][0], EXPECTED)


def text_of(call: Any, *arguments: Any) -> str:
    with pytest.raises(FheCompileError) as caught:
        call(*arguments)
    return str(caught.value)


def test_client_and_server(parties: tuple[Client, Server]) -> None:
    client, server = parties
    assert error_of(client, server) < 1e-2
    assert error_of(client, server) < 1e-2  # constants are expanded again


def test_several_images_at_once_and_cached_constants() -> None:
    client, context = Client.create(PLAN)
    memory = share_memory(PLAN, cache_constants=1 << 30, keys_made=True)
    server = Server(PLAN, context, 2, memory)
    assert server.backend.plaintexts.kept_bytes == 0
    images = [client.encrypt({0: sign * IMAGE}) for sign in (1, -1)]
    outputs, execution = server.evaluate_images(images)
    kept = server.backend.plaintexts.kept_bytes
    assert kept == memory.cache == sum(info.bytes for info in list_plaintexts(PLAN))
    assert execution.images == 2
    found = [client.decrypt(image)[0][0] for image in outputs]
    assert relative_error(found[0], EXPECTED) < 1e-2 < relative_error(found[1], EXPECTED)
    assert relative_error(found[1], run_slots(PLAN, {"x": -IMAGE[None]})["y"][0]) < 1e-2
    server.close()
    assert server.backend.plaintexts.kept_bytes == 0


def test_closing_one_server_leaves_the_other_its_keys() -> None:
    sessions = [InferenceSession(PLAN, threads=1, insecure_toy=True) for _ in range(2)]
    first, second = sessions
    first.close()
    (found,) = second.run(None, {"x": IMAGE})
    assert relative_error(found, EXPECTED.astype(np.float32)) < 1e-2
    context = second._server.context
    second.close()
    assert "relinearisation" in context.missing_keys(PLAN.program.keys)


def test_ciphertexts_of_another_client(parties: tuple[Client, Server]) -> None:
    _, server = parties
    stranger, context = Client.create(PLAN)
    text = (
        "a ciphertext was encrypted under another key than the evaluation keys [wrong-key-set]\n"
        "  hint: encrypt with the client these evaluation keys came from"
    )
    theirs, ours = stranger.encrypt({0: IMAGE}), parties[0].encrypt({0: IMAGE})
    assert text_of(server.evaluate, theirs) == text
    assert text_of(server.evaluate_images, [ours, theirs]) == text
    context.release()


def test_keys_for_other_parameters(parties: tuple[Client, Server]) -> None:
    _, server = parties
    context = dataclasses.replace(
        server.context, parameters=dataclasses.replace(PLAN.parameters, digits=7)
    )
    assert text_of(Server, PLAN, context, 1) == (
        "the evaluation keys were made for other parameters than the plan's [wrong-key-set]\n"
        "  hint: generate the keys for this very plan"
    )


def test_missing_keys() -> None:
    keys = PLAN.program.keys
    rotations = keys.rotations
    assert len(rotations) > 6
    fewer = msgspec.structs.replace(keys, rotations=rotations[:1])
    _, context = generate_keys(PLAN.parameters, fewer)
    named = ", ".join(f"rotation by {r}" for r in rotations[1:6])
    assert text_of(Server, PLAN, context, 1) == (
        f"{len(rotations) - 1} evaluation keys are missing: {named}, ... "
        "[evaluation-key-missing]\n"
        "  hint: generate the keys for this very plan"
    )
    context.release()


def test_missing_relinearisation_key() -> None:
    fewer = msgspec.structs.replace(PLAN.program.keys, relinearisation=False)
    _, context = generate_keys(PLAN.parameters, fewer)
    assert text_of(Server, PLAN, context, 1) == (
        "1 evaluation keys are missing: relinearisation [evaluation-key-missing]\n"
        "  hint: generate the keys for this very plan"
    )
    context.release()


def test_plan_without_rotations() -> None:
    """Then there is no automorphism key at all, which OpenFHE treats as an error."""
    net = Network(x=(1, 4))
    net.op("Mul", "x", "x", name="y")
    options = CompileOptions(ring_dimension=256, insecure_toy=True)
    plan = compile_model(net.model("y"), None, options).plan
    assert not plan.program.keys.rotations
    with InferenceSession(plan, threads=1, insecure_toy=True) as session:
        x = np.array([[0.5, -0.5, 0.25, 1.0]])
        (found,) = session.run(None, {"x": x})
    assert relative_error(found, (x**2).astype(np.float32)) < 1e-2


# ---------------------------------------------------------------------------- secrets


def reachable(start: object) -> Iterator[object]:
    """Every object reachable from `start`, through functions' closures but not their modules."""
    stack, seen = [start], {id(start)}
    while stack:
        found = stack.pop()
        yield found
        if isinstance(found, type | types.ModuleType):
            continue
        if isinstance(found, types.FunctionType):
            following: list[Any] = [*(found.__closure__ or ()), found.__defaults__]
        else:
            following = gc.get_referents(found)
        for other in following:
            if id(other) not in seen:
                seen.add(id(other))
                stack.append(other)


def is_secret(found: object) -> bool:
    return isinstance(found, SecretContext | Client) or "PrivateKey" in type(found).__name__


def test_the_client_holds_the_secret(parties: tuple[Client, Server]) -> None:
    """So that the next test would notice."""
    kinds = {type(x).__name__ for x in reachable(parties[0]) if is_secret(x)}
    assert kinds == {"Client", "SecretContext", "PrivateKey"}


def test_the_server_reaches_no_secret(parties: tuple[Client, Server]) -> None:
    client, server = parties
    server.evaluate(client.encrypt({0: IMAGE}))
    objects = list(reachable(server))
    assert len(objects) > 100
    assert not [x for x in objects if is_secret(x)]
    assert not [x for x in objects if x is client.secret.secret_key]
