"""Fourier extensions."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from fhecompile.functions import fourier
from fhecompile.functions.fourier import (
    LARGEST_SUM,
    TERMS,
    FourierSeries,
    fit_series,
    least_terms,
    rms_error,
)
from fhecompile.functions.table import FUNCTIONS
from fhecompile.functions.weighted import FLOOR
from fhecompile.ir.histogram import Histogram

RELU = FUNCTIONS["relu"]
RADIUS = {"relu": 1.0, "exp": 4.0, "silu": 8.0, "gelu": 8.0, "sigmoid": 8.0, "tanh": 8.0}

numbers = st.floats(-4.0, 4.0, width=16)
complex_numbers = st.builds(complex, numbers, numbers)
intervals = st.tuples(st.floats(-9.0, 9.0), st.floats(0.25, 9.0)).map(lambda x: (x[0], sum(x)))


def normal(x: np.ndarray) -> np.ndarray:
    """Of deviation 1/6, relative to even values on [-1, 1]."""
    return 12.0 * np.exp(-18.0 * x**2) / np.sqrt(2 * np.pi)


def unit_of(name: str) -> float:
    unit = FUNCTIONS[name].unit(-RADIUS[name], RADIUS[name])
    assert unit is not None
    return unit


@cache
def fit(
    name: str,
    terms: int,
    density: Callable[[np.ndarray], np.ndarray] | None = None,
    noise: float = 0.0,
) -> FourierSeries:
    radius = RADIUS[name]
    return fit_series(FUNCTIONS[name], -radius, radius, terms, unit_of(name), density, noise)


def series(c: list[complex], low: float, high: float) -> FourierSeries:
    coefficients = np.array([c[0].real, *c[1:]], complex)
    return FourierSeries((low + high) / 2, (high - low) / 2, 0.0, 1.0, coefficients)


# -- the series ------------------------------------------------------------------------------------


@given(st.lists(complex_numbers, min_size=2, max_size=20), intervals)
def test_values(c: list[complex], interval: tuple[float, float]) -> None:
    """What OpenFHE says of its series: of t = m / 2, a full period 1."""
    found = series(c, *interval)
    x = np.linspace(*interval, 33)
    t = (x - found.centre) / found.radius / 4.0
    assert np.abs(t).max() == pytest.approx(0.25, abs=1e-12)
    j = np.arange(len(c))
    exponentials = np.exp(2j * np.pi * np.multiply.outer(t, j))
    expected = 2.0 * (exponentials @ found.coefficients).real
    assert np.allclose(found(x), expected, rtol=0, atol=1e-11 * (1 + np.abs(c).sum()))
    assert (found.terms, found.degrees) == (len(c) - 1, (len(c) - 1,))
    assert found.amplification == pytest.approx(sum(2 * k * abs(c[k]) for k in j), rel=1e-12)


def test_amplification_of_independent_errors_of_powers() -> None:
    """The variance that the fit takes as given."""
    rng = np.random.default_rng(0)
    found = fit("relu", 16)
    noise, j = 1e-3, np.arange(17)
    errors = noise * j * (rng.normal(size=(40_000, 17)) + 1j * rng.normal(size=(40_000, 17)))
    changes = 2.0 * (errors @ found.coefficients).real
    # A variance of 40,000 normal samples is off by 0.7 %, its root by half of that.
    assert changes.std() == pytest.approx(noise * found.rms_amplification, rel=0.015)


@pytest.mark.parametrize(("name", "terms"), [("relu", 16), ("silu", 32), ("tanh", 16)])
def test_amplification_of_one_error_in_all_powers(name: str, terms: int) -> None:
    rng = np.random.default_rng(0)
    found = fit(name, terms)
    noise, count = 1e-6, 200_000
    errors = noise * (rng.normal(size=count) + 1j * rng.normal(size=count))

    def changes(u: np.ndarray) -> np.ndarray:
        e = np.exp(0.5j * np.pi * u)
        powers = np.polynomial.polynomial.polyval(np.stack([e + errors, e]), found.coefficients)
        return 2.0 * (powers[0] - powers[1]).real

    on_period = changes(rng.uniform(-2.0, 2.0, count))
    expected = noise * found.rms_amplification
    assert np.sqrt(np.mean(on_period**2)) == pytest.approx(expected, rel=0.02)
    assert np.all(np.abs(on_period) <= 1.001 * np.abs(errors) * found.amplification)
    on_half = changes(rng.uniform(-1.0, 1.0, count))
    assert np.sqrt(np.mean(on_half**2)) <= 1.01 * math.sqrt(2.0) * expected


# -- the fit ---------------------------------------------------------------------------------------


@settings(deadline=None)
@given(st.lists(complex_numbers, min_size=2, max_size=17), intervals, st.integers(0, 8))
def test_series_are_found_again(c: list[complex], interval: tuple[float, float], more: int) -> None:
    f = series(c, *interval)
    largest = np.abs(f(np.linspace(*interval, 101))).max()
    total = np.abs(f.coefficients).sum()
    assume(0.0 < total <= 0.9 * LARGEST_SUM * largest)
    found = fit_series(f, *interval, f.terms + more, 1.0)
    assert found.error <= 1e-9 * total
    assert (found.centre, found.radius) == (f.centre, f.radius)
    if f.terms + more <= 4:  # with more terms others are as near
        padded = np.pad(f.coefficients, (0, more))
        assert np.allclose(found.coefficients, padded, rtol=0, atol=1e-9 * total)


@settings(deadline=None)
@given(st.integers(1, 24), intervals, st.booleans(), st.floats(1e-4, 1e-2))
def test_symmetry(
    terms: int, interval: tuple[float, float], through_zero: bool, noise: float
) -> None:
    """f(-x) has conjugate coefficients on the mirrored interval."""
    low, high = interval
    f = FUNCTIONS["gelu"]
    found = fit_series(f, low, high, terms, 1.0, None, noise, through_zero)
    mirrored = fit_series(lambda x: f(-x), -high, -low, terms, 1.0, None, noise, through_zero)
    assert np.allclose(mirrored.coefficients, found.coefficients.conj(), rtol=0, atol=1e-9)
    assert mirrored.error == pytest.approx(found.error, abs=1e-9)


def test_even_and_odd_functions() -> None:
    even = fit_series(np.abs, -1.0, 1.0, 24, 1.0).coefficients
    assert np.abs(even.imag).max() < 1e-9 < np.abs(even.real).min()
    odd = fit("tanh", 24).coefficients
    assert np.abs(odd.real).max() < 1e-9 < np.abs(odd.imag[1:]).min()


@settings(deadline=None)
@given(
    st.integers(1, 24), intervals, intervals, st.floats(-8.0, 8.0, width=16), st.floats(1e-4, 1e-2)
)
def test_affine_maps(
    terms: int,
    interval: tuple[float, float],
    other: tuple[float, float],
    factor: float,
    noise: float,
) -> None:
    """Coefficients do not depend on the interval, and are as many times larger as f is."""
    (c, r), (c2, r2) = (((a + b) / 2, (b - a) / 2) for a, b in (interval, other))

    def f(u: np.ndarray) -> np.ndarray:
        return np.abs(u - 0.125) + np.exp(u)

    found = fit_series(lambda x: f((x - c) / r), *interval, terms, 1.0, None, noise)
    moved = fit_series(lambda x: factor * f((x - c2) / r2), *other, terms, 1.0, None, noise)
    scaled = factor * found.coefficients
    assert np.allclose(moved.coefficients, scaled, rtol=0, atol=1e-8 * abs(factor))
    assert moved.error == pytest.approx(abs(factor) * found.error, rel=1e-6, abs=1e-12)


@pytest.mark.parametrize("density", [None, normal], ids=["even", "normal"])
@pytest.mark.parametrize("noise", [2.0**-6, 2.0**-9, 2.0**-12])
def test_expected_square_is_least(noise: float, density: object) -> None:
    """No fit for another noise, no other nearby coefficients, are better at this noise."""
    t = (np.arange(20_000) + 0.5) * np.pi / 20_000
    u = -np.cos(t)
    p = (1.0 if density is None else normal(u)) + FLOOR * np.ones_like(u)
    p = p / p.sum()

    def expected(found: FourierSeries) -> float:
        squares = p @ (found.on_unit(u) - RELU(u)) ** 2
        return float(squares + (noise * found.rms_amplification) ** 2)

    best = fit("relu", 12, density=density, noise=noise)
    least = expected(best)
    assert np.abs(best.coefficients).sum() < LARGEST_SUM  # else the noise would not be this
    for factor in (0.5, 0.8, 1.25, 2.0):
        assert expected(fit("relu", 12, density=density, noise=factor * noise)) > least
    rng = np.random.default_rng(0)
    for _ in range(20):
        change = 1e-2 * (rng.normal(size=13) + 1j * rng.normal(size=13))
        change[0] = change[0].real
        values = [
            expected(FourierSeries(0.0, 1.0, 0.0, 1.0, best.coefficients + sign * change))
            for sign in (-1.0, 1.0)
        ]
        assert min(values) > least
        # Of a quadratic with its least value between them, both are equal; the sums differ a bit.
        assert values[0] - values[1] == pytest.approx(0.0, abs=0.02 * (values[0] - least))


@pytest.mark.parametrize("name", RADIUS)
@pytest.mark.parametrize("noise", [0.0, 2.0**-24, 2.0**-12])
def test_coefficients_stay_moderate(name: str, noise: float) -> None:
    for terms in (4, 8, 16, 32):
        total = np.abs(fit(name, terms, noise=noise).coefficients).sum() / unit_of(name)
        assert 0.45 < total <= LARGEST_SUM


def test_without_a_bound_coefficients_cancel(monkeypatch: pytest.MonkeyPatch) -> None:
    bounded = fit("relu", 16)  # before the bound is lifted, as it is kept
    monkeypatch.setattr(fourier, "LARGEST_SUM", math.inf)
    free = fit_series(RELU, -1.0, 1.0, 16, 1.0)
    assert np.abs(free.coefficients).sum() > 1e6
    assert 0.7 * bounded.error < free.error < 0.9 * bounded.error


def test_a_peak_at_zero_is_a_bound_too() -> None:
    """No noise makes coefficients smaller than those of the constant 1."""

    def peak(x: np.ndarray) -> np.ndarray:
        return np.where(x == 0.0, 1.0, 0.0)

    found = fit_series(peak, -1.0, 1.0, 4, 1.0, through_zero=True)
    assert found(np.zeros(1))[0] == pytest.approx(1.0, abs=1e-12)
    assert np.abs(found.coefficients).sum() <= LARGEST_SUM


def test_zero_and_constants() -> None:
    for value in (0.0, -1.0 / 3.0):
        found = fit_series(lambda x, v=value: np.full_like(x, v), -1.0, 2.0, 8, 1.0)
        assert found.error <= 1e-15
        assert found.coefficients[0] == pytest.approx(value / 2, abs=1e-15)


# -- errors ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("low", "high"), [(-8.0, 8.0), (-1.7, 0.3), (-1.0, 6.1), (2.0, 3.0)])
@pytest.mark.parametrize("name", ["relu", "abs", "clip", "silu", "tanh", "exp"])
def test_largest_and_rms_error(name: str, low: float, high: float) -> None:
    f = FUNCTIONS[name]
    found = fit_series(f, low, high, 12, 2.0)
    x = np.linspace(low, high, 100_001)
    errors = np.abs(found(x) - f(x)) / 2.0
    assert found.error == pytest.approx(errors.max(), rel=0.01, abs=1e-13)
    assert rms_error(found, f) == pytest.approx(np.sqrt(np.mean(errors**2)), rel=2e-3, abs=1e-13)
    density = Histogram(low, high, np.arange(64)).density
    weighted = np.sqrt(np.average(errors**2, weights=density(x)))
    assert rms_error(found, f, density) == pytest.approx(weighted, rel=2e-3, abs=1e-13)


@pytest.mark.parametrize("name", RADIUS)
def test_errors_fall_with_terms(name: str) -> None:
    fits = [fit(name, terms) for terms in (2, 4, *TERMS)]
    f = FUNCTIONS[name]
    for fewer, more in itertools.pairwise(fits):
        assert more.error < max(0.99 * fewer.error, 1e-12)
        assert rms_error(more, f) < max(0.99 * rms_error(fewer, f), 1e-12)


def test_kinks_cost_one_over_n() -> None:
    """The largest error of a kink halves with twice the terms."""
    errors = [fit("relu", terms).error for terms in TERMS]
    for terms, error in zip(TERMS, errors, strict=True):
        assert error * terms == pytest.approx(0.177, rel=0.12)


def test_sigmoid_converges_geometrically() -> None:
    for terms in (4, 8, 12, 16, 24, 32):
        assert 0.2 * 2.1**-terms < fit("sigmoid", terms).error < 2.1**-terms


@pytest.mark.parametrize(
    ("radius", "rate"), [(5.0, 3.852), (6.0, 3.109), (8.0, 2.362), (16.0, 1.544)]
)
def test_rate_of_convergence(radius: float, rate: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """With coefficients of any size it is the docstring's, by the sigmoid's poles at +-i pi."""
    monkeypatch.setattr(fourier, "LARGEST_SUM", math.inf)
    w = 2.0 * np.cos(np.pi * (1j * np.pi / radius) / 2.0) - 1.0
    rho = abs(w + np.sqrt(w**2 - 1.0))
    assert rho == pytest.approx(rate, abs=1e-3)
    few, many = (fit_series(FUNCTIONS["sigmoid"], -radius, radius, n, 1.0).error for n in (8, 14))
    assert (few / many) ** (1.0 / 6.0) == pytest.approx(rho, rel=0.006)


def test_rate_with_moderate_coefficients() -> None:
    rate = (fit("tanh", 16).error / fit("tanh", 64).error) ** (1.0 / 48.0)
    assert rate == pytest.approx(1.40, abs=0.01)


def test_figures_of_the_docstring() -> None:
    assert fourier.__doc__
    pattern = rf"^    ({'|'.join(RADIUS)})( normal)? +(\S.*)$"
    rows = re.findall(pattern, fourier.__doc__, re.MULTILINE)
    assert len(rows) == 7
    for name, is_normal, cells in rows:
        density = normal if is_normal else None
        stated = cells.split()
        assert len(stated) == 2 * len(TERMS)
        for number, terms in enumerate(TERMS):
            found = fit(name, terms, density=density)
            errors = (found.error, rms_error(found, FUNCTIONS[name], density))
            for said, error in zip(stated[2 * number : 2 * number + 2], errors, strict=True):
                if said == "-":
                    assert error < 2e-12
                else:
                    assert error == pytest.approx(float(said), rel=0.06)


def test_density_and_relative_errors() -> None:
    near = [fit("relu", 16, density=d) for d in (normal, None)]
    assert rms_error(near[0], RELU, normal) < 0.95 * rms_error(near[1], RELU, normal)
    assert rms_error(near[1], RELU) < 0.9 * rms_error(near[0], RELU)
    f = FUNCTIONS["reciprocal"]
    relative, absolute = (fit_series(f, 1.0, 20.0, 8, unit) for unit in (None, 1.0))
    x = np.linspace(1.0, 20.0, 20_001)
    assert np.abs(relative(x) * x - 1.0).max() == pytest.approx(relative.error, rel=1e-3)
    rms, other = (np.sqrt(np.mean((found(x) * x - 1.0) ** 2)) for found in (relative, absolute))
    assert rms_error(relative, f) == pytest.approx(rms, rel=1e-3)
    assert rms < 0.3 * other


# -- through zero ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", RADIUS)
@pytest.mark.parametrize(("low", "high"), [(-1.0, 1.0), (-0.3, 5.0), (0.0, 2.0), (-7.0, 0.0)])
def test_through_zero(name: str, low: float, high: float) -> None:
    f, zero = FUNCTIONS[name], np.zeros(1)
    plain = fit_series(f, low, high, 6, 1.0)
    exact = fit_series(f, low, high, 6, 1.0, through_zero=True)
    size = np.abs(exact.coefficients).sum()
    assert exact(zero)[0] == pytest.approx(f(zero)[0], abs=1e-14 * (1.0 + size))
    assert exact.error <= 2.5 * plain.error + 1e-12


def test_zero_outside_of_the_interval_is_nothing() -> None:
    plain, same = (fit_series(RELU, 1.0, 3.0, 6, 1.0, through_zero=wish) for wish in (False, True))
    assert np.array_equal(plain.coefficients, same.coefficients)


# -- what is refused, what is chosen ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "low", "high", "span"),
    [
        ("log", -1.0, 2.0, "[-1, 2]"),
        ("log", 0.0, 2.0, "[0, 2]"),
        ("sqrt", -0.125, 2.0, "[-0.125, 2]"),
        ("reciprocal", -1.0, 2.5, "[-1, 2.5]"),
        ("inverse_sqrt", 0.0, 4.0, "[0, 4]"),
        ("exp", 0.0, 800.0, "[0, 800]"),
    ],
)
def test_functions_that_are_not_finite(name: str, low: float, high: float, span: str) -> None:
    text = f"the function is not finite on all of {span}"
    with pytest.raises(ValueError, match=f"^{re.escape(text)}$"):
        fit_series(FUNCTIONS[name], low, high, 8, 1.0)
    with pytest.raises(ValueError, match=f"^{re.escape(text)}$"):
        least_terms(FUNCTIONS[name], low, high, 0.1, 1.0)


def test_ends_of_a_domain_belong_to_it() -> None:
    low, high = 0.1, 0.4
    assert (low + high) / 2 - (high - low) / 2 < low  # in double precision
    assert fit_series(lambda x: np.sqrt(x - low), low, high, 8, 1.0).error < 0.03


@pytest.mark.parametrize(
    ("error", "largest", "rms"),
    [(0.1, 8, 8), (0.015, 16, 8), (0.01, 32, 8), (0.002, 128, 16), (0.001, None, 32)],
)
def test_least_terms(error: float, largest: int | None, rms: int) -> None:
    assert least_terms(RELU, -1.0, 1.0, error, 1.0) == largest
    assert least_terms(RELU, -1.0, 1.0, error, 1.0, rms=True) == rms


def test_least_terms_of_the_choices() -> None:
    assert least_terms(RELU, -1.0, 1.0, 0.01, 1.0, choices=(100, 12, 24, 20)) == 20
    assert least_terms(RELU, -1.0, 1.0, 0.01, 1.0, choices=()) is None
    assert least_terms(RELU, -1.0, 1.0, 0.01, 2.0, choices=(100, 12, 24, 20)) == 12
    # All options go to the fit.
    assert least_terms(RELU, -1.0, 1.0, 0.004, 1.0, normal, rms=True, choices=(8, 12, 16)) == 12
    assert least_terms(RELU, -1.0, 1.0, 0.004, 1.0, normal, 0.0, True, True, (8, 12, 16)) is None
    assert least_terms(FUNCTIONS["tanh"], -8.0, 8.0, 1e-4, 1.0) == 32
    assert least_terms(FUNCTIONS["tanh"], -8.0, 8.0, 1e-4, 1.0, noise=1e-3) is None
