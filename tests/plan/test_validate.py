"""Plans that are whole but wrong: each is refused by Plan.load, quickly and with its reason.

Every case changes the written-out program of conftest.py and wraps it with a correct checksum.
Long because it is one list of mutations, in the order of the schema.
"""

from __future__ import annotations

import json
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from numpy.typing import NDArray

from fhecompile.errors import FheCompileError
from fhecompile.plan import Plan
from fhecompile.plan.container import encode_container
from fhecompile.plan.schema import FORMAT_VERSION

Fields = dict[str, Any]
Arrays = dict[str, NDArray[Any]]
Written = tuple[Fields, Arrays]
Refusal = Callable[[Fields | bytes, Arrays], str]
Change = Callable[[Fields, Arrays], object]


def at(path: str, value: Any) -> Change:
    """The change that puts a value at a place such as "layouts.0.digits.0.3"."""

    def change(fields: Fields, _: Arrays) -> None:
        place: Any = fields
        *folders, last = (int(key) if key.isdigit() else key for key in path.split("."))
        for key in folders:
            place = place[key]
        place[last] = value

    return change


def attribute(number: int, name: str, value: Any) -> Change:
    """The change of one attribute of an operation."""
    return at(f"operations.{number}.2.{name}", value)


def array(name: str, value: Any) -> Change:
    """The change of an array; None removes it."""

    def change(_: Fields, arrays: Arrays) -> None:
        arrays.pop(name, None)
        if value is not None:
            arrays[name] = np.array(value)

    return change


def operation(number: int, *row: Any) -> Change:
    """The change of a whole operation."""
    return at(f"operations.{number}", list(row))


def without(path: str, key: str) -> Change:
    """The change that leaves a field out."""

    def change(fields: Fields, _: Arrays) -> None:
        place: Any = fields
        for step in filter(None, path.split(".")):
            place = place[int(step) if step.isdigit() else step]
        del place[key]

    return change


def all_of(*changes: Change) -> Change:
    return lambda fields, arrays: [change(fields, arrays) for change in changes]


ROWS = np.arange(4, dtype=np.int32)[:, None]
COMPLEX_TARGET = at("maps.0.target", 2)
NO_TERMS = at("maps.0.terms", [])
TO_ONE_ELEMENT = all_of(at("maps.0.target", 3), NO_TERMS)

STRUCTURE: list[tuple[Change, str]] = [
    (at("format_version", 1), "it says it is of format version 1"),
    (without("", "keys"), "Object missing required field `keys`"),
    (at("surprise", 1), "Object contains unknown field `surprise`"),
    (at("calibration", "guessed"), "Invalid enum value 'guessed' - at `$.calibration`"),
    (at("parameters.levels", 1.5), "Expected `int`, got `float` - at `$.parameters.levels`"),
    (
        at("layouts.0.digits.0.3", "sky"),
        "Invalid enum value 'sky' - at `$.layouts[0].digits[0][3]`",
    ),
    (at("inputs.0.low", None), "Expected `float`, got `null` - at `$.inputs[0].low`"),
    (at("layers.0.noise", -1.0), "layer x has an error out of range"),
    (at("layers.0.fitted", -1.0), "layer x has an error out of range"),
    (at("layers.0.layout", 4), "the layout of layer x is number 4 of 4"),
    (at("layers.0.layout", -1), "the layout of layer x is number -1 of 4"),
    (at("layers.0.layout", 1), "layer x has 1 ciphertexts of 2"),
    (at("layers.0.values", [0, 2]), "layer x has 2 ciphertexts of 1"),
    (at("layers.0.values", [1]), "layer x has operation 1 as a value"),
    (at("layers.0.values", [17]), "layer x has operation 17 as a value"),
    (at("layers.0.values", [-1]), "layer x has operation -1 as a value"),
    (at("prediction.error", -1.0), "its predictions are negative"),
    (at("prediction.fitted_error", -1.0), "its predictions are negative"),
    (at("prediction.allowed_error", -1.0), "its predictions are negative"),
    (at("prediction.peak_bytes", -1), "its predictions are negative"),
    (at("keys.rotations", [1, 2, 0]), "it lists a key for the rotation 0"),
    (at("keys.rotations", [1, 2, 32]), "it lists a key for the rotation 32"),
    (at("keys.rotations", [-1, 2]), "it lists a key for the rotation -1"),
]

PARAMETERS: list[tuple[Change, str]] = [
    (at("parameters.insecure", False), "its parameters are not secure but are declared to be"),
    (at("parameters.ring_dimension", 63), "ring dimension 63"),
    (at("parameters.ring_dimension", 1 << 40), f"ring dimension {1 << 40}"),
    (at("parameters.ring_dimension", -64), "ring dimension -64"),
    (at("parameters.levels", -1), "-1 levels and 1 digits"),
    (at("parameters.levels", 10**9), "1000000000 levels and 1 digits"),
    (at("parameters.digits", 0), "1 levels and 0 digits"),
    (at("parameters.digits", 3), "1 levels and 3 digits"),
    (at("parameters.prime_bits", 61), "primes of 61 and 60 bits"),
    (at("parameters.first_prime_bits", 0), "primes of 59 and 0 bits"),
    (at("parameters.security_bits", 80), "security of 80 bits"),
]

TENSORS: list[tuple[Change, str]] = [
    (at("inputs.0.views.0.0", 4), "the layout of input x is number 4 of 4"),
    (at("inputs.0.views.0.1", "rows"), "input x has a view of elements it does not have"),
    (
        all_of(array("chosen", np.int32([0, 4, 1, 1])), at("inputs.0.views.0.1", "chosen")),
        "input x has a view of elements it does not have",
    ),
    (
        all_of(array("chosen", np.int32([0, -1, 1, 1])), at("inputs.0.views.0.1", "chosen")),
        "input x has a view of elements it does not have",
    ),
    (
        all_of(array("chosen", np.int32([0, 1, 1])), at("inputs.0.views.0.1", "chosen")),
        "input x does not have the shape of its layout",
    ),
    (at("batch", 0), "its batch is of 0 samples"),
    (at("batch", 2), "output y does not have the shape of its layout"),
    (at("outputs.0.layout", -1), "the layout of output y is number -1 of 4"),
    (at("inputs.0.shape", [1, 5]), "input x does not have the shape of its layout"),
    (at("inputs.0.shape", [-1, -4]), "input x has the shape -1x-4"),
    (at("inputs.0.shape", [0]), "input x has the shape 0"),
    (at("inputs.0.shape", [1] * 17), f"input x has the shape {'x'.join('1' * 16)}"),
    (at("inputs.0.low", 2.0), "input x has the range 2 to 1"),
    (
        lambda fields, _: fields["inputs"].append(fields["inputs"][0]),
        "there are two inputs x",
    ),
]

LAYOUTS: list[tuple[Change, str]] = [
    (at("layouts.1.shape", [1, 1 << 25]), "layout 1 has the shape 1x..."),
    (at("layouts.1.shape", [1 << 13, 1 << 13]), "layout 1 has the shape 8192x8192"),
    (at("layouts.1.shape", [10**18] * 3), "layout 1 has the shape ...x...x..."),
    (at("layouts.1.shape", [1, 0]), "layout 1 has the shape 1x0"),
    (at("layouts.1.shape", [1, -40]), "layout 1 has the shape 1x-40"),
    (
        lambda fields, _: fields["layouts"].extend(
            [{"shape": [1 << 24], "period": 1, "digits": [], "spill": 0}] * 5
        ),
        "its layouts have too many elements",
    ),
    (at("layouts.0.period", 3), "layout 0 has the period 3"),
    (at("layouts.0.period", 0), "layout 0 has the period 0"),
    (at("layouts.0.period", 64), "layout 0 has the period 64"),
    (
        at("layouts.0.period", 2),
        "layout layout<1x4 in 32 period 2: 1/1%4@slot*1> does not fit its period 2",
    ),
    (without("layouts.0", "spill"), "Object missing required field `spill` - at `$.layouts[0]`"),
    (at("layouts.0.spill", -1), "layout 0 has the spill -1"),
    (at("layouts.0.spill", 3), "layout 0 has the spill 3"),
    (at("layouts.0.spill", 4), "layout 0 has the spill 4"),
    (
        at("layouts.0.spill", 2),
        "layout layout<1x4 in 32 period 4 spill 2: 1/1%4@slot*1> has elements in the positions of "
        "its spill",
    ),
    (at("layouts.0.digits.0.0", 2), "layout 0 has a digit of axis 2"),
    (at("layouts.0.digits.0.0", -1), "layout 0 has a digit of axis -1"),
    (at("layouts.0.digits.0.1", 0), "layout 0 has a digit with a number out of range"),
    (at("layouts.0.digits.0.2", -4), "layout 0 has a digit with a number out of range"),
    (at("layouts.0.digits.0.4", 1 << 40), "layout 0 has a digit with a number out of range"),
    (at("layouts.0.digits.0.4", 16), "layout 0 has a digit that reaches past its place"),
    (at("layouts.1.digits.1.4", 1024), "layout 1 has a digit that reaches past its place"),
    (at("layouts.2.digits.1.4", 2), "layout 2 has a digit that reaches past its place"),
    (at("layouts.0.digits", [[1, 1, 4, "slot", 1]] * 65), "layout 0 has 65 digits"),
    (
        at("layouts.0.digits.0.2", 2),
        "layout layout<1x4 in 32 period 4: 1/1%2@slot*1> puts two elements into one position",
    ),
    (
        all_of(
            at("layouts.1.digits.1.4", 1000),
            lambda fields, _: fields["layouts"][1]["digits"].append([1, 32, 2, "ciphertext", 1000]),
        ),
        "layout 1 has digits that together reach past their place",
    ),
    (
        all_of(
            at("layouts.2.period", 4),
            at("layouts.2.digits", [[1, 1, 2, "slot", 2], *[[1, 2, 2, "complex", 1]] * 2]),
        ),
        "layout 2 has digits that together reach past their place",
    ),
]

ARRAYS: list[tuple[Change, str]] = [
    (array("weights", None), "the array weights is missing"),
    (array("weights", ROWS), "the array weights has the type int32"),
    (array("rows", np.arange(4.0)[:, None]), "the array rows has the type float64"),
    (array("columns", np.arange(4)[None, :]), "the array columns has the type int64"),
    (array("weights", np.full((4, 4), np.nan)), "map 0 has weights that are not finite"),
    (array("weights", np.full((4, 4), np.inf)), "map 0 has weights that are not finite"),
    (array("weights", np.ones(4)), "map 0 has a term whose arrays differ in rank"),
    (array("weights", np.ones((3, 4))), "map 0 has a term whose arrays do not broadcast"),
    (array("rows", ROWS + 1), "map 0 has an index outside its tensor"),
    (array("rows", ROWS - 2), "map 0 has an index outside its tensor"),
    (array("columns", ROWS.T * 1000), "map 0 has an index outside its tensor"),
    (
        all_of(array("rows", ROWS[:0]), array("weights", np.ones((0, 4)))),
        "map 0 has a term of 0 points",
    ),
    (
        all_of(
            array("weights", np.ones((1, 1, 2048))),
            array("rows", np.zeros((1, 2048, 1), np.int32)),
            array("columns", np.zeros((2048, 1, 1), np.int32)),
        ),
        f"map 0 has a term of {1 << 33} points",
    ),
    (array("diagonals", None), "the array diagonals is missing"),
    (array("diagonals", np.zeros((4, 2), np.int32)), "map 0 has a malformed list of diagonals"),
    (array("diagonals", np.zeros(12, np.int32)), "map 0 has a malformed list of diagonals"),
    (array("diagonals", np.zeros((4, 3), np.int32)), "map 0 has one diagonal twice"),
    (array("diagonals", np.array([[1, 0, 0]], np.int32)), "map 0 has a diagonal out of range"),
    (array("diagonals", np.array([[0, -1, 0]], np.int32)), "map 0 has a diagonal out of range"),
    (array("diagonals", np.array([[0, 0, 4]], np.int32)), "map 0 has a diagonal out of range"),
    (
        array("diagonals", np.array([[0, 0, y] for y in range(3)], np.int32)),
        "the diagonal of operation 4 (dot_plain) is number 3 of 3",
    ),
    (array("bias", None), "the array bias is missing"),
    (array("bias", np.ones((2, 4))), "vector 0 does not fit its layout"),
    (array("bias", np.ones((1, 3))), "vector 0 does not fit its layout"),
    (array("bias", np.full((1, 4), np.nan)), "vector 0 has values that are not finite"),
]

MAPS: list[tuple[Change, str]] = [
    (at("maps.0.source", 9), "the layout of map 0 is number 9 of 4"),
    (at("maps.0.target", -1), "the layout of map 0 is number -1 of 4"),
    (at("maps.0.layer", 1), "the layer of map 0 is number 1 of 1"),
    (at("maps.0.source", 3), "map 0 has an index outside its tensor"),
    (at("maps.0.source", 2), "map 0 reads imaginary parts"),
    (COMPLEX_TARGET, "map 0 has the packing real, which its target does not suit"),
    (
        at("maps.0.packing", "direct"),
        "map 0 has the packing direct, which its target does not suit",
    ),
    (
        all_of(
            at("maps.0.packing", "fold"),
            at("layouts.0", {"shape": [1], "period": 1, "digits": [], "spill": 0}),
            at("inputs.0.shape", [1]),
            at("outputs.0.shape", [1]),
            NO_TERMS,
            array("bias", np.ones(1)),
        ),
        "map 0 folds a single slot",
    ),
    (at("maps.0.window", -1), "map 0 has the window -1 of 4"),
    (at("maps.0.window", 4), "map 0 has the window 4 of 4"),
    (without("maps.0", "copies"), "Object missing required field `copies` - at `$.maps[0]`"),
    (at("maps.0.copies", -1), "map 0 reads copies at the distance -1"),
    (at("maps.0.copies", 3), "map 0 reads copies at the distance 3"),
    (at("maps.0.copies", 4), "map 0 reads copies at the distance 4"),
    (at("maps.0.copies", 2), "map 0 reads copies where its input has elements"),
    (
        all_of(at("layouts.0.period", 8), at("maps.0.copies", 4), TO_ONE_ELEMENT),
        "map 0 has no room for its spill",
    ),
    (
        all_of(at("layouts.3.period", 2), at("layouts.3.spill", 1), TO_ONE_ELEMENT),
        "map 0 has no room for its spill",
    ),
    (
        all_of(at("layouts.3.period", 4), at("layouts.3.spill", 1), TO_ONE_ELEMENT),
        "map 0 has a diagonal out of range",
    ),
    (at("maps.0.window", 1), "map 0 has a diagonal out of range"),
    (at("maps.0.packing", "fold"), "map 0 has a diagonal out of range"),
    (at("vectors.0.layout", 4), "the layout of vector 0 is number 4 of 4"),
    (at("vectors.0.layout", 1), "vector 0 does not fit its layout"),
    (
        attribute(3, "maps", [0, 1]),
        "the map of operation 3 (dot_plain) is number 1 of 1",
    ),
    (
        attribute(3, "diagonals", [0, -1]),
        "the diagonal of operation 3 (dot_plain) is number -1 of 4",
    ),
]

OPERATIONS: list[tuple[Change, str]] = [
    (at("operations.9.1", [3, 9]), "operation 9 (add) uses a value that is not made yet"),
    (at("operations.9.1", [3, 12]), "operation 9 (add) uses a value that is not made yet"),
    (at("operations.9.1", [3, -1]), "operation 9 (add) uses a value that is not made yet"),
    (at("operations.9.1", [3, 10**9]), "operation 9 (add) uses a value that is not made yet"),
    (at("operations.9.0", "explode"), "operation 9 (explode) is not an operation of this version"),
    (at("operations.9.3", 1), "the layer of operation 9 (add) is number 1 of 1"),
    (at("operations.9.1", [3]), "operation 9 (add) has 1 operands instead of 2"),
    (without("operations.2.2", "offset"), "operation 2 (rotate_hoisted) has the attributes []"),
    (
        attribute(2, "more", 1),
        "operation 2 (rotate_hoisted) has the attributes ['more', 'offset']",
    ),
    (
        attribute(2, "offset", "1"),
        "operation 2 (rotate_hoisted) attribute offset is not of type int",
    ),
    (
        attribute(2, "offset", True),
        "operation 2 (rotate_hoisted) attribute offset is not of type int",
    ),
    (
        attribute(2, "offset", 1.0),
        "operation 2 (rotate_hoisted) attribute offset is not of type int",
    ),
    (
        attribute(2, "offset", 10**30),
        "operation 2 (rotate_hoisted) attribute offset is not of type int",
    ),
    (
        attribute(2, "offset", 3),
        "operation 2 (rotate_hoisted) rotates by 3, for which no key is listed",
    ),
    (
        attribute(2, "offset", 33),
        "operation 2 (rotate_hoisted) rotates by 33, for which no key is listed",
    ),
    (
        attribute(14, "offsets", [3, 0]),
        "operation 14 (rotate_sum) rotates by 3, for which no key is listed",
    ),
    (
        attribute(14, "offsets", [1, "0"]),
        "operation 14 (rotate_sum) attribute offsets is not of type list[int]",
    ),
    (
        attribute(14, "offsets", 1),
        "operation 14 (rotate_sum) attribute offsets is not of type list[int]",
    ),
    (
        attribute(14, "offsets", [1]),
        "operation 14 (rotate_sum) needs one offset per operand",
    ),
    (
        attribute(3, "maps", [0, [0]]),
        "operation 3 (dot_plain) attribute maps is not of type list[int]",
    ),
    (
        attribute(3, "diagonals", [0, 0.5]),
        "operation 3 (dot_plain) attribute diagonals is not of type list[int]",
    ),
    (
        attribute(3, "scales", [20.0, None]),
        "operation 3 (dot_plain) attribute scales is not of type list[float]",
    ),
    (
        attribute(3, "maps", [0]),
        "operation 3 (dot_plain) needs one map and one diagonal per operand",
    ),
    (
        attribute(3, "scales", [20.0, 21.0]),
        "operation 3 (dot_plain) operands at scales 2^60 and 2^61",
    ),
    (
        attribute(3, "rotation", 32),
        "operation 3 (dot_plain) turns its constants by 32",
    ),
    (attribute(0, "scale", 1e9), "operation 0 (input) is at scale 2^1e+09"),
    (attribute(0, "scale", 1e300), "operation 0 (input) attribute scale is not of type float"),
    (attribute(0, "level", 2), "operation 0 (input) is at level 2 of 1"),
    (attribute(0, "level", -1), "operation 0 (input) is at level -1 of 1"),
    (operation(13, "rescale", [12], {}, 0), "operation 13 (rescale) is at level 2 of 1"),
    (
        operation(13, "drop_level", [12], {"levels": 2**62}, 0),
        f"operation 13 (drop_level) is at level {2**62 + 1} of 1",
    ),
    (
        operation(13, "drop_level", [12], {"levels": 0}, 0),
        "operation 13 (drop_level) drops fewer than one level",
    ),
    (
        operation(13, "relabel", [12], {"factor": 1e-300}, 0),
        "operation 13 (relabel) is at scale 2^1057.58",
    ),
    (
        operation(13, "scale_up", [12], {"bits": 61}, 0),
        "operation 13 (scale_up) multiplies by an integer outside 2^1 .. 2^60",
    ),
    (
        operation(13, "keep_even", [12], {"order": 0}, 0),
        "operation 13 (keep_even) clears slots with a convergent outside 1 .. 20",
    ),
    (
        operation(13, "keep_even", [12], {"order": 21}, 0),
        "operation 13 (keep_even) clears slots with a convergent outside 1 .. 20",
    ),
    (
        operation(13, "keep_even", [12], {}, 0),
        "operation 13 (keep_even) has the attributes []",
    ),
    (
        operation(13, "square", [1], {}, 0),
        "operation 13 (square) operand 0 is digits, not ciphertext",
    ),
    (
        at("operations.2.1", [0, 0]),
        "operation 2 (rotate_hoisted) operand 1 is ciphertext, not digits",
    ),
    (
        operation(4, "rotate_hoisted", [2, 1], {"offset": 1}, 0),
        "operation 4 (rotate_hoisted) has the digits of another value",
    ),
    (
        at("operations.7.1", [5, 5]),
        "operation 7 (add_extended) uses an extended value a second time",
    ),
    (
        operation(9, "key_switch_down", [7], {}, 0),
        "operation 9 (key_switch_down) uses an extended value a second time",
    ),
    (
        at("keys.conjugation", False),
        "operation 13 (conjugate) needs a conjugation key, which is not listed",
    ),
    (
        at("keys.relinearisation", False),
        "operation 11 (square) needs a relinearisation key, which is not listed",
    ),
    (
        at("keys.rotations", [2]),
        "operation 2 (rotate_hoisted) rotates by 1, for which no key is listed",
    ),
    (attribute(10, "vector", 1), "the vector of operation 10 (add_plain) is number 1 of 1"),
    (attribute(10, "part", 1), "operation 10 (add_plain) names part 1 of 1"),
    (attribute(15, "part", -1), "operation 15 (mul_plain) names part -1 of 1"),
]

ENDS: list[tuple[Change, str]] = [
    (attribute(0, "tensor", 1), "the tensor of operation 0 (input) is number 1 of 1"),
    (attribute(0, "part", 1), "operation 0 (input) names part 1 of 1"),
    (attribute(16, "part", 7), "operation 16 (output) names part 7 of 1"),
    (
        lambda fields, _: fields["operations"].append(fields["operations"][16]),
        "operation 17 (output) is part 0 of tensor 0 a second time",
    ),
    (
        lambda fields, _: fields["operations"].append(fields["operations"][0]),
        "operation 17 (input) is part 0 of tensor 0 a second time",
    ),
    (
        lambda fields, _: fields["operations"].pop(),
        "no operation is part 0 of output y",
    ),
    (
        lambda fields, _: fields["inputs"].append({**fields["inputs"][0], "name": "z"}),
        "no operation is part 0 of input z",
    ),
    (
        all_of(at("outputs.0.layout", 1), at("outputs.0.shape", [40])),
        "no operation is part 1 of output y",
    ),
]

CASES = [*STRUCTURE, *PARAMETERS, *TENSORS, *LAYOUTS, *ARRAYS, *MAPS, *OPERATIONS, *ENDS]


def test_written_program_is_valid(written: Written, tmp_path: Path) -> None:
    fields, arrays = written
    path = tmp_path / "plan.fheplan"
    path.write_bytes(encode_container(FORMAT_VERSION, json.dumps(fields).encode(), arrays))
    plan = Plan.load(path)
    assert len(plan.types) == 17
    assert plan.types[-1].level == 1


@pytest.mark.parametrize(("change", "reason"), CASES, ids=[reason for _, reason in CASES])
def test_refused(written: Written, refusal: Refusal, change: Change, reason: str) -> None:
    fields, arrays = written
    change(fields, arrays)
    tracemalloc.start()
    started = time.perf_counter()
    assert refusal(fields, arrays) == reason
    assert time.perf_counter() - started < 1.0
    assert tracemalloc.get_traced_memory()[1] < 4 << 20
    tracemalloc.stop()


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        (b"", "Input data was truncated"),
        (b"{", "Input data was truncated"),
        (b"[]", "Expected `object`, got `array`"),
        (
            b'{"operations": [["add", [], {"a": ' + b"[" * 100_000,
            "maximum recursion depth exceeded while deserializing an object",
        ),
        (b'{"format_version": 1e999}', "Number out of range - at `$.format_version`"),
    ],
    ids=["empty", "cut off", "a list", "deep", "infinite"],
)
def test_unreadable_program(refusal: Refusal, program: bytes, reason: str) -> None:
    assert refusal(program, {}) == reason


# ---------------------------------------------------------------------------- anything else

scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 70),
    st.sampled_from([2**31, -(2**31), 2**62, 2**63, 10**30, -(10**400)]),
    st.floats(allow_nan=False, allow_infinity=False),
    st.sampled_from(["", "real", "slot", "rotate", "input", "conjugate", "x" * 1000]),
)
values = st.recursive(
    scalars, lambda v: st.lists(v, max_size=3) | st.dictionaries(st.just("offset"), v), max_leaves=4
)


def places(value: Any) -> list[tuple[Any, Any]]:
    """All (container, key) of a JSON value."""
    keys = list(value) if isinstance(value, dict) else range(len(value))
    found = [(value, key) for key in keys]
    for _, key in list(found):
        if isinstance(value[key], dict | list):
            found += places(value[key])
    return found


def loads_or_refuses(path: Path, fields: Fields, arrays: Arrays) -> None:
    path.write_bytes(encode_container(FORMAT_VERSION, json.dumps(fields).encode(), arrays))
    try:
        Plan.load(path)
    except FheCompileError as error:
        assert error.code == "plan-invalid"


@pytest.fixture(scope="session")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("mutated") / "plan.fheplan"


@given(data=st.data())
def test_any_field_changed(tiny: Plan, scratch: Path, data: st.DataObject) -> None:
    """Loads, or is refused as invalid; never another error."""
    fields = json.loads(msgspec.json.encode(tiny.program))
    for _ in range(data.draw(st.integers(1, 2))):
        where = places(fields)
        container, key = where[data.draw(st.integers(0, len(where) - 1))]
        if data.draw(st.booleans()):
            container[key] = data.draw(values)
        elif isinstance(container, list):
            container.insert(key, container[data.draw(st.integers(0, len(container) - 1))])
        else:
            del container[key]
    loads_or_refuses(scratch, fields, dict(tiny.arrays))


@given(data=st.data())
def test_any_array_changed(tiny: Plan, scratch: Path, data: st.DataObject) -> None:
    changed = dict(tiny.arrays)
    name = data.draw(st.sampled_from(sorted(changed)))
    old = changed[name]
    if data.draw(st.booleans()):
        new = old.copy()
        extreme = [-(2**31), -2, -1, 0, 71, 72, 2**31 - 1]
        new.flat[data.draw(st.integers(0, old.size - 1))] = data.draw(st.sampled_from(extreme))
    else:
        dtype = data.draw(st.sampled_from([np.float64, np.int32]))
        shape = data.draw(st.just(old.shape) | array_shapes(min_dims=0, min_side=0, max_side=3))
        new = data.draw(
            arrays(dtype, shape, fill=st.nothing())
            if np.prod(shape) < 50
            else st.just(np.zeros(shape, dtype))
        )
    changed[name] = new
    loads_or_refuses(scratch, json.loads(msgspec.json.encode(tiny.program)), changed)
