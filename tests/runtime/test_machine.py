"""What the machine has, and the refusal of a plan that does not fit."""

from __future__ import annotations

import dataclasses
import mmap
from typing import Any

import msgspec
import pytest

from fhecompile.errors import EXIT_ENVIRONMENT, FheCompileError
from fhecompile.plan import Plan
from runtime import machine
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
