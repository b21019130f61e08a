"""The operation table: the type of every operation's result, and every refusal's text."""

from __future__ import annotations

import math
from typing import Any

import pytest

from fhecompile.ckks.operations import (
    OPERATIONS,
    SCALE_TOLERANCE_BITS,
    Kind,
    OperationError,
    ValueType,
    automorphisms,
    result_type,
)

PRIME_BITS = 59


def value(level: int = 2, scale: float = 40.0, kind: Kind = "ciphertext") -> ValueType:
    return ValueType(kind, level, scale)


X = value()
DIGITS, EXTENDED = value(kind="digits"), value(kind="extended")
DOT = {"maps": [0, 1], "diagonals": [5, 6], "scales": [20, 22.0], "rotation": 8}

TYPES: list[tuple[str, list[ValueType], dict[str, Any], ValueType]] = [
    ("input", [], {"tensor": 0, "part": 0, "level": 3, "scale": 41.5}, value(3, 41.5)),
    ("output", [X], {"tensor": 0, "part": 0}, X),
    ("rotate", [X], {"offset": -3}, X),
    ("conjugate", [X], {}, X),
    ("hoist", [X], {}, DIGITS),
    ("rotate_hoisted", [X, DIGITS], {"offset": 3}, X),
    ("rotate_sum", [X, X], {"offsets": [1, 0]}, X),
    ("rotate_extended", [X], {"offset": 3}, EXTENDED),
    ("rotate_hoisted_extended", [X, DIGITS], {"offset": 3}, EXTENDED),
    ("add_extended", [EXTENDED, EXTENDED], {}, EXTENDED),
    ("key_switch_down", [EXTENDED], {}, X),
    ("dot_plain", [X, value(2, 38.0)], DOT, value(2, 60.0)),
    ("mul_plain", [X], {"vector": 0, "part": 1, "scale": 10}, value(2, 50.0)),
    ("add_plain", [X], {"vector": 0, "part": 1}, X),
    ("add", [X, value(2, 40.0 + SCALE_TOLERANCE_BITS / 2)], {}, X),
    ("sub", [X, X], {}, X),
    ("negate", [X], {}, X),
    ("mul", [X, value(2, 30.0)], {}, value(2, 70.0)),
    ("square", [X], {}, value(2, 80.0)),
    ("mul_i", [X], {}, X),
    ("keep_even", [X], {"order": 2}, value(2, 40.0 + math.log2(7 + 5 * math.sqrt(2)))),
    ("rescale", [value(2, 99.5)], {}, value(3, 40.5)),
    ("drop_level", [X], {"levels": 3}, value(5)),
    ("relabel", [X], {"factor": 0.25}, value(2, 42.0)),
    ("scale_up", [X], {"bits": 24}, value(2, 64.0)),
    ("refresh", [X], {"series": 0, "slots": 8, "level": 1, "scale": 45.5}, value(1, 45.5)),
]


@pytest.mark.parametrize(("op", "operands", "attributes", "expected"), TYPES)
def test_type(
    op: str, operands: list[ValueType], attributes: dict[str, Any], expected: ValueType
) -> None:
    assert result_type(op, operands, attributes, PRIME_BITS) == expected


def test_every_operation_is_tested() -> None:
    assert [op for op, _, _, _ in TYPES] == list(OPERATIONS)


LOWER, FINER = value(3), value(2, 41.0)
HUGE = 10**400

ERRORS: list[tuple[str, list[ValueType], dict[str, Any], str]] = [
    ("bootstrap", [X], {}, "is not an operation of this version"),
    ("rotate_sum", [], {"offsets": []}, "has no operand"),
    ("add", [X], {}, "has 1 operands instead of 2"),
    ("input", [X], {}, "has 1 operands instead of 0"),
    ("add", [X, DIGITS], {}, "operand 1 is digits, not ciphertext"),
    ("square", [EXTENDED], {}, "operand 0 is extended, not ciphertext"),
    ("key_switch_down", [X], {}, "operand 0 is ciphertext, not extended"),
    ("rotate_hoisted", [X, X], {"offset": 1}, "operand 1 is ciphertext, not digits"),
    ("output", [DIGITS], {"tensor": 0, "part": 0}, "operand 0 is digits, not ciphertext"),
    ("dot_plain", [X, EXTENDED], DOT, "operand 1 is extended, not ciphertext"),
    ("rotate", [X], {}, "has the attributes []"),
    ("rotate", [X], {"offset": 1, "more": 2}, "has the attributes ['more', 'offset']"),
    ("rotate", [X], {"offset": 1.0}, "attribute offset is not of type int"),
    ("rotate", [X], {"offset": True}, "attribute offset is not of type int"),
    ("rotate", [X], {"offset": None}, "attribute offset is not of type int"),
    ("rotate", [X], {"offset": 2**63}, "attribute offset is not of type int"),
    ("rotate", [X], {"offset": -HUGE}, "attribute offset is not of type int"),
    ("relabel", [X], {"factor": "2"}, "attribute factor is not of type float"),
    ("relabel", [X], {"factor": float("nan")}, "attribute factor is not of type float"),
    ("relabel", [X], {"factor": float("inf")}, "attribute factor is not of type float"),
    ("relabel", [X], {"factor": HUGE}, "attribute factor is not of type float"),
    ("rotate_sum", [X], {"offsets": 1}, "attribute offsets is not of type list[int]"),
    ("rotate_sum", [X], {"offsets": [True]}, "attribute offsets is not of type list[int]"),
    ("rotate_sum", [X], {"offsets": [[1]]}, "attribute offsets is not of type list[int]"),
    (
        "dot_plain",
        [X],
        {**DOT, "scales": [float("inf")]},
        "attribute scales is not of type list[float]",
    ),
    ("add", [X, LOWER], {}, "operands at levels 2 and 3"),
    ("sub", [X, FINER], {}, "operands at scales 2^40 and 2^41"),
    (
        "add_extended",
        [EXTENDED, value(2, 41.0, "extended")],
        {},
        "operands at scales 2^40 and 2^41",
    ),
    ("mul", [LOWER, X], {}, "operands at levels 3 and 2"),
    (
        "rotate_hoisted",
        [X, value(1, 40.0, "digits")],
        {"offset": 1},
        "operands at levels 2 and 1",
    ),
    ("rotate_sum", [X, FINER], {"offsets": [1, 2]}, "operands at scales 2^40 and 2^41"),
    ("rotate_sum", [X, X], {"offsets": [1]}, "needs one offset per operand"),
    ("dot_plain", [X], DOT, "needs one map and one diagonal per operand"),
    (
        "dot_plain",
        [X, X],
        {**DOT, "diagonals": [0]},
        "needs one map and one diagonal per operand",
    ),
    ("dot_plain", [X, X], {**DOT, "scales": [20.0]}, "needs one constant scale per operand"),
    ("dot_plain", [X, X], DOT, "operands at scales 2^60 and 2^62"),
    ("dot_plain", [X, value(1, 38.0)], DOT, "operands at levels 2 and 1"),
    ("drop_level", [X], {"levels": 0}, "drops fewer than one level"),
    ("drop_level", [X], {"levels": -1}, "drops fewer than one level"),
    ("relabel", [X], {"factor": 0.0}, "needs a positive factor"),
    ("relabel", [X], {"factor": -2.0}, "needs a positive factor"),
    ("scale_up", [X], {"bits": 0}, "multiplies by an integer outside 2^1 .. 2^60"),
    ("scale_up", [X], {"bits": 61}, "multiplies by an integer outside 2^1 .. 2^60"),
]


@pytest.mark.parametrize(
    ("op", "operands", "attributes", "text"),
    ERRORS,
    ids=[f"{op}: {text}" for op, _, _, text in ERRORS],
)
def test_error(op: str, operands: list[ValueType], attributes: dict[str, Any], text: str) -> None:
    with pytest.raises(OperationError) as raised:
        result_type(op, operands, attributes, PRIME_BITS)
    assert str(raised.value) == text


def test_automorphisms() -> None:
    assert automorphisms("rotate", {"offset": -3}) == [-3]
    assert automorphisms("rotate_hoisted", {"offset": 0}) == [0]
    assert automorphisms("rotate_hoisted_extended", {"offset": -1}) == [-1]
    assert automorphisms("rotate_extended", {"offset": 5}) == [5]
    assert automorphisms("rotate_sum", {"offsets": [1, 0, -2]}) == [1, -2]
    assert automorphisms("conjugate", {}) == []


def test_operations_that_switch_keys() -> None:
    switching = {op for op, operation in OPERATIONS.items() if operation.key_switches}
    assert switching == {
        *("rotate", "conjugate", "rotate_hoisted", "rotate_extended", "rotate_hoisted_extended"),
        *("mul", "square"),
    }
