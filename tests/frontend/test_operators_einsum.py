"""Einsum with one or more encrypted operands against numpy, and mostly ONNX Runtime."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from onnx import helper

from fhecompile.frontend import import_model
from fhecompile.ir.evaluate import evaluate

RANDOM = np.random.default_rng(2)


def einsum(equation, count):
    return helper.make_node("Einsum", list("xabc"[:count]), ["y"], equation=equation)


EQUATIONS = [
    ("ij->ji", (2, 3)),
    ("ij->", (2, 3)),
    ("ij", (2, 3)),
    ("ji", (2, 3)),
    ("ii->i", (3, 3)),
    ("ii", (3, 3)),
    ("...ij->...ji", (4, 2, 3)),
    ("i...->...", (4, 2, 3)),
    ("ij,jk->ik", (2, 3), (3, 4)),
    ("ij,jk", (2, 3), (3, 4)),
    (" i j , k j -> i k ", (2, 3), (4, 3)),
    ("bij,bjk->bik", (2, 3, 4), (2, 4, 2)),
    ("bij,kj->bki", (2, 3, 4), (5, 4)),
    ("...ij,...jk->...ik", (2, 1, 3, 4), (5, 4, 2)),
    ("i,j->ij", (2,), (3,)),
    ("i,i->", (3,), (3,)),
    ("i,->i", (3,), ()),
    ("bhid,bhjd->bhij", (1, 2, 3, 4), (1, 2, 5, 4)),
    ("ij,jk,kl->il", (2, 3), (3, 2), (2, 4)),
    ("ij,kk->ij", (2, 3), (2, 2)),
]


def places(count):
    """The operands that are encrypted: one, or all, or all but one."""
    found = {(i,) for i in range(count)} | {tuple(range(count))}
    return sorted(found | {tuple(i for i in range(count) if i != j) for j in range(count)} - {()})


@pytest.mark.parametrize(
    ("equation", "shapes", "encrypted"),
    [(equation, shapes, p) for equation, *shapes in EQUATIONS for p in places(len(shapes))],
)
def test_equations(agrees, equation, shapes, encrypted):
    names = "xabc"[: len(shapes)]
    given_names = [names[i] for i in encrypted]
    weights = {
        n: RANDOM.normal(size=s).astype(np.float32)
        for n, s in zip(names, shapes, strict=True)
        if n not in given_names
    }

    def by_numpy(_, samples):  # ONNX Runtime refuses some broadcasts of the dots
        runs = []
        for values in zip(*(samples[n].astype(np.float64) for n in given_names), strict=True):
            operands = {**weights, **dict(zip(given_names, values, strict=True))}
            runs.append(np.einsum(equation, *(operands[n] for n in names)))
        return {"y": np.stack(runs)}

    node = einsum(equation, len(shapes))
    inputs = {n: s for n, s in zip(names, shapes, strict=True) if n in given_names}
    graph = agrees(node, inputs, weights, tolerance=1e-12, reference=by_numpy)
    if "..." not in equation:
        agrees(node, inputs, weights)
    assert [n.op for n in graph].count("mul") == len(encrypted) - 1
    if len(encrypted) == 1:
        assert [n.op for n in graph] == ["input", "affine", "output"]


def test_letters_of_one_operand_are_summed_before_the_product(agrees):
    graph = agrees(einsum("ijk,jl->il", 2), {"x": (2, 3, 4), "a": (3, 5)})
    assert graph["y.products"].size == 2 * 5 * 3


@given(data=st.data(), lengths=st.lists(st.integers(1, 3), min_size=4, max_size=4))
def test_random_equations(build, data, lengths):
    sizes = dict(zip("ijkl", lengths, strict=True))
    terms = data.draw(st.lists(st.text("ijkl", max_size=3), min_size=1, max_size=3))
    used = "".join(dict.fromkeys("".join(terms)))
    assume(used)
    result = "".join(data.draw(st.permutations(used))[: data.draw(st.integers(0, len(used)))])
    encrypted = data.draw(st.sets(st.integers(0, len(terms) - 1), min_size=1))
    values = [RANDOM.normal(size=[sizes[c] for c in term]).astype(np.float32) for term in terms]
    equation = ",".join(terms) + "->" + result
    names = "xabc"[: len(terms)]
    constants = dict(zip(names, values, strict=True))
    inputs = {names[i]: constants.pop(names[i]) for i in encrypted}
    shapes = {n: x.shape for n, x in inputs.items()}
    blob = build(einsum(equation, len(terms)), shapes, constants)
    graph = import_model(blob).graph
    expected = np.einsum(equation, *(v.astype(np.float64) for v in values))
    found = evaluate(graph, {n: x[None] for n, x in inputs.items()})["y"][0]
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12 * max(1, abs(expected).max()))


def test_constants_are_stored_once(agrees):
    weights = RANDOM.normal(size=(4, 5))
    graph = agrees(einsum("bij,jk->bik", 2), {"x": (6, 3, 4)}, {"a": weights})
    (term,) = graph["y"].maps[0].terms
    assert term.values.size == math.prod(weights.shape)
