"""Which constants of a plan's operations are equal, so that each is encoded once.

Equal are those of one diagonal, and of diagonals that hold the same numbers
(`fhecompile.ckks.equal_diagonals`), where they are turned alike and of one scale and level.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from fhecompile.ckks.equal_diagonals import first_equals, repeats, shared_digits
from fhecompile.plan.plan import Plan

OPERATIONS_WITH_CONSTANTS = ("dot_plain", "mul_plain", "add_plain")

Term = tuple[int, int]  # number of an operation, position of an operand


def group_constants(plan: Plan) -> list[list[Term]]:
    """The terms of all operations with constants, those of equal constants together.

    In the order of the operations; a group is where its first term is.
    """
    equals = [_first_diagonals(plan, number) for number in range(len(plan.maps))]
    groups: dict[tuple[Any, ...], list[Term]] = {}
    for number, info in enumerate(plan.program.operations):
        if info.op not in OPERATIONS_WITH_CONSTANTS:
            continue
        a, type_ = info.attributes, plan.types[number]
        for term in range(len(info.inputs)):
            key: tuple[Any, ...]
            if info.op == "dot_plain":
                m = a["maps"][term]
                diagonal = equals[m][a["diagonals"][term]]
                key = (m, diagonal, a["rotation"], a["scales"][term], type_.level)
            else:
                key = (info.op, a["vector"], a["part"], type_.scale, a.get("scale"), type_.level)
            groups.setdefault(key, []).append((number, term))
    return list(groups.values())


def encodings(plan: Plan) -> dict[int, int]:
    """How many constants each operation is the first to need, by its number."""
    counts: dict[int, int] = {}
    for group in group_constants(plan):
        number = group[0][0]
        counts[number] = counts.get(number, 0) + 1
    return counts


def _first_diagonals(plan: Plan, number: int) -> list[tuple[int, ...]]:
    """Per diagonal of a map the first one that holds the same numbers."""
    dm, _ = plan.maps[number]
    rows = plan.arrays[plan.program.maps[number].diagonals].astype(np.int64)
    digits = shared_digits(dm.source, dm.target, dm.packing)
    if digits and repeats(dm.linear_map, dm.source.shape[0]):
        rows = first_equals(rows, digits, dm.packing)
    return [tuple(row) for row in rows.tolist()]
