"""Scales: the rules of the module, on examples and on random graphs."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fhecompile.ckks.linear_map import dense, diagonal
from fhecompile.errors import InternalError
from fhecompile.ir.scales import (
    HEADROOM_BITS,
    MATCH_BITS,
    ScalePlan,
    ScalePolicy,
    makers,
    mask_scales,
    match_scales,
    plan_scales,
)
from fhecompile.ir.tensor import (
    Add,
    Affine,
    Function,
    Input,
    Mul,
    Output,
    Poly,
    TensorGraph,
    is_product_free,
)

Graphs = Callable[..., st.SearchStrategy[Any]]

Q = 59
EXACT = ScalePolicy(35, 24, Q)  # s + a = q


def affine(name: str, *inputs: str, weight: float | None = None) -> Affine:
    """A dense map, or with `weight` a uniform factor."""
    matrix = dense(np.arange(1.0, 10).reshape(3, 3))
    m = matrix if weight is None else diagonal(np.array([weight]), (3,))
    return Affine(name=name, inputs=inputs, shape=(3,), maps=(m,) * len(inputs), bias=np.zeros(1))


def poly(name: str, x: str, *coefficients: float) -> Poly:
    return Poly(name=name, inputs=(x,), shape=(3,), coefficients=np.array(coefficients)[:, None])


def graph_of(*nodes: Any) -> TensorGraph:
    return TensorGraph("g", {node.name: node for node in (Input(name="x", shape=(3,)), *nodes)})


# ---------------------------------------------------------------------------- examples


def test_square_and_affine_cost_one_prime() -> None:
    """Four layers of a dense map and a square, and a last dense map: five primes, not nine."""
    nodes, last = [], "x"
    for k in range(4):
        nodes += [affine(f"dense{k}", last), poly(f"square{k}", f"dense{k}", 0, 0, 1)]
        last = f"square{k}"
    plan = plan_scales(graph_of(*nodes, affine("out", last)), EXACT)
    assert plan.scale["x"] == 35 + Q - 24
    for k in range(4):
        assert (plan.level[f"dense{k}"], plan.rescales[f"dense{k}"]) == (k + 1, 1)
        assert (plan.scale[f"dense{k}"], plan.scale[f"square{k}"]) == (35, 70)
        assert plan.rescales[f"square{k}"] == 0
    assert (plan.level["out"], plan.scale["out"]) == (5, 35)


def test_an_input_that_something_else_reads_stays_at_the_activation_scale() -> None:
    plan = plan_scales(graph_of(affine("a", "x"), poly("p", "x", 0, 0, 1)), EXACT)
    assert plan.scale["x"] == 35
    assert plan_scales(graph_of(affine("w", "x", weight=2.0)), EXACT).scale["x"] == 35


@pytest.mark.parametrize(("bump", "raw", "rescales"), [(8, 80, 0), (9, 89, 1), (12, 89, 1)])
def test_bump(bump: float, raw: float, rescales: int) -> None:
    """s = 30, a = 20: behind a square the raw scale is 60 + 20, 9 bits short of a whole prime."""
    graph = graph_of(affine("a", "x"), poly("p", "a", 0, 0, 1), affine("b", "p"))
    plan = plan_scales(graph, ScalePolicy(30, 20, Q, bump))
    assert (plan.raw["a"], plan.scale["a"]) == (30 + Q, 30)
    assert (plan.raw["b"], plan.rescales["b"]) == (raw, rescales)
    assert plan.constants["b"] == (raw - 60,)


def test_uniform_factors_relabel() -> None:
    plan = plan_scales(graph_of(affine("w", "x", weight=-8.0), poly("p", "w", 1, 0.25)), EXACT)
    assert (plan.scale["w"], plan.level["w"]) == (35 - 3, 0)
    assert (plan.scale["p"], plan.level["p"]) == (35 - 3 + 2, 0)
    assert "w" not in plan.constants


def test_affine_brings_its_operands_to_one_scale() -> None:
    graph = graph_of(poly("p", "x", 0, 0, 1), affine("a", "x", "p"))
    plan = plan_scales(graph, EXACT)
    assert plan.constants["a"] == (70 + 24 - 35, 24)
    assert (plan.raw["a"], plan.level["a"]) == (94, 1)


@pytest.mark.parametrize(
    ("a", "b", "scale", "bits", "rescales"),
    [
        ((35, 0), (35, 2), 35, (0, 0), (0, 0)),
        ((35, 0), (94, 0), 94, (59, 0), (0, 0)),
        ((70.5, 0), (35.5, 3), 70.5, (0, 35), (0, 0)),
        ((35, 0), (35.25, 0), 35.25 + MATCH_BITS, (MATCH_BITS + 0.25, MATCH_BITS), (0, 0)),
        ((35, 0), (35.25, 1), 35.25, (59.25, 0), (1, 0)),  # lifted over the prime it drops
        ((35.25, 0), (35, 1), 35, (58.75, 0), (1, 0)),
        ((35, 1), (35.25, 0), 35, (0, 58.75), (0, 1)),
        ((35, 0), (62.5, 0), 62.5, (27.5, 0), (0, 0)),  # far enough apart
        ((35, 2), (62.5, 0), 35, (0, 31.5), (0, 1)),
        ((35, 0), (62.5, 2), 62.5, (27.5, 0), (0, 0)),
        ((60.5, 0), (35, 1), 35, (33.5, 0), (1, 0)),
        ((80.5, 0), (35, 1), 80.5, (0, 45.5), (0, 0)),
    ],
)
def test_match_scales(
    a: tuple[float, int],
    b: tuple[float, int],
    scale: float,
    bits: tuple[float, float],
    rescales: tuple[int, int],
) -> None:
    found = match_scales(a, b, Q)
    assert (found.scale, found.bits, found.rescales) == (scale, bits, rescales)
    swapped = match_scales(b, a, Q)
    assert (swapped.scale, swapped.bits, swapped.rescales) == (scale, bits[::-1], rescales[::-1])


@given(
    *[st.tuples(st.floats(15, 90), st.integers(0, 4))] * 2,
    st.sampled_from([45, 59]),
)
def test_summands_come_to_one_scale(a: tuple[float, int], b: tuple[float, int], q: int) -> None:
    found = match_scales(a, b, q)
    for (scale, level), bits, rescales in zip((a, b), found.bits, found.rescales, strict=True):
        assert scale + bits - q * rescales == pytest.approx(found.scale, abs=1e-8)
        assert level + rescales <= max(a[1], b[1])
        assert bits >= MATCH_BITS or bits == round(bits) >= 0
    assert found.scale <= max(a[0], b[0]) + MATCH_BITS


@pytest.mark.parametrize(
    "node",
    [
        poly("p", "x", 0, 0, 0, 1),
        poly("p", "x", 1, 0),
        Poly(name="p", inputs=("x",), shape=(3,), coefficients=np.array([[0.0] * 3, [1, 2, 3]])),
    ],
    ids=["cubic", "zero leading coefficient", "leading coefficients differ"],
)
def test_polys_must_be_lowered(node: Poly) -> None:
    with pytest.raises(InternalError, match=r"^poly p has not been lowered$"):
        plan_scales(graph_of(node), EXACT)


def test_functions_must_be_fitted() -> None:
    node = Function(name="f", inputs=("x",), shape=(3,), function="tanh")
    with pytest.raises(InternalError, match=r"^the function f has not been fitted$"):
        plan_scales(graph_of(node), EXACT)


# ---------------------------------------------------------------------------- every value

policies = st.builds(
    ScalePolicy,
    st.integers(20, 45),
    st.integers(15, 40),
    st.sampled_from([45, 59]),
    st.integers(0, 15).map(float),
)


@given(data=st.data(), policy=policies)
def test_every_value_keeps_the_rules(
    tensor_graphs: Graphs, data: st.DataObject, policy: ScalePolicy
) -> None:
    graph = data.draw(tensor_graphs())
    plan = plan_scales(graph, policy)
    s, a, q = policy.activation_bits, policy.constant_bits, policy.prime_bits
    users = graph.users()
    for node in graph:
        name, raw = node.name, plan.raw[node.name]
        operands = [plan.scale[i] for i in node.inputs]
        assert plan.scale[name] == raw - q * plan.rescales[name]
        before = max((plan.level[i] for i in node.inputs), default=0)
        assert plan.level[name] == before + plan.rescales[name]
        match node:
            case Input():
                products = all(
                    isinstance(u, Affine) and not is_product_free(u) for u in users[name]
                )
                assert raw == (s + q - a if products else s)
            case Affine() if is_product_free(node):
                assert plan.rescales[name] == 0
            case Affine():
                added = raw - max(operands) - a
                assert -1e-9 <= added <= policy.bump + 1e-9
                over = (raw - s) / q
                assert added < 1e-9 or over == pytest.approx(round(over), abs=1e-9)
                assert plan.constants[name] == tuple(raw - c for c in operands)
                assert min(plan.constants[name]) >= a - 1e-9
            case Poly() if node.degree == 1:
                assert plan.rescales[name] == 0
            case Poly():
                leading = abs(float(node.coefficients[-1].flat[0]))
                assert raw == pytest.approx(2 * operands[0] - math.log2(leading))
            case Mul():
                assert raw == sum(operands)
            case Add():
                places = [(plan.scale[i], plan.level[i]) for i in node.inputs]
                assert raw == match_scales(*places, q).scale >= min(operands)
            case Output():
                assert (raw, plan.rescales[name]) == (operands[0], 0)
        if plan.rescales[name]:
            assert s - 1e-6 <= plan.scale[name] < s + q
        elif isinstance(node, Mul) or (isinstance(node, Affine) and not is_product_free(node)):
            assert raw < s + q


def fits(plan: ScalePlan, largest: dict[str, float], first: int, primes: int, slack: float) -> bool:
    """Every value with its headroom fits the modulus, before and after its rescales."""
    q = plan.policy.prime_bits
    for name, value in largest.items():
        size = math.log2(max(value, 2.0**-20)) + HEADROOM_BITS
        for scale, level in (
            (plan.scale[name], plan.level[name]),
            (plan.raw[name], plan.level[name] - plan.rescales[name]),
        ):
            if level > primes or scale + size > first + q * (primes - level) + slack:
                return False
    return True


@given(data=st.data(), policy=policies, first=st.integers(30, 60))
def test_number_of_primes_is_the_smallest(
    tensor_graphs: Graphs, data: st.DataObject, policy: ScalePolicy, first: int
) -> None:
    graph = data.draw(tensor_graphs())
    plan = plan_scales(graph, policy)
    magnitudes = st.floats(2.0**-30, 2.0**40)
    largest = {name: data.draw(magnitudes) for name in graph.nodes}
    needed = plan.levels(largest, first)
    assert fits(plan, largest, first, needed, 1e-9)
    assert needed == 0 or not fits(plan, largest, first, needed - 1, -1e-9)


# ---------------------------------------------------------------------------- masks


def layers(count: int) -> TensorGraph:
    """A dense map and a square, `count` times, and a last dense map."""
    nodes, last = [], "x"
    for k in range(count):
        nodes += [affine(f"dense{k}", last), poly(f"square{k}", f"dense{k}", 0, 0, 1)]
        last = f"square{k}"
    return graph_of(*nodes, affine("out", last))


@pytest.mark.parametrize("bits", [3.0, 6.5, 9.0, 11.4, 15.0])
def test_a_mask_takes_a_third_of_its_bits_from_each(bits: float) -> None:
    """Without masks scales are 35 behind a dense map, 70 behind a square; constants 24."""
    graph = layers(3)
    plain = plan_scales(graph, EXACT)
    masked = mask_scales(graph, plain, {"dense2": (bits,)})
    third = round(bits / 3)
    assert (masked.scale["dense1"], masked.constants["dense1"]) == (35 - third, (24 - third,))
    assert masked.scale["square1"] == 70 - 2 * third
    left = masked.constants["dense2"][0] - bits  # the mask is a constant as well
    assert left == pytest.approx(24 - bits / 3, abs=1)
    for name in ("x", "dense0", "square0", "dense2", "square2", "out"):
        assert masked.scale[name] == plain.scale[name]
    assert masked.constants["dense0"] == masked.constants["out"] == (24,)
    assert (masked.level, masked.rescales) == (plain.level, plain.rescales)


def test_masks_one_after_the_other() -> None:
    """The layer in between pays on both sides."""
    graph = layers(3)
    masked = mask_scales(graph, plan_scales(graph, EXACT), {"dense1": (9.0,), "dense2": (9.0,)})
    assert masked.constants["dense0"] == (21,)
    assert masked.constants["dense1"][0] - 9 == 24 - 3 - 3
    assert masked.constants["dense2"][0] - 9 == 24 - 3
    assert [masked.scale[f"dense{k}"] for k in range(3)] == [32, 32, 35]


def test_a_mask_of_one_of_two_operands() -> None:
    """The other operand's constants make up for the lower scale of the products."""
    graph = graph_of(
        affine("a", "x"), poly("p", "a", 0, 0, 1), affine("b", "x", "p"), poly("q", "b", 0, 0, 1)
    )
    plain = plan_scales(graph, EXACT)
    masked = mask_scales(graph, plain, {"b": (0.0, 9.0)})
    assert masked.scale["p"] == plain.scale["p"] - 6
    assert masked.constants["b"] == (plain.constants["b"][0], plain.constants["b"][1] + 6)
    assert masked.raw["b"] == plain.raw["b"]


def test_makers() -> None:
    """Through elementwise operations and uniform factors back to the maps with products."""
    graph = graph_of(
        affine("a", "x"),
        affine("b", "x"),
        poly("p", "a", 0, 0, 1),
        affine("w", "p", weight=0.5),
        Mul(name="m", inputs=("w", "b"), shape=(3,)),
        affine("c", "m"),
    )
    assert sorted(makers(graph, "m")) == ["a", "b"]
    assert makers(graph, "c") == ["c"]
    assert makers(graph, "x") == []


@given(data=st.data(), policy=policies)
def test_masks_keep_the_rules_of_the_operations(
    tensor_graphs: Graphs, data: st.DataObject, policy: ScalePolicy
) -> None:
    """Products of all operands have one scale, every scale follows from those before it, and no
    value changes its level."""
    graph = data.draw(tensor_graphs())
    plain = plan_scales(graph, policy)
    masks = {}
    for name in plain.constants:
        bits = data.draw(st.sampled_from([0.0, 4.5, 9.0]))
        masks[name] = tuple(bits if k == 0 else 0.0 for k in range(len(graph[name].inputs)))
    masked = mask_scales(graph, plain, masks)
    assert (masked.level, masked.rescales) == (plain.level, plain.rescales)
    assert mask_scales(graph, plain, {}).scale == pytest.approx(plain.scale)
    for node in graph:
        name, raw = node.name, masked.raw[node.name]
        operands = [masked.scale[i] for i in node.inputs]
        assert masked.scale[name] == raw - policy.prime_bits * masked.rescales[name]
        match node:
            case Input():
                assert raw == plain.raw[name]
            case Affine() if name in plain.constants:
                for constant, c in zip(masked.constants[name], operands, strict=True):
                    assert constant + c == pytest.approx(raw)
                assert plain.raw[name] - 3 <= raw <= plain.raw[name]
            case Affine() | Output():
                change = plain.raw[name] - plain.scale[node.inputs[0]]
                assert raw == pytest.approx(operands[0] + change)
            case Poly():
                leading = abs(float(node.coefficients[-1].flat[0]))
                assert raw == pytest.approx(node.degree * operands[0] - math.log2(leading))
            case Mul():
                assert raw == pytest.approx(sum(operands))
            case Add():
                places = [(masked.scale[i], plain.level[i]) for i in node.inputs]
                assert raw == match_scales(*places, policy.prime_bits).scale
