r"""What may stand for a function on an interval, the cheapest first.

The best polynomials of degree 2, 3, 5, 7, 15, 31, 63, 127 and 255: these are the degrees that fill
their depth of 1 to 8; of the two with depth 3, degree 5 has one product less. Each comes in two
kinds, with the least largest error (`functions.minimax`) and nearest where values are frequent
(`functions.weighted`).

A function whose f(x) - f(-x) is a multiple of x (relu, abs, silu, gelu, softplus) has polynomials
without odd powers but x where the interval is [-r, r]; these take about half the products
(`passes.lower_polynomials`). So it is fitted on [-r, r] as well, if that is at most `WIDER` times
as wide as the interval, with degrees that are even: one of degree 2k + 1 would be no better.

For functions of lines with kinks (relu, abs, clip) composites as well (`functions.composite`): of
all those of degrees 7, 15 and 31 the ones that are more precise than any of less depth, and than a
polynomial of degree 255. The sign jumps, so that it is made by composites alone (`functions.step`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from fhecompile.functions.approximation import Approximation
from fhecompile.functions.composite import fit_composite, lines_of
from fhecompile.functions.minimax import exact_polynomial, fit_minimax
from fhecompile.functions.step import fit_step
from fhecompile.functions.table import ElementwiseFunction
from fhecompile.functions.weighted import fit_weighted
from fhecompile.options import FunctionOptions

FloatArray = NDArray[np.float64]

DEGREES = (2, 3, 5, 7, 15, 31, 63, 127, 255)
EVEN_DEGREES = (2, 4, 6, 14, 30, 62, 126, 254)
WIDER = 1.5
# |x| on [-1, 1] by 2^-10.3, 2^-11.3, 2^-12.4 and 2^-14.7 in depths of 12, 13, 14 and 17; by a
# polynomial of degree 255 by 2^-9.8 in depth 8.
COMPOSITES = ((7, 15, 15), (15, 15, 15), (15, 15, 31), (15, 15, 15, 15))
LONG = (15, 15, 15, 15, 15)
STEPS = ((3,), (7,), (15,), (31,), (7, 7), (7, 15), (15, 15), (7, 7, 15), *COMPOSITES, LONG)


def candidates(
    f: ElementwiseFunction,
    seen: tuple[float, float],
    interval: tuple[float, float],
    density: Callable[[FloatArray], FloatArray],
    wish: FunctionOptions,
) -> Iterator[Approximation]:
    """See the module docstring.

    Args:
        f: the function.
        seen: the range of its operand; where it is a polynomial on all of it, that is taken.
        interval: where it is fitted.
        density: of the operand's values.
        wish: what limits the choice; of the sign it has the gap.
    """
    unit = f.unit(*seen)
    found: Iterable[Approximation]
    if piece := f.piece_of(*seen):
        found = [exact_polynomial(piece.coefficients, *interval, unit)]
    elif f.name == "sign":
        found = _steps(interval, wish)
    else:
        polynomials = _polynomials(f, interval, unit, density, wish)
        found = chain(polynomials, _composites(f, interval, unit, wish))
    for approximation in found:
        if wish.error is None or approximation.error <= wish.error:
            yield approximation


def _steps(interval: tuple[float, float], wish: FunctionOptions) -> Iterator[Approximation]:
    for degrees in STEPS:
        if wish.gap and max(degrees) <= (wish.degree or max(degrees)):
            yield fit_step(*interval, wish.gap, degrees)


def _polynomials(
    f: ElementwiseFunction,
    interval: tuple[float, float],
    unit: float | None,
    density: Callable[[FloatArray], FloatArray],
    wish: FunctionOptions,
) -> Iterator[Approximation]:
    spans = [(degree, interval, False) for degree in DEGREES]
    mirrored = _mirrored(f, interval)
    if mirrored is not None:
        spans = [] if mirrored == interval else spans
        spans += [(degree, mirrored, True) for degree in EVEN_DEGREES]
    for degree, span, even in sorted(spans):
        if degree <= (wish.degree or DEGREES[-1]):
            if wish.function in ("", "minimax"):
                yield fit_minimax(f, *span, degree, unit)
            if wish.function in ("", "weighted"):
                yield fit_weighted(f, *span, degree, unit, density, even)


def _composites(
    f: ElementwiseFunction,
    interval: tuple[float, float],
    unit: float | None,
    wish: FunctionOptions,
) -> Iterator[Approximation]:
    limited = wish.degree or wish.function not in ("", "composite")
    if not limited and unit is not None and lines_of(f, *interval):
        for degrees in COMPOSITES:
            yield fit_composite(f, *interval, degrees, unit)


def _mirrored(f: ElementwiseFunction, interval: tuple[float, float]) -> tuple[float, float] | None:
    """[-r, r] around the interval, where a polynomial on it is even but for a multiple of x."""
    low, high = interval
    reach = max(-low, high)
    fits = f.mirrored and low < 0.0 < high and 2.0 * reach <= WIDER * (high - low)
    return (-reach, reach) if fits else None
