"""Functions that are even but for a multiple of x have polynomials that are, on [-r, r]."""

from __future__ import annotations

import numpy as np
import pytest

from fhecompile.functions.candidates import candidates
from fhecompile.functions.minimax import FittedPolynomial
from fhecompile.functions.table import FUNCTIONS
from fhecompile.options import FunctionOptions

MIRRORED = [name for name, f in FUNCTIONS.items() if f.mirrored]
X = np.linspace(-6.0, 6.0, 241)


def found(name: str, low: float, high: float, degree: int = 0) -> list[FittedPolynomial]:
    f = FUNCTIONS[name]
    seen, wish = (0.9 * low, 0.9 * high), FunctionOptions(degree=degree)
    made = candidates(f, seen, (low, high), np.ones_like, wish)
    return [p for p in made if isinstance(p, FittedPolynomial)]


def test_which_functions_are_mirrored() -> None:
    """All of which f(x) - f(-x) is a multiple of x, and no other."""
    assert sorted(MIRRORED) == [
        "abs", "gelu", "gelu_tanh", "hard_swish", "relu", "silu", "softplus"
    ]  # fmt: skip
    for name, f in FUNCTIONS.items():
        if f.domain_of(-6.0, 6.0) and name != "sign":
            odd = f(X) - f(-X)
            is_line = np.allclose(odd, odd[-1] / X[-1] * X, rtol=0, atol=1e-12)
            assert is_line == f.mirrored, name


@pytest.mark.parametrize("name", MIRRORED)
def test_polynomials_on_mirrored_intervals_are_even_but_for_a_line(name: str) -> None:
    polynomials = found(name, -4.0, 3.5, degree=31)
    even = [p for p in polynomials if p.centre == 0.0]
    assert [p.degree for p in even if p.degree > 4][-2:] == [30, 30]
    for p in even:
        assert p.radius == 4.0
        assert not np.any(p.coefficients[3::2])
    others = [p for p in polynomials if p.centre != 0.0]
    assert {p.degree for p in others} >= {3, 5, 7, 15}


def test_one_degree_less_is_as_precise_on_the_same_interval() -> None:
    (best,) = {min(p.error for p in found("abs", -1.0, 1.0, degree=d)) for d in (30, 31)}
    assert best == pytest.approx(0.28 / 30 / 0.9, rel=0.02)  # Bernstein's constant; |x| <= 0.9


@pytest.mark.parametrize(
    ("low", "high", "mirrored"), [(-1.0, 1.0, "all"), (-1.0, 0.4, "some"), (-1.0, 0.2, "none")]
)
def test_only_where_little_is_added(low: float, high: float, mirrored: str) -> None:
    centres = {p.centre == 0.0 for p in found("silu", low, high, degree=7)}
    assert centres == {"all": {True}, "some": {True, False}, "none": {False}}[mirrored]


def test_other_functions_have_none() -> None:
    assert all(p.centre != 0.0 for p in found("elu", -1.0, 0.9, degree=7))
