"""The noise of single operations against its formula, for scales that are given."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import pytest

from fhecompile.ckks import noise
from fhecompile.ckks.bootstrap import Bootstrap
from fhecompile.ckks.diagonals import Packing
from fhecompile.ckks.parameters import Parameters
from fhecompile.ir.layer_noise import predict_layer_noise
from fhecompile.ir.scales import ScalePolicy, plan_scales
from fhecompile.ir.tensor import Refresh, TensorGraph
from tests.graphs import Builder, matrix

N, Q = 1 << 13, 50
FEATURES = 512  # of one sample, so that standard deviations are found to a few percent
P = Parameters(N, 4, Q, 60, 2, 128, insecure=True)
ENCRYPT, RESCALE = noise.encrypt_error(N), noise.rescale_error(N)
KEY_SWITCH, ENCODE = noise.key_switch_error(N, 2), noise.encode_error(N)


def predicted(
    graph: TensorGraph,
    s: float = 30.0,
    a: float = 25.0,
    packing: Mapping[str, Packing] | None = None,
    x: float = 0.5,
    p: Parameters = P,
) -> dict[str, float]:
    """The noise where all elements of the input are `x` in one sample, -x in the other."""
    scales = plan_scales(graph, ScalePolicy(s, a, Q, 0.0, p.bootstrap))
    inputs = {"x": x * np.array([1.0, -1.0])[:, None, None] * np.ones((2, 1, FEATURES))}
    return predict_layer_noise(graph, inputs, scales, p, packing or {})


def test_a_square_of_a_fresh_input() -> None:
    """Fresh noise e becomes 2 x e; the key switch works at twice the scale."""
    b = Builder()
    b.input("x", 1, FEATURES)
    found = predicted(b.output(b.poly("square", "x", 0.0, 0.0, 1.0)), s=40.0)
    fresh = ENCRYPT * 2.0**-40
    assert found["x"] == pytest.approx(fresh, rel=0.05)
    switched = KEY_SWITCH * 2.0**-80
    assert found["square"] == pytest.approx(math.hypot(fresh, switched), rel=0.05)
    assert found["out.square"] == found["square"]


def test_what_a_rescale_adds() -> None:
    """The fourth power is at four times the scale, then rescaled by 2^q."""
    b = Builder()
    b.input("x", 1, FEATURES)
    b.poly("square", "x", 0.0, 0.0, 1.0)
    found = predicted(b.output(b.poly("fourth", "square", 0.0, 0.0, 1.0)), s=29.0)
    inherited = 2 * 0.25 * found["square"]
    rounding = RESCALE * 2.0 ** -(4 * 29 - Q)
    assert found["fourth"] == pytest.approx(math.hypot(inherited, rounding), rel=0.05)
    deep = predicted(b.graph, s=25.0)["fourth"]
    rounding, inherited = RESCALE * 2.0 ** -(4 * 25 - Q), 2 * 0.25 * ENCRYPT * 2.0**-25
    assert deep == pytest.approx(math.hypot(inherited, rounding), rel=0.05)


@pytest.mark.parametrize(("packing", "factor"), [("direct", 1.0), ("fold", 2.0), ("pair", 2.0)])
def test_rounded_constants(packing: Packing, factor: float) -> None:
    """512 products with x = 1/2, each with a constant rounded at 2^a; twice that if packed."""
    b = Builder()
    b.input("x", 1, FEATURES)
    graph = b.output(b.affine("map", {"x": matrix(FEATURES, FEATURES)}))
    found = predicted(graph, s=45.0, a=15.0, packing={"map": packing})
    expected = factor * ENCODE * 2.0**-15 * math.sqrt(FEATURES) * 0.5
    assert found["map"] == pytest.approx(expected, rel=0.05)


@pytest.mark.parametrize(("packing", "parts"), [("direct", (1, 0)), ("fold", (2, 1))])
def test_operands_that_are_rotated(packing: Packing, parts: tuple[int, int]) -> None:
    """Rotations add a key switch at the operand's scale; packed maps read imaginary parts."""
    b = Builder()
    b.input("x", 1, FEATURES)
    b.poly("square", "x", 0.0, 0.0, 1.0)
    b.affine("map", {"square": np.eye(FEATURES)[::-1]})
    graph = b.output("map")
    found = predicted(graph, s=20.0, a=55.0, packing={"map": packing})
    turned, imaginary = KEY_SWITCH * 2.0**-40, KEY_SWITCH * 2.0**-40
    rounded = RESCALE * 2.0**-45  # 40 + 55 - 50
    constants = ENCODE * 2.0**-55 * 0.25 * 2
    own = math.sqrt(parts[0]) * turned, math.sqrt(parts[1]) * imaginary
    expected = math.hypot(found["square"], *own, rounded, constants)
    assert found["map"] == pytest.approx(expected, rel=0.05)


def test_a_sum_of_all_elements() -> None:
    b = Builder()
    b.input("x", 1, FEATURES)
    b.affine("sum", {"x": np.ones((1, FEATURES))})
    found = predicted(b.output("sum"), s=30.0)
    elements = math.sqrt(FEATURES) * ENCRYPT * 2.0**-30
    rotations = math.sqrt(FEATURES - 1) * KEY_SWITCH * 2.0**-30
    assert found["sum"] == pytest.approx(math.hypot(elements, rotations), rel=0.25)  # 64 draws


def test_a_refresh() -> None:
    """m is off before and after; x and the result are m / unit and m / gain."""
    b = Builder()
    b.input("x", 1, FEATURES)
    graph = b.output(b.refresh("fresh", "x", radius=4.0))
    node = graph["fresh"]
    assert isinstance(node, Refresh)
    bootstrap = Bootstrap(2, 2, 13)
    p = Parameters(N, 22, Q, 51, 2, 128, insecure=True, bootstrap=bootstrap)
    found = predicted(graph, s=42.0, a=42.0, p=p)
    error = noise.refresh_error(N, Q)
    assert found["fresh"] == pytest.approx(error * math.sqrt(2) / node.unit, rel=0.05)


def test_primes_that_are_no_powers_of_two() -> None:
    """Without other noise a rescale at level 1 is off by the distance of the first prime."""
    b = Builder()
    b.input("x", 1, FEATURES)
    b.affine("map", {"x": np.eye(FEATURES)[::-1]})
    graph = b.output("map")
    found = predicted(graph, s=70.0, a=70.0)
    first, second = (noise.prime_distance(N, Q, k) for k in (1, 2))
    assert first == -second == -(0.35 * Q * 2 * N * 2.0**-Q)
    assert found["map"] == pytest.approx(0.5 * abs(first), rel=0.05)
