r"""The operation table: what a ciphertext program may contain, and the types of its values.

A value has a kind, a level and a scale. Level counts the primes dropped so far; a value v at scale
s is stored as round(v 2^s). Kinds: `ciphertext`; `digits`, the digit decomposition of a ciphertext
that several rotations share (hoisting); `extended`, a ciphertext still in the extended basis QP of
a key switch, where rotated terms are summed before the one division by P (`key_switch_down`).

`refresh` takes m = v 2^(s - q), q the bits of a prime, in slots of period `slots`, and gives series
number `series` of m, times 2^q, whatever that means at the declared scale
(`fhecompile.ckks.bootstrap`).

One table serves the compiler's verifier, the validation of untrusted plans and all backends, so
that none of them can disagree about what an operation means.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import GenericAlias
from typing import Any, Literal

from fhecompile.ckks.slot_mask import MAX_ORDER, mask_factor

Kind = Literal["ciphertext", "digits", "extended"]
SCALE_TOLERANCE_BITS = 1e-6  # relative error 7e-7 of a sum whose operands differ that much


@dataclass(frozen=True)
class ValueType:
    """Type of a value of the slot graph."""

    kind: Kind
    level: int
    scale: float


class OperationError(ValueError):
    """An operation does not fit its operands; the text says which rule is broken."""


Attributes = Mapping[str, Any]
Rule = Callable[[Sequence[ValueType], Attributes, int], ValueType]


@dataclass(frozen=True)
class Operation:
    """One row of the table.

    Args:
        arity: number of operands, None for one or more.
        attributes: name -> type of each attribute, a number or a list; all are required.
        rule: result type from (operand types, attributes, bits of a rescaling prime).
        key_switches: evaluation-key products the operation performs.
        kinds: kind of every operand.
    """

    arity: int | None
    attributes: Mapping[str, type | GenericAlias]
    rule: Rule
    key_switches: int = 0
    kinds: tuple[Kind, ...] = ("ciphertext",)


def _declared(_: Sequence[ValueType], attributes: Attributes, __: int) -> ValueType:
    return ValueType("ciphertext", attributes["level"], attributes["scale"])


def _same(operands: Sequence[ValueType], _: Attributes, __: int) -> ValueType:
    return ValueType("ciphertext", operands[0].level, operands[0].scale)


def _kind(kind: Kind) -> Rule:
    return lambda operands, _, __: ValueType(kind, operands[0].level, operands[0].scale)


def _alike(operands: Sequence[ValueType], _: Attributes, __: int) -> ValueType:
    first = operands[0]
    for other in operands[1:]:
        if other.level != first.level:
            raise OperationError(f"operands at levels {first.level} and {other.level}")
        if abs(other.scale - first.scale) > SCALE_TOLERANCE_BITS:
            raise OperationError(f"operands at scales 2^{first.scale:g} and 2^{other.scale:g}")
    return first


def _product(operands: Sequence[ValueType], attributes: Attributes, __: int) -> ValueType:
    a, b = operands[0], operands[-1]
    if a.level != b.level:
        raise OperationError(f"operands at levels {a.level} and {b.level}")
    return ValueType("ciphertext", a.level, a.scale + b.scale)


def _dot(operands: Sequence[ValueType], attributes: Attributes, __: int) -> ValueType:
    n = len(operands)
    if len(attributes["maps"]) != n or len(attributes["diagonals"]) != n:
        raise OperationError("needs one map and one diagonal per operand")
    if len(attributes["scales"]) != n:
        raise OperationError("needs one constant scale per operand")
    scaled = [
        ValueType("ciphertext", x.level, x.scale + a)
        for x, a in zip(operands, attributes["scales"], strict=True)
    ]
    return _alike(scaled, attributes, 0)


def _mul_plain(operands: Sequence[ValueType], attributes: Attributes, __: int) -> ValueType:
    x = operands[0]
    return ValueType("ciphertext", x.level, x.scale + attributes["scale"])


def _rescale(operands: Sequence[ValueType], _: Attributes, prime_bits: int) -> ValueType:
    x = operands[0]
    return ValueType("ciphertext", x.level + 1, x.scale - prime_bits)


def _drop(operands: Sequence[ValueType], attributes: Attributes, __: int) -> ValueType:
    x = operands[0]
    if attributes["levels"] < 1:
        raise OperationError("drops fewer than one level")
    return ValueType("ciphertext", x.level + attributes["levels"], x.scale)


def _relabel(operands: Sequence[ValueType], attributes: Attributes, __: int) -> ValueType:
    x, factor = operands[0], attributes["factor"]
    if not (factor > 0 and math.isfinite(factor)):
        raise OperationError("needs a positive factor")
    return ValueType("ciphertext", x.level, x.scale - math.log2(factor))


def _scale_up(operands: Sequence[ValueType], attributes: Attributes, __: int) -> ValueType:
    x, bits = operands[0], attributes["bits"]
    if not 1 <= bits <= 60:
        raise OperationError("multiplies by an integer outside 2^1 .. 2^60")
    return ValueType("ciphertext", x.level, x.scale + bits)


def _keep_even(operands: Sequence[ValueType], attributes: Attributes, __: int) -> ValueType:
    x, order = operands[0], attributes["order"]
    if not 1 <= order <= MAX_ORDER:
        raise OperationError(f"clears slots with a convergent outside 1 .. {MAX_ORDER}")
    return ValueType("ciphertext", x.level, x.scale + math.log2(mask_factor(order)))


def _rotate_hoisted(operands: Sequence[ValueType], _: Attributes, __: int) -> ValueType:
    x, digits = operands
    if x.level != digits.level:
        raise OperationError(f"operands at levels {x.level} and {digits.level}")
    return x


def _rotate_sum(operands: Sequence[ValueType], attributes: Attributes, __: int) -> ValueType:
    if len(attributes["offsets"]) != len(operands):
        raise OperationError("needs one offset per operand")
    return _alike(operands, attributes, 0)


def _rotate_hoisted_extended(
    operands: Sequence[ValueType], attributes: Attributes, prime_bits: int
) -> ValueType:
    x = _rotate_hoisted(operands, attributes, prime_bits)
    return ValueType("extended", x.level, x.scale)


def _refresh(operands: Sequence[ValueType], attributes: Attributes, __: int) -> ValueType:
    if attributes["level"] < 0 or attributes["slots"] < 1:
        raise OperationError("refreshes no slots, or to no level")
    return ValueType("ciphertext", attributes["level"], attributes["scale"])


OPERATIONS: dict[str, Operation] = {
    "input": Operation(0, {"tensor": int, "part": int, "level": int, "scale": float}, _declared),
    "output": Operation(1, {"tensor": int, "part": int}, _same),
    "rotate": Operation(1, {"offset": int}, _same, 1),
    "conjugate": Operation(1, {}, _same, 1),
    "hoist": Operation(1, {}, _kind("digits")),
    "rotate_hoisted": Operation(
        2, {"offset": int}, _rotate_hoisted, 1, kinds=("ciphertext", "digits")
    ),
    "rotate_sum": Operation(None, {"offsets": list[int]}, _rotate_sum),
    "rotate_extended": Operation(1, {"offset": int}, _kind("extended"), 1),
    "rotate_hoisted_extended": Operation(
        2, {"offset": int}, _rotate_hoisted_extended, 1, kinds=("ciphertext", "digits")
    ),
    "add_extended": Operation(2, {}, _alike, kinds=("extended", "extended")),
    "key_switch_down": Operation(1, {}, _same, kinds=("extended",)),
    "dot_plain": Operation(
        None,
        {"maps": list[int], "diagonals": list[int], "scales": list[float], "rotation": int},
        _dot,
    ),
    "mul_plain": Operation(1, {"vector": int, "part": int, "scale": float}, _mul_plain),
    "add_plain": Operation(1, {"vector": int, "part": int}, _same),
    "add": Operation(2, {}, _alike),
    "sub": Operation(2, {}, _alike),
    "negate": Operation(1, {}, _same),
    "mul": Operation(2, {}, _product, 1),
    "square": Operation(1, {}, _product, 1),
    "mul_i": Operation(1, {}, _same),
    "keep_even": Operation(1, {"order": int}, _keep_even),
    "rescale": Operation(1, {}, _rescale),
    "drop_level": Operation(1, {"levels": int}, _drop),
    "relabel": Operation(1, {"factor": float}, _relabel),
    "scale_up": Operation(1, {"bits": int}, _scale_up),
    "refresh": Operation(1, {"series": int, "slots": int, "level": int, "scale": float}, _refresh),
}


def result_type(
    op: str, operands: Sequence[ValueType], attributes: Attributes, prime_bits: int
) -> ValueType:
    """The type of an operation's result; raises OperationError when it does not fit."""
    operation = OPERATIONS.get(op)
    if operation is None:
        raise OperationError("is not an operation of this version")
    if operation.arity is None:
        if not operands:
            raise OperationError("has no operand")
    elif len(operands) != operation.arity:
        raise OperationError(f"has {len(operands)} operands instead of {operation.arity}")
    for position, operand in enumerate(operands):
        wanted = operation.kinds[min(position, len(operation.kinds) - 1)]
        if operand.kind != wanted:
            raise OperationError(f"operand {position} is {operand.kind}, not {wanted}")
    if set(attributes) != set(operation.attributes):
        raise OperationError(f"has the attributes {sorted(attributes)}")
    for name, kind in operation.attributes.items():
        if not _is_of(attributes[name], kind):
            text = str(kind) if isinstance(kind, GenericAlias) else kind.__name__
            raise OperationError(f"attribute {name} is not of type {text}")
    result = operation.rule(operands, attributes, prime_bits)
    if op == "add_extended":
        return ValueType("extended", result.level, result.scale)
    return result


def _is_of(value: object, kind: type | GenericAlias) -> bool:
    """Whether an attribute's value is of its type; numbers are finite and fit 64 bits."""
    if isinstance(kind, GenericAlias):
        (item,) = kind.__args__
        return isinstance(value, list) and all(_is_of(x, item) for x in value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return (isinstance(value, int) or kind is float) and abs(value) < 2**63


def automorphisms(op: str, attributes: Attributes) -> list[int]:
    """Rotation offsets the operation needs keys for, as given (zero and signs included)."""
    if op in ("rotate", "rotate_hoisted", "rotate_extended", "rotate_hoisted_extended"):
        return [attributes["offset"]]
    if op == "rotate_sum":
        return [offset for offset in attributes["offsets"] if offset]
    return []
