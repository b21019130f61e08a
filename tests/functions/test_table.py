"""The functions against their definitions, their domains, and how far an interval may widen."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

from fhecompile.functions.table import FUNCTIONS, Domain

REAL = np.array([-30.0, -2.0, -0.5, 0.0, 0.25, 1.0, 7.0, 30.0])
DEFINITIONS: dict[str, Callable[[float], float]] = {
    "erf": math.erf,
    "exp": math.exp,
    "gelu": lambda x: 0.5 * x * math.erfc(-x / math.sqrt(2)),
    "gelu_tanh": lambda x: (
        0.5 * x * (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    ),
    "inverse_sqrt": lambda x: x**-0.5,
    "reciprocal": lambda x: 1 / x,
    "relu": lambda x: max(x, 0.0),
    "sigmoid": lambda x: 1 / (1 + math.exp(-x)),
    "silu": lambda x: x / (1 + math.exp(-x)),
    "sqrt": math.sqrt,
    "tanh": math.tanh,
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


def test_far_arguments_do_not_overflow() -> None:
    far = np.array([-1e4, 1e4])
    assert np.array_equal(FUNCTIONS["sigmoid"](far), [0.0, 1.0])
    assert np.array_equal(FUNCTIONS["silu"](far), [0.0, 1e4])
    assert np.array_equal(FUNCTIONS["gelu"](far), [0.0, 1e4])


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
