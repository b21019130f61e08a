"""The functions against their definitions, their domains, and how far an interval may widen."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

from fhecompile.functions.table import FUNCTIONS, Domain, Piece, function_named, is_function

REAL = np.array([-30.0, -2.0, -0.5, 0.0, 0.25, 1.0, 7.0, 30.0])
DEFINITIONS: dict[str, Callable[[float], float]] = {
    "abs": abs,
    "clip": lambda x: min(max(x, -1.0), 1.0),
    "elu": lambda x: x if x > 0 else math.exp(x) - 1,
    "erf": math.erf,
    "exp": math.exp,
    "gelu": lambda x: 0.5 * x * math.erfc(-x / math.sqrt(2)),
    "gelu_tanh": lambda x: (
        0.5 * x * (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    ),
    "hard_swish": lambda x: x * min(max(x + 3, 0), 6) / 6,
    "inverse_sqrt": lambda x: x**-0.5,
    "log": math.log,
    "mish": lambda x: x * math.tanh(math.log1p(math.exp(x))),
    "reciprocal": lambda x: 1 / x,
    "relu": lambda x: max(x, 0.0),
    "sigmoid": lambda x: 1 / (1 + math.exp(-x)),
    "sign": lambda x: math.copysign(1.0, x) if x else 0.0,
    "silu": lambda x: x / (1 + math.exp(-x)),
    "softplus": lambda x: math.log1p(math.exp(x)),
    "softsign": lambda x: x / (1 + abs(x)),
    "sqrt": math.sqrt,
    "tanh": math.tanh,
    "tanh_softplus": lambda x: math.tanh(math.log1p(math.exp(x))),
    "thresholded_relu": lambda x: x if x > 1 else 0.0,
}


def test_every_function_is_defined_here() -> None:
    assert list(FUNCTIONS) == list(DEFINITIONS)
    assert all(f.name == name for name, f in FUNCTIONS.items())


@pytest.mark.parametrize("name", DEFINITIONS)
def test_values(name: str) -> None:
    f = FUNCTIONS[name]
    inside = np.array([x for x in REAL if f.domain_of(x, x)])
    expected = np.array([DEFINITIONS[name](float(x)) for x in inside])
    assert len(inside) >= 4
    assert np.allclose(f(inside), expected, rtol=1e-12, atol=1e-15)
    assert f(inside.reshape(-1, 1)).shape == (len(inside), 1)
    assert f.nonnegative == bool(np.all(expected >= 0.0))


@pytest.mark.parametrize("name", DEFINITIONS)
def test_outside_its_domain_nothing_is_finite(name: str) -> None:
    f = FUNCTIONS[name]
    outside = np.array([x for x in REAL if not f.domain_of(x, x)])
    assert not np.any(np.isfinite(f(outside)))


@pytest.mark.parametrize("alpha", [0.25, 1.5, -2.0, 1e-7, 3e20])
def test_elu_has_a_parameter(alpha: float) -> None:
    name = f"elu({alpha:.9g})"
    assert is_function(name)
    f = function_named(name)
    expected = [x if x > 0 else alpha * math.expm1(x) for x in REAL]
    assert f.name == name and np.allclose(f(REAL), expected, rtol=1e-12, atol=0)
    assert f.nonnegative == (alpha < 0)
    assert f.piece_of(0.0, 9.0) == Piece((0.0, 1.0), low=0.0)
    assert f.piece_of(-1.0, 9.0) is None


@pytest.mark.parametrize(
    "name", ["sin", "elu()", "elu(x)", "elu(nan)", "elu(1", "elu(1) ", "relu(1)", "ELU"]
)
def test_names_of_no_function(name: str) -> None:
    assert not is_function(name)
    with pytest.raises(KeyError):
        function_named(name)


def test_names() -> None:
    assert all(function_named(name) is f and is_function(name) for name, f in FUNCTIONS.items())


def test_far_arguments_do_not_overflow() -> None:
    far = np.array([-1e4, 1e4])
    assert np.array_equal(FUNCTIONS["sigmoid"](far), [0.0, 1.0])
    assert np.array_equal(FUNCTIONS["silu"](far), [0.0, 1e4])
    assert np.array_equal(FUNCTIONS["gelu"](far), [0.0, 1e4])
    assert np.array_equal(FUNCTIONS["softplus"](far), [0.0, 1e4])
    assert np.array_equal(FUNCTIONS["mish"](far), [0.0, 1e4])
    assert np.array_equal(FUNCTIONS["elu"](far), [-1.0, 1e4])


PIECES = {
    "abs": (-0.5, 0.0, 2.0),
    "clip": (-4.0, -1.0, 0.5, 1.0, 3.0),
    "elu": (0.0, 5.0),
    "hard_swish": (-7.0, -3.0, 0.5, 3.0, 8.0),
    "relu": (-2.0, 0.0, 3.0),
    "sign": (-1e-300, 0.0, 1e-300),
    "thresholded_relu": (-1.0, 1.0, 1.5),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_pieces_are_the_function(name: str) -> None:
    f = FUNCTIONS[name]
    assert bool(f.pieces) == (name in PIECES)
    for piece in f.pieces:
        x = np.linspace(max(piece.low, -9.0), min(piece.high, 9.0), 101)
        assert np.allclose(np.polynomial.Polynomial(piece.coefficients)(x), f(x), atol=1e-14)
    inside = [f.piece_of(x, x) for x in PIECES.get(name, ())]
    assert None not in inside and len(set(inside)) == len(f.pieces)


def test_a_range_lies_in_one_piece() -> None:
    relu, clip = FUNCTIONS["relu"], FUNCTIONS["clip"]
    assert relu.piece_of(0.0, 3.0) == Piece((0.0, 1.0), low=0.0)
    assert relu.piece_of(-3.0, 0.0) == Piece((0.0,), high=0.0)
    assert relu.piece_of(-1e-9, 3.0) is None
    assert clip.piece_of(-1.0, 1.0) == Piece((0.0, 1.0), -1.0, 1.0)
    assert clip.piece_of(-0.5, 1.5) is None
    assert FUNCTIONS["thresholded_relu"].piece_of(1.0, 2.0) is None
    assert FUNCTIONS["elu"].piece_of(-2.0, -1.0) is None


def test_a_range_lies_in_one_domain() -> None:
    reciprocal = FUNCTIONS["reciprocal"]
    assert reciprocal.domain_of(0.5, 2.0) == Domain(0.0, closed=False)
    assert reciprocal.domain_of(-2.0, -0.5) == Domain(high=0.0, closed=False)
    assert reciprocal.domain_of(-1.0, 1.0) is None
    assert reciprocal.domain_of(0.0, 1.0) is None
    assert FUNCTIONS["sqrt"].domain_of(0.0, 1.0) is not None
    assert FUNCTIONS["sqrt"].domain_of(-1e-9, 1.0) is None


def test_units_of_errors() -> None:
    assert FUNCTIONS["inverse_sqrt"].unit(1.0, 4.0) is None
    assert FUNCTIONS["exp"].unit(-1.0, 2.0) == math.exp(2.0)
    assert FUNCTIONS["tanh"].unit(-2.0, 1.0) == math.tanh(2.0)
    assert FUNCTIONS["relu"].unit(-2.0, -1.0) == 1.0


def test_an_interval_widens_half_the_way_to_an_end() -> None:
    assert Domain().widened(1.0, 3.0, 0.5) == (0.5, 3.5)
    assert Domain(0.0).widened(1.0, 3.0, 0.25) == (0.75, 3.25)
    assert Domain(0.0).widened(1.0, 3.0, 5.0) == (0.5, 8.0)
    assert Domain(0.0).widened(0.0, 3.0, 0.5) == (0.0, 3.5)
    assert Domain(high=0.0).widened(-3.0, -1.0, 5.0) == (-8.0, -0.5)


def test_domains_as_text() -> None:
    assert str(Domain(0.0)) == "at least 0"
    assert str(Domain(0.0, closed=False)) == "above 0"
    assert str(Domain(-1.0, 1.0)) == "at least -1 and at most 1"
    assert str(Domain()) == ""
