"""Encrypted runs whose constants are encoded ahead, shared by images or cached: the same bits."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import pytest

from runtime.backends import encoder
from runtime.backends.openfhe import OpenfheBackend
from runtime.client import Client
from runtime.constants import ConstantStore
from runtime.executor import Executor
from runtime.keys import ServerContext
from runtime.plaintexts import PlaintextInfo, PlaintextStore, list_plaintexts
from tests.support import FloatArray, convolution_plan

pytest.importorskip("openfhe", reason="OpenFHE is not installed")

PLAN = convolution_plan()
PLAINTEXTS = list_plaintexts(PLAN)
TOTAL = sum(info.bytes for info in PLAINTEXTS)
IMAGES = np.random.default_rng(8).uniform(-1, 1, (3, 1, 2, 8, 8))


class Keys(NamedTuple):
    client: Client
    context: ServerContext
    ciphertexts: list[dict[tuple[int, int], Any]]
    expected: list[FloatArray]  # outputs of each image evaluated alone, encoding in line

    def check(self, outputs: list[dict[tuple[int, int], Any]]) -> None:
        """Modular arithmetic is exact: not even the last bit may differ."""
        for found, expected in zip(outputs, self.expected, strict=True):
            assert np.array_equal(self.client.decrypt(found)[0], expected)


class Eager(OpenfheBackend):
    """Encodes ahead all it may before the first operation."""

    encoded_ahead = 0

    def begin(self, images: int, done: Mapping[int, int] | None = None) -> None:
        super().begin(images, done)
        if not self.plaintexts.ahead_bytes:
            assert self.claim_ahead() is None
            return
        while not all(self.constants.is_expanded(k) for k in range(len(PLAN.maps))):
            time.sleep(0.001)
        while (task := self.claim_ahead()) is not None:
            assert self.plaintexts.held_bytes <= self.plaintexts.ahead_bytes
            task.run()
            self.encoded_ahead += 1


def executor_of(
    context: ServerContext, ahead: int, cache: int = 0, threads: int = 1, kind: type = Eager
) -> Executor:
    backend = kind(PLAN, ConstantStore(PLAN), context, ahead, cache)
    return Executor(PLAN, backend, threads)


@pytest.fixture(scope="module")
def keys() -> Iterator[Keys]:
    client, context = Client.create(PLAN)
    ciphertexts = [client.encrypt({0: image}) for image in IMAGES]
    in_line = executor_of(context, 0, kind=OpenfheBackend)
    expected = [client.decrypt(in_line.run(c)[0])[0] for c in ciphertexts]
    yield Keys(client, context, ciphertexts, expected)
    context.release()


@pytest.fixture
def encodings(monkeypatch: pytest.MonkeyPatch) -> Counter[bytes]:
    """How often each vector was encoded, by its content, scale, level and turn."""
    made: Counter[bytes] = Counter()
    encode_vector = encoder.encode_vector

    def counting(context: Any, parameters: Any, vector: Any, *rest: Any) -> Any:
        made[vector.tobytes() + repr(rest).encode()] += 1
        return encode_vector(context, parameters, vector, *rest)

    monkeypatch.setattr(encoder, "encode_vector", counting)
    return made


def test_the_results_tell_the_images_apart(keys: Keys) -> None:
    """So that the next tests would notice an image in another's place."""
    one, two, three = (tuple(y.ravel()) for y in keys.expected)
    assert len({one, two, three}) == 3


@pytest.mark.parametrize("threads", [1, 4])
@pytest.mark.parametrize("ahead", [0, TOTAL // 5, TOTAL])
def test_the_same_bits_and_encoded_once(
    keys: Keys, encodings: Counter[bytes], ahead: int, threads: int
) -> None:
    executor = executor_of(keys.context, ahead, threads=threads)
    outputs, execution = executor.run_images(keys.ciphertexts)
    keys.check(outputs)
    assert encodings.total() == len(PLAINTEXTS)
    backend = executor.backend
    assert isinstance(backend, Eager)
    assert (backend.encoded_ahead == 0) == (ahead == 0)
    assert (backend.encoded_ahead == len(PLAINTEXTS)) == (ahead == TOTAL)
    assert (execution.inner.encode == 0) == (ahead == TOTAL)
    assert backend.plaintexts.held_bytes == 0


@pytest.mark.parametrize("threads", [1, 3])
def test_cached_constants_are_not_encoded_again(
    keys: Keys, encodings: Counter[bytes], monkeypatch: pytest.MonkeyPatch, threads: int
) -> None:
    executor = executor_of(keys.context, 0, TOTAL, threads, OpenfheBackend)
    expanded: list[int] = []
    expand = ConstantStore._expand
    monkeypatch.setattr(
        ConstantStore, "_expand", lambda *given: expanded.append(given[1]) or expand(*given)
    )
    found = []
    for image in keys.ciphertexts:
        outputs, execution = executor.run(image)
        found.append(outputs)
        assert encodings.total() == len(PLAINTEXTS)
        assert sorted(expanded) == [0, 1]
    keys.check(found)
    assert execution.inner.encode == 0
    assert not [e for e in execution.trace if e.op == "encode"]


def test_half_of_the_constants_cached(keys: Keys, encodings: Counter[bytes]) -> None:
    executor = executor_of(keys.context, 0, TOTAL // 2, 1, OpenfheBackend)
    counts, found = [], []
    for image in keys.ciphertexts:
        found.append(executor.run(image)[0])
        counts.append(encodings.total())
        assert executor.backend.plaintexts.kept_bytes <= TOTAL // 2
    keys.check(found)
    again = counts[1] - counts[0]
    assert 0 < again < counts[0] == len(PLAINTEXTS)
    assert counts[2] - counts[1] == again


def test_an_error_while_encoding_says_where(keys: Keys, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> Any:
        raise RuntimeError("no such modulus")

    monkeypatch.setattr(encoder, "encode_vector", fail)
    executor = executor_of(keys.context, TOTAL, kind=OpenfheBackend)
    with pytest.raises(Exception, match=r"^conv1 norm: .* while executing \w+_plain: no such mod"):
        executor.run(keys.ciphertexts[0])
    executor.backend.begin(1)
    while (task := executor.backend.claim_ahead()) is None:
        time.sleep(0.01)
    with pytest.raises(Exception, match=r"^conv1 norm: .* while encoding constants: no such mod"):
        task.run()
    executor.backend.end()


@pytest.mark.parametrize("threads", [1, 2])
def test_operations_share_equal_constants(encodings: Counter[bytes], threads: int) -> None:
    """Samples in ciphertexts of their own: encoded once, and the bits of encoding each term."""
    plan = convolution_plan(batch=4)
    plaintexts = list_plaintexts(plan)
    terms = sum(1 + len(info.others) for info in plaintexts)
    assert len(plaintexts) < 0.8 * terms
    client, context = Client.create(plan)
    ciphertexts = client.encrypt({0: np.random.default_rng(3).uniform(-1, 1, (4, 1, 2, 8, 8))})
    backend = OpenfheBackend(plan, ConstantStore(plan), context, TOTAL)
    found = client.decrypt(Executor(plan, backend, threads).run(ciphertexts)[0])[0]
    assert encodings.total() == len(plaintexts)
    assert backend.plaintexts.held_bytes == 0
    encodings.clear()
    apart = OpenfheBackend(plan, ConstantStore(plan), context, 0)
    each = [
        PlaintextInfo(*term, info.bytes)
        for info in plaintexts
        for term in ((info.operation, info.term), *info.others)
    ]
    apart.plaintexts = PlaintextStore(each, apart.plaintexts._encoder)
    expected = client.decrypt(Executor(plan, apart, threads).run(ciphertexts)[0])[0]
    assert encodings.total() == terms
    assert np.array_equal(found, expected)
    assert np.abs(expected).max() > 0.1
    context.release()


@pytest.mark.parametrize("turn", [0, 1, 100, -3])
def test_turned_and_scaled_in_one_pass(keys: Keys, turn: int) -> None:
    """(turn v)[s + turn] = v[s]; what is encoded has scale 2^scale instead of 2^q."""
    p = PLAN.parameters
    seen: list[np.ndarray] = []

    class Context:
        def MakeCKKSPackedPlaintext(self, vector: np.ndarray, degree: int, level: int) -> str:  # noqa: N802
            seen.append(vector)
            return f"degree {degree} level {level}"

    for vector in (np.arange(p.slots) * 1.0, np.arange(p.slots) * (1 + 2j)):
        made = encoder.encode_vector(Context(), p, vector, p.prime_bits + 0.5, 3, turn)
        assert made == "degree 1 level 3"
        assert np.array_equal(seen[-1], np.roll(vector, turn) * 2.0**0.5)
