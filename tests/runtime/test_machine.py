"""What the machine has, and the refusal of a plan that does not fit."""

from __future__ import annotations

import dataclasses
import mmap
from typing import Any

import msgspec
import pytest

from fhecompile.ckks.parameters import RUNTIME_BYTES
from fhecompile.errors import EXIT_ENVIRONMENT, FheCompileError
from fhecompile.plan import Plan
from runtime import machine
from runtime.key_stages import KeyNeeds
from runtime.machine import MemoryShares
from runtime.plaintexts import PlaintextInfo, list_plaintexts
from tests.support import convolution_plan


def plan_needing(needed: int) -> Plan:
    program = convolution_plan().program
    prediction = msgspec.structs.replace(program.prediction, peak_bytes=needed)
    changed = msgspec.structs.replace(program, prediction=prediction)
    return dataclasses.replace(convolution_plan(), program=changed)


def test_not_enough_memory() -> None:
    with pytest.raises(FheCompileError) as caught:
        machine.check_memory(plan_needing(int(6.3 * 2**30)), available=4 * 2**30)
    assert str(caught.value) == (
        "an encrypted run needs about 6.3 GiB of memory, 4.0 GiB are free [not-enough-memory]\n"
        "  hint: free some memory, use a bigger machine, or run with --mode simulate"
    )
    assert caught.value.exit_code == EXIT_ENVIRONMENT


def test_enough_memory() -> None:
    machine.check_memory(plan_needing(4 * 2**30), available=4 * 2**30)


def test_the_machine_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "available_bytes", lambda: 2**30)
    machine.check_memory(plan_needing(2**29))
    with pytest.raises(FheCompileError, match=r"2\.0 GiB of memory, 1\.0 GiB are free"):
        machine.check_memory(plan_needing(2**31))


def test_a_system_that_does_not_say(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "available_bytes", lambda: None)
    machine.check_memory(plan_needing(2**60))


# ---------------------------------------------------------------------------- shares

PLAN = convolution_plan()
KEYS = PLAN.program.keys
KEY_BYTES = (len(KEYS.rotations) + KEYS.conjugation + KEYS.relinearisation) * (
    PLAN.parameters.key_bytes
)
CONSTANTS = sum(info.bytes for info in list_plaintexts(PLAN))
GIB = 1 << 30
PEAK = 4 * GIB + KEY_BYTES  # 4 GiB for each image


@pytest.mark.parametrize(
    ("available", "options", "shares"),
    [
        (PEAK, {}, MemoryShares(0, 0, 1)),
        (PEAK - GIB, {}, MemoryShares(0, 0, 1)),
        (PEAK + GIB, {}, MemoryShares(0, GIB // 2, 1)),
        (PEAK + 9 * GIB, {}, MemoryShares(0, GIB, 3)),
        (PEAK + 9 * GIB - 1, {}, MemoryShares(0, GIB, 2)),
        (PEAK + 9 * GIB, {"in_flight": 2}, MemoryShares(0, GIB, 2)),
        (PEAK + 9 * GIB, {"in_flight": 50}, MemoryShares(0, GIB, 3)),
        (PEAK + 900 * GIB, {}, MemoryShares(0, GIB, 16)),
        (PEAK + 900 * GIB, {"in_flight": 50}, MemoryShares(0, GIB, 50)),
        (PEAK + 9 * GIB, {"cache_constants": 1000}, MemoryShares(1000, GIB, 2)),
        (PEAK + 9 * GIB, {"cache_constants": 99 * GIB}, MemoryShares(CONSTANTS, GIB, 2)),
        (PEAK - KEY_BYTES + 9 * GIB, {"keys_made": True}, MemoryShares(0, GIB, 3)),
        (PEAK + CONSTANTS, {"cache_constants": 99 * GIB}, MemoryShares(CONSTANTS, 0, 1)),
    ],
)
def test_shares(available: int, options: dict[str, Any], shares: MemoryShares) -> None:
    assert machine.share_memory(plan_needing(PEAK), available=available, **options) == shares


def test_shares_where_the_system_does_not_say(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "available_bytes", lambda: None)
    assert machine.share_memory(plan_needing(PEAK)) == MemoryShares(0, GIB, 1)
    assert machine.share_memory(plan_needing(PEAK), 77, 5) == MemoryShares(77, GIB, 5)


def test_a_cache_that_does_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        machine, "list_plaintexts", lambda _: [PlaintextInfo(0, 0, 3 * GIB), PlaintextInfo(0, 1, 2)]
    )
    with pytest.raises(FheCompileError) as caught:
        machine.share_memory(plan_needing(4 * GIB), 3 * GIB, available=6 * GIB)
    assert str(caught.value) == (
        "an encrypted run needs about 4.0 GiB of memory and 3.0 GiB for cached constants, "
        "6.0 GiB are free [not-enough-memory]\n"
        "  hint: cache fewer constants, free some memory, or use a bigger machine"
    )
    assert caught.value.exit_code == EXIT_ENVIRONMENT


# ---------------------------------------------------------------------------- keys on disk

SIZE = PLAN.parameters.key_bytes
LEAST = 2 * SIZE  # relinearisation, and a rotation
BASE = 4 * GIB + SIZE  # one image, and a key while it is read


@pytest.mark.parametrize(
    ("limit", "options", "shares"),
    [
        (PEAK, {}, MemoryShares(0, 0, 1)),
        (PEAK + 9 * GIB, {}, MemoryShares(0, GIB, 3)),
        (BASE + LEAST, {}, MemoryShares(0, 0, 1, LEAST)),
        (BASE + LEAST + 4 * SIZE, {}, MemoryShares(0, SIZE, 1, LEAST + 3 * SIZE)),
        (BASE + LEAST + 4 * SIZE, {"in_flight": 3}, MemoryShares(0, SIZE, 1, LEAST + 3 * SIZE)),
        (BASE + LEAST + 7, {"cache_constants": 7}, MemoryShares(7, 0, 1, LEAST)),
    ],
)
def test_shares_with_keys_on_disk(limit: int, options: dict[str, Any], shares: Any) -> None:
    plan = plan_needing(PEAK)
    assert machine.limit_memory(plan, available=limit, **options) == shares
    # The lower of two limits holds, whichever it is.
    for available, allowed in ((1000 * GIB, limit), (limit, 1000 * GIB)):
        found = machine.limit_memory(plan, available=available, max_memory=allowed, **options)
        assert found == shares
        constants = min(shares.ahead, CONSTANTS - shares.cache)
        assert machine.predict_peak(plan, found) <= limit + constants - shares.ahead
    if shares.keys is not None:
        assert machine.predict_peak(plan, shares) == limit


def test_images_share_keys_on_disk() -> None:
    plan = plan_needing(KEY_BYTES + SIZE)  # a key's worth for each image
    rest = 7 * SIZE
    found = machine.limit_memory(plan, in_flight=3, available=2 * SIZE + rest)
    assert found == MemoryShares(0, (rest - 2 * SIZE - LEAST) // 4, 3, found.keys)
    assert found.keys == rest - 2 * SIZE - found.ahead
    # As many as leave the least that keys can be.
    found = machine.limit_memory(plan, in_flight=99, available=2 * SIZE + rest)
    assert (found.in_flight, found.keys) == (6, LEAST)


def test_too_little_for_keys_on_disk() -> None:
    plan, least = plan_needing(PEAK), BASE + LEAST
    hint = "free some memory, use a bigger machine, or run with --mode simulate"
    mib = -(-least >> 20)
    with pytest.raises(FheCompileError) as caught:
        machine.limit_memory(plan, available=least - 1)
    assert str(caught.value) == (
        f"an encrypted run needs at least {mib} MiB of memory, even with evaluation keys on disk; "
        f"{(least - 1) >> 20} MiB are free [not-enough-memory]\n  hint: {hint}"
    )
    assert caught.value.exit_code == EXIT_ENVIRONMENT
    with pytest.raises(FheCompileError) as caught:
        machine.limit_memory(plan, 1 << 20, max_memory=GIB, available=99 * GIB)
    cached = min(1 << 20, CONSTANTS)
    mib = -(-(least + cached) >> 20)
    assert str(caught.value) == (
        f"an encrypted run with {cached >> 20} MiB of cached constants needs at least {mib} MiB of "
        "memory, even with evaluation keys on disk; 1024 MiB are allowed [not-enough-memory]\n"
        f"  hint: allow {mib}M, or compile with fewer keys (--max-keys)"
    )


def test_the_least_is_never_more_than_all_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "READ_KEYS", 1000)
    with pytest.raises(FheCompileError, match=f"needs at least {-(-PEAK >> 20)} MiB of memory"):
        machine.limit_memory(plan_needing(PEAK), available=PEAK - 1)


@pytest.mark.parametrize(
    ("refreshes", "made"), [((), machine.MADE_KEYS), ((64,), 8 + machine.REFRESH_KEYS)]
)
def test_making_keys_takes_memory_as_well(
    refreshes: tuple[int, ...], made: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of refreshes are made at once, more in a larger ring; here its dimension is 2^8."""
    needed, needs = RUNTIME_BYTES + made * SIZE, KeyNeeds.of(PLAN)
    monkeypatch.setattr(KeyNeeds, "of", lambda _: needs)
    plan = plan_needing(needed + 1)
    keys = msgspec.structs.replace(KEYS, refreshes=refreshes)
    plan = dataclasses.replace(plan, program=msgspec.structs.replace(plan.program, keys=keys))
    assert machine.limit_memory(plan, available=needed, makes_keys=True).keys is not None
    with pytest.raises(FheCompileError, match="even with evaluation keys on disk"):
        machine.limit_memory(plan, available=needed - 1, makes_keys=True)
    assert machine.limit_memory(plan, available=needed - 1).keys is not None


@pytest.mark.parametrize(
    ("text", "size"),
    [("0", 0), ("17", 17), ("2k", 2048), ("1.5M", 3 << 19), ("8G", 8 << 30), ("1TiB", 1 << 40)],
)
def test_sizes(text: str, size: int) -> None:
    assert machine.parse_size(text) == size


@pytest.mark.parametrize("text", ["", "G", "-1", "8X", "8 9", "1e9", "nan"])
def test_no_sizes(text: str) -> None:
    with pytest.raises(ValueError, match=f"^{text} is no size$"):
        machine.parse_size(text)


# ---------------------------------------------------------------------------- the machine


def test_memory_of_this_process() -> None:
    before = machine.resident_bytes()
    size = 1 << 26
    with mmap.mmap(-1, size) as block:  # not from the heap, which may hold as much unused
        for page in range(0, size, mmap.PAGESIZE):
            block[page] = 1
        grown = machine.resident_bytes()
    assert grown - before > size // 2
    assert machine.peak_bytes() >= grown - (1 << 20)
