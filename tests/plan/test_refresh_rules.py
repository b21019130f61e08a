"""Plans whose refreshes are wrong: each is refused by Plan.load with its reason."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from fhecompile.ckks.operations import ValueType
from fhecompile.plan import Plan
from fhecompile.plan.container import encode_container
from fhecompile.plan.schema import FORMAT_VERSION, Program
from fhecompile.plan.validate import check_program
from tests.plan.test_validate import Change, all_of, array, at, attribute

Fields = dict[str, Any]
Arrays = dict[str, NDArray[Any]]
Written = tuple[Fields, Arrays]
Refusal = Callable[[Fields | bytes, Arrays], str]

SERIES = np.zeros((2, 14))


@pytest.fixture
def refreshed(written: Written) -> Written:
    """An input that is refreshed, to level 17 of 25; an operand may be at level 21."""
    fields, arrays = written
    arrays["series"] = SERIES
    fields["parameters"] |= {
        "levels": 25,
        "prime_bits": 50,
        "first_prime_bits": 51,
        "bootstrap": {"encode_levels": 3, "decode_levels": 3, "terms": 13},
    }
    fields["series"] = [{"coefficients": "series", "share": 0.5}]
    fields["keys"]["refreshes"] = [4]
    fields["operations"] = [
        ["input", [], {"tensor": 0, "part": 0, "level": 21, "scale": 50.0}, 0],
        ["refresh", [0], {"series": 0, "slots": 4, "level": 17, "scale": 49.0}, 0],
        ["output", [1], {"tensor": 0, "part": 0}, 0],
    ]
    return fields, arrays


def test_a_refreshed_plan_is_valid(refreshed: Written, tmp_path: Path) -> None:
    fields, arrays = refreshed
    path = tmp_path / "plan.fheplan"
    path.write_bytes(encode_container(FORMAT_VERSION, json.dumps(fields).encode(), arrays))
    plan = Plan.load(path)
    assert plan.types[1] == ValueType("ciphertext", 17, 49.0)
    bootstrap = plan.parameters.bootstrap
    assert bootstrap is not None
    assert (bootstrap.output_level, plan.parameters.deepest_operand) == (17, 21)
    assert np.array_equal(plan.series(0), SERIES)
    assert plan.program.keys.count == 2 + 1 + 1 + 2  # two of them to a sparse secret and back


PLACE = "operation 1 (refresh)"
CASES: list[tuple[Change, str]] = [
    (at("parameters.bootstrap.encode_levels", 0), "refreshes of 0 and 3 levels"),
    (at("parameters.bootstrap.decode_levels", -1), "refreshes of 3 and -1 levels"),
    (at("parameters.bootstrap.terms", 0), "refreshes of 3 and 3 levels"),
    (at("parameters.bootstrap.terms", 120), "refreshes of 3 and 3 levels"),
    (
        at("parameters.first_prime_bits", 50),
        "it refreshes values, with a first prime that is not twice as large",
    ),
    (
        at("parameters.levels", 15),
        "it refreshes values to level 17 of 15",
    ),
    (
        at("parameters.bootstrap.encode_levels", 10**9),
        "it refreshes values to level 1000000014 of 25",
    ),
    (
        at("parameters.bootstrap", None),
        "series 0 is of refreshes, which its parameters are without",
    ),
    (
        at("parameters.bootstrap.more", 1),
        "Object contains unknown field `more` - at `$.parameters.bootstrap`",
    ),
    (at("series.0.coefficients", "none"), "the array none is missing"),
    (array("series", np.zeros((2, 14), np.int32)), "the array series has the type int32"),
    (array("series", np.zeros((3, 14))), "series 0 has the shape (3, 14)"),
    (array("series", np.zeros(2)), "series 0 has the shape (2,)"),
    (array("series", np.zeros((2, 15))), "series 0 has 14 terms of 13"),
    (array("series", np.zeros((2, 1))), "series 0 has 0 terms of 13"),
    (array("series", np.zeros((2, 0))), "series 0 has -1 terms of 13"),
    (array("series", SERIES + np.nan), "series 0 has numbers out of range"),
    (array("series", SERIES + np.inf), "series 0 has numbers out of range"),
    (at("series.0.share", 0.0), "series 0 has numbers out of range"),
    (at("series.0.share", 1.0), "series 0 has numbers out of range"),
    (at("keys.refreshes", [0]), "it lists keys for refreshes of 0 slots"),
    (at("keys.refreshes", [4, 3]), "it lists keys for refreshes of 3 slots"),
    (at("keys.refreshes", [-4]), "it lists keys for refreshes of -4 slots"),
    (at("keys.refreshes", [64]), "it lists keys for refreshes of 64 slots"),
    (attribute(1, "series", 1), f"the series of {PLACE} is number 1 of 1"),
    (attribute(1, "series", -1), f"the series of {PLACE} is number -1 of 1"),
    (
        all_of(at("series", []), at("parameters.bootstrap", None)),
        f"the series of {PLACE} is number 0 of 0",
    ),
    (attribute(1, "slots", 2), f"{PLACE} needs keys of refreshes, which are not listed"),
    (at("keys.refreshes", []), f"{PLACE} needs keys of refreshes, which are not listed"),
    (at("keys.relinearisation", False), f"{PLACE} needs keys of refreshes, which are not listed"),
    (attribute(0, "level", 22), f"{PLACE} has an operand at level 22"),
    (attribute(1, "level", 16), f"{PLACE} declares the level 16"),
    (attribute(1, "level", 26), f"{PLACE} is at level 26 of 25"),
    (attribute(1, "level", -1), f"{PLACE} refreshes no slots, or to no level"),
    (attribute(1, "slots", 0), f"{PLACE} refreshes no slots, or to no level"),
    (attribute(1, "scale", 1e9), f"{PLACE} is at scale 2^1e+09"),
    (attribute(1, "scale", None), f"{PLACE} attribute scale is not of type float"),
    (at("operations.1.1", [0, 0]), f"{PLACE} has 2 operands instead of 1"),
]


@pytest.mark.parametrize(("change", "reason"), CASES)
def test_refused(refreshed: Written, refusal: Refusal, change: Change, reason: str) -> None:
    fields, arrays = refreshed
    change(fields, arrays)
    assert refusal(fields, arrays) == reason


@pytest.mark.parametrize(("level", "declared"), [(21, 17), (0, 17), (0, 25)])
def test_levels_that_are_allowed(refreshed: Written, level: int, declared: int) -> None:
    fields, arrays = refreshed
    for change in (attribute(0, "level", level), attribute(1, "level", declared)):
        change(fields, arrays)
    program = msgspec.json.decode(json.dumps(fields), type=Program)
    assert check_program(program, arrays)[1][1].level == declared
