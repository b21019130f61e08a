r"""The functions a network may apply to every element, by name.

CKKS adds and multiplies, nothing else: `passes.fit_functions` replaces each of these by a
polynomial p on the interval its operand takes on the calibration data. How far p is from f there
is measured in units of f,

    relative   max |p(x) / f(x) - 1|            where f is a factor that others are multiplied by
    absolute   max |p(x) - f(x)| / max |f(x)|   where f may be zero

so that neither number changes when f is scaled; the last maximum is over the calibration data.

Functions made of pieces are polynomials between their kinks: relu is x from 0 on. Where all of the
range lies in one piece, that polynomial is what the function is, and nothing has to be fitted.

Of families with parameters one member is here, from which affine maps before and after make the
others:

    min(max(x, a), b) = m + h clip((x - m) / h),   m = (a + b) / 2, h = (b - a) / 2
    celu_a(x) = a elu(x / a),   thresholded_relu_a(x) = a thresholded_relu(x / a),   a > 0

Only elu has a parameter of its own: `elu(a)` is a (exp(x) - 1) below zero, x above.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class Domain:
    """The numbers from `low` to `high`; `closed` when finite ends belong to it."""

    low: float = -math.inf
    high: float = math.inf
    closed: bool = True

    def contains(self, low: float, high: float) -> bool:
        """Whether all of [low, high] lies in it."""
        if self.closed:
            return self.low <= low and high <= self.high
        return self.low < low and high < self.high

    def widened(self, low: float, high: float, pad: float) -> tuple[float, float]:
        """[low, high] wider by `pad` at both ends, by half the way to an end of the domain at most.

        Most functions here have a singularity where their domain ends, and the nearer a polynomial
        comes to it, the higher its degree.
        """
        return max(low - pad, (low + self.low) / 2), min(high + pad, (high + self.high) / 2)

    def __str__(self) -> str:
        """`above 0`, `at least 0`, `below 0`, ...; empty for all numbers."""
        low, high = ("at least", "at most") if self.closed else ("above", "below")
        ends = ((low, self.low), (high, self.high))
        return " and ".join(f"{word} {end:g}" for word, end in ends if math.isfinite(end))


@dataclass(frozen=True)
class Piece:
    """Where a function is a polynomial: on [low, high] it is sum_k coefficients[k] x^k."""

    coefficients: tuple[float, ...]
    low: float = -math.inf
    high: float = math.inf


@dataclass(frozen=True)
class ElementwiseFunction:
    """A function of one real variable.

    Args:
        name: as in the tensor graph.
        evaluate: its values in double precision, NaN or infinite outside its domain.
        relative: how errors are measured, see the module docstring.
        domains: where it is defined; a range must lie in one of them.
        nonnegative: whether no value is below zero.
        pieces: intervals on which it is a polynomial.
        mirrored: whether f(x) - f(-x) is a multiple of x.
        homogeneous: whether f(s x) = s f(x) for all s > 0.
    """

    name: str
    evaluate: Callable[[FloatArray], FloatArray]
    relative: bool = False
    domains: tuple[Domain, ...] = (Domain(),)
    nonnegative: bool = False
    pieces: tuple[Piece, ...] = ()
    mirrored: bool = False
    homogeneous: bool = False

    def __call__(self, x: FloatArray) -> FloatArray:
        """The values at `x`, in its shape."""
        with np.errstate(all="ignore"):
            return self.evaluate(np.asarray(x, np.float64))

    def unit(self, low: float, high: float) -> float | None:
        """What errors are divided by when the operand was seen in [low, high]; None: by |f|."""
        if self.relative:
            return None
        values = self(low + (high - low) * np.arange(257) / 256)
        return float(np.abs(values).max()) or 1.0  # relu may be zero throughout

    def domain_of(self, low: float, high: float) -> Domain | None:
        """The domain that holds [low, high]; None when there is none."""
        return next((d for d in self.domains if d.contains(low, high)), None)

    def piece_of(self, low: float, high: float) -> Piece | None:
        """The piece that holds [low, high]; None when there is none."""
        return next((p for p in self.pieces if p.low <= low and high <= p.high), None)


def _sigmoid(x: FloatArray) -> FloatArray:
    return 0.5 + 0.5 * np.tanh(0.5 * x)  # exp(-x) would overflow


def _gelu(x: FloatArray) -> FloatArray:
    from scipy import special  # slow to import, and rarely needed

    return np.asarray(x * special.ndtr(x), np.float64)


def _gelu_tanh(x: FloatArray) -> FloatArray:
    return x * _sigmoid(math.sqrt(8.0 / math.pi) * (x + 0.044715 * x**3))


def _erf(x: FloatArray) -> FloatArray:
    from scipy import special

    return np.asarray(special.erf(x), np.float64)


def _softplus(x: FloatArray) -> FloatArray:
    return np.logaddexp(0.0, x)


def _elu(name: str, alpha: float) -> ElementwiseFunction:
    def evaluate(x: FloatArray) -> FloatArray:
        return np.where(x > 0.0, x, alpha * np.expm1(np.minimum(x, 0.0)))

    return ElementwiseFunction(
        name, evaluate, nonnegative=alpha <= 0.0, pieces=(Piece((0.0, 1.0), low=0.0),)
    )


_POSITIVE = Domain(0.0, closed=False)
_NEGATIVE = Domain(high=0.0, closed=False)

FUNCTIONS = {
    f.name: f
    for f in (
        ElementwiseFunction(
            "abs",
            np.abs,
            nonnegative=True,
            pieces=(Piece((0.0, -1.0), high=0.0), Piece((0.0, 1.0), low=0.0)),
            mirrored=True,
            homogeneous=True,
        ),
        ElementwiseFunction(  # to -1 and 1
            "clip",
            lambda x: np.clip(x, -1.0, 1.0),
            pieces=(Piece((0.0, 1.0), -1.0, 1.0), Piece((-1.0,), high=-1.0), Piece((1.0,), 1.0)),
        ),
        _elu("elu", 1.0),
        ElementwiseFunction("erf", _erf),
        ElementwiseFunction("exp", np.exp, nonnegative=True),
        ElementwiseFunction("gelu", _gelu, mirrored=True),  # x times the normal distribution
        ElementwiseFunction("gelu_tanh", _gelu_tanh, mirrored=True),  # its usual approximation
        ElementwiseFunction(
            "hard_swish",
            lambda x: x * np.clip(x / 6.0 + 0.5, 0.0, 1.0),
            pieces=(
                Piece((0.0, 0.5, 1.0 / 6.0), -3.0, 3.0),
                Piece((0.0,), high=-3.0),
                Piece((0.0, 1.0), low=3.0),
            ),
            mirrored=True,
        ),
        ElementwiseFunction(
            "inverse_sqrt",
            lambda x: 1.0 / np.sqrt(x),
            relative=True,
            domains=(_POSITIVE,),
            nonnegative=True,
        ),
        ElementwiseFunction("log", np.log, domains=(_POSITIVE,)),
        ElementwiseFunction("mish", lambda x: x * np.tanh(_softplus(x))),
        ElementwiseFunction(
            "reciprocal", lambda x: 1.0 / x, relative=True, domains=(_POSITIVE, _NEGATIVE)
        ),
        ElementwiseFunction(
            "relu",
            lambda x: np.maximum(x, 0.0),
            nonnegative=True,
            pieces=(Piece((0.0, 1.0), low=0.0), Piece((0.0,), high=0.0)),
            mirrored=True,
            homogeneous=True,
        ),
        ElementwiseFunction("sigmoid", _sigmoid, nonnegative=True),
        ElementwiseFunction(  # outside of a gap around zero: `fhecompile.functions.step`
            "sign",
            np.sign,
            pieces=(
                Piece((-1.0,), high=-math.ulp(0.0)),
                Piece((0.0,), low=0.0, high=0.0),
                Piece((1.0,), low=math.ulp(0.0)),
            ),
        ),
        ElementwiseFunction("silu", lambda x: x * _sigmoid(x), mirrored=True),
        ElementwiseFunction("softplus", _softplus, nonnegative=True, mirrored=True),
        ElementwiseFunction("softsign", lambda x: x / (1.0 + np.abs(x))),
        ElementwiseFunction("sqrt", np.sqrt, domains=(Domain(0.0),), nonnegative=True),
        ElementwiseFunction("tanh", np.tanh),
        ElementwiseFunction(  # mish is x times it
            "tanh_softplus", lambda x: np.tanh(_softplus(x)), nonnegative=True
        ),
        ElementwiseFunction(  # x above 1, else 0
            "thresholded_relu",
            lambda x: np.where(x > 1.0, x, 0.0),
            nonnegative=True,
            pieces=(Piece((0.0,), high=1.0), Piece((0.0, 1.0), low=math.nextafter(1.0, 2.0))),
        ),
    )
}

_ELU = re.compile(r"elu\((-?\d+(?:\.\d+)?(?:e[-+]?\d+)?)\)")


@cache
def function_named(name: str) -> ElementwiseFunction:
    """The function of that name, `elu(0.5)` for a parameter.

    Raises:
        KeyError: there is none.
    """
    if found := _ELU.fullmatch(name):
        return _elu(name, float(found[1]))
    return FUNCTIONS[name]


def is_function(name: str) -> bool:
    """Whether there is a function of that name."""
    return name in FUNCTIONS or _ELU.fullmatch(name) is not None
