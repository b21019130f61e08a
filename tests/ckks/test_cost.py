"""The cost model: it covers every operation, and more work never costs less."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from fhecompile.ckks.cost import operation_seconds
from fhecompile.ckks.cost_steps import STEPS, ring_unit, step_primes
from fhecompile.ckks.cost_table import MILLISECONDS, CostTable
from fhecompile.ckks.operations import OPERATIONS, ValueType
from fhecompile.ckks.parameters import Parameters

PARAMETERS = Parameters(1 << 16, 12, 59, 60, 1, 128)
FREE = {"input", "output", "relabel", "refresh"}  # a refresh costs the same at any level
WORKING = sorted(set(OPERATIONS) - FREE)


def seconds(op: str, level: int = 0, terms: int = 2, parameters: Parameters = PARAMETERS) -> float:
    attributes: dict[str, Any] = {"offsets": list(range(1, terms + 1)), "offset": 1}
    return operation_seconds(
        op, [ValueType("ciphertext", level, 40.0)] * terms, attributes, parameters
    )


def test_every_operation_has_steps_and_every_step_a_time() -> None:
    assert set(STEPS) == set(OPERATIONS)
    assert {step for steps in STEPS.values() for step in steps} == set(MILLISECONDS)


@pytest.mark.parametrize("op", WORKING)
def test_fewer_primes_cost_less(op: str) -> None:
    times = [seconds(op, level) for level in range(PARAMETERS.levels + 1)]
    assert times == sorted(times, reverse=True) and times[0] > times[-1] > 0


@pytest.mark.parametrize("op", WORKING)
def test_a_bigger_ring_costs_more(op: str) -> None:
    smaller = dataclasses.replace(PARAMETERS, ring_dimension=1 << 15)
    assert seconds(op) == pytest.approx(seconds(op, parameters=smaller) * 2 * 16 / 15)


@pytest.mark.parametrize("op", ["dot_plain", "rotate_sum"])
def test_terms_add_up(op: str) -> None:
    assert seconds(op, terms=6) == pytest.approx(3 * seconds(op, terms=2))


def test_more_digits_make_raising_dearer_and_dividing_cheaper() -> None:
    three = dataclasses.replace(PARAMETERS, digits=3)
    assert seconds("hoist", parameters=three) > seconds("hoist")
    assert seconds("key_switch_down", parameters=three) < seconds("key_switch_down")


def test_hoisting_and_the_extended_basis_split_a_rotation() -> None:
    assert seconds("rotate") == pytest.approx(seconds("hoist") + seconds("rotate_hoisted"))
    assert seconds("rotate") == pytest.approx(
        seconds("rotate_extended") + seconds("key_switch_down")
    )
    assert seconds("rotate_extended") == pytest.approx(
        seconds("hoist") + seconds("rotate_hoisted_extended")
    )
    assert seconds("square") > seconds("rotate") > seconds("mul_plain") > seconds("add")


def test_what_moves_no_data_is_free() -> None:
    assert all(seconds(op) == 0 for op in FREE)


@pytest.mark.parametrize("op", WORKING)
@pytest.mark.parametrize("digits", [1, 3])
def test_seconds_are_linear_in_the_table(op: str, digits: int) -> None:
    """`step_primes` is the row of the linear system that calibration solves."""
    parameters = dataclasses.replace(PARAMETERS, ring_dimension=1 << 14, digits=digits)
    table = CostTable({step: 1.0 + k for k, step in enumerate(MILLISECONDS)})
    row = step_primes(op, 3, parameters)
    expected = sum(table.milliseconds[step] * primes for step, primes in row.items()) / 1000
    x = ValueType("ciphertext", 3, 40.0)
    found = operation_seconds(op, [x], {"offsets": [1]}, parameters, table)
    assert found == pytest.approx(expected * ring_unit(parameters))


def test_a_table_names_every_step() -> None:
    with pytest.raises(ValueError, match=r"^a cost table names other steps$"):
        CostTable({"raise": 1.0})
    with pytest.raises(ValueError, match=r"^a cost table holds times that are none$"):
        CostTable({**MILLISECONDS, "key": float("nan")})
