"""What the machine has, and the refusal of a plan that does not fit."""

from __future__ import annotations

import dataclasses
import os

import msgspec
import numpy as np
import pytest

from fhecompile.errors import EXIT_ENVIRONMENT, FheCompileError
from fhecompile.plan import Plan
from runtime import machine
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


def test_cores() -> None:
    assert 1 <= machine.usable_cores() <= (os.cpu_count() or 1)


def test_memory_of_this_process() -> None:
    before = machine.resident_bytes()
    block = np.ones(1 << 23)  # 64 MiB
    grown = machine.resident_bytes()
    assert grown - before > block.nbytes // 2
    assert machine.peak_bytes() >= grown - (1 << 20)
