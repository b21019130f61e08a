"""The fit: known costs are found again from times made of them, and none is below zero."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from scipy.optimize import nnls

from fhecompile.ckks.cost import operation_seconds
from fhecompile.ckks.cost_table import MILLISECONDS, CostTable
from fhecompile.ckks.operations import ValueType
from fhecompile.errors import InternalError
from runtime.fit import Measurement, deviations, fit_table, non_negative_least_squares
from runtime.measure import DIGITS, MEASURED_LEVELS, calibration_parameters

OPERATIONS = (
    *("rotate", "hoist", "rotate_hoisted", "rotate_extended", "add_extended", "key_switch_down"),
    *("square", "mul_plain", "add_plain", "mul_i", "add", "rescale", "drop_level"),
)
KNOWN = CostTable({step: 0.3 + 0.4 * k for k, step in enumerate(MILLISECONDS)}, measured=True)


def synthetic(table: CostTable, noise: float = 0.0) -> list[Measurement]:
    random = np.random.default_rng(1)
    found = []
    for digits in DIGITS:
        parameters = calibration_parameters(1 << 15, digits)
        for level in MEASURED_LEVELS:
            for op in OPERATIONS:
                attributes: dict[str, Any] = {"offset": 1}
                x = ValueType("ciphertext", level, 0.0)
                seconds = operation_seconds(op, [x], attributes, parameters, table)
                factor = 1 + noise * random.uniform(-1, 1)
                found.append(Measurement(op, level, parameters, seconds * factor))
    return found


def test_known_costs_are_found() -> None:
    found = fit_table(synthetic(KNOWN))
    assert found.measured
    assert deviations(synthetic(KNOWN), found).max() < 1e-9
    assert found.milliseconds == pytest.approx(dict(KNOWN.milliseconds), rel=1e-9)


def test_deviations() -> None:
    doubled = CostTable({step: 2 * t for step, t in KNOWN.milliseconds.items()})
    assert deviations(synthetic(KNOWN), doubled) == pytest.approx(1.0)


def test_noise_moves_them_little() -> None:
    found = fit_table(synthetic(KNOWN, noise=0.05))
    assert found.milliseconds == pytest.approx(dict(KNOWN.milliseconds), rel=0.15)
    assert found.milliseconds != pytest.approx(dict(KNOWN.milliseconds), rel=1e-3)


def test_no_cost_is_below_zero() -> None:
    """Squares quicker than the rotations they hold: their own step is free."""
    measured = [
        dataclasses.replace(m, seconds=0.5 * m.seconds) if m.op == "square" else m
        for m in synthetic(KNOWN)
    ]
    found = fit_table(measured).milliseconds
    assert found["tensor"] == 0.0
    assert min(found.values()) >= 0.0


def test_a_step_that_was_not_measured() -> None:
    with pytest.raises(InternalError, match=r"^no measurement holds the steps rescale$"):
        fit_table([m for m in synthetic(KNOWN) if m.op != "rescale"])


@pytest.mark.parametrize("seed", range(20))
def test_least_squares_against_scipy(seed: int) -> None:
    random = np.random.default_rng(seed)
    matrix, right = random.normal(size=(20, 8)), random.normal(size=20)
    expected, _ = nnls(matrix, right)
    assert (expected == 0).any()
    assert non_negative_least_squares(matrix, right) == pytest.approx(expected, abs=1e-9)
