"""Constants of a plan that are encoded once: equal ones, and every term has one."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from fhecompile.plan import Plan
from fhecompile.plan.constants import OPERATIONS_WITH_CONSTANTS, Term, encodings, group_constants
from fhecompile.plan.summary import summarise
from tests.support import convolution_plan

ALONE, APART = convolution_plan(), convolution_plan(batch=4)  # two samples each in a ciphertext


def content(plan: Plan, term: Term) -> tuple[object, ...]:
    """All that makes a term's plaintext: slots as they are encoded, scale and level."""
    number, k = term
    info, type_ = plan.program.operations[number], plan.types[number]
    a = info.attributes
    if info.op != "dot_plain":
        vector = plan.vector(a["vector"], a["part"])
        return info.op, vector.tobytes(), type_.scale, a.get("scale"), type_.level
    dm, diagonals = plan.maps[a["maps"][k]]
    (vector,) = dm.expand([diagonals[a["diagonals"][k]]])
    return np.roll(vector, a["rotation"]).tobytes(), a["scales"][k], type_.level


@pytest.mark.parametrize("plan", [ALONE, APART])
def test_terms_of_a_group_have_equal_plaintexts(plan: Plan) -> None:
    groups = group_constants(plan)
    for group in groups:
        assert group == sorted(group)
        assert len({content(plan, term) for term in group}) == 1
    terms = [
        (number, k)
        for number, info in enumerate(plan.program.operations)
        if info.op in OPERATIONS_WITH_CONSTANTS
        for k in range(len(info.inputs))
    ]
    assert sorted(term for group in groups for term in group) == terms
    assert [group[0] for group in groups] == sorted(group[0] for group in groups)


def test_samples_in_ciphertexts_of_their_own_share_constants() -> None:
    products = [g for g in group_constants(APART) if is_product(APART, g[0])]
    assert Counter(map(len, products)) == {2: 36, 1: 64}
    assert {len(g) for g in group_constants(ALONE)} == {1}


def is_product(plan: Plan, term: Term) -> bool:
    return plan.program.operations[term[0]].op == "dot_plain"


def test_encodings_are_counted_where_they_are_first_needed() -> None:
    counts = encodings(APART)
    assert sum(counts.values()) == len(group_constants(APART))
    for number, count in counts.items():
        assert 1 <= count <= len(APART.program.operations[number].inputs)


def test_shared_constants_are_predicted_to_be_encoded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    alone = {
        number: sum(term[0] == number for group in group_constants(APART) for term in group)
        for number in range(len(APART.program.operations))
    }
    shared = summarise(APART).seconds
    monkeypatch.setattr("fhecompile.plan.summary.encodings", lambda _: alone)
    assert shared < summarise(APART).seconds
