r"""Predicts how long operations take, from the time of the steps they are made of.

Every step works prime by prime on polynomials of N words, so that

    seconds(operation) = sum over its steps  milliseconds[step] / 1000 * primes(step) * unit(N)
    unit(N)            = N log2 N / (2^16 * 16)

with the primes of `fhecompile.ckks.cost_steps`; of a refresh see `fhecompile.ckks.refresh_cost`.

A plan's time is the sum over its operations divided by the threads: operations of one layer are
independent, and there are many more of them than threads.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fhecompile.ckks.cost_steps import STEPS, primes_of, ring_unit
from fhecompile.ckks.cost_table import BUILT_IN, CostTable
from fhecompile.ckks.operations import ValueType, automorphisms
from fhecompile.ckks.parameters import Parameters
from fhecompile.ckks.refresh_cost import refresh_seconds


def operation_seconds(
    op: str,
    operands: Sequence[ValueType],
    attributes: Mapping[str, Any],
    parameters: Parameters,
    table: CostTable = BUILT_IN,
    encoded: int | None = None,
) -> float:
    """Predicted seconds of one operation on one thread.

    Args:
        op: name in `fhecompile.ckks.operations.OPERATIONS`.
        operands: types of its operands; their level says how many primes it works on.
        attributes: its attributes.
        parameters: ring dimension, levels and digits.
        table: costs of the steps.
        encoded: how many of its constants are encoded for it; None: all of them.
    """
    if not operands:
        return 0.0
    if op == "refresh" and parameters.bootstrap is not None:
        terms = parameters.bootstrap.terms
        return refresh_seconds(parameters, attributes["slots"], terms, table)
    left = parameters.levels + 1 - operands[0].level
    terms = _terms(op, operands, attributes)
    milliseconds = sum(
        (terms if encoded is None or s != "encode" else encoded)
        * table.milliseconds[s]
        * primes_of(s, left, parameters)
        for s in STEPS[op]
    )
    return milliseconds * ring_unit(parameters) / 1000.0


def _terms(op: str, operands: Sequence[ValueType], attributes: Mapping[str, Any]) -> int:
    if op == "dot_plain":
        return len(operands)
    if op == "rotate_sum":
        return len(automorphisms(op, attributes))
    return 1
