r"""Sums of powers of a complex exponential: what bootstrapping evaluates at no further depth.

Bootstrapping computes e = exp(i pi m) of a message m in [-1/2, 1/2); OpenFHE's EvalFEFuncBootstrap
goes on to a series of its powers. With u = 2 m = (x - centre) / radius in [-1, 1],

    F(u) = 2 Re(c_0 + sum_j=1..n c_j e^j) = a_0 + sum_j a_j cos(pi j u / 2) + b_j sin(pi j u / 2),
    2 c_j = a_j - i b_j.

The series has period 4 in u and is free outside of [-1, 1], where nothing says what F is: a Fourier
extension, which sees no jump from f(1) to f(-1). With cos(pi j u / 2) = T_j(cos(pi u / 2)) and
sin(pi j u / 2) = sin(pi u / 2) U_j-1(cos(pi u / 2)) its even and odd part are polynomials of
cos(pi u / 2) in [0, 1]. So the least error falls like rho^-n where f has its singularity at s,

    rho = |w + sqrt(w^2 - 1)|,  w = 2 cos(pi s / 2) - 1,  but no faster than (3 + sqrt 8)^-n

(Boyd, J. Comput. Phys. 178, 2002; Huybrechs, "On the Fourier extension of nonperiodic functions",
SIAM J. Numer. Anal. 47, 2010), and like 1 / n at a kink. With the coefficients kept small, as they
are here, it falls more slowly: like 1.40^-n instead of 1.54^-n for tanh on [-8, 8].

**The fit.** An error of e, of standard deviation `noise` in the real and in the imaginary part, is
j times as large in e^j. If those of the powers are independent, F(u) has the variance

    noise^2 A^2,  A^2 = sum_j j^2 |2 c_j|^2,

and so has, averaged over the whole period, an F of powers of one e with one error (Parseval). For u
= -cos t with even t, weighted as in `fhecompile.functions.weighted`, p = (density + FLOOR) / total,
the expected square of all that F is off by, in units U (constant, or |f| for relative errors), is

    sum_i p_i ((F(u_i) - f(u_i))^2 + noise^2 A^2) / U_i^2,

least where  sum_i q_i (F(u_i) - f(u_i))^2 + noise^2 A^2  is, with q = p / U^2 scaled to sum 1. This
is Tikhonov's problem for j a_j and j b_j once a_0 = f_0 - sum_j a_j C_j + b_j S_j is put in, where
f_0, C_j and S_j are means of f, cos and sin weighted by q; or their values at x = 0, for an F that
is f there. With sqrt(q) (cos - C, sin - S) / j = P diag(s) Q^T the solution is

    Q diag(s / (s^2 + noise^2)) P^T sqrt(q) (f - f_0)

for every noise. Singular values s go down to rounding: normal equations would square them.

**The least noise.** Many series are near f on half of the period, and without noise the nearest of
them cancels: with 16 terms for relu sum |c_j| is 2e8, and the largest error 8.7e-3. With a sum of
at most LARGEST_SUM times the largest |f| it is 1.1e-2; twice that sum gains a tenth at a kink. So
the noise is doubled, from 2^-40 at least, until the sum is no larger. It ends at 2^-13 to 2^-24 for
relu with 8 to 128 terms, where A is 5 to 60 times the largest |f|, and stays at 2^-40 for smooth
functions with enough terms, where A is about the largest |f|.

Largest and root mean square error for noise 0, in units of the largest |f|, of relu on [-1, 1], exp
on [-4, 4], others on [-8, 8]; densities even, or normal with deviation 1/6; - is below 2e-12:

    terms        8               16              32              64              128
    relu         2.0e-2  3.4e-3  1.1e-2  1.4e-3  5.8e-3  5.6e-4  3.0e-3  2.1e-4  1.5e-3  7.7e-5
    relu normal  1.9e-2  5.0e-3  9.4e-3  2.5e-3  5.3e-3  1.1e-3  2.9e-3  4.3e-4  1.5e-3  1.6e-4
    silu         2.9e-4  1.4e-4  8.6e-7  4.0e-7  9.2e-12 4.4e-12 -       -       -       -
    gelu         2.6e-3  1.1e-3  4.1e-6  2.1e-6  -       -       -       -       -       -
    sigmoid      8.5e-4  4.0e-4  2.6e-6  1.2e-6  2.1e-11 9.8e-12 -       -       -       -
    tanh         5.9e-2  2.3e-2  3.9e-3  1.4e-3  1.8e-5  6.7e-6  3.5e-10 1.3e-10 -       -
    exp          1.2e-5  4.5e-6  5.4e-10 2.0e-10 -       -       -       -       -       -

All this is for m = u / 2. With m = `share` u the formulas hold with 2 share u for u: a larger share
of the period is worth as much at a kink as more terms by that factor (relu with 32 terms and a
normal density: 5.3e-3 at 0.5, 3.4e-3 at 0.8, 3.0e-3 at 0.9), and costs smooth functions more terms.

To be exact at zero about doubles both for relu with 8 or 16 terms and a normal density, and its
root mean square in general. It costs a fifth for silu and gelu, nothing for the others.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fhecompile.functions.approximation import Approximation
from fhecompile.functions.minimax import Function
from fhecompile.functions.weighted import FLOOR, POINTS_PER_DEGREE

FloatArray = NDArray[np.float64]
ComplexArray = NDArray[np.complex128]
Density = Callable[[FloatArray], FloatArray]

TERMS = (8, 16, 32, 64, 128)
LEAST_NOISE = 2.0**-40
LARGEST_SUM = 4.0  # sum |c_j| over the largest |f|
GRID_PER_TERM = 512  # off a kink by a hundredth of the error there at most
MIDPOINTS = 1 << 14


@dataclass(frozen=True, eq=False)
class FourierSeries(Approximation):
    """F(u) of the module docstring.

    Args:
        coefficients: c_0..c_n, n at least 1; c_0 is real.
        share: m / u, above 0 and below 1.
    """

    coefficients: ComplexArray
    share: float = 0.5

    @property
    def terms(self) -> int:
        """The highest power n of the exponential."""
        return len(self.coefficients) - 1

    @property
    def degrees(self) -> tuple[int, ...]:
        """The degree in the exponential."""
        return (self.terms,)

    @property
    def amplification(self) -> float:
        """How large the error of a value is at most, to first order, over that of exp(i pi m).

        It is sum_j 2 j |c_j|, in units of f, as the error of the j-th power is j times as large.
        """
        return float(2.0 * np.abs(self._derivative).sum())

    @property
    def rms_amplification(self) -> float:
        """A of the module docstring: standard deviation of values over that of exp(i pi m).

        The latter is of the real and of the imaginary part. With one error in all powers it is the
        root mean square over a period of m, on the half that is used at most sqrt(2) times that.
        """
        return float(2.0 * np.sqrt(np.square(np.abs(self._derivative)).sum()))

    @property
    def _derivative(self) -> ComplexArray:
        return np.arange(self.terms + 1) * self.coefficients

    def on_unit(self, u: FloatArray) -> FloatArray:
        """Its values at u."""
        exponential = np.exp(1j * np.pi * self.share * np.asarray(u, np.float64))
        value = np.full(exponential.shape, self.coefficients[-1])
        for c in self.coefficients[-2::-1]:
            value = value * exponential + c
        return 2.0 * value.real


def fit_series(
    f: Function,
    low: float,
    high: float,
    terms: int,
    unit: float | None,
    density: Density | None = None,
    noise: float = 0.0,
    through_zero: bool = False,
    share: float = 0.5,
) -> FourierSeries:
    """The series on [low, high] with the least expected square of its error.

    Args:
        f: not zero on the interval when errors are relative.
        low, high: the interval, low < high.
        terms: the highest power of the exponential, at least 1.
        unit: what |F - f| is divided by, above zero; None: |f|.
        density: of the values x, at least zero, 1 on average; None: even.
        noise: standard deviation of the real and of the imaginary part of the error of exp(i pi m),
            at least zero; more where coefficients would be large.
        through_zero: whether F is f at x = 0, if that lies in the interval.
        share: of the half period that the interval takes.

    Raises:
        ValueError: f is not finite on all of the interval.
    """
    centre, radius = (low + high) / 2, (high - low) / 2
    count = POINTS_PER_DEGREE * (terms + 16)
    u = -np.cos((np.arange(count) + 0.5) * np.pi / count)
    x = centre + radius * u
    fine = _fine_points(low, high, terms)
    y, exact = _finite(f, x, low, high), _finite(f, fine, low, high)
    weights = np.full(count, 1.0 + FLOOR) if density is None else density(x) + FLOOR
    if unit is None:
        weights = weights / np.square(y)
    weights = weights / weights.sum()

    table = _cos_and_sin(share * u, terms)
    if through_zero and low <= 0.0 <= high:
        mean = _cos_and_sin(np.array(-share * centre / radius), terms)
        constant = float(f(np.zeros(1))[0])
    else:
        mean, constant = weights @ table, float(weights @ y)
    powers = np.tile(np.arange(1.0, terms + 1.0), 2)
    scale = np.sqrt(weights)
    left, singular, right = np.linalg.svd(
        scale[:, None] * (table - mean) / powers, full_matrices=False
    )
    projected = left.T @ (scale * (y - constant))

    def coefficients(noise: float) -> ComplexArray:
        found = right.T @ (projected * singular / (singular**2 + noise**2)) / powers
        harmonics = found[:terms] - 1j * found[terms:]
        return np.asarray(np.concatenate([[constant - mean @ found], harmonics]) / 2.0)

    noise = max(noise, LEAST_NOISE)
    c = coefficients(noise)
    largest = max(np.abs(y).max(), abs(constant))
    while np.abs(c).sum() > LARGEST_SUM * largest:
        noise *= 2.0
        c = coefficients(noise)
    fitted = FourierSeries(centre, radius, 0.0, unit, c, share)
    return FourierSeries(centre, radius, fitted.largest_error(fitted(fine), exact), unit, c, share)


def rms_error(fitted: Approximation, f: Function, density: Density | None = None) -> float:
    """The root mean square of the error on the interval, divided by `fitted.unit` as `error` is.

    Args:
        fitted: an approximation of f.
        f: the function.
        density: of the values x, not zero on all of the interval; None: even.
    """
    u = np.asarray((np.arange(MIDPOINTS) + 0.5) * (2.0 / MIDPOINTS) - 1.0, np.float64)
    x = fitted.centre + fitted.radius * u
    exact = f(x)
    errors = (fitted.on_unit(u) - exact) / (np.abs(exact) if fitted.unit is None else fitted.unit)
    weights = None if density is None else density(x)
    return float(np.sqrt(np.average(np.square(errors), weights=weights)))


def least_terms(
    f: Function,
    low: float,
    high: float,
    error: float,
    unit: float | None,
    density: Density | None = None,
    noise: float = 0.0,
    through_zero: bool = False,
    rms: bool = False,
    choices: Sequence[int] = TERMS,
) -> int | None:
    """The fewest terms whose series is off by at most `error`; None when none of the choices is.

    What `noise` itself adds is not counted.

    Args:
        f, low, high, unit, density, noise, through_zero: as for `fit_series`.
        error: of the series, in `unit`.
        rms: whether the root mean square over the density is meant, not the largest error.
        choices: numbers of terms.

    Raises:
        ValueError: f is not finite on all of the interval.
    """
    for terms in sorted(choices):
        fitted = fit_series(f, low, high, terms, unit, density, noise, through_zero)
        if (rms_error(fitted, f, density) if rms else fitted.error) <= error:
            return terms
    return None


def _cos_and_sin(m: FloatArray, terms: int) -> FloatArray:
    """cos(pi j m) and then sin, for j = 1..terms, as (..., 2 terms)."""
    angles = np.multiply.outer(m, np.arange(1, terms + 1) * np.pi)
    return np.concatenate([np.cos(angles), np.sin(angles)], axis=-1)


def _fine_points(low: float, high: float, terms: int) -> FloatArray:
    """Where the largest error is looked for: everywhere, more at the ends, and at zero."""
    count = GRID_PER_TERM * (terms + 2)
    turns = -np.cos(np.linspace(0.0, np.pi, count // 16 + 1))
    u = np.concatenate([np.linspace(-1.0, 1.0, count + 1), turns])
    x = np.clip((low + high) / 2 + (high - low) / 2 * u, low, high)  # ends despite rounding
    return np.append(x, 0.0) if low <= 0.0 <= high else x  # most kinks and poles are there


def _finite(f: Function, x: FloatArray, low: float, high: float) -> FloatArray:
    y = f(x)
    if not np.all(np.isfinite(y)):
        raise ValueError(f"the function is not finite on all of [{low:g}, {high:g}]")
    return y
