"""Best polynomials against closed forms, and against the theorem that says what is best."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.polynomial import chebyshev

from fhecompile.functions.minimax import FittedPolynomial, fit_minimax
from fhecompile.functions.table import FUNCTIONS, ElementwiseFunction, FloatArray

DEGREES = [1, 2, 3, 5, 7, 15]


def largest_error(f: ElementwiseFunction, p: FittedPolynomial) -> tuple[float, FloatArray]:
    """The largest error on 20,001 even points, by powers of u, and the error at each."""
    unit = f.unit(p.centre - p.radius, p.centre + p.radius)
    x = np.linspace(p.centre - p.radius, p.centre + p.radius, 20001)
    y = f(x)
    u = (x - p.centre) / p.radius
    value = sum(c * u**k for k, c in enumerate(p.coefficients))
    if p.chebyshev:
        value = chebyshev.chebval(u, p.coefficients)
    e = (value - y) / (unit or np.abs(y))
    return float(np.abs(e).max()), np.asarray(e)


@pytest.mark.parametrize("degree", DEGREES)
@pytest.mark.parametrize("a", [1.25, 2.0, -3.0])
def test_simple_pole(degree: int, a: float) -> None:
    """1 / (x - a) on [-1, 1]: (|a| - sqrt(a^2 - 1))^n / (a^2 - 1) (Chebyshev)."""
    found = fit_minimax(lambda x: 1 / (x - a), -1.0, 1.0, degree, 1.0)
    best = (abs(a) - math.sqrt(a**2 - 1)) ** degree / (a**2 - 1)
    assert found.error == pytest.approx(best, rel=1e-5)
    assert found.degree == degree


@pytest.mark.parametrize("degree", DEGREES)
@pytest.mark.parametrize("ratio", [1.5, 4.0, 30.0])
def test_reciprocal_relative(degree: int, ratio: float) -> None:
    """|x p(x) - 1| on [a, b] is least for a Chebyshev polynomial: 1 / T_n+1((b + a) / (b - a))."""
    found = fit_minimax(FUNCTIONS["reciprocal"], 2.0, 2.0 * ratio, degree, None)
    best = 1 / math.cosh((degree + 1) * math.acosh((ratio + 1) / (ratio - 1)))
    assert found.error == pytest.approx(best, rel=1e-5)


@pytest.mark.parametrize("degree", DEGREES)
def test_the_next_power(degree: int) -> None:
    """x^n+1 less its best polynomial is T_n+1 / 2^n."""
    found = fit_minimax(lambda x: x ** (degree + 1), -1.0, 1.0, degree, 1.0)
    assert found.error == pytest.approx(2.0**-degree, rel=1e-3)


def test_a_line_for_exp() -> None:
    """Slope sinh 1, and equal errors at -1, 1 and where the slopes agree."""
    found = fit_minimax(np.exp, -1.0, 1.0, 1, 1.0)
    slope = math.sinh(1)
    constant = (math.exp(-1) + slope + slope - slope * math.log(slope)) / 2
    assert found.coefficients == pytest.approx([constant, slope], rel=1e-6)
    assert found.error == pytest.approx(math.exp(-1) + slope - constant, rel=1e-6)


@pytest.mark.parametrize("degree", [2, 3])
def test_absolute_value(degree: int) -> None:
    """x^2 + 1/8, also where the first interpolation point would fall on the kink."""
    found = fit_minimax(np.abs, -1.0, 1.0, degree, 1.0)
    assert found.coefficients == pytest.approx([1 / 8, 0.0, 1.0], abs=1e-6)
    assert found.error == pytest.approx(1 / 8, rel=1e-6)


@pytest.mark.parametrize("degree", [31, 63, 127, 255])
def test_high_degrees(degree: int) -> None:
    """n E_n(|x|) tends to 0.28016949902 (Varga, Carpenter 1985), and |x| has no odd part."""
    found = fit_minimax(np.abs, -1.0, 1.0, degree, 1.0)
    assert found.chebyshev and found.degree == degree - 1
    assert found.error * found.degree == pytest.approx(0.28016949902, rel=0.5 / degree)
    assert np.abs(found.coefficients).max() < 1.0
    assert not np.any(found.coefficients[1::2])
    assert largest_error(FUNCTIONS["abs"], found)[0] <= found.error * (1 + 1e-4)


@pytest.mark.parametrize("degree", [31, 63, 127, 255])
@pytest.mark.parametrize(("low", "high"), [(-3.0, 1.0), (-0.25, 2.0), (-1.0, 20.0)])
def test_kinks_aside(low: float, high: float, degree: int) -> None:
    """By Bernstein's theorem sqrt(1 - t^2) of what they are in the middle, at t of the interval."""
    found = fit_minimax(FUNCTIONS["relu"], low, high, degree, 1.0)
    t = found.centre / found.radius
    expected = 0.28016949902 / 2 * found.radius * np.sqrt(1 - t**2) / degree
    assert found.error == pytest.approx(expected, rel=4.0 / degree + 0.01)


@pytest.mark.parametrize("degree", [63, 255])
def test_smooth_functions_reach_rounding(degree: int) -> None:
    found = fit_minimax(np.exp, -1.0, 1.0, degree, 1.0)
    assert found.error <= 1e-14
    assert found.degree < 20


@pytest.mark.parametrize("degree", DEGREES)
def test_a_polynomial_is_found_exactly(degree: int) -> None:
    found = fit_minimax(lambda x: 3.0 - 2.0 * x, 1.0, 5.0, degree, 1.0)
    assert found.coefficients == pytest.approx([-3.0, -4.0], rel=1e-12)
    assert found.error <= 1e-12
    zero = fit_minimax(np.zeros_like, 1.0, 5.0, degree, 1.0)
    assert np.array_equal(zero.coefficients, [0.0, 0.0])
    assert zero.error == 0.0


@pytest.mark.parametrize("name", ["tanh", "sigmoid"])
@pytest.mark.parametrize("degree", [2, 3, 5, 7])
def test_odd_functions_have_no_even_powers(name: str, degree: int) -> None:
    found = fit_minimax(FUNCTIONS[name], -4.0, 4.0, degree, 1.0)
    assert not np.any(found.coefficients[2::2])
    assert found.degree == degree - (degree + 1) % 2


@st.composite
def problems(draw: st.DrawFn) -> tuple[ElementwiseFunction, float, float, int]:
    fitted = sorted(set(FUNCTIONS) - {"sign"})  # which composites stand for
    f = FUNCTIONS[draw(st.sampled_from(fitted))]
    width = draw(st.floats(0.5, 16.0))
    low = draw(st.floats(0.25, 4.0) if f.domain_of(-1.0, 1.0) is None else st.floats(-8.0, 4.0))
    return f, low, low + width, draw(st.sampled_from(DEGREES[1:]))


@given(problems())
def test_errors_alternate(problem: tuple[ElementwiseFunction, float, float, int]) -> None:
    """By Chebyshev's theorem no polynomial is better by more than the sizes differ."""
    f, low, high, degree = problem
    found = fit_minimax(f, low, high, degree, f.unit(low, high))
    size, e = largest_error(f, found)
    assert size <= found.error * (1 + 1e-3) + 1e-13
    if found.error < 1e-9:
        return  # rounding, and powers left out, are no smaller
    large = np.sign(e[np.abs(e) >= 0.95 * found.error])
    assert 1 + np.count_nonzero(np.diff(large)) >= degree + 2


@given(problems())
def test_more_degree_is_never_worse(
    problem: tuple[ElementwiseFunction, float, float, int],
) -> None:
    f, low, high, degree = problem
    found = fit_minimax(f, low, high, degree, f.unit(low, high))
    less = fit_minimax(f, low, high, degree - 1, f.unit(low, high))
    assert found.error <= less.error * 1.04 + 1e-11
    x = np.linspace(low, high, 1001)
    y = f(x)
    size = f.unit(low, high) or np.abs(y)
    assert np.abs((found(x) - y) / size).max() <= found.error * (1 + 1e-3) + 1e-13
