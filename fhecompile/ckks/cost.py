r"""Predicts how long operations take, from the time of the steps they are made of.

Every step works prime by prime on polynomials of N words, so that

    seconds(operation) = sum over its steps  milliseconds[step] / 1000 * primes(step) * unit(N)
    unit(N)            = N log2 N / (2^16 * 16)

With p primes of Q left in the operand, k special primes and d = ceil(p / ceil((L + 1) / digits))
digits in use, a step works on this many primes:

    raise      p + d (p + k)   the digits of a ciphertext, each raised to the basis QP
    key        2 d (p + k)     products with both halves of an evaluation key
    lower      2 (p + k)       division by P
    add_qp     p + k           sum in the basis QP
    others     p

A plan's time is the sum over its operations divided by the threads: operations of one layer are
independent, and there are many more of them than threads.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from fhecompile.ckks.cost_table import BUILT_IN, CostTable
from fhecompile.ckks.operations import ValueType, automorphisms
from fhecompile.ckks.parameters import Parameters

_KEY_SWITCH = ("raise", "key", "lower")
STEPS: dict[str, tuple[str, ...]] = {
    "input": (),
    "output": (),
    "rotate": _KEY_SWITCH,
    "conjugate": _KEY_SWITCH,
    "hoist": ("raise",),
    "rotate_hoisted": ("key", "lower"),
    "rotate_sum": (*_KEY_SWITCH, "add"),  # per rotated term
    "rotate_extended": ("raise", "key"),
    "rotate_hoisted_extended": ("key",),
    "add_extended": ("add_qp",),
    "key_switch_down": ("lower",),
    "dot_plain": ("encode", "multiply", "add"),  # per term
    "mul_plain": ("encode", "multiply"),
    "add_plain": ("encode", "add"),
    "add": ("add",),
    "sub": ("add",),
    "negate": ("add",),
    "mul": ("tensor", *_KEY_SWITCH),
    "square": ("tensor", *_KEY_SWITCH),
    "mul_i": ("multiply",),
    "keep_even": ("multiply",),
    "rescale": ("rescale",),
    "drop_level": ("copy",),
    "relabel": (),
    "scale_up": ("multiply",),
}


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
    left = parameters.levels + 1 - operands[0].level
    terms = _terms(op, operands, attributes)
    milliseconds = sum(
        (terms if encoded is None or s != "encode" else encoded)
        * table.milliseconds[s]
        * _primes(s, left, parameters)
        for s in STEPS[op]
    )
    return milliseconds * ring_unit(parameters) / 1000.0


def step_primes(op: str, level: int, parameters: Parameters) -> dict[str, int]:
    """How many primes each step of an operation of one term works on, by step."""
    left = parameters.levels + 1 - level
    primes: dict[str, int] = {}
    for step in STEPS[op]:
        primes[step] = primes.get(step, 0) + _primes(step, left, parameters)
    return primes


def ring_unit(parameters: Parameters) -> float:
    """unit(N) of the module docstring."""
    n = parameters.ring_dimension
    return n * math.log2(n) / (2**16 * 16)


def _primes(step: str, left: int, parameters: Parameters) -> int:
    extended = left + parameters.special_primes
    digits = math.ceil(left / math.ceil((parameters.levels + 1) / parameters.digits))
    table = {
        "raise": left + digits * extended,
        "key": 2 * digits * extended,
        "lower": 2 * extended,
        "add_qp": extended,
    }
    return table.get(step, left)


def _terms(op: str, operands: Sequence[ValueType], attributes: Mapping[str, Any]) -> int:
    if op == "dot_plain":
        return len(operands)
    if op == "rotate_sum":
        return len(automorphisms(op, attributes))
    return 1
