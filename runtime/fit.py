r"""Fits step costs to measured operations: least squares with no cost below zero.

An operation's time is a sum over its steps (`fhecompile.ckks.cost`), so that with primes A_ij of
step j in measurement i and seconds t_i the costs x minimise the relative errors

    || D (A x - t) ||_2,   x >= 0,   D = diag(1 / t).

Lawson and Hanson, Solving Least Squares Problems (1974), algorithm 23.10.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fhecompile.ckks.cost_steps import ring_unit, step_primes
from fhecompile.ckks.cost_table import MILLISECONDS, CostTable
from fhecompile.ckks.parameters import Parameters
from fhecompile.errors import InternalError

TOLERANCE = 1e-10
Vector = NDArray[np.float64]


@dataclass(frozen=True)
class Measurement:
    """Seconds of one operation of one term at a level, on one thread while all cores work."""

    op: str
    level: int
    parameters: Parameters
    seconds: float


def fit_table(measurements: Sequence[Measurement]) -> CostTable:
    """The costs that explain the measurements best; every step must occur in one of them."""
    matrix = _relative_matrix(measurements)
    missing = [step for k, step in enumerate(MILLISECONDS) if not matrix[:, k].any()]
    if missing:
        raise InternalError(f"no measurement holds the steps {', '.join(missing)}")
    found = non_negative_least_squares(matrix, np.ones(len(matrix)))
    return CostTable(dict(zip(MILLISECONDS, found.tolist(), strict=True)), measured=True)


def deviations(measurements: Sequence[Measurement], table: CostTable) -> Vector:
    """|predicted / measured - 1| of every measurement."""
    costs = np.array([table.milliseconds[step] for step in MILLISECONDS])
    difference: Vector = _relative_matrix(measurements) @ costs - 1
    return np.abs(difference)


def non_negative_least_squares(matrix: Vector, right: Vector) -> Vector:
    """The x >= 0 with the least || matrix x - right ||; matrix (m, n) of full column rank."""
    count = matrix.shape[1]
    x = np.zeros(count)
    free = np.zeros(count, bool)
    for _ in range(3 * count):
        gradient = matrix.T @ (right - matrix @ x)
        bound = ~free & (gradient > TOLERANCE)
        if not bound.any():
            return x
        free[np.argmax(np.where(bound, gradient, -np.inf))] = True
        while True:
            trial = np.zeros(count)
            trial[free] = np.linalg.lstsq(matrix[:, free], right, rcond=None)[0]
            below = free & (trial <= 0)
            if not below.any():
                break
            step = float(np.min(x[below] / (x[below] - trial[below])))
            x += step * (trial - x)
            free &= x > TOLERANCE
            x[~free] = 0.0
        x = trial
    raise InternalError("the least squares problem was not solved")


def _relative_matrix(measurements: Sequence[Measurement]) -> Vector:
    """D A, a column for each step of `MILLISECONDS`."""
    matrix = np.zeros((len(measurements), len(MILLISECONDS)))
    columns = {step: k for k, step in enumerate(MILLISECONDS)}
    for row, m in zip(matrix, measurements, strict=True):
        for step, primes in step_primes(m.op, m.level, m.parameters).items():
            row[columns[step]] = primes * ring_unit(m.parameters) / 1000.0 / m.seconds
    return matrix
